package cluster_test

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/beeline-mqtt/beeline/internal/cluster"
	"github.com/beeline-mqtt/beeline/internal/cluster/clustertest"
)

// brief is a time to live that a test can outlast. It leaves room for a machine that has much to do at the same time.
func brief() cluster.IncarnationConfig {
	return cluster.IncarnationConfig{TTL: 4 * time.Second, Margin: 1200 * time.Millisecond}
}

func exists(t *testing.T, d cluster.Deps, key string) bool {
	t.Helper()
	r, err := d.Client.Get(bg(t), key)
	if err != nil {
		t.Fatal(err)
	}
	return len(r.Kvs) > 0
}

func TestAnIncarnationIsOneKeyUnderOneLeaseThatGoesWithItsEnd(t *testing.T) {
	d := deps(clustertest.StartEtcd(t))
	m := join(t, d, cluster.IncarnationConfig{Member: cluster.Member{Address: "10.0.0.1:7000", Zone: "a", Weight: 3}}, nil)
	if len(m.ID()) != 26 || !m.Serving() {
		t.Fatalf("id %q, serving %v", m.ID(), m.Serving())
	}
	r, err := d.Client.Get(bg(t), d.Keys.Prefix(), clientv3.WithPrefix())
	if err != nil || len(r.Kvs) != 1 {
		t.Fatalf("keys: %v, %v; want one", r, err)
	}
	if kv := r.Kvs[0]; string(kv.Key) != "/beeline/test/gateways/"+m.ID() || kv.CreateRevision != m.Revision() || kv.Lease == 0 {
		t.Errorf("key %s, created at %d under lease %d; revision is %d", kv.Key, kv.CreateRevision, kv.Lease, m.Revision())
	}
	m.stop()
	if m.err != nil {
		t.Errorf("ended with %v", m.err)
	}
	if exists(t, d, d.Keys.Member(cluster.Gateway, m.ID())) || m.Serving() {
		t.Error("the key is still there, or it still serves")
	}
}

func TestAnIncarnationLivesLongerThanItsTTLWhileItRenews(t *testing.T) {
	t.Parallel()
	d := deps(clustertest.StartEtcd(t))
	m := join(t, d, brief(), nil)
	start := time.Now()
	clustertest.Wait(t, "two and a half TTLs", func() bool { return time.Since(start) > 10*time.Second })
	if m.over() || !m.Serving() || !exists(t, d, d.Keys.Member(cluster.Gateway, m.ID())) {
		t.Fatal("it is over")
	}
}

func TestWhatIsTakenAwayFromOutsideIsLostAndNotPutBack(t *testing.T) {
	for name, take := range map[string]func(*testing.T, cluster.Deps, string){
		"lease revoked": func(t *testing.T, d cluster.Deps, key string) {
			r, err := d.Client.Get(bg(t), key)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := d.Client.Revoke(bg(t), clientv3.LeaseID(r.Kvs[0].Lease)); err != nil {
				t.Fatal(err)
			}
		},
		"key deleted": func(t *testing.T, d cluster.Deps, key string) {
			if _, err := d.Client.Delete(bg(t), key); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			d := deps(clustertest.StartEtcd(t))
			m := join(t, d, cluster.IncarnationConfig{}, nil)
			key := d.Keys.Member(cluster.Gateway, m.ID())
			take(t, d, key)
			m.wantLost(t)
			if err := m.UpdateState(bg(t), cluster.Draining); err == nil || exists(t, d, key) {
				t.Errorf("state updated with %v, key there: %v", err, exists(t, d, key))
			}
		})
	}
}

func TestTheStateChangesUnderTheSameLeaseAndRevision(t *testing.T) {
	d := deps(clustertest.StartEtcd(t))
	var view latest[cluster.View]
	run(t, func(ctx context.Context) error { return cluster.WatchMembers(ctx, d, cluster.Gateway, view.set) })
	m := join(t, d, cluster.IncarnationConfig{}, nil)
	if err := m.UpdateState(bg(t), cluster.Draining); err != nil {
		t.Fatal(err)
	}
	clustertest.Wait(t, "draining is seen", func() bool {
		seen, ok := view.get().Find(m.ID())
		return ok && seen.State == cluster.Draining && seen.Revision == m.Revision()
	})
	if got := m.Member().State; got != cluster.Draining {
		t.Errorf("state is %s", got)
	}
	m.stop()
	clustertest.Wait(t, "it is gone", func() bool { return len(view.get().Members) == 0 })
}

