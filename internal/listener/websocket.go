package listener

import (
	"context"
	"crypto/tls"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coder/websocket"
)

const (
	// subprotocol is the WebSocket subprotocol that clients have to name (MQTT-6.0.0-3).
	subprotocol = "mqtt"
	// upgradeTimeout bounds the HTTP request and its answer, TLS included.
	upgradeTimeout = 10 * time.Second
)

// serveWebSocket accepts HTTP requests on the listener and serves those that become WebSockets.
func (l *Listener) serveWebSocket(ctx context.Context, h Handler) error {
	u := &upgrader{l: l, ctx: ctx, h: h}
	srv := &http.Server{
		Handler:        u,
		ReadTimeout:    upgradeTimeout,
		WriteTimeout:   upgradeTimeout,
		MaxHeaderBytes: 16 << 10,
		ErrorLog:       slog.NewLogLogger(l.logger.Handler(), slog.LevelDebug),
		ConnContext:    func(ctx context.Context, nc net.Conn) context.Context { return context.WithValue(ctx, socketKey{}, nc) },
	}
	err := srv.Serve(gate{l, ctx})
	_ = srv.Close() // what is no WebSocket yet; the others see ctx end
	u.wait()
	if ctx.Err() == nil {
		return err
	}
	return nil
}

// gate is what the HTTP server accepts from: the listener with its bounds.
type gate struct {
	l   *Listener
	ctx context.Context //nolint:containedctx // of Serve, in which the gate lives
}

func (g gate) Addr() net.Addr { return g.l.Addr() }
func (g gate) Close() error   { return g.l.ln.Close() }

func (g gate) Accept() (net.Conn, error) {
	nc, err := g.l.accept(g.ctx)
	if err != nil {
		return nil, err
	}
	if g.l.proxies.contain(nc.RemoteAddr()) {
		nc = &lateConn{Conn: nc, l: g.l}
	}
	nc = &countedConn{Conn: nc, l: g.l}
	if g.l.tls != nil {
		nc = tls.Server(nc, g.l.tls)
	}
	return nc, nil
}

// countedConn is counted among the open connections until it is closed.
type countedConn struct {
	net.Conn

	l      *Listener
	closed atomic.Bool
}

func (c *countedConn) Close() error {
	if c.closed.CompareAndSwap(false, true) {
		c.l.open.Add(-1)
	}
	return c.Conn.Close()
}

// socketKey is the key of a request's connection in its context.
type socketKey struct{}

// upgrader turns requests into WebSockets and has them handled.
type upgrader struct {
	l   *Listener
	ctx context.Context //nolint:containedctx // of Serve, in which the upgrader lives
	h   Handler

	mu       sync.Mutex
	over     bool
	handlers sync.WaitGroup
}

// begin counts a handler in, unless the listener has ended.
func (u *upgrader) begin() bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.over {
		return false
	}
	u.handlers.Add(1)
	return true
}

// wait returns when no handler runs; none begins any more.
func (u *upgrader) wait() {
	u.mu.Lock()
	u.over = true
	u.mu.Unlock()
	u.handlers.Wait()
}

// ServeHTTP implements http.Handler.
func (u *upgrader) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path != u.l.cfg.Path {
		http.NotFound(w, r)
		return
	}
	if !u.begin() {
		return
	}
	defer u.handlers.Done()
	ws, err := websocket.Accept(w, r, &websocket.AcceptOptions{
		Subprotocols:   []string{subprotocol},
		OriginPatterns: u.l.cfg.Origins,
	})
	if err != nil {
		return // Accept has answered
	}
	defer func() { _ = ws.CloseNow() }()
	nc := newWSConn(ws, r)
	if ws.Subprotocol() != subprotocol {
		defer time.AfterFunc(closePatience, func() { _ = nc.Close() }).Stop()
		_ = ws.Close(websocket.StatusPolicyViolation, "the subprotocol has to be mqtt")
		return
	}
	u.h(u.ctx, nc, u.l.cfg.Name)
}

// wsConn is a WebSocket as a stream of bytes: MQTT packets may lie across its messages (MQTT-6.0.0-2), which have
// to be binary (MQTT-6.0.0-1). Deadlines and closing go to the socket underneath: through the WebSocket, a deadline
// would end the connection with all that waits to be written, and closing would wait for the peer.
type wsConn struct {
	net.Conn

	under  net.Conn // what WebSocket frames go through: TLS or the socket
	socket net.Conn
	tls    *tls.ConnectionState
}

func newWSConn(ws *websocket.Conn, r *http.Request) *wsConn {
	c := &wsConn{Conn: websocket.NetConn(context.Background(), ws, websocket.MessageBinary), tls: r.TLS}
	c.under, _ = r.Context().Value(socketKey{}).(net.Conn)
	c.socket = c.under
	if t, ok := c.under.(*tls.Conn); ok {
		c.socket = t.NetConn()
	}
	return c
}

// Close closes the socket at once, without the closing handshake.
func (c *wsConn) Close() error { return c.socket.Close() }

// CloseWrite begins the closing handshake. The peer's part of it is the end of what can be read.
func (c *wsConn) CloseWrite() error {
	// An unmasked Close frame with the status of a normal closure (RFC 6455, 5.5.1). It cuts no other frame: each
	// is written with one call.
	_, err := c.under.Write([]byte{0x88, 2, byte(websocket.StatusNormalClosure >> 8), byte(websocket.StatusNormalClosure & 0xFF)})
	return err
}

// SetDeadline implements net.Conn, as the next two do.
func (c *wsConn) SetDeadline(t time.Time) error { return c.socket.SetDeadline(t) }

// SetReadDeadline interrupts the read under way. What is read after an interruption may be cut.
func (c *wsConn) SetReadDeadline(t time.Time) error { return c.socket.SetReadDeadline(t) }

// SetWriteDeadline bounds writes.
func (c *wsConn) SetWriteDeadline(t time.Time) error { return c.socket.SetWriteDeadline(t) }

// ConnectionState returns the TLS facts of the HTTP request; the zero state when it came without TLS.
func (c *wsConn) ConnectionState() tls.ConnectionState {
	if c.tls == nil {
		return tls.ConnectionState{}
	}
	return *c.tls
}
