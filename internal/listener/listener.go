// Package listener accepts the connections of clients: plain TCP, TLS, and WebSocket over either, each behind the
// PROXY protocol or not. It knows no MQTT: what it hands on is a net.Conn. It owns the accepting and the goroutine of
// every connection, and waits for all of them.
package listener

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"path"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/beeline-mqtt/beeline/internal/config"
	"github.com/beeline-mqtt/beeline/internal/lifecycle"
	"github.com/beeline-mqtt/beeline/internal/tcp"
)

// Config is one listener.
type Config struct {
	// Name is what logs, metrics and authenticators call it.
	Name string `koanf:"name" help:"name in logs and to authenticators"`
	// Address is host:port; port 0 picks a free one.
	Address string `koanf:"address" help:"host:port to listen on"`
	// WebSocket says that MQTT comes over WebSocket, on Path.
	WebSocket bool   `koanf:"websocket" help:"speak MQTT over WebSocket"`
	Path      string `koanf:"path" help:"HTTP path of the WebSocket, default /mqtt"`
	// Origins are the hosts of web pages that may connect; the gateway's own host always may.
	Origins []string `koanf:"origins" help:"hosts of web pages that may connect, * in patterns"`
	// CertFile and KeyFile make it a TLS listener. ClientCAFile has clients present a certificate.
	CertFile     string `koanf:"cert_file" help:"certificate (PEM) of a TLS listener"`
	KeyFile      string `koanf:"key_file" help:"private key (PEM) of a TLS listener"`
	ClientCAFile string `koanf:"client_ca_file" help:"certificate authority (PEM) that client certificates must be from"`
	// ProxyFrom are the sources that speak for others: CIDRs, addresses, and "loopback". A connection from there has to
	// begin with a PROXY header, of version 1 or 2; from anywhere else none is believed.
	ProxyFrom []string `koanf:"proxy_from" help:"proxies: CIDRs, addresses, or loopback, whose connections must begin with a PROXY header (v1 or v2)"`
}

// Validate reports the first setting that cannot work, by its key.
func (c Config) Validate() error {
	if _, _, err := net.SplitHostPort(c.Address); err != nil {
		return config.Invalid("address", "is not host:port: %w", err)
	}
	switch {
	case (c.CertFile == "") != (c.KeyFile == ""):
		return config.Invalid("cert_file", "and key_file: give both or none")
	case c.ClientCAFile != "" && c.CertFile == "":
		return config.Invalid("client_ca_file", "needs cert_file and key_file")
	case !c.WebSocket && c.Path != "":
		return config.Invalid("path", "is only for a websocket listener")
	case c.Path != "" && !strings.HasPrefix(c.Path, "/"):
		return config.Invalid("path", "must begin with a slash")
	case !c.WebSocket && len(c.Origins) > 0:
		return config.Invalid("origins", "is only for a websocket listener")
	}
	for _, o := range c.Origins {
		if _, err := path.Match(o, ""); err != nil {
			return config.Invalid("origins", "%q: %w", o, err)
		}
	}
	_, err := parseSources(c.ProxyFrom)
	return err
}

// Handler serves one connection on its own goroutine and returns when it is done with it. ctx ends when the
// listener does.
type Handler func(ctx context.Context, nc net.Conn, listener string)

// acceptPause is the first pause after an accept that failed, for want of file descriptors for instance; it
// doubles up to a second.
const acceptPause = 5 * time.Millisecond

// Listener is a bound socket.
type Listener struct {
	cfg       Config
	ln        net.Listener
	tls       *tls.Config // nil: plain
	proxies   sources
	onRefusal func(Refusal) // nil: nobody asks
	logger    *slog.Logger
	open      atomic.Int64 // sockets
	max       int64
}

// Listen binds the address; Serve accepts. At most maxConns connections are open at once, further ones are
// closed as they come.
func Listen(cfg Config, maxConns int, logger *slog.Logger) (*Listener, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("listener %q: %w", cfg.Name, err)
	}
	l := &Listener{cfg: cfg, max: int64(maxConns), logger: logger.With(slog.String("listener", cfg.Name))}
	var err error
	if l.proxies, err = parseSources(cfg.ProxyFrom); err != nil {
		return nil, fmt.Errorf("listener %q: %w", cfg.Name, err)
	}
	if l.cfg.Path == "" {
		l.cfg.Path = "/mqtt"
	}
	if cfg.CertFile != "" {
		t, err := tlsConfig(cfg, l.logger)
		if err != nil {
			return nil, fmt.Errorf("listener %q: %w", cfg.Name, err)
		}
		l.tls = t
	}
	ln, err := net.Listen("tcp", cfg.Address)
	if err != nil {
		return nil, fmt.Errorf("listener %q: %w", cfg.Name, err)
	}
	l.ln = tcp.Listener{Listener: ln}
	return l, nil
}

// Addr returns the address it is bound to.
func (l *Listener) Addr() net.Addr { return l.ln.Addr() }

// Name returns the configured name.
func (l *Listener) Name() string { return l.cfg.Name }

// TLS reports whether clients have to speak TLS.
func (l *Listener) TLS() bool { return l.tls != nil }

// WebSocket reports whether clients have to speak WebSocket.
func (l *Listener) WebSocket() bool { return l.cfg.WebSocket }

// Serve accepts connections until ctx ends, then waits until their handlers have returned. It ends by itself,
// with an error, only when the socket has been closed under it.
func (l *Listener) Serve(ctx context.Context, h Handler) error {
	var handlers sync.WaitGroup
	defer handlers.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(ctx, func() { _ = l.ln.Close() })()
	if l.cfg.WebSocket {
		return l.serveWebSocket(ctx, h)
	}
	for {
		nc, err := l.accept(ctx)
		switch {
		case ctx.Err() != nil:
			if err == nil {
				_ = nc.Close()
			}
			return nil
		case err != nil:
			return err
		}
		handlers.Go(func() {
			defer l.open.Add(-1)
			if nc = l.behindProxy(ctx, nc); nc == nil {
				return
			}
			if l.tls != nil {
				nc = tlsConn{tls.Server(nc, l.tls)}
			}
			h(ctx, nc, l.cfg.Name)
		})
	}
}

// accept returns the next connection that there is room for. It goes on after errors until the socket is closed.
func (l *Listener) accept(ctx context.Context) (net.Conn, error) {
	pause := acceptPause
	for {
		nc, err := l.ln.Accept()
		switch {
		case errors.Is(err, net.ErrClosed):
			return nil, fmt.Errorf("accept on %q: %w", l.cfg.Name, err)
		case err != nil:
			// Out of descriptors, or the peer was gone before we came: neither is a reason to stop for good.
			l.logger.WarnContext(ctx, "accept is paused", slog.Duration("pause", pause), slog.Any("error", err))
			if !lifecycle.Pause(ctx, pause) {
				return nil, fmt.Errorf("accept on %q: %w", l.cfg.Name, context.Cause(ctx))
			}
			pause = min(2*pause, time.Second)
		case l.open.Add(1) > l.max:
			l.open.Add(-1)
			_ = nc.Close()
		default:
			return nc, nil
		}
	}
}

// Close gives the address up. It is for a listener that is not served.
func (l *Listener) Close() error {
	if err := l.ln.Close(); err != nil {
		return fmt.Errorf("close listener %q: %w", l.cfg.Name, err)
	}
	return nil
}
