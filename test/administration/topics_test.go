package administration

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/mochi-mqtt/server/v2/packets"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/testing/protocmp"

	adminv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/admin/v1"
	messagev1 "github.com/beeline-mqtt/beeline/api/gen/beeline/message/v1"
	"github.com/beeline-mqtt/beeline/test/rawmqtt"
)

const (
	received  = adminv1.TraceStep_TRACE_STEP_RECEIVED
	forwarded = adminv1.TraceStep_TRACE_STEP_FORWARDED
	arrived   = adminv1.TraceStep_TRACE_STEP_ARRIVED
	delivered = adminv1.TraceStep_TRACE_STEP_DELIVERED
	receipt   = adminv1.TraceStep_TRACE_STEP_RECEIPT
	answered  = adminv1.TraceStep_TRACE_STEP_ANSWERED
)

// session is the incarnation of the session service: that which holds a client that is away.
func (w *world) session(away string) string {
	w.t.Helper()
	return w.client(away).GetHolder()
}

func (w *world) explain(topic, id string) *adminv1.ExplainTopicResponse {
	w.t.Helper()
	r, err := w.admin.ExplainTopic(w.context(), &adminv1.ExplainTopicRequest{Topic: topic, ClientId: id})
	if err != nil {
		w.t.Fatalf("ExplainTopic(%q, %q): %v", topic, id, err)
	}
	if len(r.GetTroubles()) > 0 {
		w.t.Errorf("troubles: %v", r.GetTroubles())
	}
	return r
}

// explainUser asks who gets what is sent to a user.
func explainUser(t *testing.T, w *world) {
	t.Helper()
	rawmqtt.Connect(t, w.MQTT(0), v5, "ex-phone", user("ex/user"))
	tablet := rawmqtt.Connect(t, w.MQTT(1), v5, "ex-tablet", user("ex/user"), rawmqtt.Durable(60))
	tablet.Disconnect()
	w.away("ex-tablet")
	got := w.explain("user/ex%2Fuser/x", "ex-phone")
	want := []*adminv1.TopicReceiver{
		{ClientId: "ex-phone", Holder: w.incarnation(0), Qos: messagev1.Qos_QOS_EXACTLY_ONCE},
		{ClientId: "ex-tablet", Holder: w.session("ex-tablet"), Qos: messagev1.Qos_QOS_EXACTLY_ONCE, Away: true},
	}
	if diff := cmp.Diff(want, got.GetReceivers(), protocmp.Transform()); diff != "" || got.GetReceiversTotal() != 2 {
		t.Errorf("%d receivers of what is sent to a user: %s", got.GetReceiversTotal(), diff)
	}
	if got := got.GetClientAnswer(); !strings.HasPrefix(got, "It would get it on gateway "+w.incarnation(0)) {
		t.Errorf("the answer is %q", got)
	}
}

