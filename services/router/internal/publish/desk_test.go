package publish

import (
	"context"
	"errors"
	"net"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	gatewayv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/gateway/v1"
	messagev1 "github.com/beeline-mqtt/beeline/api/gen/beeline/message/v1"
	"github.com/beeline-mqtt/beeline/internal/cluster"
	"github.com/beeline-mqtt/beeline/services/router/internal/fleet"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = 10 * time.Second

// gateway takes streams and hands what comes to the test.
type gateway struct {
	gatewayv1.UnimplementedPublishServiceServer

	member cluster.Member
	conn   *grpc.ClientConn
	server *grpc.Server
	refuse bool
	came   chan arrival
}

// arrival is a publication, and the stream it came on.
type arrival struct {
	p *gatewayv1.Publication
	s *taken
}

type taken struct {
	s      grpc.BidiStreamingServer[gatewayv1.PublishRequest, gatewayv1.PublishResponse]
	cutOff chan struct{}
	closed chan struct{} // the router has closed its end
	mu     sync.Mutex
}

// answer gives a publication its result.
func (a arrival) answer(code uint32) {
	a.s.mu.Lock()
	defer a.s.mu.Unlock()
	_ = a.s.s.Send(&gatewayv1.PublishResponse{Results: []*gatewayv1.Result{{RequestId: a.p.GetRequestId(), ReasonCode: code}}})
}

func (g *gateway) Publish(s grpc.BidiStreamingServer[gatewayv1.PublishRequest, gatewayv1.PublishResponse]) error {
	if g.refuse {
		return status.Error(codes.Unavailable, "no incarnation is in force")
	}
	if err := s.SendHeader(nil); err != nil {
		return err
	}
	x := &taken{s: s, cutOff: make(chan struct{}), closed: make(chan struct{})}
	go func() {
		for {
			r, err := s.Recv()
			if err != nil {
				close(x.closed)
				return
			}
			for _, p := range r.GetPublications() {
				g.came <- arrival{p, x}
			}
		}
	}()
	select {
	case <-x.cutOff:
		return status.Error(codes.Unavailable, "cut off")
	case <-s.Context().Done():
		return s.Context().Err()
	}
}

// next is what comes next.
func (g *gateway) next(t *testing.T) arrival {
	t.Helper()
	select {
	case a := <-g.came:
		return a
	case <-time.After(patience):
		t.Fatal("nothing comes to the gateway")
		return arrival{}
	}
}

// gateways are some, in turn.
type gateways struct {
	mu  sync.Mutex
	all []*gateway
}

func (g *gateways) Next(but func(string) bool) (fleet.Gateway, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, state := range []cluster.State{cluster.Active, cluster.Draining} {
		for _, x := range g.all {
			if x.member.State == state && !but(x.member.ID) {
				return fleet.Gateway{Member: x.member, Conn: x.conn}, nil
			}
		}
	}
	return fleet.Gateway{}, fleet.ErrNoGateway
}

func (g *gateways) Gateway(id string) (fleet.Gateway, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, x := range g.all {
		if x.member.ID == id {
			return fleet.Gateway{Member: x.member, Conn: x.conn}, nil
		}
	}
	return fleet.Gateway{}, fleet.ErrNoGateway
}

func (g *gateways) drain(i int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.all[i].member.State = cluster.Draining
}

func startGateways(t *testing.T, n int) *gateways {
	t.Helper()
	all := new(gateways)
	for i := range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		g := &gateway{
			member: cluster.Member{ID: string(rune('a' + i)), State: cluster.Active}, server: grpc.NewServer(), came: make(chan arrival, 100_000),
		}
		gatewayv1.RegisterPublishServiceServer(g.server, g)
		var serving sync.WaitGroup
		serving.Go(func() { _ = g.server.Serve(l) })
		if g.conn, err = grpc.NewClient("passthrough:///"+l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials())); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			_ = g.conn.Close()
			g.server.Stop()
			serving.Wait()
		})
		all.all = append(all.all, g)
	}
	return all
}

// run runs a desk until the test ends.
func run(t *testing.T, g *gateways) *Desk {
	t.Helper()
	d := NewDesk(g)
	ctx, stop := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { _ = d.Run(ctx) })
	t.Cleanup(func() {
		stop()
		running.Wait()
	})
	return d
}

func publication(topic string) *gatewayv1.Publication {
	return &gatewayv1.Publication{Message: &messagev1.Message{Topic: topic}}
}

type answer struct {
	r   *gatewayv1.Result
	err error
}

// publish publishes at once and returns what gets the answer.
func publish(ctx context.Context, d *Desk, topic string) <-chan answer {
	got := make(chan answer, 1)
	go func() {
		r, err := d.Publish(ctx, publication(topic))
		got <- answer{r, err}
	}()
	return got
}

func want(t *testing.T, got <-chan answer, code uint32, err error) {
	t.Helper()
	select {
	case a := <-got:
		if !errors.Is(a.err, err) || a.r.GetReasonCode() != code {
			t.Errorf("%v, %v; want %d, %v", a.r, a.err, code, err)
		}
	case <-time.After(patience):
		t.Fatal("there is no answer")
	}
}

func TestAnswersFindWhoWaitsForThem(t *testing.T) {
	g := startGateways(t, 1)
	d := run(t, g)
	a, b := publish(t.Context(), d, "a"), publish(t.Context(), d, "b")
	one, two := g.all[0].next(t), g.all[0].next(t)
	if one.p.GetMessage().GetTopic() == "b" {
		a, b = b, a
	}
	two.answer(2)
	want(t, b, 2, nil)
	one.answer(1)
	one.answer(3) // nobody waits for it any more
	want(t, a, 1, nil)
	if d.Gateway() != "a" {
		t.Errorf("it publishes at %q", d.Gateway())
	}
}

