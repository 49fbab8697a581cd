package book

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/beeline-mqtt/beeline/internal/cluster/clustertest"
)

const day = 24 * time.Hour

// timed is a Book whose records age by a clock.
func timed(t *testing.T, e *clustertest.Etcd, c Config, time *clock) *running {
	t.Helper()
	d := testDeps(e.Client())
	d.Now = time.now
	r := start(t, Open(c, d))
	r.wantReady(t)
	return r
}

func TestWhatOneRouterRecordsAnotherOneFinds(t *testing.T) {
	e := clustertest.StartEtcd(t)
	b, other := open(t, e, patient()), open(t, e, patient())
	other.wantRecorded(t, "own", "x", "")
	for i, key := range hostile[:len(hostile)-1] {
		b.Record("own", key, fmt.Sprintf("node:%d", i))
		b.Record("a/b", key, fmt.Sprintf("else:%d", i))
		b.wantRecorded(t, "own", key, fmt.Sprintf("node:%d", i)) // at once
	}
	b.written(t, 2*(len(hostile)-1))
	for i, key := range hostile[:len(hostile)-1] {
		other.wantRecorded(t, "own", key, fmt.Sprintf("node:%d", i))
		other.wantRecorded(t, "a/b", key, fmt.Sprintf("else:%d", i))
		other.wantRecorded(t, "a", "b/"+key, "")
	}
	// From then on it knows them by itself.
	cached := count(other.metrics.reads, string(readCached))
	other.wantRecorded(t, "own", hostile[0], "node:0")
	if n := count(other.metrics.reads, string(readCached)); n != cached+1 {
		t.Errorf("%d reads from memory, want %d", n, cached+1)
	}
}

func TestTheLastPlaceCounts(t *testing.T) {
	e := clustertest.StartEtcd(t)
	c := patient()
	b, other := open(t, e, c), open(t, e, c)
	b.Record("own", "x", "node:1")
	b.Record("own", "x", "node:2")
	b.written(t, 1)
	other.wantRecorded(t, "own", "x", "node:2")
	other.Record("own", "x", "node:3")
	other.written(t, 1)
	open(t, e, c).wantRecorded(t, "own", "x", "node:3")
}

func TestMemoryIsBelievedForAWhile(t *testing.T) {
	e := clustertest.StartEtcd(t)
	now := newClock()
	b, other := timed(t, e, patient(), now), timed(t, e, patient(), now)
	b.Record("own", "x", "node:1")
	b.written(t, 1)
	other.Record("own", "x", "node:2")
	other.written(t, 1)
	b.wantRecorded(t, "own", "x", "node:1")
	now.advance(patient().CacheFor)
	b.wantRecorded(t, "own", "x", "node:2")
	// The same of one that was deleted.
	if _, err := b.deps.Client.Delete(bg(t), b.nodes.prefix+nodeID("own", "x")); err != nil {
		t.Fatal(err)
	}
	b.wantRecorded(t, "own", "x", "node:2")
	now.advance(patient().CacheFor)
	b.wantRecorded(t, "own", "x", "")
}

func TestTheSameNodeIsWrittenAgainWhenItsRecordIsOlderThanADay(t *testing.T) {
	e := clustertest.StartEtcd(t)
	now := newClock()
	first := timed(t, e, patient(), now)
	first.Record("own", "x", "node:1")
	first.written(t, 1)
	written := first.nodes.today()
	// One that has written the record, and one that has read it. They have stopped: what they would write stays in line.
	reader := timed(t, e, patient(), now)
	reader.wantRecorded(t, "own", "x", "node:1")
	first.stop()
	reader.stop()
	for name, b := range map[string]*running{"writer": first, "reader": reader} {
		for _, c := range []struct {
			after time.Duration
			want  int
		}{{0, 0}, {day, 0}, {2 * day, 1}} {
			now.advance(c.after)
			b.Record("own", "x", "node:1")
			if n := b.nodes.queue.len(); n != c.want {
				t.Errorf("after %v the %s writes %d, want %d", c.after, name, n, c.want)
			}
			now.advance(-c.after)
		}
	}
	// It is the day of the writing that counts from then on.
	now.advance(2 * day)
	again := timed(t, e, patient(), now)
	for range 2 {
		again.wantRecorded(t, "own", "x", "node:1")
		again.Record("own", "x", "node:1")
		again.written(t, 1)
	}
	v, err := decodeNode(all(t, again.deps.Client, again.nodes.prefix).Kvs[0].Value)
	if err != nil || v != (nodeValue{Version: 1, Node: "node:1", Day: written + 2}) {
		t.Errorf("record is %+v, %v", v, err)
	}
}

