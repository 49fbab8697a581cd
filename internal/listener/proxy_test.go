package listener_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/beeline-mqtt/beeline/internal/config"
	"github.com/beeline-mqtt/beeline/internal/listener"
	"github.com/beeline-mqtt/beeline/internal/listener/listenertest"
	"github.com/beeline-mqtt/beeline/internal/pki"
	"github.com/beeline-mqtt/beeline/internal/tcp"
)

// Headers of 203.0.113.7:4711; the second with TLS facts and the host.
const (
	line      = "PROXY TCP4 203.0.113.7 10.0.0.1 4711 1883\r\n"
	signature = "\r\n\r\n\x00\r\nQUIT\n"
	binaryTLS = signature + "\x21\x11\x00\x2e" + "\xcb\x00\x71\x07\x0a\x00\x00\x01\x12\x67\x07\x5b" +
		"\x20\x00\x15" + "\x03\x00\x00\x00\x00" + "\x21\x00\x07TLSv1.3" + "\x22\x00\x03ann" +
		"\x02\x00\x07a.b.com"
	localOne = signature + "\x20\x00\x00\x00"
)

var annsFacts = listener.Proxied{TLS: true, Version: "TLSv1.3", CommonName: "ann", Verified: true, Authority: "a.b.com"}

// seen is what a handler saw of its connection.
type seen struct {
	nc      net.Conn
	remote  string
	facts   listener.Proxied
	proxied bool
}

// note is echo that says what it sees.
func note(to chan<- seen) listener.Handler {
	return func(ctx context.Context, nc net.Conn, name string) {
		if t, ok := nc.(interface{ HandshakeContext(context.Context) error }); ok {
			if err := t.HandshakeContext(ctx); err != nil {
				_ = nc.Close()
				return
			}
		}
		p, ok := listener.ProxiedOf(nc)
		to <- seen{nc, nc.RemoteAddr().String(), p, ok}
		echo(ctx, nc, name)
	}
}

// transport is one way in which a header may come, with what comes behind it.
type transport struct {
	name string
	cfg  listener.Config
	dial func(t *testing.T, r *listenertest.Rig, header string) (net.Conn, error)
}

// write sends a header over a new connection.
func write(r *listenertest.Rig, header string) (net.Conn, error) {
	nc := r.Dial()
	_, err := io.WriteString(nc, header)
	return nc, err
}

func transports(t *testing.T) []transport {
	t.Helper()
	certs := listenertest.Issue(t)
	trusting := certs.Trusting(t, pki.Files{})
	ws := func(scheme string) func(*testing.T, *listenertest.Rig, string) (net.Conn, error) {
		return func(t *testing.T, r *listenertest.Rig, header string) (net.Conn, error) {
			t.Helper()
			opts := mqttSubprotocol()
			opts.HTTPClient = &http.Client{Transport: &http.Transport{
				TLSClientConfig: trusting,
				DialContext:     func(context.Context, string, string) (net.Conn, error) { return write(r, header) },
			}}
			c, err := r.DialWS(scheme, opts)
			if err != nil {
				return nil, err
			}
			return websocket.NetConn(t.Context(), c, websocket.MessageBinary), nil
		}
	}
	return []transport{
		{"TCP", listener.Config{}, func(_ *testing.T, r *listenertest.Rig, header string) (net.Conn, error) { return write(r, header) }},
		{"TLS", listener.Config{CertFile: certs.Server.Cert, KeyFile: certs.Server.Key}, func(t *testing.T, r *listenertest.Rig, header string) (net.Conn, error) {
			t.Helper()
			nc, err := write(r, header)
			if err != nil {
				return nil, err
			}
			c := tls.Client(nc, trusting)
			return c, c.HandshakeContext(t.Context())
		}},
		{"WebSocket", listener.Config{WebSocket: true}, ws("ws")},
		{"WebSocket over TLS", listener.Config{WebSocket: true, CertFile: certs.Server.Cert, KeyFile: certs.Server.Key}, ws("wss")},
	}
}

