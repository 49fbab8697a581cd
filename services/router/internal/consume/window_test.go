package consume

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	messagingv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/messaging/v1"
	"github.com/beeline-mqtt/beeline/internal/message"
	"github.com/beeline-mqtt/beeline/internal/packet"
	"github.com/beeline-mqtt/beeline/internal/topic"
)

// asking is what a stream asks for by filters.
func asking(filters ...string) *topic.Map[struct{}] {
	asked := new(topic.Map[struct{}])
	for _, f := range filters {
		asked.Add(f)
	}
	return asked
}

func publish(qos byte, id uint16, payload string) packet.Publish {
	return packet.Publish{QoS: qos, PacketID: id, Topic: "t", Payload: []byte(payload)}
}

// give is the next response of a stream that is given all it gets.
func give(t interface {
	Helper()
	Errorf(string, ...any)
}, w *window,
) *messagingv1.SubscribeResponse_Messages {
	t.Helper()
	r, due := w.next()
	if len(due) > 0 || r.GetDiscarded() > 0 {
		t.Errorf("acknowledges %v by itself, %d discarded", due, r.GetDiscarded())
	}
	return r
}

func ids(r *messagingv1.SubscribeResponse_Messages) (all []uint64) {
	for _, m := range r.GetMessages() {
		all = append(all, m.GetDeliveryId())
	}
	return all
}

func TestNoMoreIsGivenThanMayBeUnacknowledged(t *testing.T) {
	w := newWindow(2, asking("#"))
	for i := range uint16(3) {
		w.receive(publish(1, i+1, ""))
	}
	if got := ids(give(t, w)); !cmp.Equal(got, []uint64{1, 2}) {
		t.Fatalf("given %v, want 1 and 2", got)
	}
	if r := give(t, w); r != nil {
		t.Fatalf("given %v, want nothing", ids(r))
	}
	if due, err := w.acknowledge([]uint64{2}); err != nil || due != nil {
		t.Errorf("acknowledges %v, %v, want nothing before the first message", due, err)
	}
	if got := ids(give(t, w)); !cmp.Equal(got, []uint64{3}) {
		t.Errorf("given %v, want 3", got)
	}
	due, err := w.acknowledge([]uint64{1, 2})
	want := []packet.Ack{{Type: packet.PUBACK, PacketID: 1}, {Type: packet.PUBACK, PacketID: 2}}
	if err != nil || !cmp.Equal(due, want) {
		t.Errorf("acknowledges %v, %v, want %v", due, err, want)
	}
}

func TestWhatWasNotDeliveredCannotBeAcknowledged(t *testing.T) {
	w := newWindow(10, asking("#"))
	w.receive(publish(2, 7, ""))
	for _, id := range []uint64{0, 1, 2} {
		if _, err := w.acknowledge([]uint64{id}); !errors.Is(err, errNotDelivered) {
			t.Errorf("%d: %v, want errNotDelivered", id, err)
		}
	}
	give(t, w)
	due, err := w.acknowledge([]uint64{1})
	if want := []packet.Ack{{Type: packet.PUBREC, PacketID: 7}}; err != nil || !cmp.Equal(due, want) {
		t.Errorf("acknowledges %v, %v, want %v", due, err, want)
	}
	if due, err := w.acknowledge([]uint64{1}); err != nil || due != nil {
		t.Errorf("once more: %v, %v, want nothing", due, err)
	}
}

func TestQoS0IsDroppedBeyondItsBoundsAndCounted(t *testing.T) {
	w := newWindow(1, asking("#"))
	for range mostQueued + 5 {
		w.receive(publish(0, 0, ""))
	}
	if !w.receive(publish(1, 1, "")) {
		t.Error("a QoS 1 message is dropped")
	}
	if r := give(t, w); r.GetDropped() != 5 || len(r.GetMessages()) != 1 {
		t.Errorf("%d dropped, %d given, want 5 and 1", r.GetDropped(), len(r.GetMessages()))
	}
	large := newWindow(1, asking("#"))
	for large.receive(publish(0, 0, strings.Repeat("x", 1<<20))) {
		if large.bytes > mostQueuedBytes {
			t.Fatalf("%d bytes wait", large.bytes)
		}
	}
	if r := give(t, large); r.GetDropped() != 1 {
		t.Errorf("%d dropped, want 1", r.GetDropped())
	}
}

