package conformance

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/beeline-mqtt/beeline/test/rawmqtt"
)

// trust is a TLS configuration that trusts the cluster.
func trust(t *testing.T) *tls.Config {
	t.Helper()
	pem, err := os.ReadFile(cluster.CAFile())
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		t.Fatal("no certificate in the cluster's file")
	}
	return &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
}

// webSocket opens a WebSocket to the n-th gateway of the stage.
func (s *stage) webSocket(n int, protocols ...string) *websocket.Conn {
	s.Helper()
	ctx, cancel := context.WithTimeout(s.Context(), rawmqtt.Patience)
	defer cancel()
	ws, resp, err := websocket.Dial(ctx, cluster.WebSocket(s.at[n]), &websocket.DialOptions{Subprotocols: protocols})
	if err != nil {
		s.Fatal(err)
	}
	if resp.Body != nil {
		_ = resp.Body.Close()
	}
	s.Cleanup(func() { _ = ws.CloseNow() })
	return ws
}

// over is the n-th gateway's end of each transport.
func (s *stage) over(transport string, n int) net.Conn {
	s.Helper()
	switch transport {
	case "TLS":
		nc, err := tls.Dial("tcp", cluster.MQTTS(s.at[n]), trust(s.T))
		if err != nil {
			s.Fatal(err)
		}
		return nc
	case "WebSocket":
		return websocket.NetConn(s.Context(), s.webSocket(n, "mqtt"), websocket.MessageBinary)
	}
	nc, err := net.DialTimeout("tcp", s.address(n), rawmqtt.Patience)
	if err != nil {
		s.Fatal(err)
	}
	return nc
}

func TestTransports(t *testing.T) {
	t.Parallel()
	for _, from := range []string{"TCP", "TLS", "WebSocket"} {
		for _, to := range []string{"TCP", "TLS", "WebSocket"} {
			everywhere(t, "MQTT-4.2.0-1 from "+from+" to "+to, both, func(s *stage) {
				p, c := rawmqtt.Over(s.T, s.over(from, 0), s.version), rawmqtt.Over(s.T, s.over(to, 1), s.version)
				p.Hello(s.id("publisher"))
				c.Hello(s.id("subscriber"))
				c.MustSubscribe(s.topic("a"), 2)
				large := strings.Repeat("x", 300_000)
				for qos := range byte(3) {
					for _, payload := range []string{"", "x", large} {
						p.Publish(s.topic("a"), payload, qos)
						c.ReceivePayload(payload)
						p.Publish("p2p/"+s.id("subscriber")+"/a", payload, qos)
						c.ReceivePayload(payload)
					}
				}
				// A refusal and a DISCONNECT arrive over any transport.
				p.SendRaw(frame(packets.Pingresp << 4))
				s.closes(p, 0x82)
				bad := rawmqtt.Over(s.T, s.over(from, 0), s.version)
				if bad.Hello(strings.Repeat("x", 1000)).ReasonCode == 0 {
					s.Error("accepted a client id that is too long")
				}
				bad.ExpectClosed()
			})
		}
	}
}

