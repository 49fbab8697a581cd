package router

import (
	"context"
	"net"
	"sync"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	messagingv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/messaging/v1"
	sessionv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/session/v1"
	"github.com/beeline-mqtt/beeline/internal/cluster"
	"github.com/beeline-mqtt/beeline/internal/cluster/clustertest"
	"github.com/beeline-mqtt/beeline/internal/rpc"
)

// oracle is a session instance that says one thing and then ends the stream, or waits.
type oracle struct {
	sessionv1.UnimplementedSessionServiceServer
	end error // nil: it waits
}

func (o *oracle) WatchPresence(r *sessionv1.WatchPresenceRequest, g grpc.ServerStreamingServer[sessionv1.WatchPresenceResponse]) error {
	if err := g.Send(&sessionv1.WatchPresenceResponse{Cursor: r.GetClientIdPrefix() + r.GetCursor()}); err != nil || o.end != nil {
		return o.end
	}
	<-g.Context().Done()
	return status.FromContextError(g.Context().Err()).Err()
}

// startOracle makes it a session instance, and returns its incarnation.
func startOracle(t *testing.T, etcd *clientv3.Client, o *oracle) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer(grpc.WaitForHandlers(true))
	sessionv1.RegisterSessionServiceServer(s, o)
	inc, err := cluster.Join(t.Context(), cluster.Deps{Client: etcd, Keys: "test"}, cluster.IncarnationConfig{
		Kind: cluster.Session, Member: cluster.Member{Address: l.Addr().String()},
	})
	if err != nil {
		t.Fatal(err)
	}
	var running sync.WaitGroup
	ctx, stop := context.WithCancel(context.Background())
	running.Go(func() { _ = s.Serve(l) })
	running.Go(func() { _ = inc.Run(ctx, nil) })
	t.Cleanup(func() { stop(); s.Stop(); running.Wait() })
	return inc.ID()
}

func activate(t *testing.T, etcd *clientv3.Client, id string) {
	t.Helper()
	if _, err := etcd.Put(t.Context(), cluster.Keys("test").Active(), id); err != nil {
		t.Fatal(err)
	}
}

// page is the stream of somebody who watches.
type page struct {
	grpc.ServerStreamingServer[messagingv1.WatchPresenceResponse]
	ctx  context.Context
	sent chan string
}

func (p *page) Context() context.Context { return p.ctx }

func (p *page) Send(r *messagingv1.WatchPresenceResponse) error {
	p.sent <- r.GetCursor()
	return nil
}

// Whatever becomes of the session instance, a watcher is told whether it can go on.
func TestAWatcherIsToldWhatHasEndedItsEvents(t *testing.T) {
	etcd := clustertest.StartEtcd(t).Client()
	r := start(t, etcd)
	for name, tt := range map[string]struct {
		end  error
		want codes.Code
	}{
		"the cursor leads nowhere": {status.Error(codes.OutOfRange, "gone"), codes.OutOfRange},
		"it is no cursor":          {status.Error(codes.InvalidArgument, "bad"), codes.InvalidArgument},
		"it does not read":         {status.Error(codes.ResourceExhausted, "slow"), codes.ResourceExhausted},
		"a standby by now":         {rpc.Refuse(rpc.NotActive, "not active"), codes.Unavailable},
		"it stops":                 {rpc.Refuse(rpc.Stopping, "stopping"), codes.Unavailable},
		"it has died":              {status.Error(codes.Unavailable, "reset"), codes.Unavailable},
	} {
		t.Run(name, func(t *testing.T) {
			id := startOracle(t, etcd, &oracle{end: tt.end})
			activate(t, etcd, id)
			awaitSession(t, r, id)
			p := &page{ctx: t.Context(), sent: make(chan string, 1)}
			err := r.messaging.WatchPresence(&messagingv1.WatchPresenceRequest{ClientIdPrefix: "p", Cursor: "c"}, p)
			if status.Code(err) != tt.want || <-p.sent != "pc" {
				t.Errorf("ended with %v, want %v", err, tt.want)
			}
		})
	}
}

func awaitSession(t *testing.T, r *rig, id string) {
	t.Helper()
	clustertest.Wait(t, "the router knows the active instance", func() bool {
		m, _, err := r.fleet.Session()
		return err == nil && m.ID == id
	})
}

// An instance that is paused does not end its streams: that another one is active does.
func TestAWatcherOfAPausedInstanceIsToldWhenAnotherIsActive(t *testing.T) {
	etcd := clustertest.StartEtcd(t).Client()
	r := start(t, etcd)
	first, second := startOracle(t, etcd, &oracle{}), startOracle(t, etcd, &oracle{})
	activate(t, etcd, first)
	awaitSession(t, r, first)
	p := &page{ctx: t.Context(), sent: make(chan string, 1)}
	ended := make(chan error, 1)
	go func() { ended <- r.messaging.WatchPresence(&messagingv1.WatchPresenceRequest{}, p) }()
	<-p.sent
	activate(t, etcd, second)
	if err := <-ended; status.Code(err) != codes.Unavailable {
		t.Errorf("ended with %v", err)
	}
	ctx, leave := context.WithCancel(t.Context())
	p = &page{ctx: ctx, sent: make(chan string, 1)}
	go func() { ended <- r.messaging.WatchPresence(&messagingv1.WatchPresenceRequest{}, p) }()
	<-p.sent
	leave()
	if err := <-ended; status.Code(err) != codes.Canceled {
		t.Errorf("who leaves is told %v", err)
	}
}