// refusals has what is refused sent to a channel.
func refusals() (func(*listener.Listener), <-chan listener.Refusal) {
	ch := make(chan listener.Refusal, 10)
	return func(l *listener.Listener) { l.OnRefusal(func(why listener.Refusal) { ch <- why }) }, ch
}

func TestAProxySpeaksForItsClientOverEveryTransport(t *testing.T) {
	for _, tr := range transports(t) {
		for _, tc := range []struct {
			name, header, remote string // remote "": the socket's
			proxied              bool
			facts                listener.Proxied
		}{
			{"version 1", line, "203.0.113.7:4711", true, listener.Proxied{}},
			{"version 2", binaryTLS, "203.0.113.7:4711", true, annsFacts},
			{"its own connection", localOne, "", false, listener.Proxied{}},
			{"an unknown client", "PROXY UNKNOWN\r\n", "", false, listener.Proxied{}},
		} {
			t.Run(tr.name+", "+tc.name, func(t *testing.T) {
				conns := make(chan seen, 1)
				cfg := tr.cfg
				cfg.ProxyFrom = []string{"192.0.2.0/24", "loopback"}
				r := listenertest.Serve(t, cfg, 10, note(conns))
				nc, err := tr.dial(t, r, tc.header)
				if err != nil {
					t.Fatal(err)
				}
				expectEcho(t, nc)
				got := receive(t, conns, "a connection")
				if tc.remote != "" && got.remote != tc.remote || tc.remote == "" && !strings.HasPrefix(got.remote, "127.0.0.1:") {
					t.Errorf("client's address %q", got.remote)
				}
				if got.proxied != tc.proxied || got.facts != tc.facts {
					t.Errorf("proxied: %v, %+v", got.proxied, got.facts)
				}
			})
		}
	}
}

func TestBehindAProxyTCPIsTCPAllTheWay(t *testing.T) {
	for _, header := range []string{line, localOne} {
		conns := make(chan seen, 1)
		r := listenertest.Serve(t, listener.Config{ProxyFrom: []string{"127.0.0.1"}}, 10, note(conns))
		nc, err := write(r, header)
		if err != nil {
			t.Fatal(err)
		}
		expectEcho(t, nc)
		got := receive(t, conns, "a connection")
		if _, ok := tcp.Of(got.nc); !ok {
			t.Errorf("%T: nothing can be written on the spot", got.nc)
		}
		if err := got.nc.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
			t.Error(err)
		}
		expectEnd(t, nc)
	}
}

func TestAHeaderMayComeInAsManySegmentsAsItHasBytes(t *testing.T) {
	for _, header := range []string{line, binaryTLS} {
		conns := make(chan seen, 1)
		r := listenertest.Serve(t, listener.Config{ProxyFrom: []string{"loopback"}}, 10, note(conns))
		nc := r.Dial() // without delay: each write is a segment
		for _, b := range []byte(header + "hello") {
			if _, err := nc.Write([]byte{b}); err != nil {
				t.Fatal(err)
			}
		}
		if got := receive(t, conns, "a connection"); got.remote != "203.0.113.7:4711" {
			t.Errorf("client's address %q", got.remote)
		}
		b := make([]byte, 5)
		if _, err := io.ReadFull(nc, b); err != nil || string(b) != "hello" {
			t.Errorf("read %q, %v", b, err)
		}
	}
}

