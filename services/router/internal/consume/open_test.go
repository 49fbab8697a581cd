package consume

import (
	"context"
	"io"
	"net"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/mochi-mqtt/server/v2/packets"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	messagingv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/messaging/v1"
	"github.com/beeline-mqtt/beeline/services/router/internal/client"
	"github.com/beeline-mqtt/beeline/test/rawmqtt"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestOnlyWhatIsNotAskedForIsLeftOver(t *testing.T) {
	for name, test := range map[string]struct {
		filters       []string
		group         string
		subscriptions []string
		left          []string
		shared        bool
	}{
		"nothing":               {[]string{"a", "b/#"}, "", []string{"b/#", "a"}, nil, false},
		"fewer":                 {[]string{"a"}, "", []string{"a", "b/#"}, []string{"b/#"}, false},
		"others":                {[]string{"a"}, "", []string{"b"}, []string{"b"}, false},
		"a wider one":           {[]string{"a/#"}, "", []string{"#", "a/#"}, []string{"#"}, false},
		"a narrower one":        {[]string{"#"}, "", []string{"#", "a/#"}, []string{"a/#"}, false},
		"one that looks alike":  {[]string{"a/+"}, "", []string{"a/#", "a/+"}, []string{"a/#"}, false},
		"the same of the group": {[]string{"a"}, "g", []string{"$share/g/a"}, nil, false},
		"a wider one of it":     {[]string{"a/#"}, "g", []string{"$share/g/#", "$share/g/a/#"}, []string{"$share/g/#"}, true},
		"another group":         {[]string{"a"}, "g", []string{"$share/h/a", "$share/g/a"}, []string{"$share/h/a"}, true},
		"a group no more":       {[]string{"a"}, "", []string{"$share/g/a", "a"}, []string{"$share/g/a"}, true},
		"a group since":         {[]string{"a"}, "g", []string{"$share/g/a", "a"}, []string{"a"}, false},
	} {
		t.Run(name, func(t *testing.T) {
			o := &messagingv1.SubscribeRequest_Open{ConsumerGroup: test.group}
			for _, f := range test.filters {
				o.Filters = append(o.Filters, &messagingv1.SubscribeRequest_Filter{Filter: f})
			}
			terms, err := termsOf(o, "me")
			if err != nil {
				t.Fatal(err)
			}
			left, shared := terms.leftovers(test.subscriptions)
			if diff := cmp.Diff(test.left, left); diff != "" || shared != test.shared {
				t.Errorf("shared %v, left (-want +got):\n%s", shared, diff)
			}
		})
	}
}

// caller is the stream of a caller in a test.
type caller struct {
	Stream

	ctx  context.Context
	asks chan *messagingv1.SubscribeRequest
	gets chan *messagingv1.SubscribeResponse
}

func (c *caller) Context() context.Context { return c.ctx }

func (c *caller) Send(r *messagingv1.SubscribeResponse) error {
	c.gets <- r
	return nil
}

func (c *caller) Recv() (*messagingv1.SubscribeRequest, error) {
	r, more := <-c.asks
	if !more {
		return nil, io.EOF
	}
	return r, nil
}

// gateway is one in a test: its connections are taken one after the other.
type gateway struct {
	*caller
	t           *testing.T
	connections chan *rawmqtt.Client
	ended       chan error
}

// serve serves a durable stream with filters at a gateway where its session has subscriptions.
func serve(t *testing.T, o *messagingv1.SubscribeRequest_Open, subscriptions func() ([]string, error)) *gateway {
	t.Helper()
	g := &gateway{
		caller: &caller{ctx: t.Context(), asks: make(chan *messagingv1.SubscribeRequest, 10), gets: make(chan *messagingv1.SubscribeResponse, 10)},
		t:      t, connections: make(chan *rawmqtt.Client), ended: make(chan error, 1),
	}
	deps := Deps{
		Connect: func(ctx context.Context, c client.Config) (Session, error) {
			near, far := net.Pipe()
			g.connections <- rawmqtt.Over(t, far, rawmqtt.V5)
			n, err := client.Open(ctx, near, c)
			return Session{n, func(context.Context) ([]string, error) { return subscriptions() }}, err
		},
		Caller: func(context.Context) string { return "me" }, Metrics: NewMetrics(prometheus.NewRegistry()),
	}
	g.asks <- &messagingv1.SubscribeRequest{Request: &messagingv1.SubscribeRequest_Open_{Open: o}}
	go func() { g.ended <- Serve(g.caller, deps) }()
	return g
}

// takes takes a connection, with a session that was there if that is present, and its SUBSCRIBE.
func (g *gateway) takes(present bool) *rawmqtt.Client {
	g.t.Helper()
	s := <-g.connections
	s.Expect(packets.Connect)
	s.Send(packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Connack}, ProtocolVersion: 5, SessionPresent: present})
	p := s.Expect(packets.Subscribe)
	s.Send(packets.Packet{
		FixedHeader: packets.FixedHeader{Type: packets.Suback}, ProtocolVersion: 5, PacketID: p.PacketID, ReasonCodes: make([]byte, len(p.Filters)),
	})
	return s
}

// unsubscribes expects an UNSUBSCRIBE and answers it.
func (g *gateway) unsubscribes(s *rawmqtt.Client, code byte, want ...string) {
	g.t.Helper()
	p := s.Expect(packets.Unsubscribe)
	var got []string
	for _, f := range p.Filters {
		got = append(got, f.Filter)
	}
	if !slices.Equal(got, want) {
		g.t.Errorf("it unsubscribes from %v, want %v", got, want)
	}
	s.Send(packets.Packet{
		FixedHeader: packets.FixedHeader{Type: packets.Unsuback}, ProtocolVersion: 5, PacketID: p.PacketID,
		ReasonCodes: slices.Repeat([]byte{code}, len(got)),
	})
}

