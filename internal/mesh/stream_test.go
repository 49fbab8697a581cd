package mesh

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	meshv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/mesh/v1"
	"github.com/beeline-mqtt/beeline/internal/routes"
)

// rawClient is a peer made of the generated code alone, without anything of this package.
type rawClient struct {
	grpc.BidiStreamingClient[meshv1.ConnectRequest, meshv1.ConnectResponse]
	t *testing.T
}

func dialRaw(t *testing.T, n *node) *grpc.ClientConn {
	t.Helper()
	cc, err := grpc.NewClient("passthrough:///"+n.address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cc.Close() })
	return cc
}

func connectRaw(t *testing.T, n *node) rawClient {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	stream, err := meshv1.NewMeshServiceClient(dialRaw(t, n)).Connect(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return rawClient{stream, t}
}

func (c rawClient) send(m *meshv1.ConnectRequest) {
	c.t.Helper()
	if err := c.Send(m); err != nil {
		c.t.Fatal(err)
	}
}

func (c rawClient) recv() *meshv1.ConnectResponse {
	c.t.Helper()
	m, err := c.Recv()
	if err != nil {
		c.t.Fatal(err)
	}
	return m
}

// refused reads until the stream ends and returns its code.
func (c rawClient) refused() codes.Code {
	c.t.Helper()
	for {
		if _, err := c.Recv(); err != nil {
			return status.Code(err)
		}
	}
}

func helloTo(to string) *meshv1.Hello {
	return &meshv1.Hello{ProtocolVersion: 1, Incarnation: "raw", ToIncarnation: to, NextSequence: 1}
}

func batchFrame(b *meshv1.Batch) *meshv1.ConnectRequest {
	return &meshv1.ConnectRequest{Frame: &meshv1.ConnectRequest_Batch{Batch: b}}
}

func rawBatch(first uint64, topics ...string) *meshv1.Batch {
	b := &meshv1.Batch{FirstSequence: first}
	for _, topic := range topics {
		b.Deliveries = append(b.Deliveries, generated(publish(topic, 1)))
	}
	return b
}

// knowsRaw starts a node that knows the raw peer, at an address where nobody is.
func knowsRaw(t *testing.T, k *taker) *node {
	t.Helper()
	y := startNode(t, "y", nodeOptions{accept: func(string) Inbound { return k }})
	y.SetPeers([]Peer{{ID: "raw", Address: "127.0.0.1:1", Revision: 1}})
	return y
}

func TestAPeerOfGeneratedCodeIsServed(t *testing.T) {
	k := &taker{answer: func(d Delivery, _ Later) Receipt {
		if d.Message.Topic == "b" {
			return Receipt{Outcome: Overloaded}
		}
		return Receipt{Outcome: Queued}
	}}
	y := knowsRaw(t, k)
	c := connectRaw(t, y)
	c.send(helloFrame(helloTo("y")))
	if w := c.recv().GetWelcome(); w.GetIncarnation() != "y" || w.GetReceivedThrough() != 0 || w.GetRoutesVersion() != 0 {
		t.Errorf("welcome %v", w)
	}
	c.send(routesFrame(&meshv1.RouteUpdate{Version: 3, Snapshot: true, Announced: []*meshv1.Route{{Filter: "f", Members: 1}}}))
	if v := c.recv().GetRoutesAck().GetVersion(); v != 3 {
		t.Errorf("acknowledged version %d", v)
	}
	c.send(digestFrame(&meshv1.RouteDigest{Version: 3, Count: 2}))
	if m := c.recv(); m.GetRoutesWanted() == nil {
		t.Errorf("to a digest that differs: %v", m)
	}
	c.send(batchFrame(rawBatch(1, "a", "b")))
	r := c.recv().GetReceipts()
	if r.GetReceivedThrough() != 2 || r.GetNumber() != 1 || len(r.GetReceipts()) != 1 ||
		r.GetReceipts()[0].GetSequence() != 2 || r.GetReceipts()[0].GetOutcome() != meshv1.Outcome_OUTCOME_OVERLOADED {
		t.Errorf("receipts %v", r)
	}
	// Again, and one more: only that one is taken, and what was not confirmed is answered as it was.
	c.send(batchFrame(rawBatch(1, "a", "b", "c")))
	again := c.recv().GetReceipts()
	if again.GetNumber() != 1 || len(again.GetReceipts()) != 1 {
		t.Errorf("again %v", again)
	}
	if last := c.recv().GetReceipts(); last.GetReceivedThrough() != 3 || last.GetNumber() != 0 {
		t.Errorf("then %v", last)
	}
	if got := k.wait(t, 3); !slices.Equal(got, []string{"a", "b", "c"}) {
		t.Errorf("taken %v", got)
	}
	if s := y.Stats(); s.Duplicates != 2 || s.DeliveriesIn != 3 {
		t.Errorf("%+v", s)
	}
	c.send(senderGoodbye())
	if code := c.refused(); code != codes.Unknown { // io.EOF
		t.Errorf("after Goodbye: %v", code)
	}
}

func TestStreamsThatMustNotBeAreRefused(t *testing.T) {
	hello := func(change func(*meshv1.Hello)) []*meshv1.ConnectRequest {
		h := helloTo("y")
		change(h)
		return []*meshv1.ConnectRequest{helloFrame(h)}
	}
	after := func(ms ...*meshv1.ConnectRequest) []*meshv1.ConnectRequest {
		return append([]*meshv1.ConnectRequest{helloFrame(helloTo("y"))}, ms...)
	}
	orphan := rawBatch(1, "a")
	orphan.Deliveries[0].Target = &meshv1.Delivery_Orphans{Orphans: &meshv1.Orphans{}}
	unknownQoS := rawBatch(1, "a")
	unknownQoS.Deliveries[0].GetMessage().Qos = 9
	cases := []struct {
		name   string
		frames []*meshv1.ConnectRequest
		want   codes.Code
	}{
		{"for another incarnation", hello(func(h *meshv1.Hello) { h.ToIncarnation = "z" }), codes.FailedPrecondition},
		{"another protocol version", hello(func(h *meshv1.Hello) { h.ProtocolVersion = 2 }), codes.FailedPrecondition},
		{"another lane", hello(func(h *meshv1.Hello) { h.Lane = 1 }), codes.InvalidArgument},
		{"deliveries that are missing", hello(func(h *meshv1.Hello) { h.NextSequence = 2 }), codes.FailedPrecondition},
		{"no Hello", []*meshv1.ConnectRequest{senderGoodbye()}, codes.InvalidArgument},
		{"a second Hello", after(helloFrame(helloTo("y"))), codes.InvalidArgument},
		{"a gap", after(batchFrame(rawBatch(2, "a"))), codes.FailedPrecondition},
		{"an empty batch", after(batchFrame(rawBatch(1))), codes.InvalidArgument},
		{"an unknown QoS", after(batchFrame(unknownQoS)), codes.InvalidArgument},
		{"orphans of nobody", after(batchFrame(orphan)), codes.InvalidArgument},
		{"adopted, but who", after(&meshv1.ConnectRequest{Frame: &meshv1.ConnectRequest_Adopted{Adopted: &meshv1.Adopted{}}}), codes.InvalidArgument},
		{"nothing in a frame", after(&meshv1.ConnectRequest{}), codes.InvalidArgument},
		{"a route delta without a snapshot", after(routesFrame(&meshv1.RouteUpdate{Version: 2})), codes.InvalidArgument},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			k := &taker{}
			y := knowsRaw(t, k)
			stream := connectRaw(t, y)
			for _, m := range c.frames {
				_ = stream.Send(m) // the stream may have been ended by the one before
			}
			if got := stream.refused(); got != c.want {
				t.Errorf("%v, want %v", got, c.want)
			}
			if len(k.got) != 0 {
				t.Errorf("taken: %v", k.got)
			}
		})
	}
}