func TestAGatewayThatIsLostLeavesWhatItHadInTheDark(t *testing.T) {
	g := startGateways(t, 2)
	d := run(t, g)
	first := publish(t.Context(), d, "first")
	x := g.all[0].next(t)
	close(x.s.cutOff)
	want(t, first, 0, ErrNotKnown)
	g.all[0].refuse = true
	second := publish(t.Context(), d, "second")
	g.all[1].next(t).answer(5)
	want(t, second, 5, nil)
}

func TestAGatewayThatRefusesIsPassedOver(t *testing.T) {
	g := startGateways(t, 3)
	g.all[0].refuse = true
	g.all[1].server.Stop()
	d := run(t, g)
	got := publish(t.Context(), d, "x")
	g.all[2].next(t).answer(1)
	want(t, got, 1, nil)
}

func TestWithoutAGatewayNothingIsPublished(t *testing.T) {
	g := startGateways(t, 1)
	g.all[0].refuse = true
	d := run(t, g)
	want(t, publish(t.Context(), d, "x"), 0, ErrNoGateway)
	g.all[0].refuse = false
	got := publish(t.Context(), d, "x")
	g.all[0].next(t).answer(1)
	want(t, got, 1, nil)
}

func TestADeskThatDoesNotRunPublishesNothing(t *testing.T) {
	g := startGateways(t, 1)
	d := NewDesk(g)
	early := publish(t.Context(), d, "early")
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- d.Run(ctx) }()
	g.all[0].next(t).answer(1)
	want(t, early, 1, nil)
	waits := publish(t.Context(), d, "waits")
	g.all[0].next(t)
	stop()
	want(t, waits, 0, ErrNotKnown)
	if err := <-ended; err != nil {
		t.Error(err)
	}
	want(t, publish(t.Context(), d, "late"), 0, ErrNoGateway)
}

func TestAGatewayThatIsDrainedGetsNothingNew(t *testing.T) {
	g := startGateways(t, 2)
	d := run(t, g)
	old := publish(t.Context(), d, "old")
	x := g.all[0].next(t)
	g.drain(0)
	last := publish(t.Context(), d, "last") // with it the desk notices
	y := g.all[0].next(t)
	<-x.s.closed
	fresh := publish(t.Context(), d, "fresh")
	g.all[1].next(t).answer(3)
	want(t, fresh, 3, nil)
	x.answer(1)
	y.answer(2)
	want(t, old, 1, nil)
	want(t, last, 2, nil)
}

func TestACallerThatLeavesIsForgotten(t *testing.T) {
	g := startGateways(t, 1)
	d := run(t, g)
	ctx, cancel := context.WithCancel(t.Context())
	gone := publish(ctx, d, "gone")
	x := g.all[0].next(t)
	cancel()
	want(t, gone, 0, context.Canceled)
	x.answer(1)
	got := publish(t.Context(), d, "x")
	g.all[0].next(t).answer(2)
	want(t, got, 2, nil)
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.pending != 0 || len(d.window.sent) != 0 || len(d.window.waiting) != 0 {
		t.Errorf("%d pending, %d sent, %d waiting", d.pending, len(d.window.sent), len(d.window.waiting))
	}
}

func TestADeskTakesNoMoreThanItMay(t *testing.T) {
	d := run(t, startGateways(t, 1))
	d.mu.Lock()
	d.pending = mostPending
	d.mu.Unlock()
	want(t, publish(t.Context(), d, "x"), 0, ErrBusy)
}

func TestOpenPrefersAGatewayThatIsActive(t *testing.T) {
	g := startGateways(t, 3)
	for _, c := range []struct {
		preferred, want string
		arrange         func()
	}{
		{"", "a", func() {}},
		{"c", "c", func() {}},
		{"nobody", "a", func() {}},
		{"c", "a", func() { g.drain(2) }},
		{"a", "b", func() { g.all[0].refuse = true }},
		{"", "c", func() { g.all[1].refuse = true }},
	} {
		c.arrange()
		ctx, cancel := context.WithCancel(t.Context())
		s, err := Open(ctx, g, c.preferred)
		if err != nil || s.Gateway != c.want {
			t.Errorf("preferring %q: %q, %v; want %q", c.preferred, s.Gateway, err, c.want)
		}
		cancel()
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Open(ctx, g, ""); !errors.Is(err, ErrNoGateway) {
		t.Errorf("for a call that is over: %v", err)
	}
}

func TestFramesAreBounded(t *testing.T) {
	var all []*gatewayv1.Publication
	for range 2500 {
		all = append(all, publication("a"))
	}
	for range 3 {
		p := publication("large")
		p.Message.Payload = make([]byte, 400<<10)
		all = append(all, p)
	}
	var sizes []int
	err := Frames(all, func(part []*gatewayv1.Publication) error {
		sizes = append(sizes, len(part))
		return nil
	})
	wantSizes := []int{1000, 1000, 501, 1, 1}
	if err != nil || len(sizes) != len(wantSizes) {
		t.Fatalf("frames of %v, %v", sizes, err)
	}
	for i := range sizes {
		if sizes[i] != wantSizes[i] {
			t.Errorf("frames of %v, want %v", sizes, wantSizes)
		}
	}
	if err := Frames(all, func([]*gatewayv1.Publication) error { return context.Canceled }); !errors.Is(err, context.Canceled) {
		t.Errorf("a frame that cannot be sent: %v", err)
	}
}
