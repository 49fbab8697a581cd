package bench

import (
	"errors"
	"fmt"
	"math"
	"sync"
	"sync/atomic"
	"time"
)

// maxBatch bounds the bytes that a publisher writes at once, when it has much to catch up with.
const maxBatch = 32 << 10

// publisher sends the messages of one stream. The pacer and the reader of the connection call pump when there may
// be something to send.
type publisher struct {
	t         *traffic
	number    int
	broker    Broker
	c         *conn // nil: not connected
	topic     string
	receivers int
	window    *window       // nil at QoS 0
	sent      atomic.Uint64 // messages that are written
	measured  atomic.Uint64 // the first message that was due when it counted
	came      atomic.Uint64 // of its messages, counted once for each receiver, or seen to be missing

	mu       sync.Mutex // guards what follows
	next     uint64     // message
	payload  []byte
	out      []byte
	catching bool // a goroutine sends what the connection did not take at once, and goes on
}

func newPublisher(t *traffic, number int, b Broker, topic string) *publisher {
	p := &publisher{t: t, number: number, broker: b, topic: topic, payload: blank(t.load.Size)}
	p.measured.Store(math.MaxUint64)
	return p
}

// admitted is called when the broker has accepted the connection, and reports what it does not allow.
func (p *publisher) admitted() error {
	l := p.c.limits
	if l.maximumQoS < p.t.load.QoS {
		return p.c.wrap(fmt.Errorf("takes no message with more than QoS %d", l.maximumQoS))
	}
	if p.t.load.QoS > 0 {
		p.window = newWindow(min(p.t.load.Window, l.receiveMaximum))
	}
	return nil
}

// pump sends what may be sent now. It never waits: one connection that takes nothing must not hold up the others.
func (p *publisher) pump() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.catching {
		return nil
	}
	for p.batch() {
		n, err := p.c.tryWrite(p.out)
		if err != nil {
			return fmt.Errorf("publish: %w", err)
		}
		if n < len(p.out) {
			p.catching = true
			p.out = p.out[n:]
			p.t.goDo(p.catchUp)
			return nil
		}
		p.sent.Store(p.next)
	}
	return nil
}

// catchUp waits for the connection to take what it has not, and goes on until nothing is left to send.
func (p *publisher) catchUp() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	for more := true; more; more = p.batch() {
		p.mu.Unlock()
		err := p.c.write(p.out) // nobody else touches it while this goroutine is catching up
		p.mu.Lock()
		if err != nil {
			return fmt.Errorf("publish: %w", err)
		}
		p.sent.Store(p.next)
	}
	p.catching = false
	return nil
}

// batch fills out with what may be sent now, and reports whether that is something.
func (p *publisher) batch() bool {
	t := p.t
	now := t.now()
	p.out = p.out[:0]
	for ; len(p.out) < maxBatch; p.next++ {
		due := now
		if t.load.Rate > 0 {
			due = t.due(p.number, p.next)
		}
		if due > now || due >= t.until || t.stopped.Load() {
			break
		}
		var id uint16
		switch {
		case p.window != nil:
			id = p.window.take(t.load.QoS)
			if id == 0 {
				return len(p.out) > 0
			}
		case t.load.Rate == 0 && p.next*uint64(p.receivers) >= p.came.Load()+uint64(t.load.Window*p.receivers):
			return len(p.out) > 0
		}
		if due >= t.from {
			if p.measured.Load() == math.MaxUint64 {
				p.measured.Store(p.next)
			}
			t.late.add(now - due)
		}
		stamp{publisher: uint32(p.number), seq: p.next, due: due}.put(p.payload)
		p.out = appendPublish(p.out, p.c.v, p.topic, t.load.QoS, id, p.payload)
	}
	return len(p.out) > 0
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
			if err := p.pump(); err != nil {
				return err
			}
		}
	}
}

// answer handles one packet and appends what is to be answered. wanted: something waits to be sent.
func (p *publisher) answer(out []byte, packet received) (_ []byte, wanted bool, err error) {
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
func unexpected(p received) error {
	if p.first == disconnect && len(p.body) > 0 {
		return fmt.Errorf("DISCONNECT with code 0x%02X", p.body[0])
	}
	return fmt.Errorf("unexpected packet 0x%02X", p.first)
}

// busy reports whether it has written half a message.
func (p *publisher) busy() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.catching
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
