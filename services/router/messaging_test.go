package router_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/mochi-mqtt/server/v2/packets"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/testing/protocmp"

	messagev1 "github.com/beeline-mqtt/beeline/api/gen/beeline/message/v1"
	messagingv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/messaging/v1"
	"github.com/beeline-mqtt/beeline/cmd/beeline/local"
	"github.com/beeline-mqtt/beeline/internal/rpc"
	"github.com/beeline-mqtt/beeline/test/clustertest"
	"github.com/beeline-mqtt/beeline/test/rawmqtt"
)

// desk is a cluster with a router, and what a service does with it.
type desk struct {
	messagingv1.MessagingServiceClient

	t       testing.TB
	cluster *clustertest.Cluster
	conn    *grpc.ClientConn
}

// begin starts a cluster of n gateways with a router, until the test ends.
func begin(t testing.TB, n int, change func(*local.Config)) *desk {
	t.Helper()
	c := clustertest.Start(t, n, func(cfg *local.Config) {
		cfg.Router = &local.RouterPorts{}
		if change != nil {
			change(cfg)
		}
	})
	r := c.Router()
	cfg := rpc.DefaultConfig()
	cfg.TLS = rpc.TLSConfig{CertFile: r.Operator.Cert, KeyFile: r.Operator.Key, CAFile: r.Operator.CA}
	dialer, err := rpc.NewDialer(cfg)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := dialer.Dial(r.Node.Address())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return &desk{MessagingServiceClient: messagingv1.NewMessagingServiceClient(conn), t: t, cluster: c, conn: conn}
}

func (d *desk) connect(gateway int, id string, opts ...rawmqtt.Option) *rawmqtt.Client {
	d.t.Helper()
	return rawmqtt.Connect(d.t, d.cluster.MQTT(gateway), rawmqtt.V5, id, opts...)
}

func (d *desk) context() context.Context {
	d.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), clustertest.Patience)
	d.t.Cleanup(cancel)
	return ctx
}

func message(topic, payload string) *messagingv1.Message {
	return &messagingv1.Message{Topic: topic, Payload: []byte(payload)}
}

func toClient(id string) *messagingv1.Receiver {
	return &messagingv1.Receiver{Receiver: &messagingv1.Receiver_ClientId{ClientId: id}}
}

func toGroup(name string) *messagingv1.Receiver {
	return &messagingv1.Receiver{Receiver: &messagingv1.Receiver_Group{Group: name}}
}

// group makes a group of clients.
func (d *desk) group(name string, ids ...string) {
	d.t.Helper()
	groups := messagingv1.NewGroupServiceClient(d.conn)
	if _, err := groups.CreateGroup(d.context(), &messagingv1.CreateGroupRequest{Name: name}); err != nil {
		d.t.Fatal(err)
	}
	r := &messagingv1.AddMembersRequest{Group: name}
	for _, id := range ids {
		r.Members = append(r.Members, &messagingv1.Member{Member: &messagingv1.Member_ClientId{ClientId: id}})
	}
	if _, err := groups.AddMembers(d.context(), r); err != nil {
		d.t.Fatal(err)
	}
}

// to is a Send to a client that waits for the device.
func to(id, payload string) *messagingv1.SendRequest {
	return &messagingv1.SendRequest{
		Receiver: toClient(id), Message: message("t", payload), Wait: messagingv1.Wait_WAIT_ACKNOWLEDGED, TimeoutMs: 10_000,
	}
}

// send sends, and returns at once what waits for the answer.
func (d *desk) send(r *messagingv1.SendRequest) (answer func() *messagingv1.SendResponse) {
	d.t.Helper()
	type result struct {
		r   *messagingv1.SendResponse
		err error
	}
	ctx, got := d.context(), make(chan result, 1)
	go func() {
		r, err := d.Send(ctx, r)
		got <- result{r, err}
	}()
	return func() *messagingv1.SendResponse {
		d.t.Helper()
		x := <-got
		if x.err != nil {
			d.t.Fatalf("Send: %v", x.err)
		}
		return x.r
	}
}

