// Package client is the client's side of MQTT 5 connections that the router itself has: over tunnels to gateways, and to
// brokers of foreign clusters. It keeps no session beyond a connection, and never connects again by itself.
//
// What a caller wants to acknowledge it acknowledges itself, when it likes. Writes are gathered while one is under way; no
// message waits for a timer. A Conn is safe for concurrent use.
package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/beeline-mqtt/beeline/internal/message"
	"github.com/beeline-mqtt/beeline/internal/packet"
)

// Why a connection cannot be used, or something on it cannot be done.
var (
	// ErrClosed: Close was called.
	ErrClosed = errors.New("closed")
	// ErrSilent: the server does not answer PINGREQ.
	ErrSilent = errors.New("the server does not answer")
	// ErrTooLarge: the message is larger than the server's Maximum Packet Size.
	ErrTooLarge = errors.New("larger than the Maximum Packet Size")
)

// RefusedError is a CONNACK that says no.
type RefusedError struct {
	Code   packet.Code
	Reason string
}

// Error names the code, and the reason that the server gave.
func (r *RefusedError) Error() string { return "connection refused: " + said(r.Code, r.Reason) }

// DisconnectedError is a DISCONNECT of the server.
type DisconnectedError struct {
	Code   packet.Code
	Reason string
}

// Error names the code, and the reason that the server gave.
func (d *DisconnectedError) Error() string { return "disconnected: " + said(d.Code, d.Reason) }

func said(c packet.Code, reason string) string {
	if reason == "" {
		return c.String()
	}
	return c.String() + " (" + reason + ")"
}

const (
	// mostWaiting is how many bytes may wait to be written before a Publish waits.
	mostWaiting = 1 << 20
	// mostPacket bounds what the server may send: gateways send nothing that is larger.
	mostPacket = 8 << 20
	// patience is how long Close waits until the server has seen the DISCONNECT.
	patience = time.Second
)

// Config says how a connection is opened.
type Config struct {
	// Connect is the CONNECT, without Will and enhanced authentication.
	Connect packet.Connect
	// OnPublish gets every PUBLISH, on the goroutine that reads: until it returns nothing is read. What it gets is its own. It
	// may be called before Open returns.
	OnPublish func(*Conn, packet.Publish)
}

// Conn is a connection.
type Conn struct {
	// Connack is what the server has said.
	Connack packet.Connack

	rw        io.ReadWriteCloser
	onPublish func(*Conn, packet.Publish)
	window    chan struct{} // one for each message in flight
	wake      chan struct{} // there is something to write
	connacked chan packet.Connack
	keepAlive chan uint16 // the server's, in seconds, when it has one
	done      chan struct{}
	working   sync.WaitGroup

	mu      sync.Mutex // guards the following
	out     []byte
	room    chan struct{} // closed when out is taken
	asked   map[uint16]*request
	lastID  uint16
	err     error
	pinged  bool // and nothing has come since
	closing bool
}

// request waits for the answer to a packet with an identifier.
type request struct {
	kind   packet.Type // what it was
	answer chan []packet.Code
	code   packet.Code // of the PUBREC
}

// Open makes a connection of rw, which is closed with it, or when there is an error: *RefusedError, an error of ctx, or what
// broke. The server is asked for as many messages at once as c.Connect.ReceiveMaximum.
func Open(ctx context.Context, rw io.ReadWriteCloser, c Config) (*Conn, error) {
	n := &Conn{
		rw: rw, onPublish: c.OnPublish, wake: make(chan struct{}, 1), connacked: make(chan packet.Connack, 1), done: make(chan struct{}),
		keepAlive: make(chan uint16, 1),
		room:      make(chan struct{}), asked: make(map[uint16]*request),
	}
	n.out = packet.AppendConnect(nil, &c.Connect)
	n.wake <- struct{}{}
	n.working.Go(n.read)
	n.working.Go(func() { n.write(c.Connect.KeepAlive) })
	select {
	case a := <-n.connacked:
		return n, n.welcome(a)
	case <-n.done:
	case <-ctx.Done():
		n.fail(fmt.Errorf("connect: %w", context.Cause(ctx)))
	}
	n.working.Wait()
	return nil, n.Err()
}

func (n *Conn) welcome(a packet.Connack) error {
	n.Connack = a
	n.window = make(chan struct{}, a.ReceiveMaximum)
	if !a.Code.Failure() {
		if a.HasServerKeepAlive {
			n.keepAlive <- a.ServerKeepAlive // MQTT-3.2.2-21
		}
		return nil
	}
	err := &RefusedError{Code: a.Code, Reason: a.Reason}
	n.fail(err)
	n.working.Wait()
	return err
}

// Done is closed when the connection has ended.
func (n *Conn) Done() <-chan struct{} { return n.done }

// Err says why it has ended, nil while it has not: *DisconnectedError, ErrClosed, ErrSilent, or what broke.
func (n *Conn) Err() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.err
}

// Close tells the server that the client goes, and returns when nothing is left of the connection.
func (n *Conn) Close() {
	n.mu.Lock()
	n.closing = true
	n.mu.Unlock()
	n.append(func(b []byte) []byte {
		return packet.AppendDisconnect(b, packet.NormalDisconnection, packet.Disconnect{})
	})
	t := time.NewTimer(patience)
	defer t.Stop()
	select {
	case <-n.done:
	case <-t.C:
	}
	n.fail(ErrClosed)
	n.working.Wait()
}

// fail ends the connection for the first error that is given.
func (n *Conn) fail(err error) {
	n.mu.Lock()
	first := n.err == nil
	if first && n.closing {
		err = ErrClosed
	}
	if first {
		n.err = err
	}
	n.mu.Unlock()
	if first {
		_ = n.rw.Close()
		close(n.done)
	}
}

