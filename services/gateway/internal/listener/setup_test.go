package listener_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"log/slog"
	"net"
	"os"
	"testing"
	"time"

	"github.com/coder/websocket"
	"go.uber.org/goleak"

	"github.com/beeline-mqtt/beeline/internal/pki"
	"github.com/beeline-mqtt/beeline/services/gateway/internal/listener"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = 10 * time.Second

// rig is a listener that is served.
type rig struct {
	*listener.Listener

	t    *testing.T
	end  context.CancelFunc
	done chan error // what Serve returned
}

func serve(t *testing.T, cfg listener.Config, maxConns int, h listener.Handler) *rig {
	t.Helper()
	cfg.Name, cfg.Address = "test", "127.0.0.1:0"
	l, err := listener.Listen(cfg, maxConns, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	ctx, end := context.WithCancel(context.WithoutCancel(t.Context()))
	r := &rig{Listener: l, t: t, end: end, done: make(chan error, 1)}
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		r.done <- l.Serve(ctx, h)
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

// echo is a Handler that sends back what it gets, to the end.
func echo(ctx context.Context, nc net.Conn, _ string) {
	defer nc.Close()
	defer context.AfterFunc(ctx, func() { _ = nc.Close() })()
	_, _ = io.Copy(struct{ io.Writer }{nc}, struct{ io.Reader }{nc})
}

// certificates are the files of an authority with one server and one client, and of another one.
type certificates struct{ server, client, stranger pki.Files }

func issue(t *testing.T) certificates {
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
	return certificates{
		server:   issueFrom(ours, pki.Request{Name: "server"}),
		client:   issueFrom(ours, pki.Request{Name: "client", Role: "device"}),
		stranger: issueFrom(theirs, pki.Request{Name: "client", Role: "device"}),
	}
}

// trusting is the TLS configuration of a client that trusts the server's authority, and presents own if it is not
// the zero value.
func (c certificates) trusting(t *testing.T, own pki.Files) *tls.Config {
	t.Helper()
	pem, err := os.ReadFile(c.server.CA)
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

func (r *rig) dial() net.Conn {
	r.t.Helper()
	nc, err := net.DialTimeout("tcp", r.Addr().String(), patience)
	if err != nil {
		r.t.Fatal(err)
	}
	_ = nc.SetDeadline(time.Now().Add(patience))
	r.t.Cleanup(func() { _ = nc.Close() })
	return nc
}

// dialWS opens a WebSocket with the subprotocol mqtt.
func (r *rig) dialWS(scheme string, opts *websocket.DialOptions) (*websocket.Conn, error) {
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

// expectEcho proves that the other side answers.
func expectEcho(t *testing.T, nc net.Conn) {
	t.Helper()
	if err := tryEcho(nc); err != nil {
		t.Fatal(err)
	}
}

func tryEcho(nc net.Conn) error {
	if _, err := nc.Write([]byte("hello")); err != nil {
		return err
	}
	_, err := io.ReadFull(nc, make([]byte, 5))
	return err
}

// expectEnd proves that the other side closes.
func expectEnd(t *testing.T, nc net.Conn) {
	t.Helper()
	_ = nc.SetReadDeadline(time.Now().Add(patience))
	n, err := nc.Read(make([]byte, 1))
	if ne, ok := err.(net.Error); n > 0 || err == nil || ok && ne.Timeout() { //nolint:errorlint // net.Conn returns it as it is
		t.Fatalf("read %d bytes, %v; want the end", n, err)
	}
}

func receive[T any](t *testing.T, ch <-chan T, what string) T {
	t.Helper()
	select {
	case x := <-ch:
		return x
	case <-time.After(patience):
		t.Fatalf("no sign of %s", what)
		panic("unreachable")
	}
}
