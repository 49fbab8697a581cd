package mesh

import (
	"bytes"
	"context"
	"errors"
	"net"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"

	meshv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/mesh/v1"
	"github.com/beeline-mqtt/beeline/internal/message"
)

// rawStream is one stream at a rawServer. The test plays the receiver on it.
type rawStream struct {
	grpc.BidiStreamingServer[meshv1.ConnectRequest, meshv1.ConnectResponse]
	t   *testing.T
	end chan error // what the handler returns
}

// rawServer is a receiver made of the generated code alone, without anything of this package.
type rawServer struct {
	meshv1.UnimplementedMeshServiceServer
	t       *testing.T
	streams chan rawStream
	closing chan struct{}
}

func (s *rawServer) Connect(stream grpc.BidiStreamingServer[meshv1.ConnectRequest, meshv1.ConnectResponse]) error {
	st := rawStream{stream, s.t, make(chan error, 1)}
	select {
	case s.streams <- st:
	case <-s.closing:
		return nil
	case <-stream.Context().Done():
		return nil
	}
	select {
	case err := <-st.end:
		return err
	case <-s.closing:
		return nil
	case <-stream.Context().Done():
		return nil
	}
}

// startRaw starts a raw receiver and a node that has it as its peer.
func startRaw(t *testing.T, config func(*Config)) (*rawServer, *node) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	raw := &rawServer{t: t, streams: make(chan rawStream), closing: make(chan struct{})}
	server := grpc.NewServer()
	meshv1.RegisterMeshServiceServer(server, raw)
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = server.Serve(listener)
	}()
	t.Cleanup(func() {
		server.Stop()
		<-served
	})
	x := startNode(t, "x", nodeOptions{revision: 2, config: config})
	t.Cleanup(func() { close(raw.closing) })
	x.SetPeers([]Peer{{ID: "raw", Address: listener.Addr().String(), Revision: 1}})
	return raw, x
}

// next returns the next stream and its Hello.
func (s *rawServer) next() (rawStream, *meshv1.Hello) {
	s.t.Helper()
	select {
	case st := <-s.streams:
		return st, st.recv().GetHello()
	case <-time.After(patience):
		s.t.Fatal("no stream")
		return rawStream{}, nil
	}
}

// welcomed returns the next stream once it is welcomed.
func (s *rawServer) welcomed(receivedThrough, routesVersion uint64) (rawStream, *meshv1.Hello) {
	s.t.Helper()
	st, hello := s.next()
	st.send(welcomeFrame(&meshv1.Welcome{
		ProtocolVersion: 1, Incarnation: "raw", ReceivedThrough: receivedThrough, RoutesVersion: routesVersion,
	}))
	return st, hello
}

func (st rawStream) send(m *meshv1.ConnectResponse) {
	st.t.Helper()
	if err := st.Send(m); err != nil {
		st.t.Fatal(err)
	}
}

func (st rawStream) recv() *meshv1.ConnectRequest {
	st.t.Helper()
	m, err := st.Recv()
	if err != nil {
		st.t.Fatal(err)
	}
	return m
}

// batch reads until there are deliveries, and past everything else.
func (st rawStream) batch() *meshv1.Batch {
	st.t.Helper()
	for {
		if b := st.recv().GetBatch(); b != nil {
			return b
		}
	}
}

// gone waits until the sender has ended the stream.
func (st rawStream) gone() {
	st.t.Helper()
	for {
		if _, err := st.Recv(); err != nil {
			return
		}
	}
}

func receiptsOfRaw(through, number uint64, receipts ...*meshv1.Receipt) *meshv1.ConnectResponse {
	return &meshv1.ConnectResponse{Frame: &meshv1.ConnectResponse_Receipts{Receipts: &meshv1.Receipts{
		ReceivedThrough: through, Number: number, Receipts: receipts,
	}}}
}

func topics(b *meshv1.Batch) (ts []string) {
	for _, d := range b.GetDeliveries() {
		ts = append(ts, d.GetMessage().GetTopic())
	}
	return ts
}