// only is the receipt of the one receiver, whose outcome is to be that.
func (d *desk) only(r *messagingv1.SendResponse, want messagingv1.Outcome) *messagingv1.Receipt {
	d.t.Helper()
	if len(r.GetReceipts()) != 1 || len(r.GetCounts()) != 1 {
		d.t.Fatalf("receipts %v, counts %v", r.GetReceipts(), r.GetCounts())
	}
	x := r.GetReceipts()[0]
	if x.GetOutcome() != want || r.GetCounts()[0].GetOutcome() != want || r.GetCounts()[0].GetReceivers() != 1 {
		d.t.Fatalf("%v, want %v", r, want)
	}
	return x
}

func TestTheFateOfAMessageForOneClient(t *testing.T) {
	d := begin(t, 3, nil)
	for gateway := range 3 {
		t.Run(fmt.Sprintf("on gateway %d", gateway), func(t *testing.T) {
			d := &desk{d.MessagingServiceClient, t, d.cluster, d.conn}
			id := fmt.Sprintf("a device/%d", gateway)
			c := d.connect(gateway, id)
			answer := d.send(to(id, "one"))
			p := c.ReceivePayload("one")
			if want := fmt.Sprintf("p2p/a device%%2F%d/t", gateway); p.TopicName != want || p.FixedHeader.Qos != 1 {
				t.Errorf("it got %q at QoS %d, want %q at 1", p.TopicName, p.FixedHeader.Qos, want)
			}
			x := d.only(answer(), messagingv1.Outcome_OUTCOME_ACKNOWLEDGED)
			if x.GetClientId() != id || x.GetHolder() == "" || x.GetEpoch() == 0 {
				t.Errorf("receipt %v", x)
			}

			r := to(id, "two")
			r.Wait = messagingv1.Wait_WAIT_DELIVERED
			y := d.only(d.send(r)(), messagingv1.Outcome_OUTCOME_DELIVERED)
			if y.GetHolder() != x.GetHolder() || y.GetEpoch() != x.GetEpoch() {
				t.Errorf("receipt %v, want the same holder as of %v", y, x)
			}
			c.ReceivePayload("two")

			r = to(id, "three")
			r.Wait = messagingv1.Wait_WAIT_ACCEPTED
			if o := d.send(r)().GetReceipts()[0].GetOutcome(); o != messagingv1.Outcome_OUTCOME_ACCEPTED && o != messagingv1.Outcome_OUTCOME_DELIVERED {
				t.Errorf("accepted: %v", o)
			}
			c.ReceivePayload("three")

			r = to(id, "four")
			r.Message.Qos = messagev1.Qos_QOS_EXACTLY_ONCE
			answer = d.send(r)
			c.ReceivePayload("four")
			d.only(answer(), messagingv1.Outcome_OUTCOME_ACKNOWLEDGED)

			r = to(id, "five")
			r.Message.Qos = messagev1.Qos_QOS_AT_MOST_ONCE
			d.only(d.send(r)(), messagingv1.Outcome_OUTCOME_DELIVERED)
			c.ReceivePayload("five")

			// One that does not acknowledge.
			r = to(id, "six")
			r.TimeoutMs = 300
			x = d.only(d.send(r)(), messagingv1.Outcome_OUTCOME_TIMED_OUT)
			if x.GetReason() == "" || x.GetEpoch() != y.GetEpoch() {
				t.Errorf("receipt %v", x)
			}
			late := c.ReceivePayload("six")
			if late.FixedHeader.Qos != 1 {
				t.Errorf("QoS %d", late.FixedHeader.Qos)
			}

			// One that says no.
			answer = d.send(to(id, "seven"))
			p = c.Expect(packets.Publish)
			c.Send(packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Puback}, PacketID: p.PacketID, ReasonCode: 0x87})
			if x = d.only(answer(), messagingv1.Outcome_OUTCOME_REFUSED); x.GetReason() == "" {
				t.Errorf("receipt %v", x)
			}

			// One that goes away instead.
			answer = d.send(to(id, "eight"))
			c.Expect(packets.Publish)
			c.Disconnect()
			d.only(answer(), messagingv1.Outcome_OUTCOME_OFFLINE)
			clustertest.Eventually(t, "nobody knows the client", func() bool {
				return d.send(to(id, "nine"))().GetReceipts()[0].GetOutcome() == messagingv1.Outcome_OUTCOME_UNKNOWN
			})
		})
	}
}

