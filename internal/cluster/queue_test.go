package cluster

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func add(t *testing.T, q *opQueue, clients ...string) {
	t.Helper()
	for _, c := range clients {
		if err := q.add(&op{client: c, added: time.Now()}); err != nil {
			t.Fatal(err)
		}
	}
}

func clients(ops []*op) string {
	var names []string
	for _, o := range ops {
		names = append(names, o.client)
	}
	return strings.Join(names, " ")
}

func TestTheOldestOperationsAreTakenFirst(t *testing.T) {
	q := newOpQueue(100, 10)
	add(t, q, "a", "b", "c", "d")
	if got := clients(q.take(3, requestBytes)); got != "a b c" {
		t.Errorf("took %s", got)
	}
}

func TestTheSecondOperationOfAClientWaitsForTheFirst(t *testing.T) {
	q := newOpQueue(100, 0)
	add(t, q, "a", "a", "b", "a")
	first := q.take(10, requestBytes)
	if got := clients(first); got != "a b" {
		t.Fatalf("took %s", got)
	}
	q.complete(first)
	for range 2 {
		next := q.take(10, requestBytes)
		if got := clients(next); got != "a" {
			t.Fatalf("took %s", got)
		}
		q.complete(next)
	}
	if q.length != 0 || len(q.behind) != 0 {
		t.Errorf("%d operations and %d clients are left", q.length, len(q.behind))
	}
}

func TestABatchIsBoundedInBytesButTakesOneAtLeast(t *testing.T) {
	q := newOpQueue(100, 0)
	long := strings.Repeat("x", 1000)
	add(t, q, long+"1", long+"2", long+"3")
	if got := len(q.take(10, 5000)); got != 2 {
		t.Errorf("took %d", got)
	}
	if got := len(q.take(10, 1)); got != 1 {
		t.Errorf("took %d", got)
	}
}

func TestAFurtherRequestStartsOnlyWhenManyWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newOpQueue(100, 3)
		add(t, q, "first")
		first := q.take(10, requestBytes)
		var second []*op
		go func() { second = q.take(10, requestBytes) }()
		add(t, q, "a", "b", "c")
		synctest.Wait()
		if second != nil {
			t.Fatalf("took %s while a request was under way", clients(second))
		}
		add(t, q, "d")
		synctest.Wait()
		if got := clients(second); got != "a b c d" {
			t.Fatalf("took %q", got)
		}
		// When a request has ended, what waits goes.
		add(t, q, "e")
		q.complete(first)
		q.ended()
		q.complete(second)
		q.ended()
		if got := clients(q.take(10, requestBytes)); got != "e" {
			t.Errorf("took %q", got)
		}
	})
}

func TestNothingWaitsLongForARequestThatIsStuck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newOpQueue(100, 3)
		add(t, q, "stuck")
		q.take(10, requestBytes)
		add(t, q, "a")
		if expired := q.expire(time.Now().Add(-time.Second)); len(expired) != 0 {
			t.Fatalf("expired %s", clients(expired))
		}
		if got := clients(q.take(10, requestBytes)); got != "a" {
			t.Errorf("took %q", got)
		}
	})
}

func TestWhatHasWaitedTooLongIsTakenOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newOpQueue(100, 0)
		add(t, q, "under way", "old", "under way")
		taken := q.take(1, requestBytes)
		time.Sleep(time.Second)
		add(t, q, "under way", "old", "new")
		expired := q.expire(time.Now().Add(-time.Second / 2))
		if got := clients(expired); got != "under way old" {
			t.Fatalf("expired %q", got)
		}
		q.complete(taken)
		if got := clients(q.take(10, requestBytes)); got != "old new under way" {
			t.Errorf("took %q", got)
		}
		if q.length != 3 {
			t.Errorf("length is %d", q.length)
		}
	})
}

func TestWhatIsPutBackComesFirst(t *testing.T) {
	q := newOpQueue(100, 0)
	add(t, q, "a", "b", "a")
	taken := q.take(2, requestBytes)
	add(t, q, "c")
	if !q.again(taken) {
		t.Fatal("not taken back")
	}
	if got := clients(q.take(10, requestBytes)); got != "a b c" {
		t.Errorf("took %s", got)
	}
}

func TestAClosedQueueTakesNothingAndGivesUpWhatWaits(t *testing.T) {
	q := newOpQueue(4, 0)
	add(t, q, "a", "b", "b", "c")
	if err := q.add(&op{client: "d"}); !errors.Is(err, ErrUnavailable) {
		t.Errorf("beyond the bound: %v", err)
	}
	taken := q.take(1, requestBytes)
	if got := clients(q.close()); got != "b c b" {
		t.Errorf("gave up %s", got)
	}
	if err := q.add(&op{client: "d"}); !errors.Is(err, ErrNotActive) {
		t.Errorf("added with %v", err)
	}
	if q.again(taken) || q.take(1, requestBytes) != nil {
		t.Error("goes on after its end")
	}
	q.complete(taken)
}

// Whatever is done with the queue: no client is handed out twice at a time, its operations come out in order, and
// none is lost.
func TestOperationsOfAClientComeOutOneByOneInOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		q := newOpQueue(1000, 0)
		added, seen := map[string]uint64{}, map[string]uint64{}
		var out [][]*op
		for range rapid.IntRange(1, 80).Draw(t, "steps") {
			switch rapid.IntRange(0, 4).Draw(t, "step") {
			case 0, 1:
				c := fmt.Sprint(rapid.IntRange(0, 3).Draw(t, "client"))
				added[c]++
				_ = q.add(&op{client: c, epoch: added[c], added: time.Now()})
			case 2:
				if len(q.waiting) > 0 {
					out = append(out, q.take(2, requestBytes))
				}
			case 3:
				if len(out) > 0 {
					for _, o := range out[0] {
						seen[o.client]++
						if o.epoch != seen[o.client] {
							t.Fatalf("operation %d of client %s comes as the %dth", o.epoch, o.client, seen[o.client])
						}
					}
					q.complete(out[0])
					out = out[1:]
				}
			case 4:
				if len(out) > 0 {
					q.again(out[0])
					out = out[1:]
				}
			}
			under := map[string]bool{}
			for _, batch := range out {
				for _, o := range batch {
					if under[o.client] {
						t.Fatalf("two operations of client %s are under way", o.client)
					}
					under[o.client] = true
				}
			}
		}
		for len(out) > 0 || len(q.waiting) > 0 {
			if len(q.waiting) > 0 {
				out = append(out, q.take(100, requestBytes))
			}
			for _, o := range out[0] {
				seen[o.client]++
			}
			q.complete(out[0])
			out = out[1:]
		}
		if diff := cmp.Diff(added, seen); diff != "" {
			t.Fatal(diff)
		}
	})
}