func TestAReceiverOfGeneratedCodeIsServed(t *testing.T) {
	raw, x := startRaw(t, nil)
	st, hello := raw.welcomed(0, 0)
	want := &meshv1.Hello{ProtocolVersion: 1, Incarnation: "x", ToIncarnation: "raw", NextSequence: 1}
	if hello.String() != want.String() {
		t.Errorf("hello %v", hello)
	}
	if u := st.recv().GetRouteUpdate(); !u.GetSnapshot() || u.GetVersion() != 1 || u.GetMore() {
		t.Errorf("first of all: %v", u)
	}
	st.send(routesAckFrame(1))

	w := newWaiters(2)
	l := x.link(t, "raw")
	l.Send(publish("a", 1), w)
	b := st.batch()
	l.Send(publish("b", 1), w)
	c := st.batch()
	if b.GetFirstSequence() != 1 || c.GetFirstSequence() != 2 || !slices.Equal(topics(b), []string{"a"}) || !slices.Equal(topics(c), []string{"b"}) {
		t.Errorf("batches %v and %v", b, c)
	}
	st.send(receiptsOfRaw(2, 1, &meshv1.Receipt{Sequence: 2, Outcome: meshv1.Outcome_OUTCOME_MOVED, Moved: []*meshv1.Moved{{ClientId: "c", Epoch: 9}}}))
	w.wait(t)
	if diff := cmp.Diff(map[string][]Receipt{
		"a": {{Outcome: Queued}},
		"b": {{Outcome: Moved, Moved: []MovedClient{{ClientID: "c", Epoch: 9}}}},
	}, w.seen); diff != "" {
		t.Errorf("receipts (-want +got):\n%s", diff)
	}
	l.Send(publish("c", 1), nil)
	if n := st.batch().GetReceiptsThrough(); n != 1 {
		t.Errorf("receipts are confirmed through %d", n)
	}
}

func TestAfterABreakTheSenderGoesOnWhereWelcomeSays(t *testing.T) {
	raw, x := startRaw(t, nil)
	st, _ := raw.welcomed(0, 0)
	l := x.link(t, "raw")
	w := newWaiters(3)
	for _, topic := range []string{"a", "b", "c"} {
		l.Send(publish(topic, 1), w)
	}
	for n := 0; n < 3; {
		n += len(st.batch().GetDeliveries())
	}
	st.send(receiptsOfRaw(1, 1, &meshv1.Receipt{Sequence: 1, Outcome: meshv1.Outcome_OUTCOME_ACCEPTED}))
	eventually(t, "the first is taken", func() bool { l.mu.Lock(); defer l.mu.Unlock(); return l.out.taken == 1 })
	st.end <- errors.New("broken")

	st, hello := raw.welcomed(2, 1)
	if hello.GetNextSequence() != 2 || hello.GetReceiptsThrough() != 1 {
		t.Errorf("hello %v", hello)
	}
	if b := st.batch(); b.GetFirstSequence() != 3 || !slices.Equal(topics(b), []string{"c"}) {
		t.Errorf("resent: %v", b)
	}
	st.send(receiptsOfRaw(3, 2, &meshv1.Receipt{Sequence: 1, Outcome: meshv1.Outcome_OUTCOME_QUEUED}))
	w.wait(t)
	w.once(t, Queued)
	if s := x.Stats(); s.Resent != 1 || s.Reconnects != 1 || s.Broken != 0 {
		t.Errorf("%+v", s)
	}
}

func TestAfterABreakOnlyTheRoutesThatAreMissingAreSent(t *testing.T) {
	raw, x := startRaw(t, nil)
	st, _ := raw.welcomed(0, 0)
	x.Announce(ordinary("a"), func(error) {})
	for version := uint64(0); version < 2; {
		version = st.recv().GetRouteUpdate().GetVersion()
	}
	st.send(routesAckFrame(2))
	eventually(t, "version 2 is in force", x.link(t, "raw").announced.Load)
	st.end <- errors.New("broken")

	st, _ = raw.next()
	x.Announce(ordinary("b"), func(error) {})
	x.Announce(withdrawn("a"), func(error) {})
	st.send(welcomeFrame(&meshv1.Welcome{ProtocolVersion: 1, Incarnation: "raw", RoutesVersion: 2}))
	u := st.recv().GetRouteUpdate()
	if u.GetSnapshot() || u.GetVersion() != 4 || len(u.GetAnnounced()) != 1 || u.GetAnnounced()[0].GetFilter() != "b" ||
		len(u.GetWithdrawn()) != 1 || u.GetWithdrawn()[0].GetFilter() != "a" {
		t.Errorf("update %v", u)
	}
	// And everything when it is asked for.
	st.send(routesWantedFrame())
	if u := st.recv().GetRouteUpdate(); !u.GetSnapshot() || u.GetVersion() != 4 || len(u.GetAnnounced()) != 1 {
		t.Errorf("snapshot %v", u)
	}
}