func TestTheFateOfAMessageForADurableClient(t *testing.T) {
	d := begin(t, 2, nil)
	for gateway := range 2 {
		t.Run(fmt.Sprintf("on gateway %d", gateway), func(t *testing.T) {
			d := &desk{d.MessagingServiceClient, t, d.cluster, d.conn}
			id := fmt.Sprintf("durable-%d", gateway)
			c := d.connect(gateway, id, rawmqtt.Durable(3600))
			answer := d.send(to(id, "one"))
			c.ReceivePayload("one")
			here := answer().GetReceipts()[0]
			if o := here.GetOutcome(); o != messagingv1.Outcome_OUTCOME_ACKNOWLEDGED && o != messagingv1.Outcome_OUTCOME_QUEUED {
				t.Errorf("outcome %v", o)
			}

			// Slow to acknowledge.
			answer = d.send(to(id, "two"))
			p := c.Expect(packets.Publish)
			d.only(answer(), messagingv1.Outcome_OUTCOME_QUEUED)
			c.Ack(packets.Puback, p.PacketID)

			c.Disconnect()
			var away *messagingv1.Receipt
			clustertest.Eventually(t, "the client is away", func() bool {
				away = d.send(to(id, "three"))().GetReceipts()[0]
				return away.GetHolder() != here.GetHolder()
			})
			if away.GetOutcome() != messagingv1.Outcome_OUTCOME_QUEUED || away.GetEpoch() <= here.GetEpoch() {
				t.Errorf("receipt %v, while it was here %v", away, here)
			}
			r := to(id, "lost")
			r.Message.Qos = messagev1.Qos_QOS_AT_MOST_ONCE
			d.only(d.send(r)(), messagingv1.Outcome_OUTCOME_OFFLINE)

			// It comes back elsewhere.
			c, present := rawmqtt.Come(t, d.cluster.MQTT(1-gateway), rawmqtt.V5, id, rawmqtt.Durable(3600))
			if !present {
				t.Error("it has no session any more")
			}
			for c.Receive(); ; c.Receive() {
				answer = d.send(to(id, "four"))
				if p := c.Receive(); string(p.Payload) == "four" {
					break
				}
				answer()
			}
			if x := answer().GetReceipts()[0]; x.GetEpoch() <= away.GetEpoch() || x.GetHolder() == here.GetHolder() {
				t.Errorf("receipt %v", x)
			}
		})
	}
}

func TestAMessageForAGroupHasAReceiptForEachThatGetsIt(t *testing.T) {
	d := begin(t, 3, nil)
	var clients []*rawmqtt.Client
	for i := range 6 {
		clients = append(clients, d.connect(i%3, fmt.Sprintf("member-%d", i)))
	}
	away := d.connect(1, "member-6", rawmqtt.Durable(3600))
	d.connect(2, "member-7", func(p *packets.Packet) { p.Properties.MaximumPacketSize = 60 })
	d.group("red team", "member-0", "member-1", "member-2", "member-3", "member-4", "member-5", "member-6", "member-7")
	away.Disconnect()

	r := &messagingv1.SendRequest{
		Receiver: toGroup("red team"), Message: message("news", strings.Repeat("x", 100)), Wait: messagingv1.Wait_WAIT_ACKNOWLEDGED, TimeoutMs: 1000,
	}
	answer := d.send(r)
	for i, c := range clients {
		if i == 5 {
			c.Expect(packets.Publish) // and never acknowledges
			continue
		}
		if p := c.Receive(); p.TopicName != "group/red team/news" {
			t.Errorf("topic %q", p.TopicName)
		}
	}
	got := answer()
	slices.SortFunc(got.GetReceipts(), func(a, b *messagingv1.Receipt) int { return cmp.Compare(a.GetClientId(), b.GetClientId()) })
	var outcomes []string
	for _, x := range got.GetReceipts() {
		outcomes = append(outcomes, x.GetClientId()+" "+strings.TrimPrefix(x.GetOutcome().String(), "OUTCOME_"))
		if x.GetHolder() == "" || x.GetEpoch() == 0 {
			t.Errorf("receipt %v", x)
		}
	}
	want := []string{
		"member-0 ACKNOWLEDGED", "member-1 ACKNOWLEDGED", "member-2 ACKNOWLEDGED", "member-3 ACKNOWLEDGED", "member-4 ACKNOWLEDGED",
		"member-5 TIMED_OUT", "member-6 QUEUED", "member-7 REFUSED",
	}
	if diff := gocmp.Diff(want, outcomes); diff != "" {
		t.Errorf("receipts (-want +got):\n%s", diff)
	}

	r.SummaryOnly, r.Wait = true, messagingv1.Wait_WAIT_DELIVERED
	sum := d.send(r)()
	counts := make(map[messagingv1.Outcome]uint64)
	for _, x := range sum.GetCounts() {
		counts[x.GetOutcome()] = x.GetReceivers()
	}
	wantCounts := map[messagingv1.Outcome]uint64{
		messagingv1.Outcome_OUTCOME_DELIVERED: 6, messagingv1.Outcome_OUTCOME_QUEUED: 1, messagingv1.Outcome_OUTCOME_REFUSED: 1,
	}
	if diff := gocmp.Diff(wantCounts, counts); diff != "" || len(sum.GetReceipts()) > 0 {
		t.Errorf("counts (-want +got):\n%s, %d receipts", diff, len(sum.GetReceipts()))
	}
	for _, wait := range []messagingv1.Wait{messagingv1.Wait_WAIT_UNSPECIFIED, messagingv1.Wait_WAIT_ACCEPTED, messagingv1.Wait_WAIT_ACKNOWLEDGED} {
		unknown(t, d.send(&messagingv1.SendRequest{Receiver: toGroup("nobody"), Message: message("t", ""), Wait: wait})())
	}
}

