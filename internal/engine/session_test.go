package engine

import (
	"errors"
	"testing"
	"time"
	"unsafe"

	"github.com/google/go-cmp/cmp"

	"github.com/beeline-mqtt/beeline/internal/message"
	"github.com/beeline-mqtt/beeline/internal/packet"
)

var noon = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)

func TestLimitsAreBroughtIntoRange(t *testing.T) {
	for _, c := range []struct {
		name        string
		given, want Limits
	}{
		{"absent", Limits{}, Limits{1, 1, maxInFlight, 65535}},
		{"negative", Limits{-1, -1, -1, -1}, Limits{1, 1, maxInFlight, 65535}},
		{"ordinary", Limits{100, 1 << 20, 32, 64}, Limits{100, 1 << 20, 32, 64}},
		{"too large", Limits{1 << 40, 1 << 40, 1 << 40, 1 << 40}, Limits{1 << 40, 1 << 40, maxInFlight, 65535}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if diff := cmp.Diff(c.want, c.given.withDefaults()); diff != "" {
				t.Errorf("limits (-want +got):\n%s", diff)
			}
		})
	}
}

func TestAnIdleSessionIsSmall(t *testing.T) {
	if size := unsafe.Sizeof(Session[*int]{}); size >= 300 {
		t.Errorf("%d bytes", size)
	}
	var s *Session[*int]
	if n := testing.AllocsPerRun(100, func() { s = New[*int](Limits{}) }); n != 1 {
		t.Errorf("%v allocations for a new session", n)
	}
	s.Next(noon)
	s.NextAck()
	s.Settled(nil)
	s.Release(1)
	s.Forwarded(1, 1, packet.Success)
	if s.out != nil || s.in != nil {
		t.Error("asking an idle session for its effects has made it larger")
	}
}

func TestANewSessionHasNothingToDo(t *testing.T) {
	s := New[int](Limits{})
	if _, ok := s.Next(noon); ok {
		t.Error("a packet is due")
	}
	if _, ok := s.NextAck(); ok {
		t.Error("an acknowledgement is due")
	}
	if ack, send := s.Release(1); !send || ack.Code != packet.PacketIdentifierNotFound {
		t.Errorf("PUBREL of nothing: %v, sent: %v", ack, send)
	}
	messages, bytes := s.QueueLen()
	if messages != 0 || bytes != 0 || s.InFlight() != 0 || s.Unacknowledged() != 0 || !s.FullSince().IsZero() {
		t.Error("something is queued or in flight")
	}
	if got := s.Settled(nil); len(got) != 0 {
		t.Errorf("settled: %v", got)
	}
	s.End()
	if got := s.Counters(); got != (Counters{}) {
		t.Errorf("counters: %+v", got)
	}
}

func TestTheWrongKindOfAcknowledgementIsAProtocolError(t *testing.T) {
	for _, kind := range []packet.Type{packet.PUBLISH, packet.PUBREL, packet.CONNECT} {
		s := New[int](Limits{})
		_, send, err := s.Acked(packet.Ack{Type: kind, PacketID: 1})
		var e *packet.Error
		if !errors.As(err, &e) || e.Code != packet.ProtocolError || send {
			t.Errorf("type %d for nothing in flight: %v, %v", kind, send, err)
		}
		s.Offer(Delivery[int]{Message: &message.Message{}, QoS: 2}, noon)
		s.Next(noon)
		if _, send, err = s.Acked(packet.Ack{Type: kind, PacketID: 1}); !errors.As(err, &e) || send {
			t.Errorf("type %d for a delivery in flight: %v, %v", kind, send, err)
		}
	}
}

func TestAnOutgoingPacketCarriesWhatWasOffered(t *testing.T) {
	s := New[int](Limits{QueueMessages: 10, QueueBytes: 1 << 20})
	m := &message.Message{Topic: "a"}
	s.Offer(Delivery[int]{Message: m, QoS: 2, Retain: true, IDs: []uint32{7}}, noon)
	got, ok := s.Next(noon)
	if !ok || got.Message != m {
		t.Fatalf("next: %+v %v", got, ok)
	}
	got.Message = nil
	want := Outgoing{Type: packet.PUBLISH, PacketID: 1, QoS: 2, Retain: true, IDs: []uint32{7}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("packet (-want +got):\n%s", diff)
	}
}

func TestSettledAppendsAndDrains(t *testing.T) {
	s := New[int](Limits{QueueMessages: 1000, QueueBytes: 1 << 20})
	for ticket := 1; ticket <= 2*keep; ticket++ {
		s.Offer(Delivery[int]{Message: &message.Message{}, QoS: 1, Ticket: ticket, Until: UntilAcked}, noon)
		o, _ := s.Next(noon)
		s.Acked(packet.Ack{Type: packet.PUBACK, PacketID: o.PacketID})
	}
	got := s.Settled([]Settlement[int]{{99, Ended}})
	if len(got) != 1+2*keep || got[0].Ticket != 99 {
		t.Fatalf("settled: %v", got)
	}
	for i, settlement := range got[1:] {
		if want := (Settlement[int]{i + 1, Acked}); settlement != want {
			t.Errorf("settlement %d: %v, want %v", i, settlement, want)
		}
	}
	if again := s.Settled(nil); len(again) != 0 {
		t.Errorf("settled again: %v", again)
	}
	if cap(s.out.settled) > keep {
		t.Errorf("the session holds on to %d settlements", cap(s.out.settled))
	}
}

// An acknowledged message, or one of a session that has ended, must not be kept alive by its session.
func TestNothingIsKeptOfADeliveryThatIsOver(t *testing.T) {
	s := New[*int](Limits{QueueMessages: 10, QueueBytes: 1 << 20})
	for range 3 {
		s.Offer(Delivery[*int]{Message: &message.Message{}, QoS: 1, Ticket: new(int), Until: UntilAcked}, noon)
		o, _ := s.Next(noon)
		s.Acked(packet.Ack{Type: packet.PUBACK, PacketID: o.PacketID})
	}
	s.Settled(nil)
	for i, f := range s.out.window.slots {
		if f.message != nil || f.ticket != nil {
			t.Errorf("slot %d of the window still has a message", i)
		}
	}
	for i, settlement := range s.out.settled[:cap(s.out.settled)] {
		if settlement.Ticket != nil {
			t.Errorf("settlement %d is still there", i)
		}
	}
	s.Offer(Delivery[*int]{Message: &message.Message{}, QoS: 1}, noon)
	s.End()
	if s.out.ordered.buf != nil || s.out.window.slots != nil {
		t.Error("a session that has ended holds on to its queue")
	}
}

func TestOutcomesAndVerdictsHaveNames(t *testing.T) {
	for outcome, want := range map[Outcome]string{
		Queued: "queued", Waiting: "waiting", Dropped: "dropped", Acked: "acked", Expired: "expired", Ended: "ended", Interrupted: "interrupted",
		Stored: "stored", Moved: "moved", Refused: "refused", Declined: "declined",
	} {
		if got := outcome.String(); got != want {
			t.Errorf("outcome %d is called %q, want %q", outcome, got, want)
		}
	}
	for verdict, want := range map[Verdict]string{
		Forward: "forward", Duplicate: "duplicate",
		OverReceiveMaximum: "over receive maximum", IdentifierInUse: "identifier in use", Again: "again",
	} {
		if got := verdict.String(); got != want {
			t.Errorf("verdict %d is called %q, want %q", verdict, got, want)
		}
	}
}
