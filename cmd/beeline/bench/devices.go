package bench

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// devices are clients that acknowledge what they get.
type devices struct {
	conns   []*conn
	reading sync.WaitGroup
}

// device is the client id of one of them.
func (s *Services) device(i int) string { return fmt.Sprintf("%sd%d", s.Prefix, i) }

// connect connects the devices, prepares each, and has it answer: nil acknowledges only.
func (s *Services) connect(ctx context.Context, prepare func(*conn, int) error, answer func([]byte, received, message) []byte) (*devices, error) {
	d := &devices{conns: make([]*conn, s.Devices)}
	err := forEach(ctx, s.Devices, make(slots, atOnce), func(ctx context.Context, i int) error {
		c, err := dial(ctx, s.Brokers[i%len(s.Brokers)], s.Login, smallBuffer)
		if err != nil {
			return err
		}
		d.conns[i] = c
		if err := c.connect(s.device(i), s.Login); err != nil {
			return err
		}
		if prepare != nil {
			return prepare(c, i)
		}
		return nil
	})
	if err != nil {
		d.close()
		return nil, err
	}
	for _, c := range d.conns {
		d.reading.Go(func() { _ = acknowledge(c, answer) }) // it ends with the connection
	}
	return d, nil
}

func (d *devices) close() {
	for _, c := range d.conns {
		if c != nil {
			c.leave()
		}
	}
	d.reading.Wait()
}

// acknowledge answers what comes until the connection ends.
func acknowledge(c *conn, answer func([]byte, received, message) []byte) error {
	var out []byte
	for {
		if err := c.fill(); err != nil {
			return err
		}
		out = out[:0]
		for {
			p, ok, err := c.take()
			if err != nil {
				return err
			}
			if !ok {
				break
			}
			if kind(p.first) != publish {
				continue
			}
			m, err := parsePublish(c.v, p)
			if err != nil {
				return err
			}
			out = appendReceipt(out, m)
			if answer != nil {
				out = answer(out, p, m)
			}
		}
		if len(out) > 0 {
			if err := c.write(out); err != nil {
				return err
			}
		}
	}
}

// Identifiers of properties.
const (
	responseTopic   = 0x08
	correlationData = 0x09
)

// reply appends the answer to a command: its payload, with QoS 0, to its Response Topic with its Correlation Data, which come
// first among the properties that a router's commands have.
func reply(out []byte, p received, m message) []byte {
	at := 2 + len(m.topic)
	if m.qos > 0 {
		at += 2
	}
	props, _, err := properties(p.body[at:])
	if err != nil {
		return out
	}
	var topic, correlation []byte
	for len(props) > 0 {
		id := props[0]
		switch {
		case id == 0x02 && len(props) >= 5: // Message Expiry Interval
			props = props[5:]
		case id == 0x01 && len(props) >= 2: // Payload Format Indicator
			props = props[2:]
		case (id == responseTopic || id == correlationData || id == 0x03) && len(props) >= 3 && len(props) >= 3+int(binary.BigEndian.Uint16(props[1:])):
			n := int(binary.BigEndian.Uint16(props[1:]))
			if id == responseTopic {
				topic = props[3 : 3+n]
			}
			if id == correlationData {
				correlation = props[3 : 3+n]
			}
			props = props[3+n:]
		default:
			props = nil // nothing that matters here
		}
	}
	n := 2 + len(topic) + 1 + 3 + len(correlation) + len(m.payload)
	out = appendString(appendHeader(out, publish, n), topic)
	out = append(out, byte(3+len(correlation)), correlationData)
	return append(appendString(out, correlation), m.payload...)
}

// publish has the devices publish for the duration, and returns how many messages were acknowledged.
func (s *Services) publish(ctx context.Context, topic string, began time.Time) (int64, error) {
	var sent atomic.Int64
	end := time.Now().Add(s.Duration)
	err := forEach(ctx, s.Devices, make(slots, s.Devices), func(ctx context.Context, i int) error {
		c, err := dial(ctx, s.Brokers[i%len(s.Brokers)], s.Login, largeBuffer)
		if err != nil {
			return err
		}
		defer c.leave()
		defer c.bound(ctx)()
		if err := c.connect(s.device(i), s.Login); err != nil {
			return err
		}
		window := min(s.Parallel, c.limits.receiveMaximum)
		payload, out := make([]byte, s.Size), []byte(nil)
		id, open := uint16(0), 0
		for sequence := uint64(0); ; {
			out = out[:0]
			for now := time.Now(); open < window && now.Before(end); open++ {
				id = id%65535 + 1
				stamp{publisher: uint32(i), seq: sequence, due: time.Since(began)}.put(payload)
				out = appendPublish(out, c.v, topic, 1, id, payload)
				sequence++
			}
			if len(out) > 0 {
				if err := c.write(out); err != nil {
					return err
				}
			}
			if open == 0 {
				return nil
			}
			n, err := c.acknowledged()
			if err != nil {
				return err
			}
			open -= n
			sent.Add(int64(n))
		}
	})
	return sent.Load(), err
}

// acknowledged waits for PUBACKs, and returns how many have come.
func (c *conn) acknowledged() (n int, err error) {
	for n == 0 {
		if err := c.fill(); err != nil {
			return 0, err
		}
		for {
			p, ok, err := c.take()
			if err != nil {
				return n, err
			}
			if !ok {
				break
			}
			if kind(p.first) != puback {
				return n, errors.Join(c.wrap(unexpected(p)))
			}
			if _, code, err := parseAck(c.v, p); err != nil || code >= 0x80 {
				return n, errors.Join(err, &refusedError{"PUBLISH", code})
			}
			n++
		}
	}
	return n, nil
}
