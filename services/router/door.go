package router

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"time"

	"github.com/beeline-mqtt/beeline/services/router/internal/announce"
	"github.com/beeline-mqtt/beeline/services/router/internal/connect"
	"github.com/beeline-mqtt/beeline/services/router/internal/placement"
	"github.com/beeline-mqtt/beeline/services/router/internal/splice"
)

const (
	// mostReferences is how many Server References of nodes are followed for one client.
	mostReferences = 2
	// linger is how long a WebSocket, which cannot be closed one way, still gets what its node sends.
	linger = 5 * time.Second
	// refusalTimeout is how long a client may take to read why it is refused.
	refusalTimeout = time.Second
	// pipes is how many pipes are kept for splicing.
	pipes = 1024
)

// serve takes one connection to its node and passes it on, until both sides have ended. It is a listener.Handler.
//
// What comes before the passing has a goroutine of its own, so that its large stack ends with it: that of the caller is
// there for as long as the client.
func (r *Router) serve(ctx context.Context, nc net.Conn, _ string) {
	admitted := make(chan *passage, 1)
	go func() { admitted <- r.admit(ctx, nc) }()
	if x := <-admitted; x != nil {
		r.over(x, x.pair.Join())
	}
}

// passage is a client that has been taken to its node.
type passage struct {
	pair *splice.Pair
	// answered is how many bytes of the node the client has got.
	answered int
	// leave is called at the end.
	leave func()
}

// admit takes a connection to its node. nil: it is not taken, and closed.
func (r *Router) admit(ctx context.Context, nc net.Conn) *passage {
	defer context.AfterFunc(ctx, func() { _ = nc.Close() })()
	x, p, err := r.lead(ctx, nc)
	if err != nil {
		r.refuse(nc, p, reasonOf(err), err)
		_ = nc.Close()
	}
	return x
}

var errSource = errors.New("too many connections from there")

// lead reads the CONNECT, which it returns also beside an error, and takes the client to a node.
func (r *Router) lead(ctx context.Context, nc net.Conn) (x *passage, p connect.Packet, err error) {
	leave, ok := r.enter(nc.RemoteAddr())
	if !ok {
		return nil, p, errSource
	}
	defer func() {
		if x == nil {
			leave()
		}
	}()
	_ = nc.SetDeadline(time.Now().Add(r.cfg.ConnectTimeout))
	if p, err = r.greet(ctx, nc); err != nil {
		return nil, p, err
	}
	t := placement.Triple{
		ClientID: p.ClientID, Username: p.Username, HasUsername: p.HasUsername, Password: p.Password, HasPassword: p.HasPassword,
	}
	began := time.Now()
	route, err := r.reach(ctx, nc, p, t)
	if err != nil {
		return nil, p, err
	}
	r.metrics.placing.Observe(time.Since(began).Seconds())
	r.metrics.routed.WithLabelValues(route.cluster, route.answer.Why.String()).Inc()
	clear(p.Password)
	if len(route.answered) > 0 {
		if _, err := nc.Write(route.answered); err != nil {
			_ = nc.Close() // whoever passes bytes finds out
		}
	}
	leaveNode, _ := r.placer.loads.enter(nodeKey{route.cluster, route.node.ID})
	r.metrics.open.Inc()
	return &passage{
		pair:     splice.New(ctx, nc, route.conn, splice.Options{Pool: r.pool, Idle: r.cfg.Idle, Linger: linger}),
		answered: len(route.answered),
		leave:    func() { leaveNode(); leave() },
	}, p, nil
}

// enter counts a connection from an address until leave is called, or reports that there are too many. Addresses that are
// not IP are not counted, nor is any without a bound.
func (r *Router) enter(from net.Addr) (leave func(), ok bool) {
	t, isTCP := from.(*net.TCPAddr)
	if r.cfg.SourceConnections == 0 || !isTCP {
		return func() {}, true
	}
	return r.sources.enter(t.AddrPort().Addr().Unmap())
}

// shaking is a TLS connection whose handshake is to come. That of a WebSocket is over when the listener hands it on.
type shaking interface {
	HandshakeContext(ctx context.Context) error
}

// secure is a connection that knows the facts of its TLS: those of no handshake, where it has none.
type secure interface {
	ConnectionState() tls.ConnectionState
}

// greet reads the CONNECT.
func (r *Router) greet(ctx context.Context, nc net.Conn) (connect.Packet, error) {
	if t, ok := nc.(shaking); ok {
		if err := t.HandshakeContext(ctx); err != nil {
			return connect.Packet{}, fmt.Errorf("TLS: %w: %w", connect.ErrNotMQTT, err)
		}
	}
	return connect.Read(nc, int(r.cfg.ConnectBytes))
}

// route is a connection to a node that has got the CONNECT.
type route struct {
	destination
	conn     net.Conn
	answered []byte // what has been read of the node's answer
}

// reach takes the client to a node: the next one if a node does not accept the connection.
func (r *Router) reach(ctx context.Context, nc net.Conn, p connect.Packet, t placement.Triple) (*route, error) {
	asked := r.placer.inquire(ctx, t)
	tried := make(map[string]bool)
	for attempt := 1; ; attempt++ {
		d, err := r.placer.choose(asked, tried)
		if err != nil {
			return nil, err
		}
		x, err := r.connect(ctx, nc, p, d)
		if err == nil {
			r.placer.placed(d)
			return x, nil
		}
		r.metrics.failed.Inc()
		r.placer.shunned.add(nodeKey{d.cluster, d.node.ID}, time.Now())
		r.deps.Logger.WarnContext(ctx, "a node does not take a client", slog.String("cluster", d.cluster), slog.String("node", d.node.ID),
			slog.Any("error", err))
		if attempt == r.cfg.Attempts || ctx.Err() != nil {
			return nil, fmt.Errorf("%d nodes tried: %w: %w", attempt, errNoAnswer, err)
		}
		tried[d.node.ID] = true
	}
}