func TestWithoutEtcdAndWithoutWitnessItEndsByItsOwnClock(t *testing.T) {
	for name, witness := range map[string]cluster.Witness{
		"no witness":                nil,
		"a silent or seeing one":    func(context.Context) bool { return false },
		"one that does not answer":  func(ctx context.Context) bool { <-ctx.Done(); return false },
		"blind, but only when late": func(ctx context.Context) bool { <-ctx.Done(); <-time.After(2 * time.Second); return true },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e := clustertest.StartEtcd(t)
			d := deps(e)
			m := join(t, d, brief(), witness)
			e.Stop()
			stopped := time.Now()
			if took := m.lastServed(t).Sub(stopped); took > 3900*time.Millisecond {
				t.Errorf("served for %v without etcd; the lease may be gone after four seconds", took)
			}
			m.wantLost(t)
			e.Start()
		})
	}
}

func TestWhileAllSessionInstancesAreBlindItGoesOnAndRenewsWhenEtcdIsBack(t *testing.T) {
	t.Parallel()
	e := clustertest.StartEtcd(t)
	d := deps(e)
	var asked atomic.Int64
	m := join(t, d, brief(), func(context.Context) bool { asked.Add(1); return true })
	e.Stop()
	stopped := time.Now()
	clustertest.Wait(t, "two TTLs pass", func() bool {
		if !m.Serving() {
			t.Fatal("it does not serve")
		}
		return time.Since(stopped) > 8*time.Second
	})
	if n := asked.Load(); n < 5 {
		t.Errorf("asked %d times in eight seconds, want once in each 1.2 s", n)
	}
	e.Start()
	clustertest.Wait(t, "no need for witnesses", func() bool {
		before := asked.Load()
		start := time.Now()
		clustertest.Wait(t, "a TTL", func() bool { return time.Since(start) > 4*time.Second })
		return asked.Load() == before
	})
	if m.over() || !m.Serving() || !exists(t, d, d.Keys.Member(cluster.Gateway, m.ID())) {
		t.Error("it is over although nobody could take anything over")
	}
}

func TestOneWitnessThatSeesEtcdAgainEndsIt(t *testing.T) {
	t.Parallel()
	e := clustertest.StartEtcd(t)
	var blind atomic.Bool
	blind.Store(true)
	m := join(t, deps(e), brief(), func(context.Context) bool { return blind.Load() })
	e.Stop()
	stopped := time.Now()
	clustertest.Wait(t, "a TTL passes", func() bool { return time.Since(stopped) > 4200*time.Millisecond })
	if !m.Serving() {
		t.Fatal("does not serve while all are blind")
	}
	blind.Store(false)
	seen := time.Now()
	if took := m.lastServed(t).Sub(seen); took > 2500*time.Millisecond {
		t.Errorf("served for %v after the witness; the margin is 1.2 s", took)
	}
	m.wantLost(t)
	e.Start()
}

func TestALeaseThatIsNotThereWhenEtcdIsBackIsLost(t *testing.T) {
	e := clustertest.StartEtcd(t)
	d := deps(e)
	m := join(t, d, brief(), func(context.Context) bool { return true })
	e.Stop()
	e.Forget()
	e.Start()
	m.wantLost(t)
	if exists(t, d, d.Keys.Member(cluster.Gateway, m.ID())) {
		t.Error("the key was put back")
	}
}

func TestJoinRefusesTimesThatCannotWork(t *testing.T) {
	d := deps(clustertest.StartEtcd(t))
	for name, c := range map[string]cluster.IncarnationConfig{
		"below a second":  {TTL: 100 * time.Millisecond},
		"a broken second": {TTL: 1500 * time.Millisecond},
		"margin too wide": {TTL: time.Second, Margin: 400 * time.Millisecond},
		"negative margin": {TTL: time.Second, Margin: -1},
	} {
		if _, err := cluster.Join(bg(t), d, c); err == nil || !strings.Contains(err.Error(), "incarnation") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestJoinWithoutEtcdIsAnError(t *testing.T) {
	e := clustertest.StartEtcd(t)
	d := deps(e)
	e.Stop()
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if _, err := cluster.Join(ctx, d, cluster.IncarnationConfig{}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("joined with %v", err)
	}
	e.Start()
}

func TestALostIncarnationThatIsAliveInEtcdCanBeLeft(t *testing.T) {
	t.Parallel()
	e := clustertest.StartEtcd(t)
	d := deps(e)
	wire := clustertest.NewWire(t, e.Address())
	far := d
	far.Client = clustertest.Client(t, wire.Address())
	m := join(t, far, cluster.IncarnationConfig{TTL: 9 * time.Second, Margin: 3 * time.Second}, nil)
	wire.Cut()
	m.wantLost(t)
	wire.Mend()
	key := d.Keys.Member(cluster.Gateway, m.ID())
	if !exists(t, d, key) {
		t.Fatal("etcd does not have it any more")
	}
	clustertest.Wait(t, "it is gone from etcd", func() bool {
		m.Leave(t.Context())
		return !exists(t, d, key)
	})
}
