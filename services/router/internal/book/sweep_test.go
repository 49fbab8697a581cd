package book

import (
	"context"
	"fmt"
	"maps"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/beeline-mqtt/beeline/internal/cluster/clustertest"
)

// aged is a Book that does not run, on an etcd of its own, with n records that were written so many days ago.
func aged(t *testing.T, e *clustertest.Etcd, c Config, now *clock) *Book {
	t.Helper()
	d := testDeps(e.Client())
	d.Now = now.now
	return Open(c, d)
}

func (b *Book) fill(t *testing.T, n int, daysAgo int64) {
	t.Helper()
	var puts []clientv3.Op
	for i := range n {
		value := fmt.Sprintf(`{"v":1,"node":"node:1","day":%d}`, b.nodes.today()-daysAgo)
		puts = append(puts, clientv3.OpPut(b.nodes.prefix+nodeID("own", fmt.Sprintf("%d-%d", daysAgo, i)), value))
		if len(puts) == mostOperations || i == n-1 {
			if _, err := b.deps.Client.Txn(bg(t)).Then(puts...).Commit(); err != nil {
				t.Fatal(err)
			}
			puts = nil
		}
	}
}

func fast() Config {
	c := patient()
	c.SweepRate = 1_000_000
	return c
}

func TestASweepDeletesWhatIsTooOldAndNothingElse(t *testing.T) {
	e := clustertest.StartEtcd(t)
	b := aged(t, e, fast(), newClock())
	left := map[string]bool{}
	for daysAgo, n := range map[int64]int{-1: 3, 0: 3, 29: 3, 30: 300, 31: 1200, 10_000: 10} {
		b.fill(t, n, daysAgo)
		for i := range n {
			if daysAgo <= 30 {
				left[b.nodes.prefix+nodeID("own", fmt.Sprintf("%d-%d", daysAgo, i))] = true
			}
		}
	}
	for key, value := range map[string]string{
		b.nodes.prefix + "own/garbage":        "?",
		b.nodes.prefix + "own/future":         `{"v":2,"node":"node:1","day":1}`,
		prefixOf("test", assignments) + "x":   `{"v":1,"node":"node:1","day":1}`,
		prefixOf("test", "nodesx") + "beside": `{"v":1,"node":"node:1","day":1}`,
	} {
		put(t, b.deps.Client, key, value)
		left[key] = true
	}
	n, err := b.sweep.sweep(bg(t), b.nodes.today())
	if err != nil || n != 1210 || valueOf(b.metrics.swept) != 1210 {
		t.Errorf("swept %d, %v; counted %v; want 1210", n, err, valueOf(b.metrics.swept))
	}
	got := map[string]bool{}
	for _, kv := range all(t, b.deps.Client, "/beeline/test/").Kvs {
		got[string(kv.Key)] = true
	}
	if !maps.Equal(got, left) {
		t.Errorf("%d keys are left, want %d", len(got), len(left))
	}
}

func TestASweepKeepsToItsRate(t *testing.T) {
	e := clustertest.StartEtcd(t)
	c := patient()
	c.SweepRate = 1000
	b := aged(t, e, c, newClock())
	b.fill(t, 350, 40)
	begin := time.Now()
	if n, err := b.sweep.sweep(bg(t), b.nodes.today()); err != nil || n != 350 {
		t.Errorf("swept %d, %v", n, err)
	}
	if took := time.Since(begin); took < 350*time.Millisecond {
		t.Errorf("350 at 1,000 a second took %v", took)
	}
}

func TestASweepLeavesWhatWasWrittenSinceItHasRead(t *testing.T) {
	e := clustertest.StartEtcd(t)
	b := aged(t, e, fast(), newClock())
	b.fill(t, 3, 40)
	page, err := b.sweep.readPage(bg(t), b.nodes.prefix, clientv3.GetPrefixRangeEnd(b.nodes.prefix))
	if err != nil {
		t.Fatal(err)
	}
	back := write{id: nodeID("own", "40-1"), node: "node:2"}
	if err := b.nodes.put(bg(t), []write{back}); err != nil {
		t.Fatal(err)
	}
	if n, err := b.sweep.remove(bg(t), b.sweep.stale(page.Kvs, b.nodes.today())); err != nil || n != 2 {
		t.Errorf("deleted %d, %v", n, err)
	}
	if kvs := all(t, b.deps.Client, b.nodes.prefix).Kvs; len(kvs) != 1 || string(kvs[0].Key) != b.nodes.prefix+back.id {
		t.Errorf("%v are left", kvs)
	}
}

func TestTwoSweepsAtOnceDeleteEverythingOnce(t *testing.T) {
	e := clustertest.StartEtcd(t)
	now := newClock()
	a, b := aged(t, e, fast(), now), aged(t, e, fast(), now)
	a.fill(t, 1000, 40)
	a.fill(t, 10, 4)
	var wg sync.WaitGroup
	var deleted atomic.Int64
	for _, one := range []*Book{a, b} {
		wg.Go(func() {
			n, err := one.sweep.sweep(bg(t), one.nodes.today())
			if err != nil {
				t.Error(err)
			}
			deleted.Add(int64(n))
		})
	}
	wg.Wait()
	if left := all(t, a.deps.Client, a.nodes.prefix).Count; deleted.Load() != 1000 || left != 10 {
		t.Errorf("deleted %d, left %d", deleted.Load(), left)
	}
}

func TestOneRouterSweepsADay(t *testing.T) {
	e := clustertest.StartEtcd(t)
	now := newClock()
	a, b := aged(t, e, fast(), now), aged(t, e, fast(), now)
	want := func(what string, of *Book, n int) {
		t.Helper()
		if got, err := of.sweep.daily(bg(t)); err != nil || got != n {
			t.Errorf("%s: %d, %v; want %d", what, got, err, n)
		}
	}
	a.fill(t, 5, 40)
	want("the first one", a, 5)
	a.fill(t, 5, 40)
	want("another one on the same day", b, 0)
	want("the same one on the same day", a, 0)
	now.advance(day)
	want("another one on the next day", b, 5)
	// What the key says is not known: better once more than never.
	a.fill(t, 5, 40)
	put(t, a.deps.Client, sweptKey("test"), `{"v":9}`)
	want("after a key that nobody can read", a, 5)
}

func TestASweepThatFailsIsNotADays(t *testing.T) {
	e := clustertest.StartEtcd(t)
	b := aged(t, e, fast(), newClock())
	b.fill(t, 5, 40)
	ctx, cancel := context.WithCancel(bg(t))
	cancel()
	if n, err := b.sweep.daily(ctx); err == nil || n != 0 {
		t.Errorf("swept %d, %v", n, err)
	}
	if n, err := b.sweep.daily(bg(t)); err != nil || n != 5 {
		t.Errorf("swept %d, %v", n, err)
	}
}

func TestARunningBookSweepsWithinADay(t *testing.T) {
	e := clustertest.StartEtcd(t)
	now := newClock()
	b := aged(t, e, fast(), now)
	if wait := b.sweep.next.Sub(now.now()); wait < 0 || wait >= day {
		t.Errorf("begins after %v", wait)
	}
	b.sweep.tick, b.sweep.next = time.Millisecond, now.now().Add(time.Hour)
	b.fill(t, 5, 40)
	start(t, b)
	now.advance(time.Hour)
	swept := func(n float64) func() bool {
		return func() bool { return valueOf(b.metrics.swept) == n }
	}
	clustertest.Wait(t, "the first sweep", swept(5))
	b.fill(t, 5, 40)
	now.advance(day)
	clustertest.Wait(t, "the second sweep", swept(10))
}