// publishes sends a message of QoS 1.
func publishes(s *rawmqtt.Client, topic string, id uint16) {
	p := rawmqtt.PublishPacket(topic, "x", 1)
	p.ProtocolVersion, p.PacketID = 5, id
	s.Send(p)
}

// ends has the caller end, and the gateway see it.
func (g *gateway) ends(s *rawmqtt.Client) {
	g.t.Helper()
	close(g.asks)
	s.Expect(packets.Disconnect)
	s.Close()
	if err := <-g.ended; err != nil {
		g.t.Errorf("it ends with %v", err)
	}
}

func durable(group string, filters ...string) *messagingv1.SubscribeRequest_Open {
	o := &messagingv1.SubscribeRequest_Open{DurableName: "billing", ConsumerGroup: group}
	for _, f := range filters {
		o.Filters = append(o.Filters, &messagingv1.SubscribeRequest_Filter{Filter: f})
	}
	return o
}

func TestANewSessionIsNotAskedForItsSubscriptions(t *testing.T) {
	g := serve(t, durable("", "a"), func() ([]string, error) {
		t.Error("it is asked")
		return nil, nil
	})
	s := g.takes(false)
	if r := <-g.gets; r.GetOpened() == nil || r.GetOpened().GetResumed() {
		t.Errorf("got %v, want opened", r)
	}
	g.ends(s)
}

func TestSubscriptionsOfEarlierStreamsEnd(t *testing.T) {
	g := serve(t, durable("", "a/#"), func() ([]string, error) { return []string{"#", "a/#", "b"}, nil })
	s := g.takes(true)
	publishes(s, "b", 1)
	publishes(s, "a/b", 2)
	g.unsubscribes(s, 0, "#", "b")
	if r := <-g.gets; !r.GetOpened().GetResumed() {
		t.Errorf("got %v, want opened", r)
	}
	if ack := s.Expect(packets.Puback); ack.PacketID != 1 || ack.ReasonCode != 0x83 {
		t.Errorf("PUBACK %+v", ack)
	}
	r := (<-g.gets).GetMessages()
	if r.GetDiscarded() != 1 || len(r.GetMessages()) != 1 || r.GetMessages()[0].GetMessage().GetTopic() != "a/b" {
		t.Errorf("got %v", r)
	}
	g.asks <- &messagingv1.SubscribeRequest{Request: &messagingv1.SubscribeRequest_Acknowledge_{
		Acknowledge: &messagingv1.SubscribeRequest_Acknowledge{DeliveryIds: []uint64{r.GetMessages()[0].GetDeliveryId()}},
	}}
	if ack := s.Expect(packets.Puback); ack.PacketID != 2 || ack.ReasonCode != 0 {
		t.Errorf("PUBACK %+v", ack)
	}
	g.ends(s)
}

// TestWhatIsForOthersOfAGroupIsLeftToThem: a message that came by a shared subscription that is no more is not acknowledged,
// and the session is left and taken again before anything is.
func TestWhatIsForOthersOfAGroupIsLeftToThem(t *testing.T) {
	subscriptions := []string{"$share/g/#", "$share/g/a"}
	g := serve(t, durable("g", "a"), func() ([]string, error) { return subscriptions, nil })
	s := g.takes(true)
	publishes(s, "b", 1)
	g.unsubscribes(s, 0, "$share/g/#")
	s.Expect(packets.Disconnect) // and nothing before
	s.Close()
	subscriptions = []string{"$share/g/a"}
	s = g.takes(true)
	if r := <-g.gets; !r.GetOpened().GetResumed() {
		t.Errorf("got %v, want opened", r)
	}
	publishes(s, "a", 1)
	if r := (<-g.gets).GetMessages(); r.GetDiscarded() != 0 || len(r.GetMessages()) != 1 {
		t.Errorf("got %v", r)
	}
	g.ends(s)
}

func TestAStreamWhoseFormerSubscriptionsDoNotEndIsUnavailable(t *testing.T) {
	for name, test := range map[string]struct {
		subscriptions []string
		err           error
		code          byte
	}{
		"the gateway does not say what they are": {nil, status.Error(codes.NotFound, "not here"), 0},
		"it does not end them":                   {[]string{"b"}, nil, 0x80},
	} {
		t.Run(name, func(t *testing.T) {
			g := serve(t, durable("", "a"), func() ([]string, error) { return test.subscriptions, test.err })
			s := g.takes(true)
			if test.err == nil {
				g.unsubscribes(s, test.code, test.subscriptions...)
			}
			s.Expect(packets.Disconnect)
			s.Close()
			if err := <-g.ended; status.Code(err) != codes.Unavailable {
				t.Errorf("it ends with %v, want UNAVAILABLE", err)
			}
			close(g.asks)
		})
	}
}

// What was kept comes before the answers that the stream awaits, however much it is.
func TestAStreamOpensBehindALargeBacklog(t *testing.T) {
	g := serve(t, durable("", "a"), func() ([]string, error) { return []string{"a", "b"}, nil })
	s := g.takes(true)
	large := rawmqtt.PublishPacket("a", strings.Repeat("x", holdBytes/4), 1)
	large.ProtocolVersion = 5
	const many = 6
	for large.PacketID = 1; large.PacketID <= many; large.PacketID++ {
		s.Send(large)
	}
	g.unsubscribes(s, 0, "b")
	if r := <-g.gets; r.GetOpened() == nil {
		t.Errorf("got %v, want opened", r)
	}
	for range many {
		if r := (<-g.gets).GetMessages(); len(r.GetMessages()) != 1 {
			t.Errorf("a response of %d messages", len(r.GetMessages()))
		}
	}
	g.ends(s)
}