func TestWebSocket(t *testing.T) {
	t.Parallel()
	everywhere(t, "MQTT-6.0.0-2 packets may lie across WebSocket frames, and share them", both, func(s *stage) {
		ws := s.webSocket(1, "mqtt")
		send := func(b []byte) {
			ctx, cancel := context.WithTimeout(s.Context(), rawmqtt.Patience)
			defer cancel()
			if err := ws.Write(ctx, websocket.MessageBinary, b); err != nil {
				s.Fatal(err)
			}
		}
		for _, b := range rawmqtt.Bytes(s.T, rawmqtt.ConnectPacket(s.version, s.id("bytes"))) {
			send([]byte{b})
		}
		send(concat(
			frame(packets.Pingreq<<4),
			frame(packets.Pingreq<<4),
			frame(packets.Publish<<4, text("p2p/"+s.id("bytes")+"/a"), s.props5(), []byte("x")),
		))
		c := rawmqtt.Over(s.T, websocket.NetConn(s.Context(), ws, websocket.MessageBinary), s.version)
		c.Expect(packets.Connack)
		c.Expect(packets.Pingresp)
		c.Expect(packets.Pingresp)
		c.ReceivePayload("x")
	})
	everywhere(t, "MQTT-6.0.0-1 a text frame closes", both, func(s *stage) {
		ws := s.webSocket(1, "mqtt")
		ctx, cancel := context.WithTimeout(s.Context(), rawmqtt.Patience)
		defer cancel()
		connect := rawmqtt.Bytes(s.T, rawmqtt.ConnectPacket(s.version, s.id("text")))
		if err := ws.Write(ctx, websocket.MessageText, connect); err != nil {
			s.Fatal(err)
		}
		if kind, b, err := ws.Read(ctx); err == nil {
			s.Errorf("got %v %v, want the end", kind, b)
		}
		if ctx.Err() != nil {
			s.Error("the connection is still open")
		}
	})
	everywhere(t, "MQTT-6.0.0-3 MQTT-6.0.0-4 the subprotocol is mqtt, and has to be", both, func(s *stage) {
		if got := s.webSocket(1, "other", "mqtt").Subprotocol(); got != "mqtt" {
			s.Errorf("subprotocol %q", got)
		}
		ctx, cancel := context.WithTimeout(s.Context(), rawmqtt.Patience)
		defer cancel()
		ws, resp, err := websocket.Dial(ctx, cluster.WebSocket(s.at[1]), &websocket.DialOptions{Subprotocols: []string{"other"}})
		if resp != nil && resp.Body != nil {
			defer resp.Body.Close()
		}
		if err != nil {
			return // refused at once
		}
		defer func() { _ = ws.CloseNow() }()
		if _, _, err := ws.Read(ctx); err == nil || ctx.Err() != nil {
			s.Errorf("open without the subprotocol: %v", err)
		}
	})
	everywhere(t, "4.13 a page of another origin is refused", v5, func(s *stage) {
		ctx, cancel := context.WithTimeout(s.Context(), rawmqtt.Patience)
		defer cancel()
		ws, resp, err := websocket.Dial(ctx, cluster.WebSocket(s.at[1]), &websocket.DialOptions{
			Subprotocols: []string{"mqtt"}, HTTPHeader: map[string][]string{"Origin": {"https://elsewhere.example"}},
		})
		if resp != nil && resp.Body != nil {
			defer resp.Body.Close()
		}
		if err == nil {
			_ = ws.CloseNow()
			s.Error("accepted")
		}
	})
	everywhere(t, "3.14 a WebSocket ends with its closing handshake after DISCONNECT", both, func(s *stage) {
		ws := s.webSocket(1, "mqtt")
		ctx, cancel := context.WithTimeout(s.Context(), rawmqtt.Patience)
		defer cancel()
		b := concat(rawmqtt.Bytes(s.T, rawmqtt.ConnectPacket(s.version, s.id("leaves"))), frame(packets.Disconnect<<4))
		if err := ws.Write(ctx, websocket.MessageBinary, b); err != nil {
			s.Fatal(err)
		}
		for {
			if _, _, err := ws.Read(ctx); err != nil {
				if got := websocket.CloseStatus(err); got != websocket.StatusNormalClosure {
					s.Errorf("ended with %v", err)
				}
				return
			}
		}
	})
	everywhere(t, "MQTT-3.1.2-22 a silent WebSocket is closed", both, func(s *stage) {
		c := rawmqtt.Over(s.T, s.over("WebSocket", 1), s.version)
		began := time.Now()
		c.Hello(s.id("silent"), keepAlive(1))
		s.closes(c, 0x8d)
		if took := time.Since(began); took < 1500*time.Millisecond {
			s.Errorf("closed after %v", took)
		}
	})
}
