package gateway

import (
	"fmt"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	gatewayv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/gateway/v1"
	"github.com/beeline-mqtt/beeline/internal/cluster"
	"github.com/beeline-mqtt/beeline/internal/cluster/clustertest"
	"github.com/beeline-mqtt/beeline/test/rawmqtt"
)

// commands connects to the gateway as a router does.
func (p *process) commands() gatewayv1.DrainServiceClient {
	p.t.Helper()
	conn, err := dial(p.grpc)
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() { _ = conn.Close() })
	return gatewayv1.NewDrainServiceClient(conn)
}

func (p *process) status(c gatewayv1.DrainServiceClient) *gatewayv1.StatusResponse {
	p.t.Helper()
	s, err := c.Status(p.t.Context(), &gatewayv1.StatusRequest{})
	if err != nil {
		p.t.Fatal(err)
	}
	return s
}

func (p *process) awaitPhase(c gatewayv1.DrainServiceClient, want gatewayv1.DrainPhase) *gatewayv1.StatusResponse {
	p.t.Helper()
	var s *gatewayv1.StatusResponse
	clustertest.Wait(p.t, "its phase is "+want.String(), func() bool {
		s = p.status(c)
		return s.GetPhase() == want
	})
	return s
}

func wantCode(t *testing.T, what string, err error, want codes.Code) {
	t.Helper()
	if status.Code(err) != want {
		t.Errorf("%s: %v, want %v", what, err, want)
	}
}

func TestAGatewayIsDrainedAndResumedByCommand(t *testing.T) {
	g, other := pair(t, "", nil)
	c := g.commands()
	if s := g.status(c); s.GetPhase() != gatewayv1.DrainPhase_DRAIN_PHASE_SERVING || s.GetWeight() != 1 || s.GetClients() != 0 {
		t.Errorf("at first: %v", s)
	}
	all := []*rawmqtt.Client{g.connect(v5, "a"), g.connect(v3, "b")}
	_, err := c.Drain(t.Context(), &gatewayv1.DrainRequest{})
	wantCode(t, "drain", err, codes.OK)
	for _, x := range all {
		moved(t, x, "")
	}
	s := g.awaitPhase(c, gatewayv1.DrainPhase_DRAIN_PHASE_DRAINED)
	if s.GetMoved() != 2 || s.GetLeft() != 0 || s.GetClients() != 0 || s.GetResumes() || s.GetStopping() || s.GetTrouble() != "" {
		t.Errorf("drained: %v", s)
	}
	g.showsAs(cluster.Draining)
	if ack := rawmqtt.Dial(t, g.address(), v5).Hello("late"); ack.ReasonCode != 0x88 {
		t.Errorf("CONNACK %#x while it is drained, want 0x88", ack.ReasonCode)
	}
	_, err = c.Drain(t.Context(), &gatewayv1.DrainRequest{Keep: 1, ResumeAfter: true})
	wantCode(t, "share what it has not", err, codes.FailedPrecondition)
	clustertest.Wait(t, "the other one knows", func() bool { return !other.somewhere() })
	_, err = other.commands().Drain(t.Context(), &gatewayv1.DrainRequest{})
	wantCode(t, "drain the last one", err, codes.FailedPrecondition)

	_, err = c.Resume(t.Context(), &gatewayv1.ResumeRequest{})
	wantCode(t, "resume", err, codes.OK)
	g.connect(v5, "a").ExpectNothing()
	g.showsAs(cluster.Active)
	g.awaitReady()
	if v, _ := g.metric("beeline_gateway_draining"); v != 0 {
		t.Errorf("beeline_gateway_draining is %v", v)
	}
	if s := g.status(c); s.GetPhase() != gatewayv1.DrainPhase_DRAIN_PHASE_SERVING || s.GetClients() != 1 || s.GetLeft() != 0 {
		t.Errorf("resumed: %v", s)
	}
	clustertest.Wait(t, "the other one knows", other.somewhere)
	_, err = c.Resume(t.Context(), &gatewayv1.ResumeRequest{})
	wantCode(t, "resume what is not drained", err, codes.OK)
}

