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
)

func publish(qos byte, id uint16, payload string) packet.Publish {
	return packet.Publish{QoS: qos, PacketID: id, Topic: "t", Payload: []byte(payload)}
}

func ids(r *messagingv1.SubscribeResponse_Messages) (all []uint64) {
	for _, m := range r.GetMessages() {
		all = append(all, m.GetDeliveryId())
	}
	return all
}

func TestNoMoreIsGivenThanMayBeUnacknowledged(t *testing.T) {
	w := newWindow(2)
	for i := range uint16(3) {
		w.receive(publish(1, i+1, ""))
	}
	if got := ids(w.next()); !cmp.Equal(got, []uint64{1, 2}) {
		t.Fatalf("given %v, want 1 and 2", got)
	}
	if r := w.next(); r != nil {
		t.Fatalf("given %v, want nothing", ids(r))
	}
	if due, err := w.acknowledge([]uint64{2}); err != nil || due != nil {
		t.Errorf("acknowledges %v, %v, want nothing before the first message", due, err)
	}
	if got := ids(w.next()); !cmp.Equal(got, []uint64{3}) {
		t.Errorf("given %v, want 3", got)
	}
	due, err := w.acknowledge([]uint64{1, 2})
	want := []packet.Ack{{Type: packet.PUBACK, PacketID: 1}, {Type: packet.PUBACK, PacketID: 2}}
	if err != nil || !cmp.Equal(due, want) {
		t.Errorf("acknowledges %v, %v, want %v", due, err, want)
	}
}

func TestWhatWasNotDeliveredCannotBeAcknowledged(t *testing.T) {
	w := newWindow(10)
	w.receive(publish(2, 7, ""))
	for _, id := range []uint64{0, 1, 2} {
		if _, err := w.acknowledge([]uint64{id}); !errors.Is(err, errNotDelivered) {
			t.Errorf("%d: %v, want errNotDelivered", id, err)
		}
	}
	w.next()
	due, err := w.acknowledge([]uint64{1})
	if want := []packet.Ack{{Type: packet.PUBREC, PacketID: 7}}; err != nil || !cmp.Equal(due, want) {
		t.Errorf("acknowledges %v, %v, want %v", due, err, want)
	}
	if due, err := w.acknowledge([]uint64{1}); err != nil || due != nil {
		t.Errorf("once more: %v, %v, want nothing", due, err)
	}
}

func TestQoS0IsDroppedBeyondItsBoundsAndCounted(t *testing.T) {
	w := newWindow(1)
	for range mostQueued + 5 {
		w.receive(publish(0, 0, ""))
	}
	if !w.receive(publish(1, 1, "")) {
		t.Error("a QoS 1 message is dropped")
	}
	if r := w.next(); r.GetDropped() != 5 || len(r.GetMessages()) != 1 {
		t.Errorf("%d dropped, %d given, want 5 and 1", r.GetDropped(), len(r.GetMessages()))
	}
	large := newWindow(1)
	for large.receive(publish(0, 0, strings.Repeat("x", 1<<20))) {
		if large.bytes > mostQueuedBytes {
			t.Fatalf("%d bytes wait", large.bytes)
		}
	}
	if r := large.next(); r.GetDropped() != 1 {
		t.Errorf("%d dropped, want 1", r.GetDropped())
	}
}

func TestLargeMessagesHoldReadingUp(t *testing.T) {
	w := newWindow(1000)
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
		if got := len(w.next().GetMessages()); got != 1 {
			t.Fatalf("%d messages of 1 MiB in one response, want 1", got)
		}
	}
	if w.full() || w.bytes != 0 {
		t.Errorf("%d bytes are left", w.bytes)
	}
}

func TestServicesHaveNoNameAsPublishers(t *testing.T) {
	w := newWindow(10)
	for _, publisher := range []string{"device", message.ServicePrefix + "router-x", ""} {
		p := publish(0, 0, "")
		p.Props = &message.Properties{User: []message.UserProperty{{Name: message.PublisherProperty, Value: publisher}}}
		w.receive(p)
	}
	var got []string
	for _, m := range w.next().GetMessages() {
		if len(m.GetMessage().GetUserProperties()) > 0 {
			t.Errorf("user properties %v", m.GetMessage().GetUserProperties())
		}
		got = append(got, m.GetPublisher())
	}
	if diff := cmp.Diff([]string{"device", "", ""}, got); diff != "" {
		t.Errorf("publishers (-want +got):\n%s", diff)
	}
}

// TestAcknowledgementsAreInOrderAndComplete: whatever the order in which a stream acknowledges, the gateway gets each
// acknowledgement once, in the order of the messages.
func TestAcknowledgementsAreInOrderAndComplete(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		most := rapid.IntRange(1, 8).Draw(t, "most")
		w := newWindow(most)
		var received, acknowledged []uint16
		var open []uint64
		for range rapid.IntRange(1, 200).Draw(t, "steps") {
			switch rapid.IntRange(0, 2).Draw(t, "step") {
			case 0:
				qos := rapid.ByteRange(0, 2).Draw(t, "qos")
				p := publish(qos, uint16(len(received)+1), "")
				if w.receive(p); qos > 0 {
					received = append(received, p.PacketID)
				}
			case 1:
				open = append(open, ids(w.next())...)
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
			open = ids(w.next())
		}
		if diff := cmp.Diff(received, acknowledged); diff != "" {
			t.Fatalf("acknowledged (-received +got):\n%s", diff)
		}
	})
}