func TestWhoIsNoProxySpeaksForHimselfOnly(t *testing.T) {
	for name, from := range map[string][]string{
		"no proxies": nil, "others": {"192.0.2.0/24", "127.0.0.2", "::1", "2001:db8::/32"},
	} {
		t.Run(name, func(t *testing.T) {
			conns := make(chan seen, 1)
			r := listenertest.Serve(t, listener.Config{ProxyFrom: from}, 10, note(conns))
			nc, err := write(r, line)
			if err != nil {
				t.Fatal(err)
			}
			got := receive(t, conns, "a connection")
			if !strings.HasPrefix(got.remote, "127.0.0.1:") || got.proxied {
				t.Errorf("client's address %q, proxied %v", got.remote, got.proxied)
			}
			if _, ok := got.nc.(*tcp.Conn); !ok {
				t.Errorf("it costs: %T", got.nc)
			}
			b := make([]byte, len(line)) // it is the client's own, like all that comes
			if _, err := io.ReadFull(nc, b); err != nil || string(b) != line {
				t.Errorf("echo %q, %v", b, err)
			}
		})
	}
}

func TestOverOtherTransportsTheHeaderOfNoProxyIsGarbage(t *testing.T) {
	for _, tr := range transports(t) {
		if tr.name == "TCP" {
			continue
		}
		t.Run(tr.name, func(t *testing.T) {
			change, refused := refusals()
			cfg := tr.cfg
			cfg.ProxyFrom = []string{"192.0.2.1"}
			conns := make(chan seen, 1)
			r := listenertest.Serve(t, cfg, 10, note(conns), change)
			nc, err := write(r, binaryTLS)
			if err != nil {
				t.Fatal(err)
			}
			if b, err := io.ReadAll(nc); errors.Is(err, os.ErrDeadlineExceeded) || bytes.Contains(b, []byte("101 ")) {
				t.Errorf("read %q, %v", b, err)
			}
			r.End()
			receive(t, r.Done, "the end of Serve")
			if len(refused) > 0 || len(conns) > 0 {
				t.Errorf("%d refused for want of a header, %d handled", len(refused), len(conns))
			}
		})
	}
}

func TestAProxyIsKnownByItsAddress(t *testing.T) {
	for _, tc := range []struct {
		source string
		from   string
		proxy  bool
	}{
		{"127.0.0.2", "127.0.0.2", true},
		{"127.0.0.3", "127.0.0.2", false},
		{"127.9.8.7", "127.9.0.0/16", true},
		{"127.8.8.7", "127.9.0.0/16", false},
		{"127.8.8.7", "loopback", true},
		{"127.8.8.7", "0.0.0.0/0", true},
		{"127.8.8.7", "::/0", false},
	} {
		t.Run(tc.source+" and "+tc.from, func(t *testing.T) {
			conns := make(chan seen, 1)
			r := listenertest.Serve(t, listener.Config{ProxyFrom: []string{tc.from}}, 10, note(conns))
			d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(tc.source)}, Timeout: patience}
			nc, err := d.DialContext(t.Context(), "tcp", r.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer nc.Close()
			if _, err := io.WriteString(nc, line); err != nil {
				t.Fatal(err)
			}
			if got := receive(t, conns, "a connection"); got.proxied != tc.proxy {
				t.Errorf("taken for a proxy: %v", got.proxied)
			}
		})
	}
}

func TestAProxyThatSendsNoHeaderIsRefusedOverEveryTransport(t *testing.T) {
	for _, tr := range transports(t) {
		for _, tc := range []struct {
			name, header string
			want         listener.Refusal
		}{
			{"MQTT", "\x10\x0c\x00\x04MQTT\x04\x02\x00\x3c\x00\x00", listener.NoHeader},
			{"no header", "", listener.NoHeader},
			{"too long a header", "PROXY " + strings.Repeat("x", 200), listener.HeaderTooLong},
			{"a malformed header", "PROXY TCP4 ann 10.0.0.1 4711 1883\r\n", listener.HeaderMalformed},
		} {
			t.Run(tr.name+", "+tc.name, func(t *testing.T) {
				change, refused := refusals()
				cfg := tr.cfg
				cfg.ProxyFrom = []string{"loopback"}
				r := listenertest.Serve(t, cfg, 1, func(context.Context, net.Conn, string) { t.Error("handled all the same") }, change)
				nc, err := tr.dial(t, r, tc.header)
				if err == nil { // nothing has been read yet
					if tc.header == "" {
						_ = nc.(interface{ CloseWrite() error }).CloseWrite()
					}
					expectEnd(t, nc)
				}
				if got := receive(t, refused, "a refusal"); got != tc.want {
					t.Errorf("refused as %q, want %q", got, tc.want)
				}
			})
		}
	}
}