func TestANewerStreamTakesTheOlderOnesPlace(t *testing.T) {
	k := &taker{}
	y := knowsRaw(t, k)
	older := connectRaw(t, y)
	older.send(helloFrame(helloTo("y")))
	older.recv()
	older.send(batchFrame(rawBatch(1, "a")))
	older.recv()
	newer := connectRaw(t, y)
	newer.send(helloFrame(helloTo("y")))
	if w := newer.recv().GetWelcome(); w.GetReceivedThrough() != 1 {
		t.Errorf("welcome %v", w)
	}
	if code := older.refused(); code != codes.Aborted {
		t.Errorf("the older one ends with %v", code)
	}
	newer.send(batchFrame(rawBatch(2, "b")))
	if got := k.wait(t, 2); !slices.Equal(got, []string{"a", "b"}) {
		t.Errorf("taken %v", got)
	}
}

func TestAReplacedStreamHandsNothingOn(t *testing.T) {
	k := &taker{}
	y := knowsRaw(t, k)
	stream := func() *inStream {
		ctx, stop := context.WithCancelCause(t.Context())
		t.Cleanup(func() { stop(nil) })
		return &inStream{m: y.Mesh, wake: make(chan struct{}, 1), stopped: ctx, stop: stop}
	}
	in := y.link(t, "raw").in
	older, newer := stream(), stream()
	for _, st := range []*inStream{older, newer} {
		if _, err := in.attach(st, helloTo("y")); err != nil {
			t.Fatal(err)
		}
	}
	// It may have received this before it was replaced.
	late := encodeBatch([]Delivery{publish("late", 1)}, 1, 0)
	for range 50 {
		if err := in.take(older, late); !errors.Is(err, errReplaced) {
			t.Fatalf("taken: %v", err)
		}
	}
	if err := in.take(newer, late); err != nil {
		t.Error(err)
	}
	if _, err := in.next(older); !errors.Is(err, errReplaced) {
		t.Errorf("the older one goes on sending: %v", err)
	}
}