func TestLargeMessagesHoldReadingUp(t *testing.T) {
	w := newWindow(1000, asking("#"))
	for i := range uint16(16) {
		if w.full() {
			t.Fatalf("full after %d MiB", i)
		}
		w.receive(publish(1, i+1, strings.Repeat("x", 1<<20)))
	}
	if !w.full() {
		t.Error("not full")
	}
	for n := 16; n > 0; n-- {
		if got := len(give(t, w).GetMessages()); got != 1 {
			t.Fatalf("%d messages of 1 MiB in one response, want 1", got)
		}
	}
	if w.full() || w.bytes != 0 {
		t.Errorf("%d bytes are left", w.bytes)
	}
}

func TestServicesHaveNoNameAsPublishers(t *testing.T) {
	w := newWindow(10, asking("#"))
	for _, publisher := range []string{"device", message.ServicePrefix + "router-x", ""} {
		p := publish(0, 0, "")
		p.Props = &message.Properties{User: []message.UserProperty{{Name: message.PublisherProperty, Value: publisher}}}
		w.receive(p)
	}
	var got []string
	for _, m := range give(t, w).GetMessages() {
		if len(m.GetMessage().GetUserProperties()) > 0 {
			t.Errorf("user properties %v", m.GetMessage().GetUserProperties())
		}
		got = append(got, m.GetPublisher())
	}
	if diff := cmp.Diff([]string{"device", "", ""}, got); diff != "" {
		t.Errorf("publishers (-want +got):\n%s", diff)
	}
}

// on is a message on a topic.
func on(name string, qos byte, id uint16) packet.Publish {
	p := publish(qos, id, "")
	p.Topic = name
	return p
}

func TestWhatIsNotAskedForIsRefusedInItsTurn(t *testing.T) {
	w := newWindow(2, asking("a/#", "+/b"))
	for _, p := range []packet.Publish{
		on("x", 1, 1), on("a/1", 1, 2), on("x", 2, 3), on("x/b", 2, 4), on("x", 0, 0), on("x", 1, 5), on("a", 1, 6),
	} {
		if !w.receive(p) {
			t.Errorf("%s is dropped", p.Topic)
		}
	}
	refused := func(kind packet.Type, id uint16) packet.Ack {
		return packet.Ack{Type: kind, PacketID: id, Code: packet.ImplementationSpecificError}
	}
	r, due := w.next()
	if got := ids(r); !cmp.Equal(got, []uint64{2, 4}) || r.GetDiscarded() != 4 || r.GetDropped() != 0 {
		t.Errorf("given %v, %d discarded, %d dropped, want 2 and 4, 4 and 0", got, r.GetDiscarded(), r.GetDropped())
	}
	if want := []packet.Ack{refused(packet.PUBACK, 1)}; !cmp.Equal(due, want) {
		t.Errorf("acknowledges %v, want %v: the others are behind what the stream has", due, want)
	}
	due, err := w.acknowledge([]uint64{2})
	if want := []packet.Ack{{Type: packet.PUBACK, PacketID: 2}, refused(packet.PUBREC, 3)}; err != nil || !cmp.Equal(due, want) {
		t.Errorf("acknowledges %v, %v, want %v", due, err, want)
	}
	due, err = w.acknowledge([]uint64{3, 5, 4})
	if want := []packet.Ack{{Type: packet.PUBREC, PacketID: 4}, refused(packet.PUBACK, 5)}; err != nil || !cmp.Equal(due, want) {
		t.Errorf("acknowledges %v, %v, want %v", due, err, want)
	}
	if got := ids(give(t, w)); !cmp.Equal(got, []uint64{6}) {
		t.Errorf("given %v, want 6", got)
	}
}

