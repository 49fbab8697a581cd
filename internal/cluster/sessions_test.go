package cluster_test

import (
	"context"
	"net"
	"slices"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	sessionv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/session/v1"
	"github.com/beeline-mqtt/beeline/internal/cluster"
	"github.com/beeline-mqtt/beeline/internal/cluster/clustertest"
)

// witness answers as it is told; silent: not at all.
type witness struct {
	sessionv1.UnimplementedSessionServiceServer
	reachable, silent bool
}

func (w *witness) Witness(ctx context.Context, _ *sessionv1.WitnessRequest) (*sessionv1.WitnessResponse, error) {
	if w.silent {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	return &sessionv1.WitnessResponse{EtcdReachable: w.reachable}, nil
}

func serve(t *testing.T, w *witness) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer()
	sessionv1.RegisterSessionServiceServer(s, w)
	done := make(chan struct{})
	go func() { defer close(done); _ = s.Serve(l) }()
	t.Cleanup(func() { s.Stop(); <-done })
	return l.Addr().String()
}

func dial(address string) (*grpc.ClientConn, error) {
	return grpc.NewClient("passthrough:///"+address, grpc.WithTransportCredentials(insecure.NewCredentials()))
}

func TestOnlyWhenEverySessionInstanceIsBlindAreAllBlind(t *testing.T) {
	for _, c := range []struct {
		name string
		all  []*witness
		want bool
	}{
		{"none known", nil, false},
		{"one, blind", []*witness{{}}, true},
		{"two, both blind", []*witness{{}, {}}, true},
		{"one of two sees etcd", []*witness{{}, {reachable: true}}, false},
		{"one of two is silent", []*witness{{silent: true}, {}}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := deps(clustertest.StartEtcd(t))
			s := cluster.NewSessions(d, dial)
			run(t, s.Run)
			for _, w := range c.all {
				join(t, d, cluster.IncarnationConfig{Kind: cluster.Session, Member: cluster.Member{Address: serve(t, w)}}, nil)
			}
			clustertest.Wait(t, "all are known", func() bool {
				v, _ := s.View()
				return len(v.Members) == len(c.all)
			})
			ctx := bg(t)
			if slices.ContainsFunc(c.all, func(w *witness) bool { return w.silent }) {
				var cancel context.CancelFunc
				ctx, cancel = context.WithTimeout(ctx, 300*time.Millisecond)
				defer cancel()
			}
			if got := s.AllBlind(ctx); got != c.want {
				t.Errorf("all blind: %v, want %v", got, c.want)
			}
		})
	}
}

func TestAnInstanceThatDoesNotListenIsSilent(t *testing.T) {
	d := deps(clustertest.StartEtcd(t))
	s := cluster.NewSessions(d, dial)
	run(t, s.Run)
	m := join(t, d, cluster.IncarnationConfig{Kind: cluster.Session, Member: cluster.Member{Address: "127.0.0.1:1"}}, nil)
	clustertest.Wait(t, "it is known", func() bool { v, _ := s.View(); return len(v.Members) == 1 })
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if s.AllBlind(ctx) {
		t.Error("taken for blind")
	}
	if !s.OthersBlind(ctx, m.ID()) {
		t.Error("an instance that is alone has nobody else to ask")
	}
}

func TestTheActiveInstanceAndItsConnectionAreKnown(t *testing.T) {
	d := deps(clustertest.StartEtcd(t))
	s := cluster.NewSessions(d, dial)
	stop := run(t, s.Run)
	_, conn, changed := s.Active()
	if conn != nil {
		t.Fatal("knows an active instance before there is one")
	}
	m, _ := active(t, d, cluster.RecorderConfig{})
	var got cluster.Member
	for conn == nil {
		select {
		case <-changed:
		case <-time.After(patience):
			t.Fatal("not told of the active instance")
		}
		got, conn, changed = s.Active()
	}
	if got.ID != m.ID() {
		t.Errorf("active is %s, want %s", got.ID, m.ID())
	}
	m.stop()
	clustertest.Wait(t, "nobody is active", func() bool { _, c, _ := s.Active(); return c == nil })
	stop()
	if _, c, _ := s.Active(); c != nil {
		t.Error("a connection after the end")
	}
}

func TestTheProbeKnowsWhetherEtcdAnswers(t *testing.T) {
	e := clustertest.StartEtcd(t)
	p := cluster.NewProbe(deps(e), 100*time.Millisecond, time.Second)
	if p.Reachable() {
		t.Error("reachable before it has asked")
	}
	run(t, p.Run)
	clustertest.Wait(t, "reachable", p.Reachable)
	e.Stop()
	clustertest.Wait(t, "not reachable", func() bool { return !p.Reachable() })
	e.Start()
	clustertest.Wait(t, "reachable again", p.Reachable)
}