func TestASnapshotThatABreakCutsShortIsForgotten(t *testing.T) {
	y := knowsRaw(t, &taker{})
	route := func(filter string) []*meshv1.Route { return []*meshv1.Route{{Filter: filter, Members: 1}} }
	first := connectRaw(t, y)
	first.send(helloFrame(helloTo("y")))
	first.recv()
	first.send(routesFrame(&meshv1.RouteUpdate{Version: 2, Snapshot: true, Announced: route("old")}))
	first.recv()
	first.send(routesFrame(&meshv1.RouteUpdate{Version: 3, Snapshot: true, More: true, Announced: route("half")}))
	first.send(digestFrame(&meshv1.RouteDigest{Version: 3})) // answered, so what came before has been taken
	first.recv()
	second := connectRaw(t, y)
	second.send(helloFrame(helloTo("y")))
	if v := second.recv().GetWelcome().GetRoutesVersion(); v != 2 {
		t.Errorf("version %d is in force", v)
	}
	second.send(routesFrame(&meshv1.RouteUpdate{Version: 3, Announced: route("new")}))
	if v := second.recv().GetRoutesAck().GetVersion(); v != 3 {
		t.Errorf("acknowledged version %d", v)
	}
	for filter, want := range map[string]int{"old": 1, "half": 0, "new": 1} {
		if got := len(wants(y, filter)); got != want {
			t.Errorf("%d routes for %s, want %d", got, filter, want)
		}
	}
}

