package router

import (
	"context"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	adminv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/admin/v1"
	gatewayv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/gateway/v1"
	"github.com/beeline-mqtt/beeline/internal/cluster"
	"github.com/beeline-mqtt/beeline/internal/cluster/clustertest"
)

// gateway is one in the registry that answers what it is told to, and does as it is ordered at once.
type gateway struct {
	gatewayv1.UnimplementedDrainServiceServer

	*cluster.Incarnation
	address string

	mu     sync.Mutex // guards the following
	status *gatewayv1.StatusResponse
	orders []*gatewayv1.DrainRequest
	fails  error
	mute   chan struct{} // closed at the end; nil: it answers
}

// startGateway has a gateway with some clients join the cluster.
func (r *rig) startGateway(mqtt string, weight uint32, clients uint64) *gateway {
	r.t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		r.t.Fatal(err)
	}
	g := &gateway{address: l.Addr().String(), status: &gatewayv1.StatusResponse{
		Phase: gatewayv1.DrainPhase_DRAIN_PHASE_SERVING, Clients: clients, Weight: weight,
	}}
	d := cluster.Deps{Client: r.etcd, Keys: "test", Logger: slog.New(slog.DiscardHandler)}
	if g.Incarnation, err = cluster.Join(r.t.Context(), d, cluster.IncarnationConfig{
		Member: cluster.Member{Address: g.address, MQTT: mqtt, Zone: "z", Weight: weight},
	}); err != nil {
		r.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	s := grpc.NewServer()
	gatewayv1.RegisterDrainServiceServer(s, g)
	var running sync.WaitGroup
	running.Go(func() { _ = g.Run(ctx, nil) })
	running.Go(func() { _ = s.Serve(l) })
	r.t.Cleanup(func() { cancel(); s.Stop(); running.Wait() })
	return g
}

func (g *gateway) set(change func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	change()
}

func (g *gateway) Drain(ctx context.Context, r *gatewayv1.DrainRequest) (*gatewayv1.DrainResponse, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.fails != nil {
		return nil, g.fails
	}
	g.orders = append(g.orders, r)
	g.status.Phase, g.status.Keep, g.status.Resumes = gatewayv1.DrainPhase_DRAIN_PHASE_MOVING, uint64(r.GetKeep()), r.GetResumeAfter()
	g.status.Left = g.status.GetClients() - g.status.GetKeep()
	return &gatewayv1.DrainResponse{}, g.UpdateState(ctx, cluster.Draining)
}

func (g *gateway) Resume(ctx context.Context, _ *gatewayv1.ResumeRequest) (*gatewayv1.ResumeResponse, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.fails != nil {
		return nil, g.fails
	}
	g.status.Phase, g.status.Keep, g.status.Left = gatewayv1.DrainPhase_DRAIN_PHASE_SERVING, 0, 0
	return &gatewayv1.ResumeResponse{}, g.UpdateState(ctx, cluster.Active)
}

func (g *gateway) Status(ctx context.Context, _ *gatewayv1.StatusRequest) (*gatewayv1.StatusResponse, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.mute != nil {
		g.mu.Unlock()
		select {
		case <-g.mute:
		case <-ctx.Done():
		}
		g.mu.Lock()
	}
	return proto.Clone(g.status).(*gatewayv1.StatusResponse), nil
}

// manage starts a router before gateways with some clients each, and knows them.
func manage(t *testing.T, clients ...uint64) (*rig, adminv1.GatewayServiceClient, []*gateway) {
	t.Helper()
	r := start(t, clustertest.StartEtcd(t).Client())
	var all []*gateway
	for i, n := range clients {
		all = append(all, r.startGateway("10.0.0."+string(rune('1'+i))+":1883", 1, n))
	}
	r.knows(len(clients))
	return r, adminv1.NewGatewayServiceClient(r.connect()), all
}

