package broker

import (
	"sync/atomic"

	"github.com/beeline-mqtt/beeline/internal/message"
	"github.com/beeline-mqtt/beeline/internal/packet"
	"github.com/beeline-mqtt/beeline/internal/topic"
	"github.com/beeline-mqtt/beeline/internal/turn"
	"github.com/beeline-mqtt/beeline/services/gateway/internal/client"
)

// stalls are topics with messages that came back from where a durable session was and wait for it to be found again.
// What is published to such a topic meanwhile waits behind them: sent on at once, it could reach the session's new
// holder before they do. It belongs to a direct, whose lock guards it.
type stalls struct {
	busy   atomic.Int64 // len(topics), to be read without the lock
	topics map[string]*stall
	// free are topics without such messages, of which something waits to be sent on.
	free []string
}

// stall is one such topic.
type stall struct {
	moved  int // messages that came back and wait
	behind []stalled
}

// stalled is a publish that waits.
type stalled struct {
	from *client.Client
	m    *message.Message
	p    *publication
}

// add counts a message that waits for its receiver, if it came back from a session that has moved.
func (s *stalls) add(m *message.Message) {
	if topic.IsAddressed(m.Topic) {
		return
	}
	if s.topics == nil {
		s.topics = make(map[string]*stall)
	}
	x := s.topics[m.Topic]
	if x == nil {
		x = new(stall)
		s.topics[m.Topic] = x
		s.busy.Store(int64(len(s.topics)))
	}
	x.moved++
}

// remove counts one that does not wait any more, and reports whether something is free to be sent on.
func (s *stalls) remove(m *message.Message) (free bool) {
	x := s.topics[m.Topic]
	if x == nil {
		return false
	}
	x.moved--
	if x.moved > 0 {
		return false
	}
	if len(x.behind) == 0 {
		s.drop(m.Topic)
		return false
	}
	s.free = append(s.free, m.Topic)
	return true
}

// close returns everything that waits, and holds nothing afterwards.
func (s *stalls) close() []stalled {
	var all []stalled
	for name, x := range s.topics {
		all = append(all, x.behind...)
		s.drop(name)
	}
	return all
}

func (s *stalls) drop(name string) {
	delete(s.topics, name)
	s.busy.Store(int64(len(s.topics)))
}

// next takes what may be sent on of one topic. More may come behind it until next has been called again.
func (s *stalls) next() []stalled {
	for len(s.free) > 0 {
		name := s.free[0]
		x := s.topics[name]
		switch {
		case x == nil || x.moved > 0: // it is not free any more
			s.free = s.free[1:]
		case len(x.behind) == 0:
			s.drop(name)
			s.free = s.free[1:]
		default:
			behind := x.behind
			x.behind = nil
			return behind
		}
	}
	s.free = nil
	return nil
}

// stall has a publish wait behind messages of its topic that wait for sessions that have moved, and reports whether it
// does, or has been refused because too much waits.
func (d *direct) stall(from *client.Client, m *message.Message, p *publication, t *turn.Turn) bool {
	if p == nil || d.stalls.busy.Load() == 0 {
		return false
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	x := d.stalls.topics[m.Topic]
	if x == nil || d.closed {
		return false
	}
	if d.bytes+m.Size() > d.b.cfg.UnresolvedBytes {
		p.Done(packet.QuotaExceeded, t)
		return true
	}
	d.bytes += m.Size()
	x.behind = append(x.behind, stalled{from, m, p})
	return true
}

// sendStalled sends on what has waited long enough. It runs on the goroutine that looks up leases, and on no other: order
// counts.
func (d *direct) sendStalled(t *turn.Turn) {
	for {
		d.mu.Lock()
		ready := d.stalls.next()
		for _, x := range ready {
			d.bytes -= x.m.Size()
		}
		d.mu.Unlock()
		if len(ready) == 0 {
			return
		}
		for _, x := range ready {
			d.b.publish(x.from, x.m, x.p, t)
			x.p.Done(packet.NoMatchingSubscribers, t)
		}
	}
}
