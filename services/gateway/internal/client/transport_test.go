package client_test

import (
	"context"
	"crypto/tls"
	"io"
	"log/slog"
	"net"
	"net/http"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/mochi-mqtt/server/v2/packets"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/beeline-mqtt/beeline/internal/engine"
	"github.com/beeline-mqtt/beeline/internal/listener"
	"github.com/beeline-mqtt/beeline/internal/listener/listenertest"
	"github.com/beeline-mqtt/beeline/internal/message"
	"github.com/beeline-mqtt/beeline/internal/pki"
	"github.com/beeline-mqtt/beeline/internal/subscriptions"
	"github.com/beeline-mqtt/beeline/internal/turn"
	"github.com/beeline-mqtt/beeline/services/gateway/internal/auth"
	"github.com/beeline-mqtt/beeline/services/gateway/internal/client"
	"github.com/beeline-mqtt/beeline/test/rawmqtt"
)

// single is a client.Broker for one client at a time, which gets what it publishes.
type single struct {
	current atomic.Pointer[client.Client]
}

func (s *single) Attach(ctx context.Context, c *client.Client) error {
	if former := s.current.Swap(c); former != nil {
		former.Stop(client.TakenOver())
		select {
		case <-former.Gone():
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

func (s *single) Detach(c *client.Client) { s.current.CompareAndSwap(c, nil) }

func (s *single) Publish(from *client.Client, _ uint16, m *message.Message, t *turn.Turn) {
	if from != nil {
		from.Deliver(client.Delivery{Message: m}, t)
	}
}

func (s *single) Subscribe(_ *client.Client, _ string, _ subscriptions.Options, done func(error) bool) {
	done(nil)
}

func (s *single) Unsubscribe(*client.Client, string) {}

// empty is a client.Journal in which nothing is retained. No client here has a durable session.
type empty struct{ client.Journal }

func (empty) ReadRetained(_ *client.Client, _ string, _ []byte, done func([]*message.Message, []byte)) {
	go done(nil, nil)
}

// halfAMegabyte is a message that fills sockets.
var halfAMegabyte = make([]byte, 500_000)

// push offers halfAMegabyte to c.
func push(c *client.Client, qos byte) engine.Outcome {
	t := turn.Turn{Now: time.Now()}
	defer t.End()
	m := &message.Message{Topic: "t", Payload: halfAMegabyte, QoS: qos}
	return c.Deliver(client.Delivery{Message: m, QoS: qos}, &t)
}

// mqtt serves MQTT and counts it in registry.
func mqtt(b client.Broker, limits *client.Limits, registry *prometheus.Registry, changes ...func(*client.Deps)) listener.Handler {
	deps := &client.Deps{
		Broker: b, Journal: empty{}, Authenticate: auth.AllowAnonymous, Authorize: auth.AllowAll,
		Serving: func() bool { return true }, Available: func() bool { return true },
		NextSequence: func() uint64 { return 1 }, Metrics: client.NewMetrics(registry),
		Logger: slog.New(slog.DiscardHandler),
	}
	for _, change := range changes {
		change(deps)
	}
	return func(ctx context.Context, nc net.Conn, name string) { client.Serve(ctx, nc, name, limits, deps) }
}

// transport is one way in which MQTT comes.
type transport struct {
	name string
	cfg  listener.Config
	dial func(t *testing.T, r *listenertest.Rig) net.Conn
}

func transports(t *testing.T) []transport {
	t.Helper()
	return transportsBehind(t, "")
}

// transportsBehind are those of connections that begin with header.
func transportsBehind(t *testing.T, header string) []transport {
	t.Helper()
	begin := func(t *testing.T, r *listenertest.Rig) net.Conn {
		t.Helper()
		nc := r.Dial()
		if _, err := io.WriteString(nc, header); err != nil {
			t.Fatal(err)
		}
		return nc
	}
	certs := listenertest.Issue(t)
	trusting := certs.Trusting(t, pki.Files{})
	ws := func(scheme string) func(t *testing.T, r *listenertest.Rig) net.Conn {
		return func(t *testing.T, r *listenertest.Rig) net.Conn {
			t.Helper()
			opts := &websocket.DialOptions{Subprotocols: []string{"mqtt"}}
			opts.HTTPClient = &http.Client{Transport: &http.Transport{
				TLSClientConfig: trusting,
				DialContext:     func(context.Context, string, string) (net.Conn, error) { return begin(t, r), nil },
			}}
			c, err := r.DialWS(scheme, opts)
			if err != nil {
				t.Fatal(err)
			}
			return websocket.NetConn(context.WithoutCancel(t.Context()), c, websocket.MessageBinary)
		}
	}
	return []transport{
		{"TCP", listener.Config{}, begin},
		{"TLS", listener.Config{CertFile: certs.Server.Cert, KeyFile: certs.Server.Key}, func(t *testing.T, r *listenertest.Rig) net.Conn {
			t.Helper()
			return tls.Client(begin(t, r), trusting)
		}},
		{"WebSocket", listener.Config{WebSocket: true}, ws("ws")},
		{"WebSocket over TLS", listener.Config{WebSocket: true, CertFile: certs.Server.Cert, KeyFile: certs.Server.Key}, ws("wss")},
	}
}

func TestMQTTIsTheSameOverEveryTransport(t *testing.T) {
	for _, tr := range transports(t) {
		t.Run(tr.name, func(t *testing.T) {
			b, limits := new(single), client.DefaultLimits()
			r := listenertest.Serve(t, tr.cfg, 10, mqtt(b, &limits, prometheus.NewRegistry()))
			c := rawmqtt.Over(t, tr.dial(t, r), rawmqtt.V5)
			if ack := c.Hello("a"); ack.ReasonCode != 0 {
				t.Fatalf("CONNACK %#x", ack.ReasonCode)
			}
			c.MustSubscribe("t", 0)
			payload := strings.Repeat("x", 100_000)
			c.Publish("t", payload, 0)
			c.ReceivePayload(payload)
			c.ExpectNothing()

			second := rawmqtt.Over(t, tr.dial(t, r), rawmqtt.V5)
			second.Hello("a")
			if p := c.Expect(packets.Disconnect); p.ReasonCode != 0x8E {
				t.Errorf("DISCONNECT %#x", p.ReasonCode)
			}
			c.ExpectClosed()
			r.End()
			if got := second.ExpectClosed(); got != 0x8B {
				t.Errorf("DISCONNECT %#x at the end", got)
			}
		})
	}
}

func TestAClientThatDoesNotReadHoldsUpNeitherPublishersNorItsTakeover(t *testing.T) {
	for _, tr := range transports(t) {
		t.Run(tr.name, func(t *testing.T) {
			b, limits := new(single), client.DefaultLimits()
			limits.Patience = 200 * time.Millisecond
			limits.WriteTimeout = time.Hour
			limits.QueueMessages, limits.SendMaximum = 5, 100
			r := listenertest.Serve(t, tr.cfg, 10, mqtt(b, &limits, prometheus.NewRegistry()))
			c := rawmqtt.Over(t, tr.dial(t, r), rawmqtt.V5)
			c.Hello("a")
			stuffed := b.current.Load()
			began := time.Now()
			for push(stuffed, 1) != engine.Waiting {
			}
			second := rawmqtt.Over(t, tr.dial(t, r), rawmqtt.V5)
			if ack := second.Hello("a"); ack.ReasonCode != 0 {
				t.Fatalf("CONNACK %#x", ack.ReasonCode)
			}
			if took := time.Since(began); took > 2*time.Second {
				t.Errorf("it took %v", took)
			}
			receive(t, stuffed.Gone(), "the end of the first")
			second.ExpectNothing()
		})
	}
}

func TestAWriteThatIsNotDoneInTimeIsKnownForWhatItIsOverEveryTransport(t *testing.T) {
	for _, tr := range transports(t) {
		t.Run(tr.name, func(t *testing.T) {
			b, limits, registry := new(single), client.DefaultLimits(), prometheus.NewRegistry()
			limits.WriteTimeout = 100 * time.Millisecond
			limits.QueueMessages, limits.SendMaximum = 5, 100
			r := listenertest.Serve(t, tr.cfg, 10, mqtt(b, &limits, registry))
			c := rawmqtt.Over(t, tr.dial(t, r), rawmqtt.V5)
			c.Hello("a")
			slow := b.current.Load()
			for push(slow, 0) != engine.Ended { // what does not fit is dropped
				runtime.Gosched()
			}
			receive(t, slow.Gone(), "its end")
			r.End()
			receive(t, r.Done, "the end of Serve")
			if got := closedAs(t, registry); got != "slow" {
				t.Errorf("counted as %q", got)
			}
		})
	}
}

// closedAs returns the reasons for which connections have been closed.
func closedAs(t *testing.T, registry *prometheus.Registry) string {
	t.Helper()
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var reasons []string
	for _, f := range families {
		if f.GetName() == "beeline_gateway_clients_closed_total" {
			for _, m := range f.GetMetric() {
				reasons = append(reasons, m.GetLabel()[0].GetValue())
			}
		}
	}
	return strings.Join(reasons, " ")
}

func TestAPeerThatNeverFinishesItsHandshakeIsClosed(t *testing.T) {
	for _, tr := range transports(t) {
		if tr.cfg.WebSocket {
			continue // HTTP has its own, longer time-out
		}
		t.Run(tr.name, func(t *testing.T) {
			limits := client.DefaultLimits()
			limits.ConnectTimeout = 50 * time.Millisecond
			r := listenertest.Serve(t, tr.cfg, 10, mqtt(new(single), &limits, prometheus.NewRegistry()))
			nc := r.Dial()
			if _, err := nc.Write([]byte{0x16, 3, 1}); err != nil {
				t.Fatal(err)
			}
			rawmqtt.Over(t, nc, rawmqtt.V5).ExpectClosed()
		})
	}
}