func TestAStreamFromAnUnknownIncarnationIsHeldUntilTheRegistryShowsIt(t *testing.T) {
	k := &taker{}
	accepted := make(chan string, 2)
	y := startNode(t, "y", nodeOptions{revision: 1, accept: func(id string) Inbound { accepted <- id; return k }})
	y.SetPeers(nil)
	x := startNode(t, "x", nodeOptions{revision: 2})
	x.SetPeers([]Peer{y.peer()})
	w := newWaiters(1)
	x.link(t, "y").Send(publish("early", 1), w)
	eventually(t, "the stream is there", func() bool { return y.Stats().FramesIn > 0 })
	if len(accepted) != 0 || len(y.living()) != 0 {
		t.Error("something is kept for an incarnation that was never confirmed")
	}
	y.SetPeers([]Peer{x.peer()})
	k.wait(t, 1)
	w.wait(t)
	if id := <-accepted; id != "x" {
		t.Errorf("accepted %q", id)
	}
}

func TestAStreamFromAnIncarnationThatIsNeverConfirmedIsRefused(t *testing.T) {
	y := startNode(t, "y", nodeOptions{config: func(c *Config) { c.AdmitTimeout = 10 * time.Millisecond }})
	y.SetPeers(nil)
	c := connectRaw(t, y)
	c.send(helloFrame(helloTo("y")))
	if code := c.refused(); code != codes.Unavailable {
		t.Errorf("%v", code)
	}
}

func TestStreamsAreRefusedWhileRunDoesNotRun(t *testing.T) {
	y := startNode(t, "y", nodeOptions{unstart: true})
	c := connectRaw(t, y)
	if code := c.refused(); code != codes.Unavailable {
		t.Errorf("%v", code)
	}
}

func TestWhatIsSentAndAnnouncedBeforeRunGoesOutThen(t *testing.T) {
	k := &taker{}
	y := startNode(t, "y", nodeOptions{revision: 1, accept: func(string) Inbound { return k }})
	x := startNode(t, "x", nodeOptions{revision: 2, unstart: true})
	introduce(x, y)
	w := newWaiters(1)
	x.link(t, "y").Send(publish("early", 1), w)
	done := make(chan error, 1)
	x.Announce(ordinary("early"), func(err error) { done <- err })
	x.run()
	t.Cleanup(func() { x.close(t) })
	w.wait(t)
	if err := <-done; err != nil {
		t.Error(err)
	}
	synced(t, x)
	if got := wants(y, "early"); !slices.Equal(got, []string{"x"}) {
		t.Errorf("routes %v", got)
	}
}

func TestTheEndOfRunSettlesEverything(t *testing.T) {
	k := &taker{answer: func(Delivery, Later) Receipt { return Receipt{Outcome: Accepted} }}
	x, y := two(t, k)
	w := newWaiters(10)
	for i := range 10 {
		x.link(t, "y").Send(publish(numbered(i), 1), w)
	}
	k.wait(t, 10)
	y.serving.Store(false)
	announced := make(chan error, 1)
	x.Announce(ordinary("a"), func(err error) { announced <- err })
	l := x.link(t, "y")

	x.close(t)
	w.wait(t)
	w.once(t, Gone)
	if err := <-announced; !errors.Is(err, ErrClosed) {
		t.Errorf("announcement: %v", err)
	}
	if l.Send(publish("late", 1), w) {
		t.Error("Send after the end")
	}
	if err := announce(t, x, ordinary("b")); !errors.Is(err, ErrClosed) {
		t.Errorf("Announce after the end: %v", err)
	}
	if err := x.WaitSynced(t.Context()); !errors.Is(err, ErrClosed) {
		t.Errorf("WaitSynced after the end: %v", err)
	}
	if err := x.Run(t.Context()); err == nil {
		t.Error("Run runs twice")
	}
}