func TestWhoAcceptsForAGroupIsToldOfItsMembersThoughNobodyIsThere(t *testing.T) {
	d := begin(t, 1, nil)
	d.group("team", "never")
	got := d.send(&messagingv1.SendRequest{Receiver: toGroup("team"), Message: message("news", "x"), Wait: messagingv1.Wait_WAIT_ACCEPTED})()
	if x := d.only(got, messagingv1.Outcome_OUTCOME_ACCEPTED); x.GetClientId() != "never" {
		t.Errorf("receipt %v", x)
	}
}

// unknown checks the answer to a Send to somebody whom nobody knows.
func unknown(t *testing.T, got *messagingv1.SendResponse) {
	t.Helper()
	want := &messagingv1.SendResponse{Counts: []*messagingv1.OutcomeCount{{Outcome: messagingv1.Outcome_OUTCOME_UNKNOWN, Receivers: 1}}}
	if diff := gocmp.Diff(want, got, protocmp.Transform()); diff != "" {
		t.Errorf("answer (-want +got):\n%s", diff)
	}
}

func TestMembersThatHaveMissedAMessageAreNamed(t *testing.T) {
	d := begin(t, 2, nil)
	here, gone := d.connect(0, "here"), d.connect(1, "gone")
	d.group("team", "here", "gone", "never")
	gone.Disconnect()
	d.eventually("it is gone", func() bool { return d.cluster.Metric(t, 1, "beeline_gateway_clients") == 0 })
	got := d.send(&messagingv1.SendRequest{Receiver: toGroup("team"), Message: message("news", "x")})()
	here.ReceivePayload("x")
	outcomes := make(map[string]messagingv1.Outcome)
	for _, x := range got.GetReceipts() {
		outcomes[x.GetClientId()] = x.GetOutcome()
	}
	want := map[string]messagingv1.Outcome{
		"here": messagingv1.Outcome_OUTCOME_DELIVERED, "gone": messagingv1.Outcome_OUTCOME_OFFLINE, "never": messagingv1.Outcome_OUTCOME_OFFLINE,
	}
	if diff := gocmp.Diff(want, outcomes); diff != "" {
		t.Errorf("receipts (-want +got):\n%s", diff)
	}
}

