package book

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/beeline-mqtt/beeline/internal/cluster/clustertest"
)

func TestAQueueOfWrites(t *testing.T) {
	w := func(id, node string) write { return write{id: id, node: node} }
	for name, c := range map[string]struct {
		do   func(q *writeQueue) (dropped int)
		drop int
		want []write
	}{
		"has the oldest first": {
			func(q *writeQueue) int { return q.add(w("a", "1")) + q.add(w("b", "1")) },
			0,
			[]write{w("a", "1"), w("b", "1")},
		},
		"has the last node of each client": {
			func(q *writeQueue) int { return q.add(w("a", "1")) + q.add(w("b", "1")) + q.add(w("a", "2")) },
			0,
			[]write{w("a", "2"), w("b", "1")},
		},
		"drops the oldest when it is full": {
			func(q *writeQueue) int {
				return q.add(w("a", "1")) + q.add(w("b", "1")) + q.add(w("c", "1")) + q.add(w("d", "1"))
			},
			1,
			[]write{w("b", "1"), w("c", "1"), w("d", "1")},
		},
		"takes back what failed as the oldest": {
			func(q *writeQueue) int {
				q.add(w("a", "1"))
				q.add(w("b", "1"))
				taken := q.take(2)
				q.add(w("c", "1"))
				return q.again(taken)
			},
			0,
			[]write{w("a", "1"), w("b", "1"), w("c", "1")},
		},
		"does not take back what is outdated": {
			func(q *writeQueue) int {
				q.add(w("a", "1"))
				taken := q.take(1)
				q.add(w("a", "2"))
				return q.again(taken)
			},
			0,
			[]write{w("a", "2")},
		},
		"drops the oldest of what it cannot take back": {
			func(q *writeQueue) int {
				q.add(w("a", "1"))
				q.add(w("b", "1"))
				taken := q.take(2)
				q.add(w("c", "1"))
				q.add(w("d", "1"))
				return q.again(taken)
			},
			1,
			[]write{w("b", "1"), w("c", "1"), w("d", "1")},
		},
	} {
		q := newWriteQueue(3)
		if dropped := c.do(q); dropped != c.drop {
			t.Errorf("%s: dropped %d, want %d", name, dropped, c.drop)
		}
		if got := q.take(10); !slices.Equal(got, c.want) || q.len() != 0 || len(q.byID) != 0 {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}

// Nothing is lost uncounted, no client is in a batch twice, and what is handed out is what was said last.
func TestAQueueOfWritesLosesNothingUncounted(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		bound := rapid.IntRange(1, 8).Draw(t, "bound")
		q := newWriteQueue(bound)
		last, waiting, number := map[string]string{}, 0, 0
		t.Repeat(map[string]func(*rapid.T){
			"add": func(t *rapid.T) {
				id := fmt.Sprint(rapid.IntRange(0, 12).Draw(t, "id"))
				number++
				node, there := fmt.Sprint(number), q.byID[id] != nil
				waiting -= q.add(write{id: id, node: node})
				if !there {
					waiting++
				}
				last[id] = node
			},
			"take and perhaps fail": func(t *rapid.T) {
				batch, seen := q.take(rapid.IntRange(1, 10).Draw(t, "count")), map[string]bool{}
				for _, w := range batch {
					if seen[w.id] || last[w.id] != w.node {
						t.Fatalf("%v has been handed out; the last was %v", w, last[w.id])
					}
					seen[w.id] = true
				}
				waiting -= len(batch)
				if rapid.Bool().Draw(t, "fail") {
					waiting += len(batch) - q.again(batch)
				}
			},
			"": func(t *rapid.T) {
				if q.len() != waiting || q.len() > bound || len(q.byID) != waiting {
					t.Fatalf("%d wait, %d by id; want %d", q.len(), len(q.byID), waiting)
				}
			},
		})
	})
}

func TestNodesAreRecordedInFullTransactions(t *testing.T) {
	e := clustertest.StartEtcd(t)
	b := Open(patient(), testDeps(e.Client()))
	before := all(t, b.deps.Client, b.nodes.prefix).Header.Revision
	const n = 5*mostOperations + 1
	for i := range n {
		b.Record("own", fmt.Sprint(i), "node:1")
	}
	r := start(t, b)
	r.written(t, n)
	after := all(t, b.deps.Client, b.nodes.prefix)
	if after.Count != n || after.Header.Revision-before != 6 {
		t.Errorf("%d records in %d transactions", after.Count, after.Header.Revision-before)
	}
}

