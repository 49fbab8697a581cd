package bench

import (
	"errors"
	"fmt"
	"math"
	"sync/atomic"
	"time"
)

// maxBatch bounds the bytes that a publisher writes at once, when it has much to catch up with.
const maxBatch = 32 << 10

// publisher sends the messages of one stream. Its loop owns what has no comment.
type publisher struct {
	t         *traffic
	number    int
	broker    Broker
	c         *conn // nil: not connected
	topic     string
	receivers int
	wake      chan struct{} // 1: there may be something to send
	window    *window       // nil at QoS 0
	payload   []byte
	sent      atomic.Uint64 // messages that are written
	measured  atomic.Uint64 // the first message that was due when it counted
	came      atomic.Uint64 // of its messages, counted once for each receiver, or seen to be missing
}

func newPublisher(t *traffic, number int, b Broker, topic string) *publisher {
	p := &publisher{
		t: t, number: number, broker: b, topic: topic,
		wake: make(chan struct{}, 1), payload: blank(t.load.Size),
	}
	p.measured.Store(math.MaxUint64)
	return p
}

// attach gives the publisher its connection, which is open.
func (p *publisher) attach(c *conn) error {
	p.c = c
	if c.limits.maximumQoS < p.t.load.QoS {
		return c.wrap(fmt.Errorf("takes no message with more than QoS %d", c.limits.maximumQoS))
	}
	if p.t.load.QoS > 0 {
		p.window = newWindow(min(p.t.load.Window, c.limits.receiveMaximum))
	}
	return nil
}

// stir has the loop look whether there is something to send.
func (p *publisher) stir() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// loop sends what is due, until it is told to stop.
func (p *publisher) loop() error {
	var out []byte
	var next uint64
	for {
		var n uint64
		out, n = p.batch(out[:0], next)
		if n == 0 {
			select {
			case <-p.wake:
				continue
			case <-p.t.stop:
				return nil
			}
		}
		if err := p.c.write(out); err != nil {
			return fmt.Errorf("publish: %w", err)
		}
		next += n
		p.sent.Store(next)
		select {
		case <-p.t.stop:
			return nil
		default:
		}
	}
}

// batch appends what may be sent now, from message next on, and says how many messages that is.
func (p *publisher) batch(out []byte, next uint64) (_ []byte, n uint64) {
	t := p.t
	now := t.now()
	for ; len(out) < maxBatch; n++ {
		due := now
		if t.load.Rate > 0 {
			due = t.due(p.number, next+n)
		}
		if due > now || due >= t.until {
			break
		}
		var id uint16
		switch {
		case p.window != nil:
			if id = p.window.take(t.load.QoS); id == 0 {
				return out, n
			}
		case t.load.Rate == 0 && (next+n)*uint64(p.receivers) >= p.came.Load()+uint64(t.load.Window*p.receivers):
			return out, n
		}
		if due >= t.from {
			if p.measured.Load() == math.MaxUint64 {
				p.measured.Store(next + n)
			}
			t.late.add(now - due)
		}
		stamp{publisher: uint32(p.number), seq: next + n, due: due}.put(p.payload)
		out = appendPublish(out, p.c.v, p.topic, t.load.QoS, id, p.payload)
	}
	return out, n
}

// read handles what the broker answers, until the connection ends.
func (p *publisher) read() error {
	var out []byte
	for {
		if err := p.c.fill(); err != nil {
			return err
		}
		out = out[:0]
		wanted := false
		for {
			packet, ok, err := p.c.take()
			if err != nil {
				return err
			}
			if !ok {
				break
			}
			var w bool
			if out, w, err = p.answer(out, packet); err != nil {
				return p.c.wrap(err)
			}
			wanted = wanted || w
		}
		if len(out) > 0 {
			if err := p.c.write(out); err != nil {
				return err
			}
		}
		if wanted {
			p.stir()
		}
	}
}

// answer handles one packet and appends what is to be answered. wanted: the loop waits for it.
func (p *publisher) answer(out []byte, packet packet) (_ []byte, wanted bool, err error) {
	switch packet.first {
	case puback, pubrec, pubcomp:
	default:
		return out, false, unexpected(packet)
	}
	id, code, err := parseAck(p.c.v, packet)
	if err != nil {
		return out, false, err
	}
	if code >= 0x80 {
		return out, false, &refusedError{"PUBLISH", code}
	}
	if p.window == nil {
		return out, false, errors.New("acknowledgement of a message with QoS 0")
	}
	if wanted, err = p.window.ack(packet.first, id); err != nil {
		return out, false, err
	}
	if packet.first == pubrec {
		out = appendAck(out, pubrel, id)
	}
	return out, wanted, nil
}

// unexpected is the error for a packet that has no place where it came.
func unexpected(p packet) error {
	if p.first == disconnect && len(p.body) > 0 {
		return fmt.Errorf("DISCONNECT with code 0x%02X", p.body[0])
	}
	return fmt.Errorf("unexpected packet 0x%02X", p.first)
}

// unacknowledged is how many messages the broker has not acknowledged.
func (p *publisher) unacknowledged() uint64 {
	if p.window == nil {
		return 0
	}
	return uint64(p.window.open())
}

// counted returns the messages from begin up to, and without, end that count: those sent that were due after the
// warm-up.
func (p *publisher) counted() (begin, end uint64) {
	end = p.sent.Load()
	return min(p.measured.Load(), end), end
}

// unsent is how many messages were due at a time and are not sent.
func (p *publisher) unsent(at time.Duration) uint64 {
	var n uint64
	if p.t.load.Rate > 0 {
		for next := p.sent.Load(); p.t.due(p.number, next+n) < at; n++ {
		}
	}
	return n
}
