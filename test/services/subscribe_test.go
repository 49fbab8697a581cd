package services

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/eclipse/paho.golang/paho"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/testing/protocmp"

	gatewayv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/gateway/v1"
	messagev1 "github.com/beeline-mqtt/beeline/api/gen/beeline/message/v1"
	messagingv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/messaging/v1"
	"github.com/beeline-mqtt/beeline/test/clustertest"
)

// consumer is a stream of Subscribe.
type consumer struct {
	messagingv1.MessagingService_SubscribeClient
	t         testing.TB
	end       func()
	resumed   bool
	waiting   []*messagingv1.ReceivedMessage
	dropped   uint64
	discarded uint64
}

func filters(all ...string) (f []*messagingv1.SubscribeRequest_Filter) {
	for _, x := range all {
		f = append(f, &messagingv1.SubscribeRequest_Filter{Filter: x})
	}
	return f
}

// open opens a stream, which has to be taken.
func (r *rig) open(o *messagingv1.SubscribeRequest_Open) *consumer {
	r.t.Helper()
	c, err := r.tryOpen(o)
	if err != nil {
		r.t.Fatalf("Subscribe: %v", err)
	}
	return c
}

func (r *rig) tryOpen(o *messagingv1.SubscribeRequest_Open) (*consumer, error) {
	r.t.Helper()
	return r.tryOpenAs("", o)
}

// tryOpenAs is tryOpen as the holder of a token, as an operator if it is empty.
func (r *rig) tryOpenAs(token string, o *messagingv1.SubscribeRequest_Open) (*consumer, error) {
	r.t.Helper()
	ctx, cancel := context.WithCancel(r.context())
	if token != "" {
		ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+token)
	}
	s, err := r.service.Subscribe(ctx)
	if err != nil {
		r.t.Fatal(err)
	}
	c := &consumer{MessagingService_SubscribeClient: s, t: r.t, end: cancel}
	r.t.Cleanup(cancel)
	err = s.Send(&messagingv1.SubscribeRequest{Request: &messagingv1.SubscribeRequest_Open_{Open: o}})
	if err != nil && !errors.Is(err, io.EOF) { // of which Recv says why
		r.t.Fatal(err)
	}
	first, err := s.Recv()
	if err != nil {
		cancel()
		return nil, err
	}
	if first.GetOpened() == nil {
		r.t.Fatalf("the first response is %v", first)
	}
	c.resumed = first.GetOpened().GetResumed()
	return c, nil
}

// next is the next message.
func (c *consumer) next() (*messagingv1.ReceivedMessage, error) {
	for len(c.waiting) == 0 {
		r, err := c.Recv()
		if err != nil {
			return nil, err
		}
		c.waiting = r.GetMessages().GetMessages()
		c.dropped += r.GetMessages().GetDropped()
		c.discarded += r.GetMessages().GetDiscarded()
	}
	m := c.waiting[0]
	c.waiting = c.waiting[1:]
	return m, nil
}

// take gets a message with a payload, without acknowledging it.
func (c *consumer) take(payload string) *messagingv1.ReceivedMessage {
	c.t.Helper()
	m, err := c.next()
	if err != nil {
		c.t.Fatalf("waiting for %q: %v", payload, err)
	}
	if string(m.GetMessage().GetPayload()) != payload {
		c.t.Fatalf("got %q, want %q", m.GetMessage().GetPayload(), payload)
	}
	return m
}

func (c *consumer) acknowledge(ids ...uint64) {
	c.t.Helper()
	if err := c.Send(&messagingv1.SubscribeRequest{Request: &messagingv1.SubscribeRequest_Acknowledge_{
		Acknowledge: &messagingv1.SubscribeRequest_Acknowledge{DeliveryIds: ids},
	}}); err != nil {
		c.t.Fatal(err)
	}
}

// ends expects that the stream ends with a code, after whatever it still brings.
func (c *consumer) ends(want codes.Code) {
	c.t.Helper()
	for {
		_, err := c.next()
		switch {
		case err == nil:
			continue
		case errors.Is(err, io.EOF) && want == codes.OK, status.Code(err) == want:
			return
		}
		c.t.Fatalf("the stream ends with %v, want %v", err, want)
	}
}

