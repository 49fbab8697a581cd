package listener

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/beeline-mqtt/beeline/internal/config"
	"github.com/beeline-mqtt/beeline/internal/tcp"
)

// headerTimeout bounds the reading of a PROXY header. In front of a WebSocket upgradeTimeout does, with what follows.
const headerTimeout = 5 * time.Second

// Proxied is what the proxy in front of a connection says about its client's side of it, beside the address, which is
// the connection's RemoteAddr.
type Proxied struct {
	// TLS says that the client speaks TLS with the proxy; Version which, in the proxy's words ("TLSv1.3").
	TLS     bool
	Version string
	// CommonName is that of the client's certificate; empty unless Verified.
	CommonName string
	// Verified says that the client has presented a certificate, and the proxy found it good.
	Verified bool
	// Authority is the host that the client asked for (SNI).
	Authority string
}

// ProxiedOf returns what a PROXY header said about a connection that a Listener handed on; false when there was none,
// or it said that the connection is the proxy's own.
func ProxiedOf(nc net.Conn) (Proxied, bool) {
	switch c := nc.(type) {
	case *proxiedConn:
		return c.facts, true
	case *lateConn:
		if p := c.proxied.Load(); p != nil {
			return p.facts, true
		}
	case *countedConn:
		return ProxiedOf(c.Conn)
	case tlsConn:
		return ProxiedOf(c.NetConn())
	case *wsConn:
		return ProxiedOf(c.socket)
	}
	return Proxied{}, false
}

// Refusal is why a connection from a source in Config.ProxyFrom was closed before anything was made of it.
type Refusal string

// All refusals.
const (
	// NoHeader: it begins with something else, or ended before it had begun.
	NoHeader        Refusal = "proxy_header_missing"
	HeaderTimeout   Refusal = "proxy_header_timeout"
	HeaderTooLong   Refusal = "proxy_header_too_long"
	HeaderMalformed Refusal = "proxy_header_malformed"
)

// OnRefusal has f called for every connection that is refused, on a goroutine of the connection. It is called before
// Serve.
func (l *Listener) OnRefusal(f func(Refusal)) { l.onRefusal = f }

// sources are those whose PROXY headers are believed.
type sources struct {
	loopback bool
	prefixes []netip.Prefix
}

func parseSources(all []string) (sources, error) {
	var s sources
	for _, text := range all {
		if text == "loopback" {
			s.loopback = true
			continue
		}
		p, err := netip.ParsePrefix(text)
		if addr, addrErr := netip.ParseAddr(text); addrErr == nil && addr.Zone() == "" {
			p, err = netip.PrefixFrom(addr, addr.BitLen()), nil
		}
		switch {
		case err != nil:
			return sources{}, config.Invalid("proxy_from", "%q is neither an address, nor a CIDR, nor loopback", text)
		case p != p.Masked():
			return sources{}, config.Invalid("proxy_from", "%q has bits beyond its prefix; %s?", text, p.Masked())
		case p.Addr().Is4In6():
			return sources{}, config.Invalid("proxy_from", "%q is IPv4: write it so", text)
		}
		s.prefixes = append(s.prefixes, p)
	}
	return s, nil
}

func (s sources) none() bool { return !s.loopback && len(s.prefixes) == 0 }

func (s sources) contain(a net.Addr) bool {
	if s.none() {
		return false
	}
	t, ok := a.(*net.TCPAddr)
	if !ok {
		return false
	}
	addr := t.AddrPort().Addr().Unmap().WithZone("")
	if s.loopback && addr.IsLoopback() {
		return true
	}
	for _, p := range s.prefixes {
		if p.Contains(addr) {
			return true
		}
	}
	return false
}

// proxiedConn is a connection whose PROXY header has been read, and nothing behind it.
type proxiedConn struct {
	net.Conn

	remote net.Addr
	facts  Proxied
}

// RemoteAddr returns the client's address as the proxy has told it.
func (c *proxiedConn) RemoteAddr() net.Addr { return c.remote }

// TCP returns the socket: what is read from it and written to it is the same.
func (c *proxiedConn) TCP() *tcp.Conn {
	t, _ := c.Conn.(*tcp.Conn)
	return t
}

// CloseWrite closes the writing half of the socket.
func (c *proxiedConn) CloseWrite() error {
	if h, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return h.CloseWrite()
	}
	return errors.ErrUnsupported
}

// behindProxy reads the PROXY header if nc comes from where one is expected, and returns the connection as it is to be
// handled; nil when it has been refused.
func (l *Listener) behindProxy(ctx context.Context, nc net.Conn) net.Conn {
	if !l.proxies.contain(nc.RemoteAddr()) {
		return nc
	}
	stop := context.AfterFunc(ctx, func() { _ = nc.Close() })
	_ = nc.SetReadDeadline(time.Now().Add(headerTimeout))
	h, err := readHeader(nc)
	switch {
	case err != nil:
		stop()
		l.refuse(ctx, nc, err)
		return nil
	case !stop():
		return nil
	}
	_ = nc.SetReadDeadline(time.Time{})
	if h.remote == nil {
		return nc
	}
	return &proxiedConn{Conn: nc, remote: h.remote, facts: h.facts}
}

// refuse closes a connection whose header could not be read. One that we have closed ourselves is not counted.
func (l *Listener) refuse(ctx context.Context, nc net.Conn, err error) {
	_ = nc.Close()
	if errors.Is(err, net.ErrClosed) {
		return
	}
	why := HeaderMalformed
	switch {
	case errors.Is(err, errNoHeader):
		why = NoHeader
	case errors.Is(err, errTooLong):
		why = HeaderTooLong
	case errors.Is(err, os.ErrDeadlineExceeded):
		why = HeaderTimeout
	}
	l.logger.DebugContext(ctx, "connection refused", slog.String("reason", string(why)),
		slog.String("remote", nc.RemoteAddr().String()), slog.Any("error", err))
	if l.onRefusal != nil {
		l.onRefusal(why)
	}
}

// lateConn reads the PROXY header before the first byte that is asked for: the HTTP server accepts it on the goroutine
// that accepts all others. The deadline of that read is the server's.
type lateConn struct {
	net.Conn

	l       *Listener
	once    sync.Once
	err     error
	proxied atomic.Pointer[proxiedConn] // nil before, and when the header names no client
}

// Read implements net.Conn.
func (c *lateConn) Read(p []byte) (int, error) {
	c.once.Do(c.begin)
	if c.err != nil {
		return 0, c.err
	}
	return c.Conn.Read(p)
}

func (c *lateConn) begin() {
	h, err := readHeader(c.Conn)
	switch {
	case err != nil:
		c.err = err
		c.l.refuse(context.Background(), c.Conn, err)
	case h.remote != nil:
		c.proxied.Store(&proxiedConn{Conn: c.Conn, remote: h.remote, facts: h.facts})
	}
}

// RemoteAddr returns the client's address once the first byte has been read, the proxy's before.
func (c *lateConn) RemoteAddr() net.Addr {
	if p := c.proxied.Load(); p != nil {
		return p.remote
	}
	return c.Conn.RemoteAddr()
}