func TestAMessageForAUserGoesToAllItsClients(t *testing.T) {
	d := begin(t, 2, nil)
	as := func(user string) rawmqtt.Option {
		return func(p *packets.Packet) { p.Connect.UsernameFlag, p.Connect.Username = true, []byte(user) }
	}
	phone := d.connect(0, "phone", as("ann"))
	tablet := d.connect(1, "tablet", as("ann"))
	laptop := d.connect(1, "laptop", as("ann"), rawmqtt.Durable(3600))
	other := d.connect(1, "other", as("bob"))
	other.MustSubscribe("#", 1)
	laptop.Disconnect()
	toUser := func(name string) *messagingv1.Receiver {
		return &messagingv1.Receiver{Receiver: &messagingv1.Receiver_User{User: name}}
	}
	d.eventually("it is away", func() bool { return d.cluster.Metric(t, 1, "beeline_gateway_clients") == 2 })
	got := d.send(&messagingv1.SendRequest{Receiver: toUser("ann"), Message: message("note", "x")})()
	for _, c := range []*rawmqtt.Client{phone, tablet} {
		if p := c.ReceivePayload("x"); p.TopicName != "user/ann/note" {
			t.Errorf("topic %q", p.TopicName)
		}
	}
	other.ExpectNothing()
	outcomes := make(map[string]messagingv1.Outcome)
	for _, x := range got.GetReceipts() {
		outcomes[x.GetClientId()] = x.GetOutcome()
	}
	want := map[string]messagingv1.Outcome{
		"phone": messagingv1.Outcome_OUTCOME_DELIVERED, "tablet": messagingv1.Outcome_OUTCOME_DELIVERED, "laptop": messagingv1.Outcome_OUTCOME_QUEUED,
	}
	if diff := gocmp.Diff(want, outcomes); diff != "" {
		t.Errorf("receipts (-want +got):\n%s", diff)
	}
	laptop, _ = rawmqtt.Come(t, d.cluster.MQTT(0), rawmqtt.V5, "laptop", rawmqtt.Durable(3600), as("ann"))
	laptop.ReceivePayload("x")
	unknown(t, d.send(&messagingv1.SendRequest{Receiver: toUser("nobody"), Message: message("t", "")})())
}

// eventually waits until f is true.
func (d *desk) eventually(what string, f func() bool) {
	d.t.Helper()
	clustertest.Eventually(d.t, what, f)
}

func TestAMessageFollowsAClientThatIsTakenOver(t *testing.T) {
	d := begin(t, 2, nil)
	first := d.connect(0, "mover")
	before := d.only(d.send(&messagingv1.SendRequest{Receiver: toClient("mover"), Message: message("t", "one")})(), messagingv1.Outcome_OUTCOME_DELIVERED)
	first.ReceivePayload("one")
	answer := d.send(to("mover", "two"))
	first.Expect(packets.Publish)
	second := d.connect(1, "mover")
	// The connection that had it is gone, and it is not known whether the device has it.
	if x := d.only(answer(), messagingv1.Outcome_OUTCOME_OFFLINE); x.GetHolder() != before.GetHolder() {
		t.Errorf("receipt %v", x)
	}
	answer = d.send(to("mover", "three"))
	second.ReceivePayload("three")
	if x := d.only(answer(), messagingv1.Outcome_OUTCOME_ACKNOWLEDGED); x.GetHolder() == before.GetHolder() || x.GetEpoch() <= before.GetEpoch() {
		t.Errorf("receipt %v, before %v", x, before)
	}
}