func TestAStreamGetsWhatClientsPublishAtEveryGateway(t *testing.T) {
	r := start(t, 3)
	c := r.open(&messagingv1.SubscribeRequest_Open{Filters: filters("sensors/+/temperature", "other")})
	for i := range 3 {
		d := r.connect(fmt.Sprint("device-", i), i, nil)
		expiry, format := uint32(60), byte(1)
		d.publish(fmt.Sprintf("sensors/%d/temperature", i), fmt.Sprint(i), 1, &paho.PublishProperties{
			MessageExpiry: &expiry, PayloadFormat: &format, ContentType: "text", ResponseTopic: "answer", CorrelationData: []byte("x"),
			User: paho.UserProperties{{Key: "beeline-publisher", Value: "forged"}, {Key: "k", Value: "1"}, {Key: "k", Value: "2"}},
		})
		m := c.take(fmt.Sprint(i))
		want := &messagingv1.ReceivedMessage{
			DeliveryId: uint64(i + 1), Publisher: fmt.Sprint("device-", i), Message: &messagingv1.Message{
				Topic: fmt.Sprintf("sensors/%d/temperature", i), Payload: []byte(fmt.Sprint(i)), Qos: messagev1.Qos_QOS_AT_LEAST_ONCE,
				MessageExpirySeconds: &expiry, PayloadFormat: messagev1.PayloadFormat_PAYLOAD_FORMAT_UTF8, ContentType: "text",
				ResponseTopic: "answer", CorrelationData: []byte("x"), UserProperties: []*messagev1.UserProperty{
					{Name: "beeline-publisher", Value: "forged"}, {Name: "k", Value: "1"}, {Name: "k", Value: "2"},
				},
			},
		}
		if diff := cmp.Diff(want, m, protocmp.Transform()); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
		c.acknowledge(m.GetDeliveryId())
	}
	if err := c.CloseSend(); err != nil {
		t.Fatal(err)
	}
	c.ends(codes.OK)
}

func TestNoMoreIsSentThanMayBeUnacknowledged(t *testing.T) {
	r := start(t, 1)
	for _, qos := range []byte{0, 1, 2} {
		c := r.open(&messagingv1.SubscribeRequest_Open{MaxUnacknowledged: 2, Filters: []*messagingv1.SubscribeRequest_Filter{
			{Filter: "t", Qos: messagev1.Qos_QOS_EXACTLY_ONCE},
		}})
		d := r.connect("device", 0, nil)
		for i := range 5 {
			d.publish("t", fmt.Sprint(i), qos, nil)
		}
		first, second := c.take("0"), c.take("1")
		received := make(chan *messagingv1.ReceivedMessage, 1)
		go func() {
			m, _ := c.next()
			received <- m
		}()
		// What comes next is the answer to the acknowledgement: nothing was on its way before.
		select {
		case m := <-received:
			t.Fatalf("QoS %d: %v comes without an acknowledgement", qos, m)
		default:
		}
		c.acknowledge(first.GetDeliveryId(), second.GetDeliveryId())
		if m := <-received; string(m.GetMessage().GetPayload()) != "2" {
			t.Fatalf("QoS %d: got %v, want 2", qos, m)
		}
		c.take("3")
		c.acknowledge(4, 3)
		c.take("4")
		c.acknowledge(5)
		c.end()
		c.ends(codes.Canceled)
	}
}

func TestWhatALostMemberHasNotAcknowledgedGoesToAnother(t *testing.T) {
	r := start(t, 2)
	group := &messagingv1.SubscribeRequest_Open{Filters: filters("work"), ConsumerGroup: "workers"}
	first, second := r.open(group), r.open(group)
	d := r.connect("device", 0, nil)
	const jobs = 20
	for i := range jobs {
		if _, err := d.PublishWithOptions(r.context(), &paho.Publish{Topic: "work", Payload: []byte(fmt.Sprint(i)), QoS: 1},
			paho.PublishOptions{Method: paho.PublishMethod_AsyncSend}); err != nil {
			t.Fatal(err)
		}
	}
	m, err := first.next()
	if err != nil {
		t.Fatal(err)
	}
	kept := string(m.GetMessage().GetPayload())
	first.end() // with everything that it has
	got := make(map[string]bool)
	for len(got) < jobs {
		m, err := second.next()
		if err != nil {
			t.Fatalf("%v, with %d of %d", err, len(got), jobs)
		}
		second.acknowledge(m.GetDeliveryId())
		got[string(m.GetMessage().GetPayload())] = true
	}
	if !got[kept] {
		t.Errorf("%q, which the first member had, is not given again", kept)
	}
}