func TestTheDigestSaysWhatTheTableIs(t *testing.T) {
	raw, x := startRaw(t, func(c *Config) { c.DigestInterval = time.Millisecond })
	x.Announce(ordinary("a", "b"), func(error) {})
	st, _ := raw.welcomed(0, 0)
	for {
		if d := st.recv().GetRouteDigest(); d != nil {
			x.routesMu.Lock()
			want := &meshv1.RouteDigest{Version: 2, Count: 2, Hash: x.routes.hash}
			x.routesMu.Unlock()
			if d.String() != want.String() {
				t.Errorf("digest %v, want %v", d, want)
			}
			return
		}
	}
}

func TestASenderEndsAStreamThatMakesNoSenseAndComesBack(t *testing.T) {
	cases := []struct {
		name string
		send *meshv1.ConnectResponse
	}{
		{"a receipt for what was not sent", receiptsOfRaw(1, 0)},
		{"receipts without a number", receiptsOfRaw(0, 0, &meshv1.Receipt{Sequence: 1, Outcome: meshv1.Outcome_OUTCOME_ACKED})},
		{"a Receipts frame is missing", receiptsOfRaw(0, 2)},
		{"an outcome that means nothing", receiptsOfRaw(0, 1, &meshv1.Receipt{Sequence: 1})},
		{"a second Welcome", welcomeFrame(&meshv1.Welcome{})},
		{"an answer about nobody", &meshv1.ConnectResponse{Frame: &meshv1.ConnectResponse_AdoptedAck{AdoptedAck: &meshv1.AdoptedAck{}}}},
		{"nothing in a frame", &meshv1.ConnectResponse{}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			raw, x := startRaw(t, nil)
			st, _ := raw.welcomed(0, 0)
			st.send(c.send)
			st.gone()
			raw.welcomed(0, 0)
			if s := x.Stats(); s.Broken != 1 {
				t.Errorf("%+v", s)
			}
		})
	}
}

func TestASenderDoesNotBelieveAWrongWelcome(t *testing.T) {
	for name, w := range map[string]*meshv1.Welcome{
		"of another incarnation":      {ProtocolVersion: 1, Incarnation: "z"},
		"of another protocol version": {ProtocolVersion: 2, Incarnation: "raw"},
		"that has taken too much":     {ProtocolVersion: 1, Incarnation: "raw", ReceivedThrough: 7},
	} {
		t.Run(name, func(t *testing.T) {
			raw, x := startRaw(t, nil)
			st, _ := raw.next()
			st.send(welcomeFrame(w))
			st.gone()
			st, _ = raw.welcomed(0, 0)
			x.link(t, "raw").Send(publish("a", 1), nil)
			if b := st.batch(); b.GetFirstSequence() != 1 {
				t.Errorf("then %v", b)
			}
		})
	}
}

func TestAReceiverThatSaysGoodbyeIsNoFaultAndIsTriedAgain(t *testing.T) {
	raw, x := startRaw(t, nil)
	st, _ := raw.welcomed(0, 0)
	st.send(receiverGoodbye())
	st.gone()
	raw.welcomed(0, 0)
	eventually(t, "it is back", func() bool { return x.Stats().Reconnects == 1 })
	if s := x.Stats(); s.Broken != 0 {
		t.Errorf("%+v", s)
	}
}

func TestASenderThatClosesSaysGoodbye(t *testing.T) {
	raw, x := startRaw(t, nil)
	st, _ := raw.welcomed(0, 0)
	st.recv() // the stream is up once there is something on it
	closed := make(chan struct{})
	go func() {
		defer close(closed)
		x.close(t)
	}()
	for st.recv().GetGoodbye() == nil {
	}
	st.end <- nil
	<-closed
}

func TestAReceiverThatNeverAnswersIsLeft(t *testing.T) {
	raw, _ := startRaw(t, func(c *Config) { c.ConnectTimeout = 10 * time.Millisecond })
	st, _ := raw.next()
	st.gone()
	raw.next()
}