func TestWhatIsTooMuchIsDroppedAndCounted(t *testing.T) {
	e := clustertest.StartEtcd(t)
	c := patient()
	c.WriteQueue = 10
	b := Open(c, testDeps(e.Client()))
	for i := range 25 {
		b.Record("own", fmt.Sprint(i), "node:1")
	}
	b.Record("own", string(make([]byte, mostRecord)), "node:1")
	b.Record("own", "nowhere", "")
	if waiting := valueOf(b.metrics.writesWaiting); waiting != 10 {
		t.Errorf("%v wait", waiting)
	}
	r := start(t, b)
	r.written(t, 10)
	if full, long := count(b.metrics.dropped, string(dropFull)), count(b.metrics.dropped, string(dropTooLong)); full != 15 || long != 2 {
		t.Errorf("%d and %d are counted", full, long)
	}
	for i := range 25 {
		answer, err := b.deps.Client.Get(bg(t), b.nodes.prefix+nodeID("own", fmt.Sprint(i)))
		if err != nil || (answer.Count == 1) != (i >= 15) {
			t.Errorf("%d: %v, %v", i, answer, err)
		}
	}
	// What was dropped is recorded when it is said again.
	b.Record("own", "3", "node:1")
	r.written(t, 11)
}

func TestNodesWaitForAnEtcdThatIsAway(t *testing.T) {
	e := clustertest.StartEtcd(t)
	b := open(t, e, patient())
	e.Stop()
	for i := range 300 {
		b.Record("own", fmt.Sprint(i), "node:1")
	}
	b.Record("own", "7", "node:2")
	e.Start()
	clustertest.Wait(t, "all are recorded, with the last node of each", func() bool {
		nodes := map[string]string{}
		for _, kv := range all(t, b.deps.Client, b.nodes.prefix).Kvs {
			v, err := decodeNode(kv.Value)
			if err != nil {
				t.Fatal(err)
			}
			nodes[string(kv.Key)] = v.Node
		}
		return len(nodes) == 300 && nodes[b.nodes.prefix+"own/7"] == "node:2"
	})
}

func TestTheEndWritesWhatWaits(t *testing.T) {
	e := clustertest.StartEtcd(t)
	b := open(t, e, patient())
	for i := range 1000 {
		b.Record("own", fmt.Sprint(i), "node:1")
	}
	b.stop()
	if n := all(t, e.Client(), b.nodes.prefix).Count; n != 1000 {
		t.Errorf("%d are recorded", n)
	}
}

func TestTheEndDoesNotWaitForEtcd(t *testing.T) {
	e := clustertest.StartEtcd(t)
	wire := clustertest.NewWire(t, e.Address())
	b := start(t, Open(patient(), testDeps(clustertest.Client(t, wire.Address()))))
	b.wantReady(t)
	wire.Deafen()
	for i := range 200 {
		b.Record("own", fmt.Sprint(i), "node:1")
	}
	begin := time.Now()
	b.stop()
	if took := time.Since(begin); took > flushTimeout+10*time.Second {
		t.Errorf("took %v", took)
	}
	if n := count(b.metrics.dropped, string(dropStopped)); n != 200 {
		t.Errorf("%d are counted as dropped", n)
	}
}

// etcd refuses a transaction that has a key twice, which no batch has; the batch is dropped, and the next one goes on.
func TestWhatEtcdRefusesIsNotTriedAgain(t *testing.T) {
	e := clustertest.StartEtcd(t)
	b := Open(patient(), testDeps(e.Client()))
	for _, w := range []write{{"own/x", "1"}, {"own/x", "2"}} {
		b.nodes.queue.order.PushBack(w)
	}
	if b.nodes.writeBatch(bg(t)) || b.nodes.queue.len() != 0 {
		t.Error("it is tried again")
	}
	if n := count(b.metrics.dropped, string(dropRefused)); n != 2 {
		t.Errorf("%d are counted as dropped", n)
	}
}
