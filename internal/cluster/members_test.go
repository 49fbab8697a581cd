package cluster_test

import (
	"context"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/beeline-mqtt/beeline/internal/cluster"
	"github.com/beeline-mqtt/beeline/internal/cluster/clustertest"
)

func ids(v cluster.View) []string {
	var out []string
	for _, m := range v.Members {
		out = append(out, m.ID)
	}
	return out
}

func TestMembersAreShownInTheOrderInWhichTheyJoined(t *testing.T) {
	d := deps(clustertest.StartEtcd(t))
	a := join(t, d, cluster.IncarnationConfig{Member: cluster.Member{Address: "a:1", Zone: "z", Weight: 2}}, nil)
	join(t, d, cluster.IncarnationConfig{Kind: cluster.Session}, nil)
	var view latest[cluster.View]
	run(t, func(ctx context.Context) error { return cluster.WatchMembers(ctx, d, cluster.Gateway, view.set) })
	clustertest.Wait(t, "a is seen", func() bool { return len(view.get().Members) == 1 })
	want := []cluster.Member{{ID: a.ID(), Address: "a:1", Zone: "z", Weight: 2, State: cluster.Active, Revision: a.Revision()}}
	if diff := cmp.Diff(want, view.get().Members); diff != "" {
		t.Error(diff)
	}
	b := join(t, d, cluster.IncarnationConfig{}, nil)
	clustertest.Wait(t, "a and b are seen", func() bool { return slices.Equal(ids(view.get()), []string{a.ID(), b.ID()}) })
	if got := view.get().Revision; got < b.Revision() {
		t.Errorf("complete up to %d, b joined at %d", got, b.Revision())
	}
	a.stop()
	clustertest.Wait(t, "b alone is seen", func() bool { return slices.Equal(ids(view.get()), []string{b.ID()}) })
}

func TestAnEmptyClusterIsShownOnce(t *testing.T) {
	d := deps(clustertest.StartEtcd(t))
	var view latest[cluster.View]
	run(t, func(ctx context.Context) error { return cluster.WatchMembers(ctx, d, cluster.Gateway, view.set) })
	clustertest.Wait(t, "it is shown", func() bool { return view.count() == 1 })
	if len(view.get().Members) != 0 {
		t.Error("not empty")
	}
}

func TestAMemberWhoseRecordNobodyCanReadIsAliveAllTheSame(t *testing.T) {
	d := deps(clustertest.StartEtcd(t))
	if _, err := d.Client.Put(bg(t), d.Keys.Member(cluster.Gateway, "odd"), "{"); err != nil {
		t.Fatal(err)
	}
	var view latest[cluster.View]
	run(t, func(ctx context.Context) error { return cluster.WatchMembers(ctx, d, cluster.Gateway, view.set) })
	clustertest.Wait(t, "it is seen", func() bool { return slices.Equal(ids(view.get()), []string{"odd"}) })
}

func TestWhileEtcdIsAwayTheLastViewStands(t *testing.T) {
	e := clustertest.StartEtcd(t)
	d := deps(e)
	a := join(t, d, cluster.IncarnationConfig{}, func(context.Context) bool { return true })
	var view latest[cluster.View]
	run(t, func(ctx context.Context) error { return cluster.WatchMembers(ctx, d, cluster.Gateway, view.set) })
	clustertest.Wait(t, "a is seen", func() bool { return len(view.get().Members) == 1 })
	shown := view.count()
	e.Stop()
	e.Start()
	b := join(t, d, cluster.IncarnationConfig{}, nil)
	clustertest.Wait(t, "b is seen, too", func() bool { return slices.Equal(ids(view.get()), []string{a.ID(), b.ID()}) })
	if got := view.count(); got != shown+1 {
		t.Errorf("shown %d times since, want once", got-shown)
	}
}

// A watch that was away while etcd forgot the history in between reads everything anew.
func TestAViewIsCompleteAfterCompaction(t *testing.T) {
	e := clustertest.StartEtcd(t)
	here := deps(e)
	wire := clustertest.NewWire(t, e.Address())
	there := here
	there.Client = clustertest.Client(t, wire.Address())
	a := join(t, here, cluster.IncarnationConfig{}, nil)
	var view latest[cluster.View]
	run(t, func(ctx context.Context) error { return cluster.WatchMembers(ctx, there, cluster.Gateway, view.set) })
	clustertest.Wait(t, "a is seen", func() bool { return len(view.get().Members) == 1 })

	wire.Cut()
	a.stop()
	b := join(t, here, cluster.IncarnationConfig{}, nil)
	r, err := here.Client.Put(bg(t), "elsewhere", "")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := here.Client.Compact(bg(t), r.Header.Revision); err != nil {
		t.Fatal(err)
	}
	wire.Mend()
	clustertest.Wait(t, "b alone is seen", func() bool { return slices.Equal(ids(view.get()), []string{b.ID()}) })
}

func TestTheActiveInstanceIsWatched(t *testing.T) {
	d := deps(clustertest.StartEtcd(t))
	var id latest[string]
	run(t, func(ctx context.Context) error { return cluster.WatchActive(ctx, d, id.set) })
	clustertest.Wait(t, "nobody", func() bool { return id.count() == 1 && id.get() == "" })
	m, _ := active(t, d, cluster.RecorderConfig{})
	clustertest.Wait(t, "the one", func() bool { return id.get() == m.ID() })
	m.stop()
	clustertest.Wait(t, "nobody again", func() bool { return id.get() == "" })
}
