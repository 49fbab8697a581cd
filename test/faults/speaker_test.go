//go:build linux

package faults

import (
	"fmt"
	"slices"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/beeline-mqtt/beeline/test/faults/ledger"
	"github.com/beeline-mqtt/beeline/test/rawmqtt"
)

// speaker is a regular that publishes. A durable one sends again, on its next connection, what was not acknowledged:
// in the same order, under the same packet identifiers, with DUP (MQTT-4.4.0-1).
type speaker struct {
	regular
	stream ledger.Stream

	// mu of regular guards the following.
	pending []*flight // in the order in which they were sent
	nextID  uint16
	acked   int
	moved   time.Time // when the last acknowledgement came
}

// flight is a message that is under way.
type flight struct {
	m        ledger.Message
	id       uint16
	released bool // it is at the PUBREL
}

func (s *speaker) run() {
	var old *line
	defer func() {
		if old != nil {
			old.hangUp(true)
		}
	}()
	for connection := 1; ; connection++ {
		next, present, err := s.ring()
		if old != nil {
			old.hangUp(false)
			<-old.ended
			old = nil
		}
		if err == nil {
			s.again(next, connection, present)
			s.w.wg.Go(func() { next.read(func(pk packets.Packet) { s.handle(next, pk) }) })
			if s.talk(next, connection) {
				old = next
				return
			}
			old = s.leave(next, connection)
		}
		if !s.rest(s.between(20*time.Millisecond, 150*time.Millisecond)) {
			return
		}
	}
}

// again begins a connection with what is pending.
func (s *speaker) again(x *line, connection int, present bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.durable || !present {
		s.pending = nil // its session is another one: what has become of them is not known
	}
	for _, f := range s.pending {
		if f.released {
			x.say(packets.Pubrel, f.id)
			continue
		}
		s.w.Resend(f.m, connection)
		if x.send(f.packet(true)) != nil {
			break // which shows in the read
		}
	}
	s.line, s.moved = x, time.Now()
}

func (f *flight) packet(dup bool) packets.Packet {
	pk := rawmqtt.PublishPacket(f.m.Topic, f.m.Payload(), f.m.QoS)
	pk.PacketID, pk.FixedHeader.Dup = f.id, dup
	return pk
}

// talk publishes until the connection is over, hangs, or has lasted as long as chance wants it. It reports whether
// everything is said that was to be.
func (s *speaker) talk(x *line, connection int) (done bool) {
	const window = 16
	tick := time.NewTicker(s.w.pace)
	defer tick.Stop()
	until := time.NewTimer(s.between(500*time.Millisecond, 4*time.Second))
	defer until.Stop()
	lasts, hangs := until.C, s.between(3*time.Second, 8*time.Second)
	calm := s.w.calm
	for {
		select {
		case <-x.ended:
			return false
		case <-s.w.stop:
			return true
		case <-calm:
			calm, lasts = nil, nil
		case <-lasts:
			return false
		case <-tick.C:
		}
		s.mu.Lock()
		pending, hung := len(s.pending), len(s.pending) > 0 && time.Since(s.moved) > hangs
		var f *flight
		if calm != nil && pending < window {
			if pending == 0 {
				s.moved = time.Now()
			}
			f = s.next(connection)
		}
		s.mu.Unlock()
		switch {
		case f != nil:
			_ = x.send(f.packet(false)) // that it fails shows in the read
		case calm == nil && pending == 0:
			return true
		case hung:
			return false
		}
	}
}

// next makes the next message. It needs mu.
func (s *speaker) next(connection int) *flight {
	for taken := true; taken; {
		s.nextID = s.nextID%65535 + 1
		taken = slices.ContainsFunc(s.pending, func(f *flight) bool { return f.id == s.nextID })
	}
	f := &flight{m: s.w.Send(s.stream, connection), id: s.nextID}
	s.pending = append(s.pending, f)
	return f
}

// leave ends a connection in one way or another, with something on its lips. The line that it returns stands still.
func (s *speaker) leave(x *line, connection int) *line {
	way := s.random.IntN(3)
	if !s.w.isCalm() {
		s.mu.Lock()
		s.line = nil // whatever is answered is not heard
		for range s.random.IntN(5) {
			_ = x.send(s.next(connection).packet(false))
		}
		s.mu.Unlock()
	}
	if way == 2 && !s.w.isCalm() {
		return x
	}
	x.hangUp(way == 1)
	<-x.ended
	return nil
}

// handle does what a packet asks for.
func (s *speaker) handle(x *line, pk packets.Packet) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.line != x {
		return
	}
	kind := pk.FixedHeader.Type
	if kind != packets.Puback && kind != packets.Pubrec && kind != packets.Pubcomp {
		return
	}
	i := slices.IndexFunc(s.pending, func(f *flight) bool { return f.id == pk.PacketID })
	if i < 0 {
		s.w.t.Errorf("%q: %s for %d, which is not in flight", s.id, packets.PacketNames[kind], pk.PacketID)
		return
	}
	f := s.pending[i]
	s.moved = time.Now()
	switch {
	case kind == packets.Pubrec && pk.ReasonCode < 0x80:
		if !f.released {
			f.released = true
			s.acked++
			s.w.Acknowledge(f.m, pk.ReasonCode)
		}
		x.say(packets.Pubrel, f.id)
	case kind == packets.Pubcomp && f.released:
		s.pending = slices.Delete(s.pending, i, i+1)
	case kind == packets.Pubcomp || kind == packets.Puback && s.stream.QoS != 1 || f.released:
		s.w.t.Errorf("%q: %s for %d, which waits for something else", s.id, packets.PacketNames[kind], pk.PacketID)
	default:
		s.acked++
		s.w.Acknowledge(f.m, pk.ReasonCode)
		s.pending = slices.Delete(s.pending, i, i+1)
	}
}

func (s *speaker) acks() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.acked
}

// describe says what is under way, nothing when that is nothing.
func (s *speaker) describe() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.pending) == 0 {
		return ""
	}
	f := s.pending[0]
	return fmt.Sprintf("%d messages are under way; the first is %s, packet %d (released %t); connected %t; the last acknowledgement was %v ago",
		len(s.pending), f.m.Payload(), f.id, f.released, s.line != nil, time.Since(s.moved).Round(time.Millisecond))
}