func TestAGatewayKeepsSomeOfItsClientsAndRefusesNobody(t *testing.T) {
	g, _ := pair(t, "gateway-2:1883", func(c *Config) { c.Drain.Settle = time.Hour })
	c := g.commands()
	const clients, keep = 30, 20
	for i := range clients {
		g.connect([]byte{v3, v5}[i%2], fmt.Sprint("c", i))
	}
	_, err := c.Drain(t.Context(), &gatewayv1.DrainRequest{Keep: keep, Rate: 50, ResumeAfter: true})
	wantCode(t, "drain", err, codes.OK)
	g.showsAs(cluster.Draining)
	g.connect(v5, "late").ExpectNothing()
	s := g.awaitPhase(c, gatewayv1.DrainPhase_DRAIN_PHASE_SETTLING)
	if s.GetMoved() < clients-keep || s.GetMoved() > clients-keep+1 || s.GetLeft() != 0 || s.GetKeep() != keep || !s.GetResumes() {
		t.Errorf("when they have gone: %v", s)
	}
	g.connect(v3, "later").ExpectNothing()
	g.showsAs(cluster.Draining)
	clustertest.Wait(t, "those who were told have gone", func() bool {
		n := g.status(c).GetClients()
		return n >= keep+1 && n <= keep+2
	})
	_, err = c.Resume(t.Context(), &gatewayv1.ResumeRequest{})
	wantCode(t, "resume", err, codes.OK)
	g.showsAs(cluster.Active)
}

func TestARebalancedGatewayResumesByItself(t *testing.T) {
	g, _ := pair(t, "", func(c *Config) { c.Drain.Settle = 10 * time.Millisecond })
	a, b := g.connect(v5, "a"), g.connect(v5, "b")
	_, err := g.commands().Drain(t.Context(), &gatewayv1.DrainRequest{Keep: 1, ResumeAfter: true})
	wantCode(t, "drain", err, codes.OK)
	g.awaitPhase(g.commands(), gatewayv1.DrainPhase_DRAIN_PHASE_SERVING)
	g.showsAs(cluster.Active)
	clustertest.Wait(t, "one is left", func() bool { return g.clientsLeft() == 1 })
	gone := 0
	for _, c := range []*rawmqtt.Client{a, b} {
		if p, err := c.Next(time.Second); err == nil && p.ReasonCode == 0x98 {
			gone++
		}
	}
	if gone != 1 {
		t.Errorf("%d were told to go, want 1", gone)
	}
}

func TestAGatewayThatStopsTakesNoOrders(t *testing.T) {
	g, _ := pair(t, "", func(c *Config) { c.Drain.Grace = time.Second })
	g.connect(v5, "a")
	c := g.commands()
	stopped := make(chan error, 1)
	go func() { stopped <- g.stop() }()
	g.awaitReason("draining")
	if s := g.status(c); !s.GetStopping() {
		t.Errorf("status: %v", s)
	}
	_, err := c.Resume(t.Context(), &gatewayv1.ResumeRequest{})
	wantCode(t, "resume", err, codes.FailedPrecondition)
	_, err = c.Drain(t.Context(), &gatewayv1.DrainRequest{Keep: 1, ResumeAfter: true})
	wantCode(t, "drain", err, codes.FailedPrecondition)
	if err := <-stopped; err != nil {
		t.Errorf("Run = %v", err)
	}
}

func TestWhatCannotBeOrdered(t *testing.T) {
	g, _ := pair(t, "", nil)
	for name, r := range map[string]*gatewayv1.DrainRequest{
		"too many stay": {Keep: 1 << 31}, "too fast": {Rate: 1 << 31}, "too long": {TimeoutMs: 1 << 40},
	} {
		_, err := g.commands().Drain(t.Context(), r)
		wantCode(t, name, err, codes.InvalidArgument)
	}
	s := &drainService{gateway: g.Gateway}
	_, err := s.Drain(t.Context(), &gatewayv1.DrainRequest{})
	wantCode(t, "drain by nobody", err, codes.PermissionDenied)
	_, err = s.Resume(t.Context(), &gatewayv1.ResumeRequest{})
	wantCode(t, "resume by nobody", err, codes.PermissionDenied)
	_, err = s.Status(t.Context(), &gatewayv1.StatusRequest{})
	wantCode(t, "status for nobody", err, codes.PermissionDenied)
}
