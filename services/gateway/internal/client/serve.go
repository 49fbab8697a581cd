package client

import (
	"context"
	"crypto/rand"
	"errors"
	"io"
	"log/slog"
	"net"
	"runtime/debug"
	"time"

	"github.com/beeline-mqtt/beeline/internal/packet"
	"github.com/beeline-mqtt/beeline/internal/tcp"
	"github.com/beeline-mqtt/beeline/internal/turn"
)

// Serve handles one connection from its first byte to its last, on the calling goroutine. It returns when the
// socket is closed and nothing of the client is left. A panic ends this connection and nothing else.
func Serve(ctx context.Context, nc net.Conn, listener string, limits *Limits, deps *Deps) {
	c := newClient(nc, limits, deps)
	defer c.close()
	defer context.AfterFunc(ctx, func() { c.Stop(ShuttingDown()) })()
	// Connecting goes deep, and a stack that has grown stays so: it is done on one that ends with it.
	connected := make(chan error, 1)
	go func() { connected <- c.connect(ctx, listener) }()
	if err := <-connected; err != nil {
		c.refuse(err)
		return
	}
	c.finish(c.run())
}

func newClient(nc net.Conn, limits *Limits, deps *Deps) *Client {
	c := &Client{deps: deps, limits: limits, nc: nc, stopped: make(chan struct{})}
	c.out = c.newOutput()
	if spot, ok := tcp.Of(nc); ok {
		c.spot = spot
		c.reader = packet.NewReader(c)
	} else {
		c.reader = packet.NewReader(struct{ io.Reader }{c})
	}
	return c
}

func (c *Client) close() {
	c.out.Close() // for its writer, if there is one
	_ = c.nc.Close()
}

// connect takes the connection to the point where it is an attached client with its CONNACK written.
func (c *Client) connect(ctx context.Context, listener string) error {
	var ack packet.Connack
	err := c.protect(func() error {
		p, err := c.readConnect()
		if err != nil {
			return err
		}
		ack, err = c.accept(ctx, p, listener)
		return err
	})
	if err != nil {
		return err
	}
	err = c.attach(ctx)
	attached := err == nil || errors.Is(err, errPanic) // nobody knows how far a panic let it come
	if err == nil {
		c.forgetForbidden()
		err = c.welcome(ack)
	}
	if err != nil {
		c.leave(attached)
	}
	return err
}

func (c *Client) attach(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	c.mu.Lock()
	c.abort = cancel
	stopped := c.cause != nil
	c.mu.Unlock()
	if stopped {
		return errStopped
	}
	return c.protect(func() error { return c.deps.Broker.Attach(ctx, c) })
}

// welcome opens the client; its CONNACK goes out before the first read.
func (c *Client) welcome(ack packet.Connack) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.abort = nil
	if c.cause != nil {
		return errStopped
	}
	c.deps.Metrics.accepted.Inc()
	c.deps.Metrics.Connected.Inc()
	// Under the lock: Stop, which cuts the next read short, comes before or after.
	_ = c.nc.SetDeadline(time.Time{})
	c.turn.Now = time.Now()
	c.since = c.turn.Now.UnixNano()
	c.lastRead.Store(c.since)
	c.state = open
	ack.SessionPresent = c.durable != nil && c.durable.present
	c.out.Append(packet.AppendConnack(c.out.Buffer(), c.Version, ack))
	c.flag(&c.turn)
	return nil
}

// run reads and handles packets until the connection is to end. What was delivered while the client was being
// attached goes out first.
//
// An idle client waits in here: with few and small frames below it, its goroutine lives on a stack of 4 KiB.
func (c *Client) run() (err error) {
	defer c.recovered(&err)
	c.begin()
	for {
		first, body, owned, err := c.reader.Next(int(c.limits.PacketBytes))
		if err != nil {
			return err
		}
		if done, err := c.handle(first, body, owned); done || err != nil {
			return err
		}
		select {
		case <-c.stopped:
			return nil
		default:
		}
	}
}

func (c *Client) begin() {
	c.mu.Lock()
	defer c.unlock(&c.turn)
	c.fill(c.turn.Now)
}

// handle does what one packet asks. done: it was the client's DISCONNECT.
func (c *Client) handle(first byte, body []byte, owned bool) (done bool, err error) {
	switch t := packet.Type(first >> 4); t {
	case packet.PUBLISH:
		p, err := packet.DecodePublish(c.Version, first, body, owned)
		if err != nil {
			return false, err
		}
		return false, c.onPublish(p)
	case packet.PUBACK, packet.PUBREC, packet.PUBREL, packet.PUBCOMP:
		a, err := packet.DecodeAck(c.Version, first, body)
		if err != nil {
			return false, err
		}
		return false, c.onAck(a)
	case packet.SUBSCRIBE:
		s, err := packet.DecodeSubscribe(c.Version, first, body)
		if err != nil {
			return false, err
		}
		return false, c.onSubscribe(s)
	case packet.UNSUBSCRIBE:
		u, err := packet.DecodeUnsubscribe(c.Version, first, body)
		if err != nil {
			return false, err
		}
		return false, c.onUnsubscribe(u)
	case packet.PINGREQ:
		if err := packet.DecodeEmpty(first, body); err != nil {
			return false, err
		}
		c.send(&c.turn, packet.AppendPingresp)
		return false, nil
	case packet.DISCONNECT:
		return c.onDisconnect(first, body)
	default:
		// CONNECT once more (MQTT-3.1.0-2), AUTH without enhanced authentication, or a packet only servers send.
		return false, &packet.Error{Code: packet.ProtocolError, Detail: "packet type not expected here"}
	}
}