func explain(t *testing.T, w *world) {
	g0, g1 := w.incarnation(0), w.incarnation(1)
	a := rawmqtt.Connect(t, w.MQTT(0), v5, "ex-a")
	a.MustSubscribe("ex/+", 1)
	a.MustSubscribe("ex/#", 2)
	b := rawmqtt.Connect(t, w.MQTT(1), v3, "ex-b")
	b.MustSubscribe("$share/g/ex/1", 0)
	w.kept(2, "ex-c", "ex/1", "other")
	s := w.session("ex-c")
	got := w.explain("ex/1", "")
	want := []*adminv1.TopicReceiver{
		{ClientId: "ex-a", Holder: g0, Filters: []string{"ex/#", "ex/+"}, Qos: messagev1.Qos_QOS_EXACTLY_ONCE},
		{ClientId: "ex-b", Holder: g1, Filters: []string{"$share/g/ex/1"}, Qos: messagev1.Qos_QOS_AT_MOST_ONCE, OneOfMany: true},
		{ClientId: "ex-c", Holder: s, Filters: []string{"ex/1"}, Qos: messagev1.Qos_QOS_AT_LEAST_ONCE, Away: true},
	}
	if diff := cmp.Diff(want, got.GetReceivers(), protocmp.Transform()); diff != "" || got.GetReceiversTotal() != 3 {
		t.Errorf("%d receivers: %s", got.GetReceiversTotal(), diff)
	}
	for _, want := range []*adminv1.RouteMatch{
		{Incarnation: g0, Filter: "ex/#", Members: 1},
		{Incarnation: g0, Filter: "ex/+", Members: 1},
		{Incarnation: g1, Filter: "ex/1", ShareGroup: "g", Members: 1},
		{Incarnation: s, Filter: "ex/1", Members: 1, Durable: true},
	} {
		if !slices.ContainsFunc(got.GetRoutes(), func(r *adminv1.RouteMatch) bool { return cmp.Equal(want, r, protocmp.Transform()) }) {
			t.Errorf("no route %v among %v", want, got.GetRoutes())
		}
	}
	for name, c := range map[string]struct{ topic, client, want string }{
		"would get it":     {"ex/1", "ex-a", "It would get it: subscriptions ex/# at QoS 2, ex/+ at QoS 1 on gateway " + g0},
		"one of a group":   {"ex/1", "ex-b", "Of the members of $share/g/ex/1 one gets it"},
		"is away":          {"ex/1", "ex-c", "It would get it when it comes back"},
		"nothing matches":  {"nothing", "ex-a", "It would not get it: none of its subscriptions matches"},
		"is not there":     {"ex/1", "nobody", "It would not get it: it is neither connected nor has a session"},
		"by name":          {"p2p/ex-a/x", "ex-a", "It would get it: the topic names it"},
		"by name, away":    {"p2p/ex-c/x", "ex-c", "It would get it when it comes back"},
		"for another only": {"p2p/ex-a/x", "ex-b", `It would not get it: the topic names the client "ex-a"`},
	} {
		t.Run(name, func(t *testing.T) {
			if got := w.explain(c.topic, c.client).GetClientAnswer(); !strings.HasPrefix(got, c.want) {
				t.Errorf("the answer is %q, want %q", got, c.want)
			}
		})
	}
	direct := w.explain("p2p/ex-a/x", "")
	if diff := cmp.Diff([]*adminv1.TopicReceiver{{ClientId: "ex-a", Holder: g0, Qos: messagev1.Qos_QOS_EXACTLY_ONCE}}, direct.GetReceivers(), protocmp.Transform()); diff != "" {
		t.Errorf("receivers of a message by name: %s", diff)
	}
	explainUser(t, w)
	r, err := w.admin.ExplainTopic(w.context(), &adminv1.ExplainTopicRequest{Topic: "ex/1", MaxReceivers: 1})
	if err != nil || len(r.GetReceivers()) != 1 || r.GetReceiversTotal() != 3 {
		t.Errorf("one receiver at most: %v, %v, want one of 3", r, err)
	}
	// What a session leaves behind when its client goes somewhere else is nobody.
	rawmqtt.Come(t, w.MQTT(0), v5, "ex-c", rawmqtt.Durable(60))
	if got := w.explain("other", ""); got.GetReceiversTotal() != 1 || got.GetReceivers()[0].GetHolder() != g0 {
		t.Errorf("receivers after a move: %v", got.GetReceivers())
	}
}

func retained(t *testing.T, w *world) {
	c := rawmqtt.Connect(t, w.MQTT(0), v5, "ret")
	for _, topic := range []string{"ret/a", "ret/b", "ret/c"} {
		p := rawmqtt.PublishPacket(topic, topic+" is kept", 1)
		p.FixedHeader.Retain, p.PacketID = true, c.ID()
		c.Send(p)
		c.ExpectAck(packets.Puback, p.PacketID)
	}
	var all []*adminv1.RetainedMessage
	for r := (&adminv1.ListRetainedRequest{Filter: "ret/+", PageSize: 2, WithPayload: true}); ; {
		page, err := w.admin.ListRetained(w.context(), r)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, page.GetMessages()...)
		if r.PageToken = page.GetNextPageToken(); r.GetPageToken() == "" {
			break
		}
	}
	slices.SortFunc(all, func(x, y *adminv1.RetainedMessage) int { return strings.Compare(x.GetTopic(), y.GetTopic()) })
	want := &adminv1.RetainedMessage{
		Topic: "ret/a", Payload: []byte("ret/a is kept"), PayloadBytes: 13, Qos: messagev1.Qos_QOS_AT_LEAST_ONCE, Publisher: "ret",
	}
	if len(all) != 3 || !cmp.Equal(want, all[0], protocmp.Transform()) {
		t.Fatalf("retained messages %v, want three, the first %v", all, want)
	}
	live := rawmqtt.Connect(t, w.MQTT(1), v5, "ret-live")
	live.Subscribe(packets.Subscription{Filter: "ret/b", Qos: 1, RetainHandling: 2})
	if _, err := w.admin.DeleteRetained(w.context(), &adminv1.DeleteRetainedRequest{Topic: "ret/b"}); err != nil {
		t.Fatal(err)
	}
	wantCode(t, "once more", code(w.admin.DeleteRetained(w.context(), &adminv1.DeleteRetainedRequest{Topic: "ret/b"})), codes.NotFound)
	live.ExpectNothing()
	late := rawmqtt.Connect(t, w.MQTT(2), v5, "ret-late")
	late.MustSubscribe("ret/+", 1)
	got := []string{late.Receive().TopicName, late.Receive().TopicName}
	slices.Sort(got)
	if !slices.Equal(got, []string{"ret/a", "ret/c"}) {
		t.Errorf("retained for a new subscriber: %v", got)
	}
	late.ExpectNothing()
}