func TestWhatIsRefused(t *testing.T) {
	d := begin(t, 1, nil)
	long, large := strings.Repeat("x", 2000), strings.Repeat("x", 3<<20)
	retained := message("t", "")
	retained.Retain = true
	nul := message("t", "")
	nul.ContentType = "a\x00b"
	publish := func(m *messagingv1.Message) func() error {
		return func() error {
			_, err := d.Publish(d.context(), &messagingv1.PublishRequest{Message: m})
			return err
		}
	}
	send := func(r *messagingv1.SendRequest) func() error {
		return func() error {
			_, err := d.Send(d.context(), r)
			return err
		}
	}
	for _, c := range []struct {
		name string
		call func() error
		want codes.Code
	}{
		{"nothing to publish", publish(nil), codes.InvalidArgument},
		{"an empty topic", publish(message("", "")), codes.InvalidArgument},
		{"a wildcard in a topic", publish(message("a/#", "")), codes.InvalidArgument},
		{"a topic that is too long", publish(message(long, "")), codes.InvalidArgument},
		{"a direct address without a rest", publish(message("p2p/x", "")), codes.InvalidArgument},
		{"a null character", publish(nul), codes.InvalidArgument},
		{"too large", publish(message("t", large)), codes.ResourceExhausted},
		{"nobody to send to", send(&messagingv1.SendRequest{Message: message("t", "")}), codes.InvalidArgument},
		{"a client without a name", send(&messagingv1.SendRequest{Receiver: toClient(""), Message: message("t", "")}), codes.InvalidArgument},
		{"nothing to send", send(&messagingv1.SendRequest{Receiver: toClient("x")}), codes.InvalidArgument},
		{"no topic", send(&messagingv1.SendRequest{Receiver: toClient("x"), Message: message("", "")}), codes.InvalidArgument},
		{"RETAIN", send(&messagingv1.SendRequest{Receiver: toClient("x"), Message: retained}), codes.InvalidArgument},
		{"a wait that nobody knows", send(&messagingv1.SendRequest{Receiver: toClient("x"), Message: message("t", ""), Wait: 9}), codes.InvalidArgument},
		{"too long a time", send(&messagingv1.SendRequest{Receiver: toClient("x"), Message: message("t", ""), TimeoutMs: 600_001}), codes.InvalidArgument},
		{"too large a Send", send(&messagingv1.SendRequest{Receiver: toClient("x"), Message: message("t", large)}), codes.ResourceExhausted},
		{"a wildcard in a Send", send(&messagingv1.SendRequest{Receiver: toGroup("x"), Message: message("+", "")}), codes.InvalidArgument},
	} {
		t.Run(c.name, func(t *testing.T) {
			if err := c.call(); status.Code(err) != c.want {
				t.Errorf("%v, want %v", err, c.want)
			}
		})
	}
	ctx, cancel := context.WithCancel(d.context())
	cancel()
	if _, err := d.Send(ctx, to("x", "")); status.Code(err) != codes.Canceled {
		t.Errorf("a call that is over: %v", err)
	}
}

func TestPublishSaysWhetherAnybodyMatched(t *testing.T) {
	d := begin(t, 2, nil)
	c := d.connect(1, "subscriber")
	c.MustSubscribe("a/+", 2)
	for topic, want := range map[string]bool{"a/b": true, "c": false} {
		r, err := d.Publish(d.context(), &messagingv1.PublishRequest{Message: message(topic, "x")})
		if err != nil || r.GetMatched() != want {
			t.Errorf("%s: %v, %v", topic, r, err)
		}
	}
	c.ReceivePayload("x")
	seconds := uint32(60)
	full := &messagingv1.Message{
		Topic: "a/b", Payload: []byte("y"), Qos: messagev1.Qos_QOS_EXACTLY_ONCE, Retain: true, MessageExpirySeconds: &seconds,
		PayloadFormat: messagev1.PayloadFormat_PAYLOAD_FORMAT_UTF8, ContentType: "text", ResponseTopic: "r", CorrelationData: []byte{},
		UserProperties: []*messagev1.UserProperty{{Name: "n", Value: "1"}, {Name: "n", Value: "2"}},
	}
	if _, err := d.Publish(d.context(), &messagingv1.PublishRequest{Message: full}); err != nil {
		t.Fatal(err)
	}
	got := c.ReceivePayload("y")
	p := got.Properties
	if got.FixedHeader.Qos != 2 || p.ContentType != "text" || p.ResponseTopic != "r" || len(p.User) != 2 || p.User[1].Val != "2" ||
		p.MessageExpiryInterval != 60 || p.PayloadFormat != 1 {
		t.Errorf("got %+v", got)
	}
	late := d.connect(0, "late")
	late.MustSubscribe("a/b", 1)
	if m := late.ReceivePayload("y"); !m.FixedHeader.Retain {
		t.Error("it was not retained")
	}
}

