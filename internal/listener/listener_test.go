package listener_test

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/beeline-mqtt/beeline/internal/config"
	"github.com/beeline-mqtt/beeline/internal/listener"
	"github.com/beeline-mqtt/beeline/internal/listener/listenertest"
	"github.com/beeline-mqtt/beeline/internal/pki"
	"github.com/beeline-mqtt/beeline/internal/tcp"
)

func TestConnectionsAreHandledUnderTheListenersName(t *testing.T) {
	names := make(chan string, 1)
	r := listenertest.Serve(t, listener.Config{}, 10, func(ctx context.Context, nc net.Conn, name string) {
		names <- name
		echo(ctx, nc, name)
	})
	expectEcho(t, r.Dial())
	if got := receive(t, names, "a connection"); got != "test" || r.Name() != "test" || r.TLS() || r.WebSocket() {
		t.Fatalf("handled under %q by %q, TLS %v, WebSocket %v", got, r.Name(), r.TLS(), r.WebSocket())
	}
}

func TestPlainConnectionsAreTCPAllTheWay(t *testing.T) {
	conns := make(chan net.Conn, 1)
	r := listenertest.Serve(t, listener.Config{}, 10, func(ctx context.Context, nc net.Conn, name string) {
		conns <- nc
		echo(ctx, nc, name)
	})
	r.Dial()
	if nc, ok := receive(t, conns, "a connection").(*tcp.Conn); !ok {
		t.Fatalf("%T: nothing can be written on the spot", nc)
	}
}

func TestTLSConnectionsComeWithTheirFacts(t *testing.T) {
	certs := listenertest.Issue(t)
	with := func(files pki.Files) listener.Config {
		return listener.Config{CertFile: certs.Server.Cert, KeyFile: certs.Server.Key, ClientCAFile: files.CA}
	}
	cases := []struct {
		name string
		cfg  listener.Config
		own  pki.Files
		peer string // common name of the client's certificate
		ok   bool
	}{
		{"no client certificate wanted", with(pki.Files{}), pki.Files{}, "", true},
		{"one that nobody wanted", with(pki.Files{}), certs.Client, "", true},
		{"wanted and presented", with(certs.Client), certs.Client, "client", true},
		{"wanted and not presented", with(certs.Client), pki.Files{}, "", false},
		{"of another authority", with(certs.Client), certs.Stranger, "", false},
	}
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			states := make(chan tls.ConnectionState, 1)
			r := listenertest.Serve(t, tc.cfg, 10, func(_ context.Context, nc net.Conn, _ string) {
				defer nc.Close()
				b := make([]byte, 5)
				if _, err := nc.Read(b); err != nil {
					return
				}
				states <- nc.(interface{ ConnectionState() tls.ConnectionState }).ConnectionState()
				_, _ = nc.Write(b)
			})
			nc := tls.Client(r.Dial(), certs.Trusting(t, tc.own))
			err := tryEcho(nc)
			if (err == nil) != tc.ok {
				t.Fatalf("%v", err)
			}
			if !tc.ok {
				return
			}
			s := receive(t, states, "a connection")
			peer := ""
			if len(s.PeerCertificates) > 0 {
				peer = s.PeerCertificates[0].Subject.CommonName
			}
			if !s.HandshakeComplete || !strings.Contains(peer, tc.peer) || (peer == "") != (tc.peer == "") {
				t.Errorf("handshake complete: %v, peer %q", s.HandshakeComplete, peer)
			}
		})
	}
}

func TestOldVersionsOfTLSAreNotSpoken(t *testing.T) {
	certs := listenertest.Issue(t)
	r := listenertest.Serve(t, listener.Config{CertFile: certs.Server.Cert, KeyFile: certs.Server.Key}, 10, echo)
	cfg := certs.Trusting(t, pki.Files{})
	cfg.MinVersion, cfg.MaxVersion = tls.VersionTLS10, tls.VersionTLS11
	if err := tls.Client(r.Dial(), cfg).Handshake(); err == nil {
		t.Fatal("TLS 1.1 was accepted")
	}
}

func TestConnectionsBeyondTheMaximumAreClosed(t *testing.T) {
	for name, cfg := range map[string]listener.Config{"TCP": {}, "WebSocket": {WebSocket: true}} {
		t.Run(name, func(t *testing.T) {
			r := listenertest.Serve(t, cfg, 2, echo)
			first, second := r.Dial(), r.Dial()
			if name == "TCP" { // nobody answers before HTTP is spoken
				expectEcho(t, first)
				expectEcho(t, second)
			}
			expectEnd(t, r.Dial())
			_ = first.Close()
			// There is room again as soon as the gateway has noticed.
			for {
				nc := r.Dial()
				var err error
				if name == "TCP" {
					err = tryEcho(nc)
				} else {
					err = tryHTTP(nc)
				}
				_ = nc.Close()
				if err == nil {
					return
				}
			}
		})
	}
}

