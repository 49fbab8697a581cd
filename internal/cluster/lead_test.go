package cluster_test

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/beeline-mqtt/beeline/internal/cluster"
	"github.com/beeline-mqtt/beeline/internal/cluster/clustertest"
)

// leader runs Lead and says whether it leads.
type leader struct {
	*member
	leads atomic.Bool
	terms atomic.Int64
	last  atomic.Int64
}

func lead(t *testing.T, d cluster.Deps, w cluster.Witness, both *atomic.Int64) *leader {
	t.Helper()
	c := brief()
	c.Kind = cluster.Session
	l := &leader{member: join(t, d, c, w)}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = cluster.Lead(ctx, l.Incarnation, func(ctx context.Context, term cluster.Term) {
			if term.Instance != l.ID() {
				t.Errorf("leads for %s", term.Instance)
			}
			if both.Add(1) > 1 {
				t.Error("two lead")
			}
			l.terms.Add(1)
			l.last.Store(term.Revision)
			l.leads.Store(true)
			<-ctx.Done()
			l.leads.Store(false)
			both.Add(-1)
		})
	}()
	stop := l.stop
	l.stop = func() {
		cancel()
		<-done
		stop()
	}
	t.Cleanup(l.stop)
	return l
}

func TestAStandbyTakesThePlaceOfTheActiveOne(t *testing.T) {
	d := deps(clustertest.StartEtcd(t))
	var both atomic.Int64
	first := lead(t, d, nil, &both)
	clustertest.Wait(t, "the first leads", first.leads.Load)
	second, third := lead(t, d, nil, &both), lead(t, d, nil, &both)
	first.stop()
	clustertest.Wait(t, "a standby leads", func() bool { return second.leads.Load() || third.leads.Load() })
	next, other := second, third
	if third.leads.Load() {
		next, other = third, second
	}
	if next.last.Load() <= first.last.Load() {
		t.Errorf("term at %d follows one at %d", next.last.Load(), first.last.Load())
	}
	next.stop()
	clustertest.Wait(t, "the last one leads", other.leads.Load)
}

func TestATermEndsWhenTheKeyGoes(t *testing.T) {
	d := deps(clustertest.StartEtcd(t))
	var both atomic.Int64
	l := lead(t, d, nil, &both)
	clustertest.Wait(t, "it leads", l.leads.Load)
	if _, err := d.Client.Delete(bg(t), d.Keys.Active()); err != nil {
		t.Fatal(err)
	}
	clustertest.Wait(t, "it leads again, in a new term", func() bool { return l.leads.Load() && l.terms.Load() == 2 })
}

// heldWatch keeps watches from beginning until it is released. They get all that happened in the meantime at once.
type heldWatch struct {
	clientv3.Watcher
	released chan struct{}
}

func (h heldWatch) Watch(ctx context.Context, key string, opts ...clientv3.OpOption) clientv3.WatchChan {
	<-h.released
	return h.Watcher.Watch(ctx, key, opts...)
}

// contested does something right before and right after every transaction.
type contested struct {
	clientv3.KV
	before, after func()
}

func (c contested) Txn(ctx context.Context) clientv3.Txn { return contest{c.KV.Txn(ctx), c} }

type contest struct {
	clientv3.Txn
	contested contested
}

func (c contest) If(cs ...clientv3.Cmp) clientv3.Txn { return contest{c.Txn.If(cs...), c.contested} }

func (c contest) Then(ops ...clientv3.Op) clientv3.Txn {
	return contest{c.Txn.Then(ops...), c.contested}
}

func (c contest) Commit() (*clientv3.TxnResponse, error) {
	c.contested.before()
	defer c.contested.after()
	return c.Txn.Commit()
}

// A key that was put and deleted between two looks is as absent as before. Who stood in between lost to it.
func TestACandidateStandsAgainWhenTheOneItLostToWasNeverSeen(t *testing.T) {
	e := clustertest.StartEtcd(t)
	d, other := deps(e), e.Client()
	i, err := cluster.Join(bg(t), d, cluster.IncarnationConfig{Kind: cluster.Session, TTL: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	watch := heldWatch{d.Client.Watcher, make(chan struct{})}
	d.Client.Watcher = watch
	d.Client.KV = contested{
		KV: d.Client.KV,
		before: sync.OnceFunc(func() {
			if _, err := other.Put(bg(t), d.Keys.Active(), "other"); err != nil {
				t.Error(err)
			}
		}),
		after: sync.OnceFunc(func() {
			if _, err := other.Delete(bg(t), d.Keys.Active()); err != nil {
				t.Error(err)
			}
			close(watch.released)
		}),
	}
	var leads atomic.Bool
	run(t, func(ctx context.Context) error {
		return cluster.Lead(ctx, i, func(ctx context.Context, _ cluster.Term) {
			leads.Store(true)
			<-ctx.Done()
		})
	})
	clustertest.Wait(t, "it leads", leads.Load)
}

func TestATermOutlivesAnEtcdThatIsAwayForAWhile(t *testing.T) {
	t.Parallel()
	e := clustertest.StartEtcd(t)
	d := deps(e)
	var both atomic.Int64
	l := lead(t, d, func(context.Context) bool { return true }, &both)
	clustertest.Wait(t, "it leads", l.leads.Load)
	e.Stop()
	stopped := time.Now()
	clustertest.Wait(t, "two TTLs", func() bool { return time.Since(stopped) > 2*brief().TTL })
	e.Start()
	var view latest[cluster.View]
	run(t, func(ctx context.Context) error { return cluster.WatchMembers(ctx, d, cluster.Session, view.set) })
	clustertest.Wait(t, "etcd is back", func() bool { return len(view.get().Members) == 1 })
	if !l.leads.Load() || l.terms.Load() != 1 {
		t.Errorf("leads %v, in term %d", l.leads.Load(), l.terms.Load())
	}
}
