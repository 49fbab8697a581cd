package services

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/eclipse/paho.golang/paho"
	mqtt3 "github.com/eclipse/paho.mqtt.golang"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	messagev1 "github.com/beeline-mqtt/beeline/api/gen/beeline/message/v1"
	messagingv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/messaging/v1"
	"github.com/beeline-mqtt/beeline/internal/packet"
	"github.com/beeline-mqtt/beeline/test/clustertest"
	"github.com/beeline-mqtt/beeline/test/rawmqtt"
)

// answers is a device that answers every command with what it got.
func answers(d *device, p *paho.Publish) {
	go func() {
		_, _ = d.Publish(context.Background(), &paho.Publish{
			Topic: p.Properties.ResponseTopic, QoS: 1, Payload: append([]byte("done: "), p.Payload...),
			Properties: &paho.PublishProperties{CorrelationData: p.Properties.CorrelationData, ContentType: "text"},
		})
	}()
}

func command(clientID, payload string) *messagingv1.CommandRequest {
	return &messagingv1.CommandRequest{ClientId: clientID, Message: &messagingv1.Message{Topic: "do", Payload: []byte(payload)}}
}

func TestACommandIsAnswered(t *testing.T) {
	r := start(t, 3)
	for i, id := range []string{"device", "a/b+c", "grün"} {
		r.connect(id, i, answers)
		a, err := r.service.Command(r.context(), command(id, "x"))
		if err != nil {
			t.Fatalf("%s: %v", id, err)
		}
		m := a.GetMessage()
		if string(m.GetPayload()) != "done: x" || m.GetContentType() != "text" || m.GetQos() != messagev1.Qos_QOS_AT_LEAST_ONCE {
			t.Errorf("%s: the answer is %v", id, m)
		}
		if len(m.GetUserProperties()) > 0 {
			t.Errorf("%s: the answer has the properties %v", id, m.GetUserProperties())
		}
		if a.GetReceipt().GetClientId() != id || a.GetRoundTripUs() == 0 {
			t.Errorf("%s: receipt %v, %d µs", id, a.GetReceipt(), a.GetRoundTripUs())
		}
	}
}

func TestACommandWithoutAnAnswerSaysWhy(t *testing.T) {
	r := start(t, 1)
	r.connect("silent", 0, func(*device, *paho.Publish) {})
	for name, test := range map[string]struct {
		change func(*messagingv1.CommandRequest)
		want   codes.Code
	}{
		"the device does not answer": {func(c *messagingv1.CommandRequest) {}, codes.DeadlineExceeded},
		"unknown":                    {func(c *messagingv1.CommandRequest) { c.ClientId = "nobody" }, codes.NotFound},
		"no client":                  {func(c *messagingv1.CommandRequest) { c.ClientId = "" }, codes.InvalidArgument},
		"no message":                 {func(c *messagingv1.CommandRequest) { c.Message = nil }, codes.InvalidArgument},
		"no topic":                   {func(c *messagingv1.CommandRequest) { c.Message.Topic = "" }, codes.InvalidArgument},
		"a wrong topic":              {func(c *messagingv1.CommandRequest) { c.Message.Topic = "a/#" }, codes.InvalidArgument},
		"NUL in a topic":             {func(c *messagingv1.CommandRequest) { c.Message.Topic = "a\x00" }, codes.InvalidArgument},
		"NUL in a property":          {func(c *messagingv1.CommandRequest) { c.Message.ContentType = "a\x00" }, codes.InvalidArgument},
		"a response topic":           {func(c *messagingv1.CommandRequest) { c.Message.ResponseTopic = "a" }, codes.InvalidArgument},
		"correlation data":           {func(c *messagingv1.CommandRequest) { c.Message.CorrelationData = []byte{} }, codes.InvalidArgument},
		"retained":                   {func(c *messagingv1.CommandRequest) { c.Message.Retain = true }, codes.InvalidArgument},
		"QoS 0":                      {func(c *messagingv1.CommandRequest) { c.Message.Qos = messagev1.Qos_QOS_AT_MOST_ONCE }, codes.InvalidArgument},
		"a wrong reply topic":        {func(c *messagingv1.CommandRequest) { c.ReplyTopic = "a/+" }, codes.InvalidArgument},
		"a direct reply topic":       {func(c *messagingv1.CommandRequest) { c.ReplyTopic = "p2p/x/y" }, codes.InvalidArgument},
		"too large":                  {func(c *messagingv1.CommandRequest) { c.Message.Payload = make([]byte, 3<<20) }, codes.ResourceExhausted},
	} {
		c := command("silent", "x")
		c.TimeoutMs = 300
		test.change(c)
		if _, err := r.service.Command(r.context(), c); status.Code(err) != test.want {
			t.Errorf("%s: %v, want %v", name, err, test.want)
		}
	}
	_, err := r.service.Command(r.context(), &messagingv1.CommandRequest{ClientId: "silent", TimeoutMs: 100, Message: &messagingv1.Message{Topic: "do"}})
	if d := status.Convert(err).Details(); len(d) != 1 || d[0].(*messagingv1.Receipt).GetClientId() != "silent" {
		t.Errorf("the details are %v, want a receipt", d)
	}
	// None of this has harmed others.
	r.connect("device", 0, answers)
	if _, err := r.service.Command(r.context(), command("device", "x")); err != nil {
		t.Error(err)
	}
}

