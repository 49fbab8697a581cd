package listener

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// piped is one end of a pipe that says that it is TCP from a proxy.
type piped struct{ net.Conn }

func (piped) RemoteAddr() net.Addr { return &net.TCPAddr{IP: net.IPv6loopback, Port: 4711} }

// proxyListener is one whose proxies are on the same machine.
func proxyListener(cfg Config, answers ...any) *Listener {
	cfg.Path = "/mqtt"
	return &Listener{cfg: cfg, ln: newScripted(answers...), max: 10, proxies: sources{loopback: true}, logger: slog.New(slog.DiscardHandler)}
}

func TestAHeaderHasItsTime(t *testing.T) {
	for _, tc := range []struct {
		name string
		cfg  Config
		send func(far net.Conn)
		most time.Duration
	}{
		{"TCP, nothing comes", Config{}, func(net.Conn) {}, headerTimeout},
		{"TCP, drop by drop", Config{}, drip, headerTimeout},
		{"WebSocket, nothing comes", Config{WebSocket: true}, func(net.Conn) {}, upgradeTimeout},
		{"WebSocket, drop by drop", Config{WebSocket: true}, drip, upgradeTimeout},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				near, far := net.Pipe()
				l := proxyListener(tc.cfg, piped{near})
				refused := make(chan Refusal, 1)
				l.OnRefusal(func(why Refusal) { refused <- why })
				ctx, end := context.WithCancel(t.Context())
				done := make(chan error, 1)
				go func() {
					done <- l.Serve(ctx, func(context.Context, net.Conn, string) { t.Error("handled all the same") })
				}()
				began := time.Now()
				var sending sync.WaitGroup
				defer sending.Wait()
				sending.Go(func() { tc.send(far) })
				if why := <-refused; why != HeaderTimeout {
					t.Errorf("refused as %q", why)
				}
				if took := time.Since(began); took != tc.most {
					t.Errorf("after %v, want %v", took, tc.most)
				}
				if _, err := io.Copy(io.Discard, far); err != nil && !errors.Is(err, io.ErrClosedPipe) {
					t.Error(err)
				}
				_ = far.Close()
				end()
				if err := <-done; err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// drip sends a header that is as long as it may be, one byte in half a second.
func drip(far net.Conn) {
	for _, b := range []byte("PROXY UNKNOWN " + strings.Repeat("x", 80)) {
		if _, err := far.Write([]byte{b}); err != nil {
			return
		}
		time.Sleep(500 * time.Millisecond)
	}
}

func TestTheTimeOfTheHeaderIsNotThatOfTheConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		l := proxyListener(Config{}, piped{near})
		ctx, end := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() {
			done <- l.Serve(ctx, func(_ context.Context, nc net.Conn, _ string) {
				defer nc.Close()
				b := make([]byte, 5)
				if _, err := io.ReadFull(nc, b); err != nil || string(b) != "hello" {
					t.Errorf("read %q, %v", b, err)
				}
				if err := nc.(interface{ CloseWrite() error }).CloseWrite(); !errors.Is(err, errors.ErrUnsupported) {
					t.Errorf("half of a pipe is closed: %v", err)
				}
			})
		}()
		_, _ = io.WriteString(far, line4)
		time.Sleep(2 * headerTimeout)
		_, _ = io.WriteString(far, "hello")
		_, _ = io.Copy(io.Discard, far)
		end()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func TestWaitingForHeadersHoldsUpNobody(t *testing.T) {
	for name, cfg := range map[string]Config{"TCP": {}, "WebSocket": {WebSocket: true}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				silent, peer := net.Pipe()
				near, far := net.Pipe()
				l := proxyListener(cfg, piped{silent}, piped{near})
				ctx, end := context.WithCancel(t.Context())
				done := make(chan error, 1)
				go func() {
					done <- l.Serve(ctx, func(_ context.Context, nc net.Conn, _ string) {
						defer nc.Close()
						_, _ = io.WriteString(nc, "hello")
					})
				}()
				began := time.Now()
				_, _ = io.WriteString(far, line4)
				if cfg.WebSocket {
					_, _ = io.WriteString(far, "GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n")
				}
				if _, err := io.ReadFull(far, make([]byte, 5)); err != nil {
					t.Error(err)
				}
				if took := time.Since(began); took > 0 {
					t.Errorf("it took %v", took)
				}
				end()
				_ = far.Close()
				_ = peer.Close()
				if err := <-done; err != nil {
					t.Error(err)
				}
			})
		})
	}
}

func TestSourcesAreToldFromOthers(t *testing.T) {
	tcp := func(ip string, zone string) net.Addr { return &net.TCPAddr{IP: net.ParseIP(ip), Port: 1, Zone: zone} }
	for _, tc := range []struct {
		name string
		from []string
		addr net.Addr
		want bool
	}{
		{"nobody", nil, tcp("127.0.0.1", ""), false},
		{"IPv4 on a socket of IPv6", []string{"10.0.0.0/8"}, tcp("::ffff:10.1.2.3", ""), true},
		{"loopback on a socket of IPv6", []string{"loopback"}, tcp("::ffff:127.0.0.1", ""), true},
		{"loopback of IPv6", []string{"loopback"}, tcp("::1", ""), true},
		{"not loopback", []string{"loopback"}, tcp("10.0.0.1", ""), false},
		{"link-local", []string{"fe80::/10"}, tcp("fe80::1", "eth0"), true},
		{"the second of two", []string{"10.0.0.1", "10.0.0.2"}, tcp("10.0.0.2", ""), true},
		{"beside it", []string{"10.0.0.1", "10.0.0.2"}, tcp("10.0.0.3", ""), false},
		{"no address", []string{"0.0.0.0/0", "::/0", "loopback"}, &net.TCPAddr{}, false},
		{"not TCP", []string{"loopback"}, &net.UnixAddr{Name: "@"}, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s, err := parseSources(tc.from)
			if err != nil {
				t.Fatal(err)
			}
			if got := s.contain(tc.addr); got != tc.want {
				t.Errorf("%v", got)
			}
		})
	}
}

func TestWhatIsNotOursIsNotProxied(t *testing.T) {
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	late := &lateConn{Conn: piped{a}}
	for name, nc := range map[string]net.Conn{"a pipe": a, "before its header": late, "and counted": &countedConn{Conn: late}} {
		if p, ok := ProxiedOf(nc); ok {
			t.Errorf("%s: %+v", name, p)
		}
	}
	if got := late.RemoteAddr().String(); got != "[::1]:4711" {
		t.Errorf("before its header it is from %q", got)
	}
}
