package listener_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/beeline-mqtt/beeline/internal/listener"
	"github.com/beeline-mqtt/beeline/internal/listener/listenertest"
	"github.com/beeline-mqtt/beeline/internal/pki"
)

func mqttSubprotocol() *websocket.DialOptions {
	return &websocket.DialOptions{Subprotocols: []string{"mqtt"}}
}

// tryHTTP proves that HTTP is spoken.
func tryHTTP(nc net.Conn) error {
	if _, err := io.WriteString(nc, "GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
		return err
	}
	resp, err := http.ReadResponse(bufio.NewReader(nc), nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusNotFound {
		return fmt.Errorf("status %d", resp.StatusCode)
	}
	return nil
}

func TestAWebSocketIsAStreamWhateverItsFrames(t *testing.T) {
	r := listenertest.Serve(t, listener.Config{WebSocket: true}, 10, echo)
	ws, err := r.DialWS("ws", mqttSubprotocol())
	if err != nil {
		t.Fatal(err)
	}
	nc := websocket.NetConn(t.Context(), ws, websocket.MessageBinary)
	sent := bytes.Repeat([]byte("0123456789"), 10_000)
	go func() {
		for rest, size := sent, 1; len(rest) > 0; size = size*3%5003 + 1 { // frames of one byte to thousands
			n := min(size, len(rest))
			if _, err := nc.Write(rest[:n]); err != nil {
				return
			}
			rest = rest[n:]
		}
	}()
	got := make([]byte, len(sent))
	_ = nc.SetReadDeadline(time.Now().Add(patience))
	if _, err := io.ReadFull(nc, got); err != nil || !bytes.Equal(got, sent) {
		t.Fatalf("%v", err)
	}
}

func TestAWebSocketHasToSpeakMQTT(t *testing.T) {
	for name, opts := range map[string]*websocket.DialOptions{
		"no subprotocol":      nil,
		"another subprotocol": {Subprotocols: []string{"mqttv3.1", "chat"}},
	} {
		t.Run(name, func(t *testing.T) {
			r := listenertest.Serve(t, listener.Config{WebSocket: true}, 10, func(context.Context, net.Conn, string) {
				t.Error("handled all the same")
			})
			ws, err := r.DialWS("ws", opts)
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			if _, _, err := ws.Read(ctx); websocket.CloseStatus(err) != websocket.StatusPolicyViolation {
				t.Fatalf("%v", err)
			}
		})
	}
}

func TestTheSubprotocolIsConfirmed(t *testing.T) {
	r := listenertest.Serve(t, listener.Config{WebSocket: true}, 10, echo)
	ws, err := r.DialWS("ws", &websocket.DialOptions{Subprotocols: []string{"chat", "mqtt"}})
	if err != nil || ws.Subprotocol() != "mqtt" {
		t.Fatalf("%v", err)
	}
}

func TestPagesOfOtherOriginsNeedPermission(t *testing.T) {
	r := listenertest.Serve(t, listener.Config{WebSocket: true, Origins: []string{"*.example.com", "https://only.tls"}}, 10, echo)
	for _, tc := range []struct {
		origin string
		ok     bool
	}{
		{"", true}, // not a browser
		{"http://" + r.Addr().String(), true},
		{"https://app.example.com", true},
		{"https://example.org", false},
		{"https://app.example.com.evil.org", false},
		{"https://only.tls", true},
		{"http://only.tls", false},
		{"null", false},
	} {
		t.Run(tc.origin, func(t *testing.T) {
			opts := mqttSubprotocol()
			if tc.origin != "" {
				opts.HTTPHeader = http.Header{"Origin": {tc.origin}}
			}
			if _, err := r.DialWS("ws", opts); (err == nil) != tc.ok {
				t.Fatalf("%v", err)
			}
		})
	}
}

func TestTextFramesAreRefused(t *testing.T) {
	ended := make(chan error, 1)
	r := listenertest.Serve(t, listener.Config{WebSocket: true}, 10, func(_ context.Context, nc net.Conn, _ string) {
		_, err := io.Copy(io.Discard, nc)
		ended <- err
	})
	ws, err := r.DialWS("ws", mqttSubprotocol())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := ws.Write(ctx, websocket.MessageText, []byte("hello")); err != nil {
		t.Fatal(err)
	}
	if _, _, err := ws.Read(ctx); websocket.CloseStatus(err) != websocket.StatusUnsupportedData {
		t.Errorf("%v", err)
	}
	if err := receive(t, ended, "the end"); err == nil {
		t.Error("the text was taken for the end of the stream")
	}
}

func TestOnlyWebSocketsOnThePathAreHandled(t *testing.T) {
	r := listenertest.Serve(t, listener.Config{WebSocket: true, Path: "/here"}, 10, func(context.Context, net.Conn, string) {
		t.Error("handled all the same")
	})
	for name, tc := range map[string]struct {
		method, path string
		status       int
	}{
		"another path":   {http.MethodGet, "/mqtt", http.StatusNotFound},
		"no upgrade":     {http.MethodGet, "/here", http.StatusUpgradeRequired},
		"another verb":   {http.MethodPost, "/here", http.StatusUpgradeRequired},
		"below the path": {http.MethodGet, "/here/too", http.StatusNotFound},
	} {
		t.Run(name, func(t *testing.T) {
			nc := r.Dial()
			_, _ = fmt.Fprintf(nc, "%s %s HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n", tc.method, tc.path)
			resp, err := http.ReadResponse(bufio.NewReader(nc), nil)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			if resp.StatusCode != tc.status {
				t.Fatalf("status %d", resp.StatusCode)
			}
		})
	}
}

func TestAWebSocketOverTLSComesWithItsFacts(t *testing.T) {
	certs := listenertest.Issue(t)
	type facts struct {
		state  tls.ConnectionState
		remote net.Addr
	}
	seen := make(chan facts, 1)
	handler := func(ctx context.Context, nc net.Conn, name string) {
		seen <- facts{nc.(interface{ ConnectionState() tls.ConnectionState }).ConnectionState(), nc.RemoteAddr()}
		echo(ctx, nc, name)
	}
	cfg := listener.Config{WebSocket: true, CertFile: certs.Server.Cert, KeyFile: certs.Server.Key, ClientCAFile: certs.Client.CA}
	r := listenertest.Serve(t, cfg, 10, handler)
	opts := mqttSubprotocol()
	opts.HTTPClient = &http.Client{Transport: &http.Transport{TLSClientConfig: certs.Trusting(t, certs.Client)}}
	ws, err := r.DialWS("wss", opts)
	if err != nil {
		t.Fatal(err)
	}
	expectEcho(t, websocket.NetConn(t.Context(), ws, websocket.MessageBinary))
	f := receive(t, seen, "a connection")
	if !f.state.HandshakeComplete || len(f.state.PeerCertificates) == 0 {
		t.Errorf("%+v", f.state)
	}
	if _, ok := f.remote.(*net.TCPAddr); !ok {
		t.Errorf("remote address %T %v", f.remote, f.remote)
	}

	opts.HTTPClient = &http.Client{Transport: &http.Transport{TLSClientConfig: certs.Trusting(t, pki.Files{})}}
	if _, err := r.DialWS("wss", opts); err == nil {
		t.Error("accepted without a client certificate")
	}
	plain := listenertest.Serve(t, listener.Config{WebSocket: true}, 10, handler)
	if _, err := plain.DialWS("ws", mqttSubprotocol()); err != nil {
		t.Fatal(err)
	}
	if f := receive(t, seen, "a connection"); f.state.HandshakeComplete {
		t.Error("TLS facts without TLS")
	}
}

func TestClosingTheWritingHalfOfAWebSocketIsACleanEnd(t *testing.T) {
	r := listenertest.Serve(t, listener.Config{WebSocket: true}, 10, func(_ context.Context, nc net.Conn, _ string) {
		defer nc.Close()
		_, _ = nc.Write([]byte("last"))
		if err := nc.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
			t.Error(err)
		}
	})
	ws, err := r.DialWS("ws", mqttSubprotocol())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if _, b, err := ws.Read(ctx); err != nil || string(b) != "last" {
		t.Fatalf("%q, %v", b, err)
	}
	if _, _, err := ws.Read(ctx); websocket.CloseStatus(err) != websocket.StatusNormalClosure {
		t.Fatalf("%v", err)
	}
}