func TestADurableSubscriptionGoesOnWhereItStopped(t *testing.T) {
	r := start(t, 2)
	o := &messagingv1.SubscribeRequest_Open{Filters: filters("t"), DurableName: "billing"}
	c := r.open(o)
	if c.resumed {
		t.Error("it is resumed the first time")
	}
	d := r.connect("device", 0, nil)
	for _, payload := range []string{"acknowledged", "not acknowledged"} {
		go d.publish("t", payload, 1, nil)
		if m := c.take(payload); payload == "acknowledged" {
			c.acknowledge(m.GetDeliveryId())
		}
	}
	if err := c.CloseSend(); err != nil {
		t.Fatal(err)
	}
	c.ends(codes.OK) // what was acknowledged has come
	d.publish("t", "while away", 1, nil)
	c = r.open(o)
	if !c.resumed {
		t.Error("it is not resumed")
	}
	if m := c.take("not acknowledged"); !m.GetDuplicate() {
		t.Error("it is not marked as a duplicate")
	}
	c.take("while away")
	again := r.open(o)
	c.ends(codes.Aborted)
	again.take("not acknowledged")
}

// What comes while no stream of the group is open is for whichever is open first.
func TestADurableConsumerGroupLosesNothing(t *testing.T) {
	r := start(t, 2)
	open := func(name string) *messagingv1.SubscribeRequest_Open {
		return &messagingv1.SubscribeRequest_Open{Filters: filters("work"), ConsumerGroup: "workers", DurableName: name}
	}
	first, second := r.open(open("first")), r.open(open("second"))
	if err := second.CloseSend(); err != nil {
		t.Fatal(err)
	}
	second.ends(codes.OK)
	d := r.connect("device", 0, nil)
	var kept sync.WaitGroup
	kept.Go(func() { d.publish("work", "not acknowledged", 1, nil) })
	first.take("not acknowledged")
	first.end()
	first.ends(codes.Canceled)
	kept.Wait()
	const jobs = 300
	for i := range jobs {
		if got := d.publish("work", fmt.Sprint(i), 1+byte(i)%2, nil); got.ReasonCode != 0 {
			t.Fatalf("reason code %#x", got.ReasonCode)
		}
	}
	second = r.open(open("second"))
	if !second.resumed {
		t.Error("it is not resumed")
	}
	second.acknowledge(second.take("not acknowledged").GetDeliveryId())
	for i := range jobs {
		second.acknowledge(second.take(fmt.Sprint(i)).GetDeliveryId())
	}
	kept.Go(func() { d.publish("work", "live", 1, nil) })
	second.acknowledge(second.take("live").GetDeliveryId())
	kept.Wait()
	if first = r.open(open("first")); !first.resumed {
		t.Error("the other is not resumed")
	}
}

func TestRetainedMessagesComeIfTheyAreAskedFor(t *testing.T) {
	r := start(t, 1)
	d := r.connect("device", 0, nil)
	if _, err := d.Publish(r.context(), &paho.Publish{Topic: "state", Payload: []byte("on"), QoS: 1, Retain: true}); err != nil {
		t.Fatal(err)
	}
	with := r.open(&messagingv1.SubscribeRequest_Open{Filters: filters("state"), WithRetained: true})
	if m := with.take("on"); !m.GetMessage().GetRetain() {
		t.Error("it is not marked as retained")
	}
	without := r.open(&messagingv1.SubscribeRequest_Open{Filters: filters("state")})
	d.publish("state", "off", 1, nil)
	without.take("off")
}

func TestAStreamOfAGatewayThatEndsIsUnavailable(t *testing.T) {
	r := start(t, 2)
	var all []*consumer
	for range 4 { // two at each gateway
		all = append(all, r.open(&messagingv1.SubscribeRequest_Open{Filters: filters("t"), MaxUnacknowledged: 1000}))
	}
	if err := r.Gateways()[0].Stop(); err != nil {
		t.Fatal(err)
	}
	d := r.connect("device", 1, nil)
	d.publish("t", "still here", 1, nil)
	lost := 0
	for _, c := range all {
		m, err := c.next()
		switch {
		case err == nil && string(m.GetMessage().GetPayload()) == "still here":
		case status.Code(err) == codes.Unavailable:
			lost++
		default:
			t.Errorf("%v, %v", m, err)
		}
	}
	if lost != 2 {
		t.Errorf("%d streams have ended, want the 2 of the gateway that has", lost)
	}
	again := r.open(&messagingv1.SubscribeRequest_Open{Filters: filters("t")})
	d.publish("t", "again", 1, nil)
	again.take("again")
}