func TestForgedLateAndDoubledAnswersAreDropped(t *testing.T) {
	r := start(t, 2)
	got := make(chan *paho.Publish, 1)
	d := r.connect("device", 0, func(_ *device, p *paho.Publish) { got <- p })
	mallory := r.connect("mallory", 1, nil)
	answer := func(from *device, to *paho.Publish, payload string) {
		from.publish(to.Properties.ResponseTopic, payload, 1, &paho.PublishProperties{CorrelationData: to.Properties.CorrelationData})
	}
	type end struct {
		a   *messagingv1.CommandResponse
		err error
	}
	ended := make(chan end, 1)
	go func() {
		a, err := r.service.Command(r.context(), command("device", "x"))
		ended <- end{a, err}
	}()
	c := <-got
	answer(mallory, c, "forged")
	mallory.publish(c.Properties.ResponseTopic, "guessed", 1, &paho.PublishProperties{CorrelationData: make([]byte, 16)})
	answer(d, c, "true")
	answer(d, c, "doubled")
	e := <-ended
	if e.err != nil || string(e.a.GetMessage().GetPayload()) != "true" {
		t.Fatalf("%v, %v", e.a, e.err)
	}
	late := command("device", "y")
	late.TimeoutMs = 100
	if _, err := r.service.Command(r.context(), late); status.Code(err) != codes.DeadlineExceeded {
		t.Fatalf("%v, want DEADLINE_EXCEEDED", err)
	}
	answer(d, <-got, "late")
	for reason, want := range map[string]float64{"forged": 1, "unmatched": 3} {
		clustertest.Eventually(t, fmt.Sprint(want, " are counted as ", reason), func() bool {
			return r.routerMetric("beeline_router_command_answers_dropped_total", "reason", reason) == want
		})
	}
	r.connect("device", 0, answers) // takes over
	if a, err := r.service.Command(r.context(), command("device", "z")); err != nil || string(a.GetMessage().GetPayload()) != "done: z" {
		t.Errorf("%v, %v", a, err)
	}
}

