package bench

import (
	"fmt"
	"time"
)

// subscriber receives and checks the messages of one publisher. Its goroutine owns it; others read the sequence
// when that has ended.
type subscriber struct {
	t      *traffic
	broker Broker
	c      *conn // nil: not connected
	p      *publisher
	seq    sequence
	tally  tally
	answer []byte
	pong   chan struct{} // 1: a PINGRESP came
}

// tally is what one burst of packets brought.
type tally struct {
	delivered int64 // intact, for the first time
	doubled   int64
	late      int64 // after a later one
	corrupt   int64
	missing   int64 // more than before the burst: left out; it may come still
}

// read handles what comes, burst by burst, until the connection ends.
func (s *subscriber) read() error {
	for {
		if err := s.c.fill(); err != nil {
			return err
		}
		now := s.t.now()
		s.tally, s.answer = tally{}, s.answer[:0]
		before := s.seq
		for {
			p, ok, err := s.c.take()
			if err != nil {
				return err
			}
			if !ok {
				break
			}
			if err := s.handle(p, now); err != nil {
				return s.c.wrap(err)
			}
		}
		if len(s.answer) > 0 {
			if err := s.c.write(s.answer); err != nil {
				return err
			}
		}
		s.tally.doubled = int64(s.seq.doubled - before.doubled)
		s.tally.late = int64(s.seq.late - before.late)
		s.tally.missing = int64(s.seq.missing) - int64(before.missing)
		s.t.total.add(s.tally)
		if s.t.load.QoS == 0 && s.t.load.Rate == 0 && s.seq.next > before.next {
			s.p.came.Add(s.seq.next - before.next)
			if err := s.p.pump(); err != nil {
				return err
			}
		}
	}
}

func (s *subscriber) handle(p received, now time.Duration) error {
	switch kind(p.first) {
	case publish:
		m, err := parsePublish(s.c.v, p)
		if err != nil {
			return err
		}
		return s.message(m, now)
	case pubrel:
		id, _, err := parseAck(s.c.v, p)
		if err != nil {
			return err
		}
		s.answer = appendAck(s.answer, pubcomp, id)
	case pingresp:
		select {
		case s.pong <- struct{}{}:
		default:
		}
	default:
		return unexpected(p)
	}
	return nil
}

func (s *subscriber) message(m message, now time.Duration) error {
	if m.qos != s.t.load.QoS {
		return fmt.Errorf("message with QoS %d, published and subscribed with %d", m.qos, s.t.load.QoS)
	}
	s.answer = appendReceipt(s.answer, m)
	st, ok := readStamp(m.payload)
	if !ok || len(m.payload) != s.t.load.Size || int(st.publisher) != s.p.number || string(m.topic) != s.p.topic {
		s.tally.corrupt++
		return nil
	}
	if !s.seq.add(st.seq) {
		return nil
	}
	s.tally.delivered++
	if st.due >= s.t.from {
		s.t.latency.add(now - st.due)
	}
	return nil
}