func TestAStreamThatIsAskedForWronglyIsRefused(t *testing.T) {
	r := start(t, 1)
	many := slices.Repeat([]string{"t"}, 101)
	for name, o := range map[string]*messagingv1.SubscribeRequest_Open{
		"no filter":          {},
		"too many":           {Filters: filters(many...)},
		"a wrong filter":     {Filters: filters("a/#/b")},
		"an empty filter":    {Filters: filters("")},
		"a shared filter":    {Filters: filters("$share/g/t")},
		"too many wildcards": {Filters: filters("+/+/+/+/+/+/+")},
		"a wrong group":      {Filters: filters("t"), ConsumerGroup: "a/b"},
		"a wrong name":       {Filters: filters("t"), DurableName: "a#b"},
		"a long name":        {Filters: filters("t"), DurableName: strings.Repeat("x", 257)},
		"a QoS":              {Filters: []*messagingv1.SubscribeRequest_Filter{{Filter: "t", Qos: 9}}},
	} {
		want := codes.InvalidArgument
		if name == "too many wildcards" {
			want = codes.ResourceExhausted
		}
		if _, err := r.tryOpen(o); status.Code(err) != want {
			t.Errorf("%s: %v, want %v", name, err, want)
		}
	}
	s, err := r.service.Subscribe(r.context())
	if err != nil {
		t.Fatal(err)
	}
	c := &consumer{MessagingService_SubscribeClient: s, t: t}
	c.acknowledge(1)
	c.ends(codes.InvalidArgument)
	c = r.open(&messagingv1.SubscribeRequest_Open{Filters: filters("t")})
	c.acknowledge(1)
	c.ends(codes.InvalidArgument)
	c = r.open(&messagingv1.SubscribeRequest_Open{Filters: filters("t")})
	if err := c.Send(&messagingv1.SubscribeRequest{Request: &messagingv1.SubscribeRequest_Open_{
		Open: &messagingv1.SubscribeRequest_Open{Filters: filters("t")},
	}}); err != nil {
		t.Fatal(err)
	}
	c.ends(codes.InvalidArgument)
}

func TestASlowStreamLosesQoS0AndIsTold(t *testing.T) {
	r := start(t, 1)
	slow := r.open(&messagingv1.SubscribeRequest_Open{Filters: filters("t"), MaxUnacknowledged: 1})
	fast := r.open(&messagingv1.SubscribeRequest_Open{Filters: filters("t"), MaxUnacknowledged: 10_000})
	d := r.connect("device", 0, nil)
	const many = 15_000
	for i := range many {
		d.publish("t", fmt.Sprint(i), 0, nil)
		if i%500 == 499 && i < many-1 {
			d.publish("fence", "", 1, nil) // the gateway has taken them: its own queues are not in question
		}
	}
	for i := range many {
		fast.acknowledge(fast.take(fmt.Sprint(i)).GetDeliveryId())
	}
	// fast has had them all, and slow's session was written to before: what slow has not room for is counted by now, or comes.
	got := 0
	for got+int(slow.dropped) < many {
		m, err := slow.next()
		if err != nil {
			t.Fatal(err)
		}
		got++
		slow.acknowledge(m.GetDeliveryId())
	}
	if slow.dropped == 0 || got < 1000 {
		t.Errorf("%d came and %d were dropped", got, slow.dropped)
	}
}

func TestOnlyRoutersHaveTunnels(t *testing.T) {
	r := start(t, 1)
	s, err := gatewayv1.NewTunnelServiceClient(r.dialTo(r.Gateways()[0].Node.Address())).Connect(r.context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Recv(); status.Code(err) != codes.PermissionDenied {
		t.Errorf("an operator gets %v, want PERMISSION_DENIED", err)
	}
}

func TestNothingIsLeftOfStreamsThatHaveEnded(t *testing.T) {
	r := start(t, 1)
	for range 20 {
		c := r.open(&messagingv1.SubscribeRequest_Open{Filters: filters("t")})
		c.end()
		c.ends(codes.Canceled)
	}
	clustertest.Eventually(t, "their sessions are gone", func() bool {
		return r.Metric(t, 0, "beeline_gateway_clients") == 0
	})
}
