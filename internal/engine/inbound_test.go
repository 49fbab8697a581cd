package engine

import (
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/beeline-mqtt/beeline/internal/packet"
)

// publisher is the naive model of the inbound half: a list of the client's unfinished messages, and a list of the
// acknowledgements that it has yet to get, in order.
type publisher struct {
	receiveMaximum int
	unfinished     []*sent
	line           []*answer
}

type sent struct {
	id     uint16
	qos    byte
	pubrec bool
}

type answer struct {
	to    *sent
	code  packet.Code
	known bool
}

func (p *publisher) find(id uint16) *sent {
	for _, s := range p.unfinished {
		if s.id == id {
			return s
		}
	}
	return nil
}

func (p *publisher) answer(s *sent) *answer {
	for _, a := range p.line {
		if a.to == s {
			return a
		}
	}
	return nil
}

func (p *publisher) forget(s *sent) {
	p.unfinished = slices.DeleteFunc(p.unfinished, func(o *sent) bool { return o == s })
	p.line = slices.DeleteFunc(p.line, func(a *answer) bool { return a.to == s })
}

func (p *publisher) publish(id uint16, qos byte) Verdict {
	s := p.find(id)
	if s == nil {
		if len(p.unfinished) == p.receiveMaximum {
			return OverReceiveMaximum
		}
		s = &sent{id: id, qos: qos}
		p.unfinished = append(p.unfinished, s)
		p.line = append(p.line, &answer{to: s})
		return Forward
	}
	if s.qos != qos {
		return IdentifierInUse
	}
	if p.answer(s) == nil {
		p.line = append(p.line, &answer{to: s, known: true})
	}
	return Duplicate
}

func (p *publisher) settle(id uint16, qos byte, code packet.Code) {
	if s := p.find(id); s != nil && s.qos == qos && !s.pubrec {
		if a := p.answer(s); !a.known {
			a.code, a.known = code, true
		}
	}
}

func (p *publisher) next() (packet.Ack, bool) {
	if len(p.line) == 0 || !p.line[0].known {
		return packet.Ack{}, false
	}
	a := p.line[0]
	p.line = p.line[1:]
	ack := packet.Ack{Type: packet.PUBACK, PacketID: a.to.id, Code: a.code}
	if a.to.qos == 2 {
		ack.Type = packet.PUBREC
		a.to.pubrec = true
	}
	if a.to.qos == 1 || a.code >= 0x80 {
		p.forget(a.to)
	}
	return ack, true
}

func (p *publisher) release(id uint16) packet.Code {
	s := p.find(id)
	if s == nil || !s.pubrec {
		return 0x92
	}
	p.forget(s)
	return 0
}

func TestInboundDoesWhatTheNaiveModelDoes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		receiveMaximum := rapid.IntRange(1, 8).Draw(t, "receive maximum")
		p := &publisher{receiveMaximum: receiveMaximum}
		s := New[int](Limits{ReceiveMaximum: receiveMaximum})
		id := rapid.Uint16Range(1, 10)
		qos := rapid.ByteRange(1, 2)
		t.Repeat(map[string]func(*rapid.T){
			"publish": func(t *rapid.T) {
				id, qos := id.Draw(t, "id"), qos.Draw(t, "qos")
				if got, want := s.Published(id, qos), p.publish(id, qos); got != want {
					t.Fatalf("PUBLISH %d at QoS %d: %v, want %v", id, qos, got, want)
				}
			},
			"settle": func(t *rapid.T) {
				id, qos := id.Draw(t, "id"), qos.Draw(t, "qos")
				code := rapid.SampledFrom([]packet.Code{0, 0x10, 0x80}).Draw(t, "code")
				s.Forwarded(id, qos, code)
				p.settle(id, qos, code)
			},
			"acknowledge": func(t *rapid.T) {
				got, ok := s.NextAck()
				want, wantOK := p.next()
				if got != want || ok != wantOK {
					t.Fatalf("next acknowledgement: %v %v, want %v %v", got, ok, want, wantOK)
				}
			},
			"release": func(t *rapid.T) {
				id := id.Draw(t, "id")
				want := packet.Ack{Type: packet.PUBCOMP, PacketID: id, Code: p.release(id)}
				if got, send := s.Release(id); got != want || !send {
					t.Fatalf("PUBREL %d: %v, sent: %v, want %v", id, got, send, want)
				}
			},
			"": func(t *rapid.T) {
				if got := s.Unacknowledged(); got != len(p.unfinished) || got > receiveMaximum {
					t.Fatalf("%d unacknowledged, want %d", got, len(p.unfinished))
				}
				if s.in != nil && s.in.slots.n > 2*receiveMaximum {
					t.Fatalf("%d slots for at most %d messages", s.in.slots.n, receiveMaximum)
				}
			},
		})
	})
}

// A client that resends without end, while its oldest message is not settled, gets no memory for it.
func TestResendingDoesNotGrowTheLineOfAcknowledgements(t *testing.T) {
	s := New[int](Limits{ReceiveMaximum: 3})
	s.Published(1, 2)
	s.Forwarded(1, 2, packet.Success)
	s.NextAck()
	s.Published(2, 1)
	for range 1000 {
		if v := s.Published(1, 2); v != Duplicate {
			t.Fatalf("PUBLISH again: %v", v)
		}
		if v := s.Published(2, 1); v != Duplicate {
			t.Fatalf("PUBLISH again: %v", v)
		}
	}
	if s.in.slots.n != 2 {
		t.Errorf("%d slots, want 2", s.in.slots.n)
	}
}

func TestSlotNumbersMayWrap(t *testing.T) {
	s := New[int](Limits{})
	s.Published(1, 1)
	s.Forwarded(1, 1, packet.Success)
	s.NextAck()
	s.in.first = 1<<32 - 2
	for id := uint16(1); id <= 5; id++ {
		s.Published(id, 1)
	}
	for id := uint16(5); id >= 1; id-- {
		s.Forwarded(id, 1, packet.Code(id))
	}
	for id := uint16(1); id <= 5; id++ {
		want := packet.Ack{Type: packet.PUBACK, PacketID: id, Code: packet.Code(id)}
		if got, ok := s.NextAck(); got != want || !ok {
			t.Errorf("acknowledgement %v %v, want %v", got, ok, want)
		}
	}
}