func TestServeReturnsWhenTheHandlersHave(t *testing.T) {
	for name, cfg := range map[string]listener.Config{"TCP": {}, "WebSocket": {WebSocket: true}} {
		t.Run(name, func(t *testing.T) {
			handling, release := make(chan context.Context), make(chan struct{})
			r := listenertest.Serve(t, cfg, 10, func(ctx context.Context, nc net.Conn, _ string) {
				defer nc.Close()
				handling <- ctx
				<-release
			})
			if cfg.WebSocket {
				if _, err := r.DialWS("ws", mqttSubprotocol()); err != nil {
					t.Fatal(err)
				}
			} else {
				r.Dial()
			}
			idle := r.Dial() // an HTTP connection without a request, or a second handler
			if !cfg.WebSocket {
				<-handling
			}
			ctx := receive(t, handling, "a handler")
			r.End()
			<-ctx.Done()
			if cfg.WebSocket {
				expectEnd(t, idle)
			}
			select {
			case err := <-r.Done:
				t.Fatalf("Serve returned %v before its handlers", err)
			default:
			}
			if nc, err := net.Dial("tcp", r.Addr().String()); err == nil {
				expectEnd(t, nc)
				_ = nc.Close()
			}
			close(release)
			if err := receive(t, r.Done, "the end of Serve"); err != nil {
				t.Fatal(err)
			}
		})
	}
}

func TestServeFailsWhenItsSocketIsClosedUnderIt(t *testing.T) {
	for name, cfg := range map[string]listener.Config{"TCP": {}, "WebSocket": {WebSocket: true}} {
		t.Run(name, func(t *testing.T) {
			r := listenertest.Serve(t, cfg, 10, echo)
			open := r.Dial()
			if !cfg.WebSocket {
				expectEcho(t, open)
			}
			if err := r.Close(); err != nil {
				t.Fatal(err)
			}
			if err := receive(t, r.Done, "the end of Serve"); !errors.Is(err, net.ErrClosed) {
				t.Fatalf("Serve returned %v", err)
			}
			expectEnd(t, open)
		})
	}
}

func TestListenSaysWhatIsWrong(t *testing.T) {
	certs := listenertest.Issue(t)
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	empty := filepath.Join(t.TempDir(), "empty.pem")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	cases := []struct {
		name string
		cfg  listener.Config
		want string
	}{
		{"address without a port", listener.Config{Address: "localhost"}, "address"},
		{"address in use", listener.Config{Address: taken.Addr().String()}, "in use"},
		{"certificate without a key", listener.Config{Address: ":0", CertFile: certs.Server.Cert}, "cert_file"},
		{"client CA without a certificate", listener.Config{Address: ":0", ClientCAFile: certs.Server.CA}, "client_ca_file"},
		{"no such certificate", listener.Config{Address: ":0", CertFile: "/none", KeyFile: "/none"}, "cert_file"},
		{"no such client CA", listener.Config{
			Address: ":0", CertFile: certs.Server.Cert, KeyFile: certs.Server.Key, ClientCAFile: "/none",
		}, "client_ca_file"},
		{"empty client CA", listener.Config{
			Address: ":0", CertFile: certs.Server.Cert, KeyFile: certs.Server.Key, ClientCAFile: empty,
		}, "no certificate in"},
		{"path without WebSocket", listener.Config{Address: ":0", Path: "/mqtt"}, "path"},
		{"path without a slash", listener.Config{Address: ":0", WebSocket: true, Path: "mqtt"}, "path"},
		{"origins without WebSocket", listener.Config{Address: ":0", Origins: []string{"a"}}, "origins"},
		{"origin that is no pattern", listener.Config{Address: ":0", WebSocket: true, Origins: []string{"[a"}}, "origins"},
	}
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			tc.cfg.Name = "outside"
			l, err := listener.Listen(tc.cfg, 1, slog.New(slog.DiscardHandler))
			if err == nil {
				_ = l.Close()
				t.Fatal("no error")
			}
			if msg := err.Error(); !strings.Contains(msg, tc.want) || !strings.Contains(msg, "outside") {
				t.Fatalf("%q names neither %q nor the listener", msg, tc.want)
			}
		})
	}
}

func TestAConfigThatCannotWorkNamesItsKey(t *testing.T) {
	err := listener.Config{Address: ":0", CertFile: "x"}.Validate()
	var ke *config.KeyError
	if !errors.As(err, &ke) || ke.Key != "cert_file" {
		t.Fatalf("%v", err)
	}
	for _, ok := range []listener.Config{
		{Address: ":1883"},
		{Address: "[::1]:8883", CertFile: "a", KeyFile: "b", ClientCAFile: "c"},
		{Address: "localhost:0", WebSocket: true, Path: "/", Origins: []string{"*.example.com"}},
	} {
		if err := ok.Validate(); err != nil {
			t.Errorf("%+v: %v", ok, err)
		}
	}
}