var errNoAnswer = errors.New("no node accepts the connection")

// connect opens a connection to a node and hands it the CONNECT. Where the node refers to another server, that one is
// taken instead.
func (r *Router) connect(ctx context.Context, nc net.Conn, p connect.Packet, d destination) (*route, error) {
	for references := 0; ; references++ {
		node, err := r.dial(ctx, nc, p, d)
		if err != nil {
			return nil, err
		}
		if p.Level != connect.Level5 {
			return &route{destination: d, conn: node}, nil
		}
		ack, err := r.answer(node, p)
		switch {
		case len(ack.Raw) == 0:
			_ = node.Close()
			return nil, fmt.Errorf("node %q at %s: read CONNACK: %w", d.node.ID, d.node.address, err)
		case ack.ServerReference == "", references == mostReferences:
			// What it has said is the client's to read, whatever it is: with an error, no CONNACK.
			return &route{destination: d, conn: node, answered: ack.Raw}, nil
		}
		r.metrics.referred.Inc()
		_ = node.Close()
		d.node.address, d.node.proxy = ack.ServerReference, false
	}
}

// dial opens a connection to a node and writes the CONNECT.
func (r *Router) dial(ctx context.Context, nc net.Conn, p connect.Packet, d destination) (net.Conn, error) {
	dialer := net.Dialer{Timeout: r.cfg.DialTimeout}
	node, err := dialer.DialContext(ctx, "tcp", d.node.address)
	if err != nil {
		return nil, fmt.Errorf("node %q: %w", d.node.ID, err)
	}
	_ = node.SetDeadline(time.Now().Add(r.cfg.DialTimeout))
	if err := r.hand(nc, node, p, d); err != nil {
		_ = node.Close()
		return nil, fmt.Errorf("node %q at %s: %w", d.node.ID, d.node.address, err)
	}
	return node, nil
}

// hand writes to a node what a client has sent, behind a header that says who it is if the node takes one.
func (r *Router) hand(nc, node net.Conn, p connect.Packet, d destination) error {
	first := p.Raw
	if d.node.proxy {
		info := announce.Info{Source: nc.RemoteAddr(), Destination: nc.LocalAddr()}
		if t, ok := nc.(secure); ok {
			state := t.ConnectionState()
			info.TLS = &state
		}
		header, err := announce.Header(info)
		if err != nil {
			return err
		}
		first = append(header, p.Raw...)
	}
	if _, err := node.Write(first); err != nil {
		return fmt.Errorf("write CONNECT: %w", err)
	}
	return nil
}

// answer reads the CONNACK of a node. A client that asks for an enhanced authentication is answered with something else
// first: then there is an error, and what has been read.
func (r *Router) answer(node net.Conn, p connect.Packet) (connect.Connack, error) {
	_ = node.SetReadDeadline(time.Now().Add(r.cfg.ConnectTimeout))
	return connect.ReadConnack(node, p.Level, int(r.cfg.ConnectBytes))
}

// over notes the end of what was passed on.
func (r *Router) over(x *passage, result *splice.Result) {
	x.leave()
	r.metrics.open.Dec()
	r.metrics.bytes.WithLabelValues("client").Add(float64(result.ToNode))
	r.metrics.bytes.WithLabelValues("node").Add(float64(result.ToClient + int64(x.answered)))
	r.metrics.ended.WithLabelValues(result.Ended.String()).Inc()
}

// refuse ends a connection that is not taken to a node, and says why where MQTT has words for it.
func (r *Router) refuse(nc net.Conn, p connect.Packet, why refusal, err error) {
	r.metrics.refused.WithLabelValues(string(why)).Inc()
	code := connect.CodeOf(err)
	if why == refusedNoNode || why == refusedNoAnswer || why == refusedUnassigned {
		code = connect.ServerUnavailable
	}
	if b := connect.Refusal(p.Level, code); b != nil {
		_ = nc.SetWriteDeadline(time.Now().Add(refusalTimeout))
		_, _ = nc.Write(b)
	}
	r.deps.Logger.Debug("a connection is refused", slog.String("reason", string(why)), slog.Any("error", err),
		slog.String("remote", nc.RemoteAddr().String()))
}

// reasonOf names an error for the metric.
func reasonOf(err error) refusal {
	switch {
	case errors.Is(err, errSource):
		return refusedSource
	case errors.Is(err, errUnassigned):
		return refusedUnassigned
	case errors.Is(err, errNoNode):
		return refusedNoNode
	case errors.Is(err, errNoAnswer):
		return refusedNoAnswer
	case errors.Is(err, os.ErrDeadlineExceeded):
		return refusedTimeout
	case errors.Is(err, connect.ErrTooLarge):
		return refusedTooLarge
	case errors.Is(err, connect.ErrVersion):
		return refusedVersion
	case errors.Is(err, connect.ErrMalformed):
		return refusedMalformed
	}
	return refusedNotMQTT
}