func TestGatewaysAreListedWithWhatTheySay(t *testing.T) {
	r, a, g := manage(t, 5, 7)
	mute, newer := r.startGateway("10.0.0.8:1883", 3, 1), r.startGateway("", 0, 1)
	mute.set(func() { mute.mute = make(chan struct{}) })
	defer close(mute.mute)
	newer.set(func() { newer.status.Phase = 99 })
	g[0].set(func() {
		g[0].status = &gatewayv1.StatusResponse{
			Phase: gatewayv1.DrainPhase_DRAIN_PHASE_MOVING, Clients: 5, Keep: 2, Moved: 4, Left: 3, Resumes: true, Trouble: "none",
		}
	})
	clustertest.Wait(t, "all are known", func() bool { return len(r.placer.own.view.Load().Members) == 4 })
	began := time.Now()
	l, err := a.ListGateways(t.Context(), &adminv1.ListGatewaysRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if took := time.Since(began); took > 2*gatewayTimeout {
		t.Errorf("it took %v", took)
	}
	for _, x := range l.GetGateways()[2:] {
		if x.GetTrouble() == "" || x.GetState() != adminv1.GatewayState_GATEWAY_STATE_UNSPECIFIED {
			t.Errorf("one that does not answer is listed as %v", x)
		}
		x.Trouble = "it does not answer"
	}
	want := []*adminv1.Gateway{
		{
			Id: g[0].ID(), Address: g[0].address, MqttAddress: "10.0.0.1:1883", Zone: "z", Weight: 1, Active: true,
			State: adminv1.GatewayState_GATEWAY_STATE_REBALANCING, Clients: 5, Keep: 2, Moved: 4, Left: 3, Trouble: "none",
		},
		{
			Id: g[1].ID(), Address: g[1].address, MqttAddress: "10.0.0.2:1883", Zone: "z", Weight: 1, Active: true,
			State: adminv1.GatewayState_GATEWAY_STATE_ACTIVE, Clients: 7,
		},
		{Id: mute.ID(), Address: mute.address, MqttAddress: "10.0.0.8:1883", Zone: "z", Weight: 3, Active: true, Trouble: "it does not answer"},
		{Id: newer.ID(), Address: newer.address, Zone: "z", Weight: 1, Active: true, Clients: 1, Trouble: "it does not answer"},
	}
	if diff := cmp.Diff(want, l.GetGateways(), protocmp.Transform()); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func TestTheStateOfAGatewayFollowsFromWhatItSays(t *testing.T) {
	for _, tt := range []struct {
		says *gatewayv1.StatusResponse
		want adminv1.GatewayState
	}{
		{&gatewayv1.StatusResponse{}, adminv1.GatewayState_GATEWAY_STATE_UNSPECIFIED},
		{&gatewayv1.StatusResponse{Phase: gatewayv1.DrainPhase_DRAIN_PHASE_SERVING}, adminv1.GatewayState_GATEWAY_STATE_ACTIVE},
		{&gatewayv1.StatusResponse{Phase: gatewayv1.DrainPhase_DRAIN_PHASE_GRACE}, adminv1.GatewayState_GATEWAY_STATE_DRAINING},
		{&gatewayv1.StatusResponse{Phase: gatewayv1.DrainPhase_DRAIN_PHASE_MOVING}, adminv1.GatewayState_GATEWAY_STATE_DRAINING},
		{&gatewayv1.StatusResponse{Phase: gatewayv1.DrainPhase_DRAIN_PHASE_DRAINED}, adminv1.GatewayState_GATEWAY_STATE_DRAINED},
		{&gatewayv1.StatusResponse{Phase: gatewayv1.DrainPhase_DRAIN_PHASE_DRAINED, Stopping: true}, adminv1.GatewayState_GATEWAY_STATE_STOPPING},
		{&gatewayv1.StatusResponse{Phase: gatewayv1.DrainPhase_DRAIN_PHASE_GRACE, Resumes: true}, adminv1.GatewayState_GATEWAY_STATE_REBALANCING},
		{&gatewayv1.StatusResponse{Phase: gatewayv1.DrainPhase_DRAIN_PHASE_SETTLING, Resumes: true}, adminv1.GatewayState_GATEWAY_STATE_REBALANCING},
	} {
		if got := stateOf(tt.says); got != tt.want {
			t.Errorf("%v: %v, want %v", tt.says, got, tt.want)
		}
	}
}

func TestAGatewayIsDrainedAndResumedThroughTheRouter(t *testing.T) {
	r, a, g := manage(t, 5, 7)
	for _, name := range []string{g[0].ID(), g[0].address, "10.0.0.1:1883"} {
		d, err := a.DrainGateway(t.Context(), &adminv1.DrainGatewayRequest{Gateway: name, Rate: 3, TimeoutMs: 4000})
		wantCode(t, "drain "+name, err, codes.OK)
		if x := d.GetGateway(); x.GetId() != g[0].ID() || x.GetActive() || x.GetState() != adminv1.GatewayState_GATEWAY_STATE_DRAINING || x.GetLeft() != 5 {
			t.Errorf("drained: %v", x)
		}
		if nodes := r.placer.own.nodes(); nodes[0].State != cluster.Draining {
			t.Error("the router does not know it")
		}
		re, err := a.ResumeGateway(t.Context(), &adminv1.ResumeGatewayRequest{Gateway: name})
		wantCode(t, "resume "+name, err, codes.OK)
		if x := re.GetGateway(); !x.GetActive() || x.GetState() != adminv1.GatewayState_GATEWAY_STATE_ACTIVE {
			t.Errorf("resumed: %v", x)
		}
	}
	want := &gatewayv1.DrainRequest{Rate: 3, TimeoutMs: 4000}
	if diff := cmp.Diff([]*gatewayv1.DrainRequest{want, want, want}, g[0].orders, protocmp.Transform()); diff != "" || len(g[1].orders) > 0 {
		t.Errorf("ordered (-want +got)\n%s; the other one: %v", diff, g[1].orders)
	}
	for _, tt := range []struct {
		name string
		err  error
		want codes.Code
	}{
		{"it refuses", status.Error(codes.FailedPrecondition, "nowhere to go"), codes.FailedPrecondition},
		{"it does not like what is asked", status.Error(codes.InvalidArgument, "too fast"), codes.InvalidArgument},
		{"it does not let routers in", status.Error(codes.PermissionDenied, "who are you"), codes.Unavailable},
	} {
		g[1].set(func() { g[1].fails = tt.err })
		_, err := a.DrainGateway(t.Context(), &adminv1.DrainGatewayRequest{Gateway: g[1].ID()})
		wantCode(t, "drain: "+tt.name, err, tt.want)
		if !strings.Contains(err.Error(), g[1].address) || !strings.Contains(err.Error(), status.Convert(tt.err).Message()) {
			t.Errorf("it says %v", err)
		}
		_, err = a.ResumeGateway(t.Context(), &adminv1.ResumeGatewayRequest{Gateway: g[1].ID()})
		wantCode(t, "resume: "+tt.name, err, tt.want)
	}
	for name, want := range map[string]codes.Code{"": codes.InvalidArgument, "10.0.0.9:1883": codes.NotFound} {
		_, err := a.DrainGateway(t.Context(), &adminv1.DrainGatewayRequest{Gateway: name})
		wantCode(t, "drain one that there is not", err, want)
		_, err = a.ResumeGateway(t.Context(), &adminv1.ResumeGatewayRequest{Gateway: name})
		wantCode(t, "resume one that there is not", err, want)
	}
}

func TestGatewaysThatHaveTooManyShareThem(t *testing.T) {
	_, a, g := manage(t, 300, 200, 100, 50)
	g[3].set(func() { g[3].status.Phase = gatewayv1.DrainPhase_DRAIN_PHASE_DRAINED })
	want := &adminv1.RebalanceResponse{Shares: []*adminv1.Share{
		{Gateway: g[0].ID(), Address: g[0].address, Weight: 1, Clients: 300, Target: 200, ToMove: 100},
		{Gateway: g[1].ID(), Address: g[1].address, Weight: 1, Clients: 200, Target: 200},
		{Gateway: g[2].ID(), Address: g[2].address, Weight: 1, Clients: 100, Target: 200},
	}}
	for _, r := range []*adminv1.RebalanceRequest{{DryRun: true}, {Rate: 25}} {
		plan, err := a.Rebalance(t.Context(), r)
		wantCode(t, "rebalance", err, codes.OK)
		if diff := cmp.Diff(want, plan, protocmp.Transform()); diff != "" {
			t.Errorf("the plan (-want +got)\n%s", diff)
		}
		if r.GetDryRun() && len(g[0].orders) > 0 {
			t.Errorf("ordered without being asked: %v", g[0].orders)
		}
	}
	if diff := cmp.Diff([]*gatewayv1.DrainRequest{{Keep: 200, Rate: 25, ResumeAfter: true}}, g[0].orders, protocmp.Transform()); diff != "" {
		t.Errorf("ordered (-want +got)\n%s", diff)
	}
	for i, x := range g[1:] {
		if len(x.orders) > 0 {
			t.Errorf("gateway %d is ordered %v", i+1, x.orders)
		}
	}
	_, err := a.Rebalance(t.Context(), &adminv1.RebalanceRequest{})
	wantCode(t, "while one is rebalanced", err, codes.FailedPrecondition)
}

func TestWhatCannotBeRebalanced(t *testing.T) {
	_, a, g := manage(t, 100, 0)
	ask := func(what string, want codes.Code) {
		t.Helper()
		_, err := a.Rebalance(t.Context(), &adminv1.RebalanceRequest{})
		wantCode(t, what, err, want)
	}
	_, err := a.Rebalance(t.Context(), &adminv1.RebalanceRequest{Rate: mostRate + 1})
	wantCode(t, "too fast", err, codes.InvalidArgument)
	g[0].set(func() { g[0].fails = status.Error(codes.Unavailable, "later") })
	ask("one cannot be told", codes.Unavailable)
	g[1].set(func() { g[1].status.Phase = gatewayv1.DrainPhase_DRAIN_PHASE_DRAINED })
	ask("one is drained", codes.FailedPrecondition)
	g[1].set(func() { g[1].status.Phase = 99 })
	ask("one is a stranger", codes.Unavailable)
	if len(g[0].orders) > 0 {
		t.Errorf("ordered: %v", g[0].orders)
	}
}