func traceAcross(t *testing.T, w *world) {
	g0, g1, g2 := w.incarnation(0), w.incarnation(1), w.incarnation(2)
	p := rawmqtt.Connect(t, w.MQTT(0), v5, "tr-p")
	a, b := rawmqtt.Connect(t, w.MQTT(1), v5, "tr-a"), rawmqtt.Connect(t, w.MQTT(2), v3, "tr-b")
	a.MustSubscribe("tr/#", 1)
	b.MustSubscribe("tr/1", 0)
	tr := w.trace(&adminv1.TraceRequest{Filter: "tr/+"})
	p.Publish("other", "x", 1)
	p.Publish("tr/1", "x", 1)
	a.Receive()
	b.Receive()
	// Steps of one process come in order; those of several in any.
	const steps = 9
	var all []*adminv1.TraceResponse
	for range steps {
		all = append(all, tr.next())
	}
	want := []step{
		{received, g0, "", ""},
		{forwarded, g0, g1, ""},
		{forwarded, g0, g2, ""},
		{arrived, g1, g0, ""},
		{arrived, g2, g0, ""},
		{delivered, g1, "tr-a", "QoS 1"},
		{delivered, g2, "tr-b", "QoS 0"},
		{receipt, g0, g1, "queued"},
		{receipt, g0, g2, "queued"},
	}
	last := tr.next()
	if diff := cmp.Diff(sorted(append(want, step{answered, g0, "", "Success"})), short(append(all, last)), cmp.AllowUnexported(step{})); diff != "" {
		t.Error(diff)
	}
	for _, r := range all {
		if r.GetTopic() != "tr/1" || r.GetPublisher() != "tr-p" || !cmp.Equal(r.GetMessageId(), all[0].GetMessageId(), protocmp.Transform()) ||
			r.GetMessageId().GetOrigin() != g0 || r.GetMessageId().GetSequence() == 0 {
			t.Errorf("a step of another message: %v", r)
		}
	}
	tr.stop()
	if _, err := tr.stream.Recv(); status.Code(err) != codes.Canceled {
		t.Errorf("after the end: %v", err)
	}
}

func traceClient(t *testing.T, w *world) {
	c, other := rawmqtt.Connect(t, w.MQTT(0), v5, "tc"), rawmqtt.Connect(t, w.MQTT(1), v5, "tc-other")
	c.MustSubscribe("tc/1", 1)
	w.kept(2, "tc-away", "tc/away")
	g0, s := w.incarnation(0), w.session("tc-away")
	tr := w.trace(&adminv1.TraceRequest{ClientId: "tc"})
	other.Publish("tc/1", "x", 1)
	other.Publish("elsewhere", "x", 1)
	c.Receive()
	if got := tr.next(); got.GetStep() != delivered || got.GetTopic() != "tc/1" || got.GetOther() != "tc" {
		t.Errorf("step %v, want the delivery of tc/1", got)
	}
	other.Publish("p2p/tc/x", "x", 1)
	c.Receive()
	if got := short(tr.until(answered)); len(got) != 6 {
		t.Errorf("steps of a message by name: %v", got)
	}
	c.Publish("tc/away", "x", 1)
	steps := tr.until(answered)
	if !slices.Contains(short(steps), step{receipt, g0, s, "stored"}) && !slices.Contains(short(steps), step{receipt, g0, s, "queued"}) {
		t.Errorf("no receipt of the session service: %v", short(steps))
	}
	if !slices.Contains(short(steps), step{arrived, s, g0, ""}) && !strings.Contains(tr.next().GetIncarnation(), s) {
		t.Errorf("it never arrives at the session service: %v", short(steps))
	}
}

func sorted(steps []step) []step {
	slices.SortFunc(steps, func(x, y step) int {
		if x.kind != y.kind {
			return int(x.kind) - int(y.kind)
		}
		return strings.Compare(x.incarnation+x.other, y.incarnation+y.other)
	})
	return steps
}