func TestADialThatFailsIsTriedAgain(t *testing.T) {
	k := &taker{}
	y := startNode(t, "y", nodeOptions{revision: 1, accept: func(string) Inbound { return k }})
	failures := 5
	x := startNode(t, "x", nodeOptions{revision: 2, dialer: func(ctx context.Context, address string) (net.Conn, error) {
		if failures--; failures >= 0 {
			return nil, errors.New("no route to host")
		}
		return (&net.Dialer{}).DialContext(ctx, "tcp", address)
	}})
	introduce(x, y)
	x.link(t, "y").Send(publish("a", 1), nil)
	k.wait(t, 1)
}

func TestOnlyTheTargetGetsAnything(t *testing.T) {
	k := &taker{}
	y := startNode(t, "y", nodeOptions{revision: 1, accept: func(string) Inbound { return k }})
	z := startNode(t, "z", nodeOptions{revision: 2})
	x := startNode(t, "x", nodeOptions{revision: 3})
	introduce(x, y, z)
	synced(t, x, z)
	eventually(t, "nothing more is said about routes", func() bool {
		return y.link(t, "x").announced.Load() && z.link(t, "x").announced.Load() && y.link(t, "z").announced.Load()
	})
	before := z.Stats()
	w := newWaiters(100)
	for i := range 100 {
		x.link(t, "y").Send(publish(numbered(i), 1), w)
	}
	w.wait(t)
	if after := z.Stats(); after != before {
		t.Errorf("at the gateway that is not the target: %+v, before %+v", after, before)
	}
	if s := y.Stats(); s.DeliveriesIn != 100 {
		t.Errorf("at the target: %+v", s)
	}
}

func TestAMessageArrivesAsItWasSent(t *testing.T) {
	got := make(chan Delivery, 1)
	x, _ := two(t, &taker{answer: func(d Delivery, _ Later) Receipt { got <- d; return Receipt{Outcome: Queued} }})
	base := func() *message.Message {
		return &message.Message{ID: message.ID{Origin: "x", Seq: 1}, Publisher: "p", Topic: "t", QoS: 1, Payload: []byte("v")}
	}
	with := func(change func(*message.Message)) *message.Message { m := base(); change(m); return m }
	for name, m := range map[string]*message.Message{
		"plain":        base(),
		"empty":        with(func(m *message.Message) { m.Payload = nil }),
		"retained":     with(func(m *message.Message) { m.Retain = true }),
		"QoS 2":        with(func(m *message.Message) { m.QoS = 2 }),
		"by another":   with(func(m *message.Message) { m.Origin = "z" }),
		"larger":       with(func(m *message.Message) { m.Payload = bytes.Repeat([]byte("x"), 300<<10) }),
		"no publisher": with(func(m *message.Message) { m.Publisher = "" }),
		"properties": with(func(m *message.Message) {
			m.Props = &message.Properties{
				HasPayloadFormat: true, PayloadFormat: 1, ContentType: "text/plain", ResponseTopic: "r",
				CorrelationData: []byte{}, User: []message.UserProperty{{Name: "n", Value: "1"}, {Name: "n", Value: ""}},
			}
		}),
	} {
		t.Run(name, func(t *testing.T) {
			w := newWaiters(1)
			d := Delivery{Target: Target{Kind: TargetShare, Group: "g", Filter: "t/+"}, Message: m}
			if !x.link(t, "y").Send(d, w) {
				t.Fatal("bound reached")
			}
			if diff := cmp.Diff(d, <-got, sameExpiry); diff != "" {
				t.Errorf("(-sent +arrived):\n%s", diff)
			}
			w.wait(t)
		})
	}
}

func TestTheTimeToExpiryGoesOnCountingOnTheWay(t *testing.T) {
	got := make(chan Delivery, 1)
	x, _ := two(t, &taker{answer: func(d Delivery, _ Later) Receipt { got <- d; return Receipt{Outcome: Queued} }})
	d := publish("t", 1)
	d.Message.Expires = time.Now().Add(time.Minute)
	x.link(t, "y").Send(d, nil)
	// Milliseconds are rounded up, and the clocks are one.
	if late := (<-got).Message.Expires.Sub(d.Message.Expires); late < 0 || late > patience {
		t.Errorf("expires %v later", late)
	}
}
