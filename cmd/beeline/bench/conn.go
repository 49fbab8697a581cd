package bench

import (
	"context"
	"errors"
	"fmt"
	"net"
	"syscall"
	"time"
)

// Broker is one address that clients connect to.
type Broker struct {
	Name string // in errors
	Dial func(ctx context.Context) (net.Conn, error)
}

// Login is how a client connects.
type Login struct {
	V5       bool
	Username string
	Password []byte // nil: none

	durable bool // the session outlives the connection
}

// refusedError is the code of a CONNACK or SUBACK that says no.
type refusedError struct {
	what string
	code byte
}

func (e *refusedError) Error() string {
	return fmt.Sprintf("%s refused with code 0x%02X", e.what, e.code)
}

// conn is a connection of one client. One goroutine reads, one writes.
type conn struct {
	broker Broker
	nc     net.Conn
	raw    syscall.RawConn // nil: it has none
	v      level
	limits limits
	buf    []byte
	r, w   int // what was read and not taken yet is buf[r:w]
}

// patience bounds what a broker may take to answer, where it is not what is measured.
const patience = 30 * time.Second

// pingPatience bounds what it may take to answer a ping.
const pingPatience = 2 * time.Second

const (
	smallBuffer = 256 // bytes that a connection reads at once: one on which hardly anything comes
	largeBuffer = 16 << 10
)

// dial opens a connection to a broker, and no session yet.
func dial(ctx context.Context, b Broker, l Login, buffer int) (*conn, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	nc, err := b.Dial(ctx)
	if err != nil {
		return nil, fmt.Errorf("broker %s: %w", b.Name, err)
	}
	c := &conn{broker: b, nc: nc, v: v311, buf: make([]byte, buffer)}
	if l.V5 {
		c.v = v5
	}
	if sc, ok := nc.(syscall.Conn); ok {
		if c.raw, err = sc.SyscallConn(); err != nil {
			return nil, errors.Join(c.wrap(err), nc.Close())
		}
	}
	return c, nil
}

// bound closes the connection when the context ends, until release is called.
func (c *conn) bound(ctx context.Context) (release func()) {
	stop := context.AfterFunc(ctx, c.close)
	return func() { stop() }
}

// wrap says which broker it was.
func (c *conn) wrap(err error) error {
	if err != nil {
		return fmt.Errorf("broker %s: %w", c.broker.Name, err)
	}
	return nil
}

// tryWrite writes what the connection takes without waiting, and says how much that is. Of connections that cannot
// say it takes nothing.
func (c *conn) tryWrite(b []byte) (n int, err error) {
	if c.raw == nil {
		return 0, nil
	}
	var failed error
	err = c.raw.Write(func(fd uintptr) bool {
		n, failed = syscall.Write(int(fd), b)
		return true
	})
	if failed != nil {
		n = 0
		if !errors.Is(failed, syscall.EAGAIN) && !errors.Is(failed, syscall.EINTR) {
			err = fmt.Errorf("write: %w", failed)
		}
	}
	return n, c.wrap(err)
}

func (c *conn) write(b []byte) error {
	_, err := c.nc.Write(b)
	return c.wrap(err)
}

// leave ends the session and the connection.
func (c *conn) leave() {
	// Nothing is to be done about a broker that does not take it.
	if c.nc.SetWriteDeadline(time.Now().Add(100*time.Millisecond)) == nil {
		_, _ = c.nc.Write([]byte{disconnect, 0})
	}
	c.close()
}

func (c *conn) close() { _ = c.nc.Close() }

// fill reads once what there is, and waits when there is nothing.
func (c *conn) fill() error {
	if c.r > 0 {
		c.w = copy(c.buf, c.buf[c.r:c.w])
		c.r = 0
	}
	if c.w == len(c.buf) {
		c.buf = append(c.buf, make([]byte, len(c.buf))...)
	}
	n, err := c.nc.Read(c.buf[c.w:])
	c.w += n
	if n > 0 {
		return nil
	}
	return c.wrap(err)
}

// take takes the next packet of what was read. ok is false when more has to be read first. The packet is valid
// until the next fill.
func (c *conn) take() (p received, ok bool, err error) {
	p, n, err := cut(c.buf[c.r:c.w])
	c.r += n
	return p, n > 0, c.wrap(err)
}

// await returns the next packet, which is to be of this kind.
func (c *conn) await(first byte) (received, error) {
	for {
		p, ok, err := c.take()
		if err != nil {
			return p, err
		}
		if !ok {
			if err := c.fill(); err != nil {
				return p, err
			}
			continue
		}
		if kind(p.first) != first {
			return p, c.wrap(fmt.Errorf("packet 0x%02X where 0x%02X was expected", p.first, first))
		}
		return p, nil
	}
}

// ask writes a request and returns the answer, which is to be of this kind. Nobody else reads meanwhile.
func (c *conn) ask(request []byte, answer byte, patience time.Duration) (received, error) {
	if err := c.nc.SetReadDeadline(time.Now().Add(patience)); err != nil {
		return received{}, c.wrap(err)
	}
	if err := c.write(request); err != nil {
		return received{}, err
	}
	p, err := c.await(answer)
	if err != nil {
		return p, err
	}
	return p, c.wrap(c.nc.SetReadDeadline(time.Time{}))
}

// connect opens the session.
func (c *conn) connect(id string, l Login) error {
	p, err := c.ask(appendConnect(nil, c.v, id, l), connack, patience)
	if err != nil {
		return fmt.Errorf("wait for CONNACK: %w", err)
	}
	if c.limits, err = parseConnack(c.v, p); err != nil {
		return c.wrap(err)
	}
	if c.limits.code != 0 {
		return c.wrap(&refusedError{"CONNECT", c.limits.code})
	}
	return nil
}

// subscribe subscribes to one filter.
func (c *conn) subscribe(filter string, qos byte) error {
	p, err := c.ask(appendSubscribe(nil, c.v, 1, filter, qos), suback, patience)
	if err != nil {
		return fmt.Errorf("wait for SUBACK: %w", err)
	}
	id, code, err := parseSuback(c.v, p)
	switch {
	case err != nil:
		return c.wrap(err)
	case id != 1:
		return c.wrap(errors.New("SUBACK for another packet"))
	case code != qos: // less than was asked for is not what is to be measured
		return c.wrap(&refusedError{fmt.Sprintf("SUBSCRIBE with QoS %d", qos), code})
	}
	return nil
}

// ping has the broker answer a PINGREQ, which it does soon or not at all.
func (c *conn) ping() error {
	_, err := c.ask([]byte{pingreq, 0}, pingresp, pingPatience)
	return err
}