func TestGracefulStopReturnsOnceRunHasEnded(t *testing.T) {
	for _, first := range []string{"x", "y"} {
		t.Run(first, func(t *testing.T) {
			x, y := two(t, &taker{})
			n := map[string]*node{"x": x, "y": y}[first]
			n.close(t)
			stopped := make(chan struct{})
			go func() { n.server.GracefulStop(); close(stopped) }()
			select {
			case <-stopped:
			case <-time.After(patience):
				t.Fatal("streams are left")
			}
		})
	}
}

func TestClosingIsNoFaultForThePeer(t *testing.T) {
	x, y := two(t, &taker{})
	x.close(t)
	if s := y.Stats(); s.Broken != 0 {
		t.Errorf("%+v", s)
	}
}

func TestTheCodecLeavesOtherServicesAlone(t *testing.T) {
	y := startNode(t, "y", nodeOptions{})
	server := grpc.NewServer(ServerOptions()...)
	healthv1.RegisterHealthServer(server, health.NewServer())
	y.server.Stop()
	other := &node{Mesh: y.Mesh, id: "other", server: server}
	other.serve(t)
	cc, err := grpc.NewClient("passthrough:///"+other.address,
		append(DialOptions(), grpc.WithTransportCredentials(insecure.NewCredentials()))...)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cc.Close() }()
	r, err := healthv1.NewHealthClient(cc).Check(t.Context(), &healthv1.HealthCheckRequest{})
	if err != nil || r.GetStatus() != healthv1.HealthCheckResponse_SERVING {
		t.Errorf("%v, %v", r, err)
	}
}

func TestTheMetricsAreWhatStatsSays(t *testing.T) {
	registry := prometheus.NewRegistry()
	deps := Deps{
		Logger: slog.New(slog.DiscardHandler), Metrics: registry, Routes: routes.NewTable[*Link](),
		Accept: func(string) Inbound { return nil }, Dial: func(string) (*grpc.ClientConn, error) { return nil, io.EOF },
		Serving: func() bool { return true },
	}
	m, err := New(Config{Incarnation: "x"}, deps)
	if err != nil {
		t.Fatal(err)
	}
	m.counters.deliveriesIn.Store(7)
	m.counters.receipts[Acked].Store(3)
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := make(map[string]float64)
	for _, f := range families {
		for _, metric := range f.GetMetric() {
			name := f.GetName()
			for _, label := range metric.GetLabel() {
				name += " " + label.GetValue()
			}
			got[name] = metric.GetCounter().GetValue() + metric.GetGauge().GetValue()
		}
	}
	for name, want := range map[string]float64{
		"beeline_mesh_deliveries_total in": 7, "beeline_mesh_deliveries_total out": 0,
		"beeline_mesh_receipts_total acked": 3, "beeline_mesh_receipts_total gone": 0,
		"beeline_mesh_payload_bytes_total in": 0, "beeline_mesh_unacknowledged_bytes": 0, "beeline_mesh_peers": 0,
	} {
		if v, ok := got[name]; !ok || v != want {
			t.Errorf("%s is %v (there: %v), want %v", name, v, ok, want)
		}
	}
	if _, err := New(Config{Incarnation: "x"}, deps); err == nil || !strings.Contains(err.Error(), "metrics") {
		t.Errorf("a second mesh with the same registry: %v", err)
	}
}

func TestConfigThatCannotWorkIsRefused(t *testing.T) {
	for name, c := range map[string]Config{
		"no incarnation":         {},
		"a bound that is small":  {Incarnation: "x", LinkBytes: 1000},
		"a negative duration":    {Incarnation: "x", DigestInterval: -1},
		"pauses in wrong order":  {Incarnation: "x", ReconnectMin: time.Minute, ReconnectMax: time.Second},
		"a negative first pause": {Incarnation: "x", ReconnectMin: -1},
	} {
		if err := c.withDefaults().validate(); err == nil {
			t.Errorf("%s is accepted", name)
		}
	}
	if _, err := New(Config{Incarnation: "x"}, Deps{}); err == nil {
		t.Error("a mesh without dependencies is accepted")
	}
}