func TestAnEtcdThatHangsDoesNotHoldClientsUp(t *testing.T) {
	e := clustertest.StartEtcd(t)
	wire := clustertest.NewWire(t, e.Address())
	now := newClock()
	d := testDeps(clustertest.Client(t, wire.Address()))
	d.Now = now.now
	c := DefaultConfig()
	c.ReadTimeout = 50 * time.Millisecond
	b := start(t, Open(c, d))
	b.wantReady(t)
	b.Record("own", "known", "node:1")
	b.written(t, 1)
	open(t, e, c).Record("own", "unknown", "node:2")
	wire.Deafen()
	now.advance(c.CacheFor)

	const clients = 2000
	var wg sync.WaitGroup
	begin := time.Now()
	for i := range clients {
		wg.Go(func() { b.wantRecorded(t, "own", fmt.Sprint("unknown-", i), "") })
	}
	wg.Wait()
	// All of them at once, not one after the other; the rest is for a busy machine.
	if took := time.Since(begin); took < c.ReadTimeout || took > c.ReadTimeout+10*time.Second {
		t.Errorf("%d clients took %v", clients, took)
	}
	if n := count(b.metrics.reads, string(readTimedOut)); n != clients {
		t.Errorf("%d are counted", n)
	}
	// What memory has is better than nothing, though its time is over.
	b.wantRecorded(t, "own", "known", "node:1")

	wire.Mend()
	clustertest.Wait(t, "records are read again", func() bool {
		node, ok := b.Recorded(bg(t), "own", "unknown")
		return ok && node == "node:2"
	})
}

func TestAnEtcdThatIsAwayDoesNotHoldClientsUp(t *testing.T) {
	e := clustertest.StartEtcd(t)
	now := newClock()
	b := timed(t, e, DefaultConfig(), now)
	b.Record("own", "known", "node:1")
	b.written(t, 1)
	e.Stop()
	now.advance(b.nodes.cfg.CacheFor)
	b.wantRecorded(t, "own", "known", "node:1")
	b.wantRecorded(t, "own", "x", "")
	b.Record("own", "x", "node:2")
	b.wantRecorded(t, "own", "x", "node:2")
	e.Start()
}

func TestReadsThatAreTooManyAreNotMade(t *testing.T) {
	c := DefaultConfig()
	c.ReadQueue, c.ReadTimeout = 1, time.Millisecond
	b := Open(c, testDeps(nil)) // does not run: nothing is read
	for range 3 {
		if node, ok := b.Recorded(bg(t), "own", "x"); ok {
			t.Errorf("got %q", node)
		}
	}
	if late, full := count(b.metrics.reads, string(readTimedOut)), count(b.metrics.reads, string(readFull)); late != 1 || full != 2 {
		t.Errorf("%d timed out, %d found no room", late, full)
	}
	// What nobody waits for any more is not read either.
	if batch := b.nodes.gather(<-b.nodes.reads); len(batch) != 0 {
		t.Errorf("%d are read", len(batch))
	}
}

func TestReadsThatWaitGoTogether(t *testing.T) {
	b := Open(patient(), testDeps(nil))
	for range mostOperations + 5 {
		b.nodes.reads <- &nodeRead{until: time.Now().Add(time.Hour)}
	}
	if first, second := len(b.nodes.gather(<-b.nodes.reads)), len(b.nodes.gather(<-b.nodes.reads)); first != mostOperations || second != 5 {
		t.Errorf("%d and %d go together", first, second)
	}
}

func TestARouterThatIsNotPatientIsNotAnswered(t *testing.T) {
	b := Open(patient(), testDeps(nil))
	ctx, cancel := context.WithCancel(bg(t))
	cancel()
	if node, ok := b.Recorded(ctx, "own", "x"); ok {
		t.Errorf("got %q", node)
	}
}

// A read that was under way while the client was placed here has the older answer.
func TestAPlacementGoesBeforeAReadThatIsUnderWay(t *testing.T) {
	b := Open(patient(), testDeps(nil))
	b.Record("own", "x", "node:2")
	got := b.nodes.learn(bg(t), nodeID("own", "x"), []byte(`{"v":1,"node":"node:1","day":20000}`))
	if got.node != "node:2" {
		t.Errorf("the read says %q", got.node)
	}
	b.wantMemory(t, "x", "node:2")
}

func (b *Book) wantMemory(t *testing.T, key, want string) {
	t.Helper()
	if c, _ := b.nodes.cache.GetIfPresent(nodeID("own", key)); c.node != want {
		t.Errorf("memory has %q, want %q", c.node, want)
	}
}

func TestRecordsThatNobodyHereCanReadAreNone(t *testing.T) {
	e := clustertest.StartEtcd(t)
	b := open(t, e, patient())
	for key, value := range map[string]string{
		"garbage": "?", "future": `{"v":2,"node":"node:1","day":1}`, "nowhere": `{"v":1,"day":1}`,
	} {
		put(t, b.deps.Client, b.nodes.prefix+nodeID("own", key), value)
		b.wantRecorded(t, "own", key, "")
	}
	put(t, b.deps.Client, b.nodes.prefix+nodeID("own", "more"), `{"v":1,"node":"node:1","day":1,"more":{}}`)
	b.wantRecorded(t, "own", "more", "node:1")
}
