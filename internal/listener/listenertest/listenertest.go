// Package listenertest serves listeners in tests, and connects to them.
package listenertest

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"log/slog"
	"net"
	"os"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/beeline-mqtt/beeline/internal/listener"
	"github.com/beeline-mqtt/beeline/internal/pki"
)

// patience bounds every wait.
const patience = 10 * time.Second

// Rig is a listener that is served.
type Rig struct {
	*listener.Listener

	// End has Serve return; Done gets what it returned.
	End  context.CancelFunc
	Done chan error

	t *testing.T
}

// Serve serves a listener on a free port until the test ends. It is changed before it is served.
func Serve(t *testing.T, cfg listener.Config, maxConns int, h listener.Handler, changes ...func(*listener.Listener)) *Rig {
	t.Helper()
	cfg.Name, cfg.Address = "test", "127.0.0.1:0"
	l, err := listener.Listen(cfg, maxConns, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	for _, change := range changes {
		change(l)
	}
	ctx, end := context.WithCancel(context.WithoutCancel(t.Context()))
	r := &Rig{Listener: l, t: t, End: end, Done: make(chan error, 1)}
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		r.Done <- l.Serve(ctx, h)
	}()
	t.Cleanup(func() {
		end()
		select {
		case <-stopped:
		case <-time.After(patience):
			t.Error("Serve does not return")
		}
	})
	return r
}

// Certificates are the files of an authority with one server and one client, and of another one.
type Certificates struct{ Server, Client, Stranger pki.Files }

// Issue makes them.
func Issue(t *testing.T) Certificates {
	t.Helper()
	issueFrom := func(dir string, r pki.Request) pki.Files {
		ca, err := pki.Open(dir, time.Now)
		if err != nil {
			t.Fatal(err)
		}
		f, err := ca.Issue(r)
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	ours, theirs := t.TempDir(), t.TempDir()
	return Certificates{
		Server:   issueFrom(ours, pki.Request{Name: "server"}),
		Client:   issueFrom(ours, pki.Request{Name: "client", Role: "device"}),
		Stranger: issueFrom(theirs, pki.Request{Name: "client", Role: "device"}),
	}
}

// Trusting is the TLS configuration of a client that trusts the server's authority, and presents own if it is not
// the zero value.
func (c Certificates) Trusting(t *testing.T, own pki.Files) *tls.Config {
	t.Helper()
	pem, err := os.ReadFile(c.Server.CA)
	if err != nil {
		t.Fatal(err)
	}
	cfg := &tls.Config{RootCAs: x509.NewCertPool(), ServerName: "localhost", MinVersion: tls.VersionTLS12}
	cfg.RootCAs.AppendCertsFromPEM(pem)
	if own.Cert != "" {
		cert, err := tls.LoadX509KeyPair(own.Cert, own.Key)
		if err != nil {
			t.Fatal(err)
		}
		cfg.Certificates = []tls.Certificate{cert}
	}
	return cfg
}

// Dial opens a TCP connection.
func (r *Rig) Dial() net.Conn {
	r.t.Helper()
	nc, err := net.DialTimeout("tcp", r.Addr().String(), patience)
	if err != nil {
		r.t.Fatal(err)
	}
	_ = nc.SetDeadline(time.Now().Add(patience))
	r.t.Cleanup(func() { _ = nc.Close() })
	return nc
}

// DialWS opens a WebSocket with the subprotocol mqtt.
func (r *Rig) DialWS(scheme string, opts *websocket.DialOptions) (*websocket.Conn, error) {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.t.Context(), patience)
	defer cancel()
	ws, resp, err := websocket.Dial(ctx, scheme+"://"+r.Addr().String()+"/mqtt", opts)
	if resp != nil && resp.Body != nil {
		_ = resp.Body.Close()
	}
	if err == nil {
		r.t.Cleanup(func() { _ = ws.CloseNow() })
	}
	return ws, err
}