// stream publishes all on a stream of its own, and returns the reason codes.
func (d *desk) stream(all []*messagingv1.Message, together int) []uint32 {
	d.t.Helper()
	s, err := d.PublishStream(d.context())
	if err != nil {
		d.t.Fatal(err)
	}
	go func() {
		for part := range slices.Chunk(all, together) {
			if s.Send(&messagingv1.PublishStreamRequest{Messages: part}) != nil {
				return // who receives knows why
			}
		}
		_ = s.CloseSend()
	}()
	var got []uint32
	for {
		r, err := s.Recv()
		if errors.Is(err, io.EOF) {
			return got
		}
		if err != nil {
			d.t.Fatalf("after %d results: %v", len(got), err)
		}
		for _, x := range r.GetResults() {
			got = append(got, x.GetReasonCode())
		}
	}
}

func TestAStreamKeepsTheOrderOfMessagesAndResults(t *testing.T) {
	d := begin(t, 2, nil)
	c := d.connect(1, "subscriber")
	c.MustSubscribe("a", 1)
	var all []*messagingv1.Message
	for i := range 3000 {
		m := message("a", fmt.Sprint(i))
		switch i % 10 {
		case 3:
			m.Topic = "wrong/#"
		case 5:
			m.Topic = "nobody"
		case 7:
			m.Retain = i%100 == 7
		}
		all = append(all, m)
	}
	received := make(chan error, 1)
	go func() {
		for i := range all {
			if all[i].GetTopic() != "a" {
				continue
			}
			p, err := c.Next(clustertest.Patience)
			if err != nil || string(p.Payload) != fmt.Sprint(i) {
				received <- fmt.Errorf("got %q, %w; want %d", p.Payload, err, i)
				return
			}
			c.Ack(packets.Puback, p.PacketID)
		}
		received <- nil
	}()
	got := d.stream(all, 100)
	if len(got) != len(all) {
		t.Fatalf("%d results of %d", len(got), len(all))
	}
	for i, code := range got {
		want := uint32(0)
		switch i % 10 {
		case 3:
			want = 0x90
		case 5:
			want = 0x10
		}
		if code != want {
			t.Fatalf("result %d is %#x, want %#x", i, code, want)
		}
	}
	if err := <-received; err != nil {
		t.Error(err)
	}
}

func TestThousandsOfSendsAtOnce(t *testing.T) {
	d := begin(t, 3, nil)
	const clients, each = 30, 100
	var receiving, sending sync.WaitGroup
	for i := range clients {
		c := d.connect(i%3, fmt.Sprintf("c%d", i))
		receiving.Go(func() {
			for range each {
				p, err := c.Next(clustertest.Patience)
				if err != nil {
					t.Error(err)
					return
				}
				c.Ack(packets.Puback, p.PacketID)
			}
		})
	}
	var mu sync.Mutex
	outcomes := make(map[messagingv1.Outcome]int)
	for i := range clients * each {
		sending.Go(func() {
			r, err := d.Send(d.context(), to(fmt.Sprintf("c%d", i%clients), fmt.Sprint(i)))
			mu.Lock()
			defer mu.Unlock()
			if err != nil || len(r.GetReceipts()) != 1 {
				t.Errorf("%v, %v", r, err)
				return
			}
			outcomes[r.GetReceipts()[0].GetOutcome()]++
		})
	}
	sending.Wait()
	receiving.Wait()
	if diff := gocmp.Diff(map[messagingv1.Outcome]int{messagingv1.Outcome_OUTCOME_ACKNOWLEDGED: clients * each}, outcomes); diff != "" {
		t.Errorf("outcomes (-want +got):\n%s", diff)
	}
}

func TestAStreamWhoseResultsAreNotReadIsHeldUp(t *testing.T) {
	d := begin(t, 1, nil)
	ctx, cancel := context.WithCancel(d.context())
	defer cancel()
	s, err := d.PublishStream(ctx)
	if err != nil {
		t.Fatal(err)
	}
	c := d.connect(0, "silent") // takes what its window has, and no more
	c.MustSubscribe("a", 1)
	sent := make(chan int, 1)
	go func() {
		n := 0
		payload := strings.Repeat("x", 10_000)
		batch := make([]*messagingv1.Message, 100)
		for i := range batch {
			batch[i] = message("a", payload)
		}
		for s.Send(&messagingv1.PublishStreamRequest{Messages: batch}) == nil {
			n += len(batch)
		}
		sent <- n
	}()
	// Others are served meanwhile.
	time.AfterFunc(time.Second, cancel)
	other := d.connect(0, "other")
	answer := d.send(to("other", "one"))
	other.ReceivePayload("one")
	d.only(answer(), messagingv1.Outcome_OUTCOME_ACKNOWLEDGED)
	if n := <-sent; n == 0 || n > 40_000 {
		t.Errorf("%d messages were taken without a result being read", n)
	}
}