func TestWhatIsNotAskedForWaitsForNobody(t *testing.T) {
	w := newWindow(1, asking("a"))
	const many = mostInResponse + 7
	for i := range uint16(many) {
		p := on("$SYS/x", 1, i+1)
		p.Payload = make([]byte, 1<<16)
		w.receive(p)
	}
	if w.full() {
		t.Error("it holds reading up")
	}
	r, due := w.next()
	if len(r.GetMessages()) != 0 || r.GetDiscarded() != many || len(due) != many {
		t.Errorf("%d given, %d discarded, %d acknowledged, want %d", len(r.GetMessages()), r.GetDiscarded(), len(due), many)
	}
	if r, due = w.next(); r != nil || due != nil {
		t.Errorf("then %v, %v, want nothing", r, due)
	}
}

func TestWhatIsAskedForIsWhatTheFiltersMatch(t *testing.T) {
	for name, test := range map[string]struct {
		filter  string
		yes, no []string
	}{
		"everything":        {"#", []string{"a", "a/b", "/"}, []string{"$SYS/a", "group/g/a", "p2p/me/a", "user/me/a"}},
		"narrowed":          {"a/#", []string{"a", "a/", "a/b/c"}, []string{"ab", "b/a", "/a/b"}},
		"one level":         {"a/+/c", []string{"a/b/c", "a//c"}, []string{"a/c", "a/b/b/c"}},
		"one topic":         {"a/b", []string{"a/b"}, []string{"a/b/", "a", "A/b"}},
		"of the cluster's":  {"$SYS/#", []string{"$SYS/a"}, []string{"a"}},
		"an empty level":    {"/+", []string{"/", "/a"}, []string{"a", "a/b"}},
		"not the first one": {"+/a", []string{"x/a"}, []string{"$SYS/a"}},
	} {
		t.Run(name, func(t *testing.T) {
			for topics, want := range map[*[]string]int{&test.yes: 1, &test.no: 0} {
				for _, name := range *topics {
					w := newWindow(1, asking(test.filter))
					w.receive(on(name, 1, 1))
					r, _ := w.next()
					if got := len(r.GetMessages()); got != want || got+int(r.GetDiscarded()) != 1 {
						t.Errorf("%s: %d given, %d discarded", name, got, r.GetDiscarded())
					}
				}
			}
		})
	}
}

// TestAcknowledgementsAreInOrderAndComplete: whatever the order in which a stream acknowledges, and whatever it is not given,
// the gateway gets each acknowledgement once, in the order of the messages.
func TestAcknowledgementsAreInOrderAndComplete(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		most := rapid.IntRange(1, 8).Draw(t, "most")
		w := newWindow(most, asking("t"))
		var received, acknowledged []uint16
		var open []uint64
		next := func() []uint64 {
			r, due := w.next()
			for _, a := range due {
				acknowledged = append(acknowledged, a.PacketID)
			}
			return ids(r)
		}
		for range rapid.IntRange(1, 200).Draw(t, "steps") {
			switch rapid.IntRange(0, 2).Draw(t, "step") {
			case 0:
				qos := rapid.ByteRange(0, 2).Draw(t, "qos")
				p := on(rapid.SampledFrom([]string{"t", "left"}).Draw(t, "topic"), qos, uint16(len(received)+1))
				if w.receive(p); qos > 0 {
					received = append(received, p.PacketID)
				}
			case 1:
				open = append(open, next()...)
				if len(open) > most {
					t.Fatalf("%d unacknowledged, want at most %d", len(open), most)
				}
			default:
				if len(open) == 0 {
					continue
				}
				i := rapid.IntRange(0, len(open)-1).Draw(t, "which")
				due, err := w.acknowledge(open[i : i+1])
				if err != nil {
					t.Fatal(err)
				}
				open = append(open[:i:i], open[i+1:]...)
				for _, a := range due {
					acknowledged = append(acknowledged, a.PacketID)
				}
			}
		}
		for len(open) > 0 || len(w.queue) > 0 {
			due, err := w.acknowledge(open)
			if err != nil {
				t.Fatal(err)
			}
			for _, a := range due {
				acknowledged = append(acknowledged, a.PacketID)
			}
			open = next()
		}
		if diff := cmp.Diff(received, acknowledged); diff != "" {
			t.Fatalf("acknowledged (-received +got):\n%s", diff)
		}
	})
}