// append adds what is to be written, and has it written.
func (n *Conn) append(f func([]byte) []byte) {
	n.mu.Lock()
	n.out = f(n.out)
	n.mu.Unlock()
	select {
	case n.wake <- struct{}{}:
	default: // somebody has, and nobody has seen it yet
	}
}

// write writes what there is until the connection ends, and pings.
func (n *Conn) write(keepAlive uint16) {
	var free []byte
	ping := time.NewTicker(pingEvery(keepAlive))
	defer ping.Stop()
	for {
		select {
		case <-n.done:
			return
		case keepAlive = <-n.keepAlive:
			ping.Reset(pingEvery(keepAlive))
			continue
		case <-ping.C:
			n.mu.Lock()
			silent := n.pinged
			n.pinged = true
			n.mu.Unlock()
			if silent && keepAlive > 0 {
				n.fail(ErrSilent)
				return
			}
			n.append(packet.AppendPingreq)
			continue
		case <-n.wake:
		}
		n.mu.Lock()
		b := n.out
		n.out = free[:0]
		close(n.room)
		n.room = make(chan struct{})
		n.mu.Unlock()
		if _, err := n.rw.Write(b); err != nil {
			n.broken(fmt.Errorf("write: %w", err))
			return
		}
		if free = b; cap(free) > mostWaiting {
			free = nil
		}
	}
}

// broken ends the connection for an error of a write, unless what the server has sent before says more.
func (n *Conn) broken(err error) {
	t := time.NewTimer(patience)
	defer t.Stop()
	select {
	case <-n.done:
	case <-t.C:
		n.fail(err)
	}
}

// pingEvery is how often to ping with a Keep Alive, in seconds; without one, now and then.
func pingEvery(keepAlive uint16) time.Duration {
	if keepAlive == 0 {
		return 5 * time.Minute
	}
	return time.Duration(keepAlive) * time.Second / 2
}

// Acknowledge writes acknowledgements: PUBACK for QoS 1, PUBREC for QoS 2. The caller keeps them in the order in which the
// messages came (MQTT-4.6.0-2).
func (n *Conn) Acknowledge(acks ...packet.Ack) {
	n.append(func(b []byte) []byte {
		for _, a := range acks {
			b = packet.AppendAck(b, packet.V5, a.Type, a.PacketID, a.Code)
		}
		return b
	})
}

// Publish publishes m at its QoS and returns the code of the server's PUBACK or PUBREC; at QoS 0 it is Success as soon as the
// message waits to be written. It waits while as many messages are in flight as the server takes. An error is that of ctx,
// ErrTooLarge, or why the connection has ended: then it is not known what has become of the message.
func (n *Conn) Publish(ctx context.Context, m *message.Message) (packet.Code, error) {
	o := packet.PublishOptions{QoS: m.QoS, Retain: m.Retain}
	if most := n.Connack.MaximumPacketSize; most > 0 && packet.PublishSize(packet.V5, m, o) > int(most) {
		return 0, ErrTooLarge
	}
	if err := n.awaitRoom(ctx); err != nil {
		return 0, err
	}
	if m.QoS == message.AtMostOnce {
		n.append(func(b []byte) []byte { return packet.AppendPublish(b, packet.V5, m, o, time.Now()) })
		return packet.Success, nil
	}
	select {
	case n.window <- struct{}{}:
	case <-n.done:
		return 0, n.Err()
	case <-ctx.Done():
		return 0, context.Cause(ctx)
	}
	codes, err := n.ask(ctx, packet.PUBLISH, func(b []byte, id uint16) []byte {
		o.PacketID = id
		return packet.AppendPublish(b, packet.V5, m, o, time.Now())
	})
	if err != nil {
		return 0, err
	}
	return codes[0], nil
}

// awaitRoom returns when little enough waits to be written.
func (n *Conn) awaitRoom(ctx context.Context) error {
	for {
		n.mu.Lock()
		room, full := n.room, len(n.out) > mostWaiting
		n.mu.Unlock()
		if !full {
			return nil
		}
		select {
		case <-room:
		case <-n.done:
			return n.Err()
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// Subscribe subscribes, and returns a code for each filter when the server has answered.
func (n *Conn) Subscribe(ctx context.Context, filters []packet.Filter) ([]packet.Code, error) {
	return n.ask(ctx, packet.SUBSCRIBE, func(b []byte, id uint16) []byte {
		return packet.AppendSubscribe(b, packet.Subscribe{PacketID: id, Filters: filters})
	})
}

// Unsubscribe ends subscriptions, and returns a code for each filter when the server has answered.
func (n *Conn) Unsubscribe(ctx context.Context, filters []string) ([]packet.Code, error) {
	return n.ask(ctx, packet.UNSUBSCRIBE, func(b []byte, id uint16) []byte {
		return packet.AppendUnsubscribe(b, packet.Unsubscribe{PacketID: id, Filters: filters})
	})
}

// ask writes a packet with an identifier and waits for its answer. When ctx ends first the identifier stays in use until the
// answer comes.
func (n *Conn) ask(ctx context.Context, kind packet.Type, f func([]byte, uint16) []byte) ([]packet.Code, error) {
	r := &request{kind: kind, answer: make(chan []packet.Code, 1)}
	n.append(func(b []byte) []byte { return f(b, n.take(r)) })
	select {
	case codes := <-r.answer:
		return codes, nil
	case <-n.done:
		return nil, n.Err()
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// take gives a request an identifier: there are more of them than requests. With mu held.
func (n *Conn) take(r *request) uint16 {
	for {
		n.lastID++
		if n.lastID == 0 {
			continue
		}
		if _, used := n.asked[n.lastID]; !used {
			n.asked[n.lastID] = r
			return n.lastID
		}
	}
}