// onDisconnect ends the connection as the client asked. With 0x00 its will is forgotten (MQTT-3.14.4-3).
func (c *Client) onDisconnect(first byte, body []byte) (bool, error) {
	d, err := packet.DecodeDisconnect(c.Version, first, body)
	if err != nil {
		return false, err
	}
	cause := Cause{NoWill: d.Code == packet.Success, reason: closedByClient}
	if d.HasSessionExpiry {
		if d.SessionExpiry > 0 && c.expiry == 0 {
			// 3.14.2.2.2.
			return false, &packet.Error{Code: packet.ProtocolError, Detail: "Session Expiry Interval after none"}
		}
		expiry := c.limits.capExpiry(d.SessionExpiry)
		cause.expiry = &expiry
	}
	c.Stop(cause)
	return true, nil
}

// finish takes an open client apart, after err has ended its reading unless it was stopped before. Whoever waits
// for it to be gone is told before the socket's last breath.
func (c *Client) finish(err error) {
	c.Stop(causeOf(err))
	<-c.stopped // somebody else may have been first, and has to have done his part
	_ = c.protect(func() error {
		c.turn.End()
		return nil
	})
	c.leave(true)
	c.mu.Lock()
	cause := *c.cause
	c.mu.Unlock()
	c.deps.Metrics.Connected.Dec()
	c.deps.Metrics.closed.WithLabelValues(string(cause.reason)).Inc()
	if cause.reason != closedByNetwork {
		linger(c.nc, c.limits.Patience)
	}
}

// leave ends the session, or hands it on if it outlives the connection, takes the client out of the broker if it is
// there, and waits for its last packet.
func (c *Client) leave(attached bool) {
	defer c.setGone()
	_ = c.protect(func() error {
		t := turn.Turn{Now: time.Now()}
		defer t.End()
		c.changing.Lock()
		defer c.changing.Unlock()
		c.mu.Lock()
		defer c.unlock(&t)
		c.state = ended
		c.endSession(t.Now)
		c.countEnded()
		return nil
	})
	if attached {
		_ = c.protect(func() error {
			c.deps.Broker.Detach(c)
			return nil
		})
	}
	c.out.Wait()
}

// protect runs f and turns a panic into errPanic: one client's packets must not end the others' connections.
func (c *Client) protect(f func() error) (err error) {
	defer c.recovered(&err)
	return f()
}

// recovered is deferred by what may panic.
func (c *Client) recovered(err *error) {
	if r := recover(); r != nil {
		c.deps.Metrics.panics.Inc()
		c.deps.Logger.Error("panic while handling a client", slog.Any("panic", r), slog.String("client_id", c.ID),
			slog.String("stack", string(debug.Stack())))
		*err = errPanic
	}
}

// Sweep looks after what time brings: an identity that ends, a client that is silent, publications that nobody answered, a queue
// that stays full. The broker calls it about once a second. late says that the process itself was held up, so
// that silence proves nothing.
func (c *Client) Sweep(now time.Time, late bool) {
	paused := c.paused.Load() // first: the end of a pause sets lastRead before it
	silence := now.Sub(time.Unix(0, c.lastRead.Load()))
	c.mu.Lock()
	if c.state != open {
		c.mu.Unlock()
		return
	}
	full := c.session.FullSince()
	overdue := c.unsettled.overdue(now.Add(-c.limits.ReceiptTimeout))
	c.countEnded()
	c.retaining.had.tidy(now)
	c.mu.Unlock()
	switch {
	case !c.Identity.Expires.IsZero() && !now.Before(c.Identity.Expires):
		c.Stop(expired())
		return
	case c.keepAlive > 0 && !late && !paused && silence > c.keepAlive+c.keepAlive/2:
		// MQTT-3.1.2-22.
		c.Stop(Cause{Code: packet.KeepAliveTimeout, Reason: "no packet within one and a half times the keep alive", reason: closedKeepAlive})
		return
	case !full.IsZero() && now.Sub(full) > c.limits.SlowTimeout:
		c.Stop(Cause{Code: packet.QuotaExceeded, Reason: "receiver too slow", reason: closedSlow})
		return
	}
	t := turn.Turn{Now: now}
	for _, p := range overdue {
		p.merge(packet.UnspecifiedError)
		p.settle(&t)
	}
	t.End()
}

// assignedID makes an id for a client that came without one. It cannot be guessed.
func assignedID() string { return "auto-" + rand.Text() }