func TestARouterWithoutAGatewayPublishesNothing(t *testing.T) {
	d := begin(t, 1, nil)
	if err := d.cluster.Gateways()[0].Stop(); err != nil {
		t.Fatal(err)
	}
	clustertest.Eventually(t, "no gateway is left", func() bool {
		_, err := d.Publish(d.context(), &messagingv1.PublishRequest{Message: message("a", "")})
		return status.Code(err) == codes.Unavailable && strings.Contains(err.Error(), "nothing was published")
	})
	s, err := d.PublishStream(d.context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Recv(); status.Code(err) != codes.Unavailable {
		t.Errorf("a stream: %v", err)
	}
}

func TestServicesGoOnAtAnotherGateway(t *testing.T) {
	d := begin(t, 2, nil)
	if _, err := d.Publish(d.context(), &messagingv1.PublishRequest{Message: message("a", "")}); err != nil {
		t.Fatal(err)
	}
	at := 0
	if d.cluster.Metric(t, 1, "beeline_gateway_service_streams") == 1 {
		at = 1
	}
	c := d.connect(1-at, "device")
	failed := make(chan error, 1)
	ctx := d.context()
	go func() {
		_, err := d.Send(ctx, to("device", "one"))
		failed <- err
	}()
	s, err := d.PublishStream(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Send(&messagingv1.PublishStreamRequest{Messages: []*messagingv1.Message{message("b", "")}}); err != nil {
		t.Fatal(err)
	}
	if r, err := s.Recv(); err != nil || len(r.GetResults()) != 1 {
		t.Fatalf("%v, %v", r, err)
	}
	c.Expect(packets.Publish) // the device has it, and does not acknowledge it
	if err := d.cluster.Gateways()[at].Stop(); err != nil {
		t.Fatal(err)
	}
	if err := <-failed; status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "not known") {
		t.Errorf("what was under way: %v", err)
	}
	if _, err := s.Recv(); status.Code(err) != codes.Unavailable {
		t.Errorf("a stream: %v", err)
	}
	answer := d.send(to("device", "two"))
	c.ReceivePayload("two")
	d.only(answer(), messagingv1.Outcome_OUTCOME_ACKNOWLEDGED)
	if got := d.stream([]*messagingv1.Message{message("b", "")}, 1); len(got) != 1 || got[0] != 0x10 {
		t.Errorf("results %v", got)
	}
}

func TestAGatewayThatStopsInTheMiddleOfASendTakesNobodyElseWithIt(t *testing.T) {
	d := begin(t, 3, nil)
	if _, err := d.Publish(d.context(), &messagingv1.PublishRequest{Message: message("a", "")}); err != nil {
		t.Fatal(err)
	}
	var clients []*rawmqtt.Client
	stop := -1 // not the one where the message enters
	for i := range 3 {
		clients = append(clients, d.connect(i, fmt.Sprint("m", i)))
		if d.cluster.Metric(t, i, "beeline_gateway_service_streams") == 0 {
			stop = i
		}
	}
	d.group("g", "m0", "m1", "m2")
	answer := d.send(&messagingv1.SendRequest{
		Receiver: toGroup("g"), Message: message("t", "x"), Wait: messagingv1.Wait_WAIT_ACKNOWLEDGED, TimeoutMs: 10_000,
	})
	for i, c := range clients {
		if i == stop {
			c.Expect(packets.Publish)
			continue
		}
		c.Receive()
	}
	if err := d.cluster.Gateways()[stop].Stop(); err != nil {
		t.Fatal(err)
	}
	for _, x := range answer().GetReceipts() {
		want := messagingv1.Outcome_OUTCOME_ACKNOWLEDGED
		if x.GetClientId() == fmt.Sprint("m", stop) {
			want = messagingv1.Outcome_OUTCOME_OFFLINE
		}
		if x.GetOutcome() != want {
			t.Errorf("%v, want %v", x, want)
		}
	}
}