func TestThereIsRoomAgainAfterARefusal(t *testing.T) {
	for name, cfg := range map[string]listener.Config{"TCP": {}, "WebSocket": {WebSocket: true}} {
		t.Run(name, func(t *testing.T) {
			change, refused := refusals()
			cfg.ProxyFrom = []string{"loopback"}
			r := listenertest.Serve(t, cfg, 1, echo, change)
			nc, err := write(r, "GET / HTTP/1.1\r\n\r\n")
			if err != nil {
				t.Fatal(err)
			}
			expectEnd(t, nc)
			receive(t, refused, "a refusal")
			for { // as soon as the gateway has noticed
				nc, err := write(r, line)
				if err == nil && name == "TCP" {
					err = tryEcho(nc)
				} else if err == nil {
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

func TestTheEndOfTheListenerEndsTheWaitForHeaders(t *testing.T) {
	for name, cfg := range map[string]listener.Config{"TCP": {}, "WebSocket": {WebSocket: true}} {
		t.Run(name, func(t *testing.T) {
			change, refused := refusals()
			cfg.ProxyFrom = []string{"loopback"}
			r := listenertest.Serve(t, cfg, 10, func(context.Context, net.Conn, string) { t.Error("handled all the same") }, change)
			nc, err := write(r, "PROXY")
			if err != nil {
				t.Fatal(err)
			}
			began := time.Now()
			r.End()
			if err := receive(t, r.Done, "the end of Serve"); err != nil {
				t.Error(err)
			}
			if took := time.Since(began); took > 3*time.Second {
				t.Errorf("it took %v", took)
			}
			expectEnd(t, nc)
			if len(refused) > 0 {
				t.Errorf("the end is counted as %v", <-refused)
			}
		})
	}
}

func TestWhatIsReadOverHTTPIsWhatCameBehindTheHeader(t *testing.T) {
	r := listenertest.Serve(t, listener.Config{WebSocket: true, ProxyFrom: []string{"loopback"}}, 10, echo)
	nc, err := write(r, line+"GET /nothing HTTP/1.1\r\nHost: x\r\n\r\nGET /nothing HTTP/1.1\r\nHost: x\r\n\r\n")
	if err != nil {
		t.Fatal(err)
	}
	answers := bufio.NewReader(nc)
	for range 2 {
		resp, err := http.ReadResponse(answers, nil)
		if err != nil {
			t.Fatal(err)
		}
		var body bytes.Buffer
		_, _ = body.ReadFrom(resp.Body)
		resp.Body.Close()
		if resp.StatusCode != http.StatusNotFound {
			t.Errorf("status %d", resp.StatusCode)
		}
	}
}

func TestOnlySourcesThatCanBeMeantAreTaken(t *testing.T) {
	for _, tc := range []struct {
		from string
		ok   bool
	}{
		{"loopback", true},
		{"10.0.0.7", true},
		{"10.0.0.0/8", true},
		{"2001:db8::/32", true},
		{"::1", true},
		{"0.0.0.0/0", true},
		{"", false},
		{"localhost", false},
		{"10.0.0.7:1883", false},
		{"10.0.0.7/8", false},
		{"10.0.0.0/33", false},
		{"fe80::1%eth0", false},
		{"::ffff:10.0.0.7", false},
		{"::ffff:10.0.0.0/104", false},
	} {
		err := listener.Config{Address: ":0", ProxyFrom: []string{"loopback", tc.from}}.Validate()
		var ke *config.KeyError
		if tc.ok != (err == nil) || err != nil && (!errors.As(err, &ke) || ke.Key != "proxy_from") {
			t.Errorf("%q: %v", tc.from, err)
		}
	}
}