// routerMetric is the value of a metric of the router with a label.
func (r *rig) routerMetric(name, label, value string) (sum float64) {
	r.t.Helper()
	families, err := r.Router().Node.Metrics.Gather()
	if err != nil {
		r.t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.GetMetric() {
			for _, l := range m.GetLabel() {
				if l.GetName() == label && l.GetValue() == value {
					sum += m.GetCounter().GetValue()
				}
			}
			if label == "" {
				sum += m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
	}
	return sum
}

func TestManyCommandsOnOneStream(t *testing.T) {
	r := start(t, 3)
	const devices, each = 10, 50
	for i := range devices {
		r.connect(fmt.Sprint("device-", i), i%3, answers)
	}
	s, err := r.service.CommandStream(r.context())
	if err != nil {
		t.Fatal(err)
	}
	var sending sync.WaitGroup
	sending.Go(func() {
		for i := range devices * each {
			id := fmt.Sprint("device-", i%(devices+1)) // one of them is not there
			if err := s.Send(&messagingv1.CommandStreamRequest{RequestId: uint64(i), Command: command(id, fmt.Sprint(i))}); err != nil {
				t.Error(err)
			}
		}
		_ = s.CloseSend()
	})
	defer sending.Wait()
	seen := make(map[uint64]bool)
	for range devices * each {
		a, err := s.Recv()
		if err != nil {
			t.Fatal(err)
		}
		i := a.GetRequestId()
		if seen[i] {
			t.Errorf("%d is answered twice", i)
		}
		seen[i] = true
		if i%(devices+1) == devices {
			if f := a.GetFailure(); codes.Code(f.GetCode()) != codes.NotFound || f.GetReceipt().GetOutcome() != messagingv1.Outcome_OUTCOME_UNKNOWN {
				t.Errorf("%d: %v, want NOT_FOUND", i, a)
			}
			continue
		}
		if got, want := string(a.GetAnswer().GetMessage().GetPayload()), fmt.Sprint("done: ", i); got != want {
			t.Errorf("%d: %v, want %q", i, a, want)
		}
	}
}

func TestThousandsOfCommandsToOneDevice(t *testing.T) {
	r := start(t, 2)
	r.connect("device", 0, answers)
	r.connect("other", 1, answers)
	const many = 3000
	codesOf := make(map[codes.Code]int)
	var mu sync.Mutex
	var all sync.WaitGroup
	for i := range many {
		all.Go(func() {
			c := command("device", fmt.Sprint(i))
			c.TimeoutMs = 30_000
			a, err := r.service.Command(r.context(), c)
			if err == nil && string(a.GetMessage().GetPayload()) != fmt.Sprint("done: ", i) {
				t.Errorf("%d is answered with %v", i, a)
			}
			mu.Lock()
			defer mu.Unlock()
			codesOf[status.Code(err)]++
		})
	}
	if _, err := r.service.Command(r.context(), command("other", "x")); err != nil {
		t.Errorf("to another device: %v", err)
	}
	all.Wait()
	if codesOf[codes.OK] < 2000 || codesOf[codes.OK]+codesOf[codes.ResourceExhausted] != many {
		t.Errorf("they end with %v", codesOf)
	}
	if n := r.routerMetric("beeline_router_commands_waiting", "", ""); n != 0 {
		t.Errorf("%v commands are left", n)
	}
}

func TestACallerThatGoesAwayLeavesNothing(t *testing.T) {
	r := start(t, 1)
	got := make(chan struct{}, 10)
	r.connect("silent", 0, func(*device, *paho.Publish) { got <- struct{}{} })
	ctx, cancel := context.WithCancel(r.context())
	s, err := r.service.CommandStream(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 5 {
		c := command("silent", "x")
		c.TimeoutMs = 600_000
		if err := s.Send(&messagingv1.CommandStreamRequest{RequestId: uint64(i), Command: c}); err != nil {
			t.Fatal(err)
		}
	}
	ended := make(chan error, 1)
	go func() {
		_, err := r.service.Command(ctx, command("silent", "x"))
		ended <- err
	}()
	for range 6 {
		<-got
	}
	cancel()
	if err := <-ended; status.Code(err) != codes.Canceled {
		t.Errorf("%v, want CANCELED", err)
	}
	clustertest.Eventually(t, "nothing waits", func() bool {
		return r.routerMetric("beeline_router_commands_waiting", "", "") == 0
	})
}

func TestADeviceThatLeavesInTheMiddleAndComesBackAnswers(t *testing.T) {
	r := start(t, 2)
	got := make(chan *paho.Publish, 1)
	d := r.connect("device", 0, func(_ *device, p *paho.Publish) { got <- p })
	ended := make(chan error, 1)
	go func() {
		c := command("device", "x")
		c.TimeoutMs = 20_000
		_, err := r.service.Command(r.context(), c)
		ended <- err
	}()
	c := <-got
	_ = d.Disconnect(&paho.Disconnect{})
	d = r.connect("device", 1, nil)
	d.publish(c.Properties.ResponseTopic, "done", 1, &paho.PublishProperties{CorrelationData: c.Properties.CorrelationData})
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func TestCommandsGoOnWhenTheirGatewayEnds(t *testing.T) {
	r := start(t, 3)
	r.connect("device", 2, answers)
	if _, err := r.service.Command(r.context(), command("device", "x")); err != nil {
		t.Fatal(err)
	}
	// The session for commands is at one of them.
	for i := range 2 {
		if err := r.Gateways()[i].Stop(); err != nil {
			t.Fatal(err)
		}
		clustertest.Eventually(t, "commands are answered again", func() bool {
			c := command("device", "x")
			c.TimeoutMs = 2000
			_, err := r.service.Command(r.context(), c)
			if code := status.Code(err); code != codes.OK && code != codes.Unavailable && code != codes.DeadlineExceeded {
				t.Fatal(err)
			}
			return err == nil
		})
	}
}

// connect3 connects a device of MQTT 3.1.1 that answers every command on a topic, in turn.
func (r *rig) connect3(id, replyTopic string, gateway int) {
	r.t.Helper()
	o := mqtt3.NewClientOptions().AddBroker("tcp://" + r.MQTT(gateway)).SetClientID(id).SetAutoReconnect(false)
	o.SetDefaultPublishHandler(func(c mqtt3.Client, m mqtt3.Message) {
		go c.Publish(replyTopic, 1, false, "done: "+string(m.Payload()))
	})
	c := mqtt3.NewClient(o)
	if token := c.Connect(); !token.WaitTimeout(clustertest.Patience) || token.Error() != nil {
		r.t.Fatal(token.Error())
	}
	r.t.Cleanup(func() { c.Disconnect(100) })
}

func TestDevicesWithoutPropertiesAnswerOnATopic(t *testing.T) {
	r := start(t, 2)
	r.connect3("old-1", "replies/old", 0)
	r.connect3("old-2", "replies/old", 1)
	var all sync.WaitGroup
	for i := range 40 {
		all.Go(func() {
			c := command(fmt.Sprint("old-", 1+i%2), fmt.Sprint(i))
			c.ReplyTopic, c.TimeoutMs = "replies/old", 20_000
			a, err := r.service.Command(r.context(), c)
			if err != nil || string(a.GetMessage().GetPayload()) != fmt.Sprint("done: ", i) {
				t.Errorf("%d: %v, %v", i, a, err)
			}
		})
	}
	all.Wait()
	c := command("old-1", "x")
	c.ReplyTopic, c.TimeoutMs = "replies/other", 300
	if _, err := r.service.Command(r.context(), c); status.Code(err) != codes.DeadlineExceeded {
		t.Errorf("on another topic: %v, want DEADLINE_EXCEEDED", err)
	}
}

func TestTheRoundTripOfACommandIsShort(t *testing.T) {
	if testing.Short() {
		t.Skip("a measurement, left out in short mode")
	}
	r := start(t, 3)
	r.connect("device", 1, answers)
	var all []time.Duration
	for range 300 {
		a, err := r.service.Command(r.context(), command("device", strings.Repeat("x", 100)))
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, time.Duration(a.GetRoundTripUs())*time.Microsecond)
	}
	t.Logf("p50 %v, p99 %v", percentile(all, 50), percentile(all, 99))
}

// What is sent at QoS 2 to a device with a session is stored before: it is connected all the same, and answers.
func TestADeviceWithASessionAnswers(t *testing.T) {
	r := start(t, 2)
	device, _ := rawmqtt.Come(t, r.MQTT(1), rawmqtt.V5, "meter", rawmqtt.Durable(3600))
	c := command("meter", "read")
	c.Message.Qos = messagev1.Qos_QOS_EXACTLY_ONCE
	type outcome struct {
		a   *messagingv1.CommandResponse
		err error
	}
	answered := make(chan outcome, 1)
	go func() {
		a, err := r.service.Command(r.context(), c)
		answered <- outcome{a, err}
	}()
	p := device.ReceivePayload("read")
	pk := rawmqtt.PublishPacket(p.Properties.ResponseTopic, "42", 0)
	pk.Mods.AllowResponseInfo, pk.Properties.CorrelationData = true, p.Properties.CorrelationData
	device.Send(pk)
	if got := <-answered; got.err != nil || string(got.a.GetMessage().GetPayload()) != "42" || got.a.GetReceipt().GetHolder() == "" {
		t.Errorf("answer %v, %v", got.a, got.err)
	}
	device.Disconnect()
	clustertest.Eventually(t, "the device is away", func() bool {
		_, err := r.service.Command(r.context(), command("meter", "again"))
		return status.Code(err) == codes.FailedPrecondition
	})
}

// Devices write to no session of a service but those that wait for answers.
func TestDevicesDoNotWriteToServices(t *testing.T) {
	r := start(t, 1)
	device := rawmqtt.Connect(t, r.MQTT(0), rawmqtt.V5, "mallory")
	if ack := device.Publish("p2p/$service-durable-billing%2Ftoken:x/y", "forged", 1); ack.ReasonCode != byte(packet.NotAuthorized) {
		t.Errorf("reason code %#x", ack.ReasonCode)
	}
}
