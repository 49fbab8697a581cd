package client_test

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"github.com/beeline-mqtt/beeline/internal/tcp"
	"github.com/beeline-mqtt/beeline/services/gateway/internal/auth"
	"github.com/beeline-mqtt/beeline/services/gateway/internal/client"
	"github.com/beeline-mqtt/beeline/services/gateway/internal/rules"
	"github.com/beeline-mqtt/beeline/test/rawmqtt"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	v3 = rawmqtt.V311
	v5 = rawmqtt.V5
)

// versions runs f for both versions of MQTT.
func versions(t *testing.T, f func(t *testing.T, version byte)) {
	t.Helper()
	t.Run("3.1.1", func(t *testing.T) { f(t, v3) })
	t.Run("5", func(t *testing.T) { f(t, v5) })
}

// rig serves clients over TCP, or over pipes in a synctest bubble.
type rig struct {
	t        testing.TB
	limits   client.Limits
	deps     client.Deps
	broker   *broker
	shelf    *shelf
	registry *prometheus.Registry
	addr     string
	out      atomic.Bool // the incarnation is not in force any more
	log      *lockedBuffer
	end      context.CancelFunc
	ctx      context.Context
	serving  sync.WaitGroup
	served   chan struct{} // one element for each connection that is done
}

// quiet makes a rig that serves nothing yet.
func quiet(t testing.TB, changes ...func(*rig)) *rig {
	t.Helper()
	r := &rig{
		t: t, limits: client.DefaultLimits(), broker: newBroker(), registry: prometheus.NewRegistry(),
		served: make(chan struct{}, 1000), log: new(lockedBuffer),
	}
	r.limits.Patience = 200 * time.Millisecond
	r.shelf = newShelf(t)
	r.broker.shelf = r.shelf
	var seq atomic.Uint64
	r.deps = client.Deps{
		Broker: r.broker, Journal: r.shelf, Authenticate: auth.AllowAnonymous, Authorize: auth.AllowAll,
		Serving:     func() bool { return !r.out.Load() },
		Available:   func() bool { return true },
		Incarnation: "g1", NextSequence: func() uint64 { return seq.Add(1) },
		Metrics: client.NewMetrics(r.registry),
		Logger:  slog.New(slog.NewTextHandler(r.log, nil)),
	}
	for _, change := range changes {
		change(r)
	}
	r.ctx, r.end = context.WithCancel(context.WithoutCancel(t.Context()))
	t.Cleanup(func() {
		r.end()
		r.serving.Wait()
	})
	return r
}

// newRig makes a rig that serves on a TCP port.
func newRig(t testing.TB, changes ...func(*rig)) *rig {
	t.Helper()
	r := quiet(t, changes...)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r.addr = ln.Addr().String()
	t.Cleanup(func() { _ = ln.Close() })
	r.serving.Go(func() {
		for {
			nc, err := ln.Accept()
			if err != nil {
				return
			}
			r.serve(tcp.Wrap(nc))
		}
	})
	t.Cleanup(func() { _ = ln.Close() })
	return r
}

func (r *rig) serve(nc net.Conn) {
	r.serving.Go(func() {
		client.Serve(r.ctx, nc, "tcp", &r.limits, &r.deps)
		r.served <- struct{}{}
	})
}

// pipe serves one connection over a pipe, for synctest.
func (r *rig) pipe(version byte) *rawmqtt.Client {
	r.t.Helper()
	near, far := net.Pipe()
	r.serve(near)
	return rawmqtt.Over(r.t, far, version)
}

func (r *rig) connect(version byte, id string, opts ...rawmqtt.Option) *rawmqtt.Client {
	r.t.Helper()
	return rawmqtt.Connect(r.t, r.addr, version, id, opts...)
}

// attached connects and returns both ends.
func (r *rig) attached(version byte, id string, opts ...rawmqtt.Option) (*rawmqtt.Client, *client.Client) {
	r.t.Helper()
	c := r.connect(version, id, opts...)
	return c, r.broker.client(id)
}

// awaitServed returns when n more connections are done.
func (r *rig) awaitServed(n int) {
	r.t.Helper()
	for range n {
		receive(r.t, r.served, "the end of a connection")
	}
}

// metric returns the value of a counter or gauge, summed over the labels that are not given.
func (r *rig) metric(name string, labels ...string) float64 {
	r.t.Helper()
	families, err := r.registry.Gather()
	if err != nil {
		r.t.Fatal(err)
	}
	var sum float64
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.GetMetric() {
			have := make(map[string]bool)
			for _, l := range m.GetLabel() {
				have[l.GetName()+"="+l.GetValue()] = true
			}
			all := true
			for _, want := range labels {
				all = all && have[want]
			}
			if all {
				sum += m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
	}
	return sum
}

// receive takes one element, within a bound.
func receive[T any](t testing.TB, ch <-chan T, what string) T {
	t.Helper()
	select {
	case x := <-ch:
		return x
	case <-time.After(rawmqtt.Patience):
		t.Fatalf("no sign of %s", what)
		panic("unreachable")
	}
}

// lockedBuffer gathers log lines of many goroutines.
type lockedBuffer struct {
	mu sync.Mutex
	b  strings.Builder
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// Options of a CONNECT.

func keepAlive(seconds uint16) rawmqtt.Option {
	return func(p *packets.Packet) { p.Connect.Keepalive = seconds }
}

func unclean(p *packets.Packet) { p.Connect.Clean = false }

func receiveMaximum(n uint16) rawmqtt.Option {
	return func(p *packets.Packet) { p.Properties.ReceiveMaximum = n }
}

func maximumPacketSize(n uint32) rawmqtt.Option {
	return func(p *packets.Packet) { p.Properties.MaximumPacketSize = n }
}

func topicAliasMaximum(n uint16) rawmqtt.Option {
	return func(p *packets.Packet) { p.Properties.TopicAliasMaximum = n }
}

func sessionExpiry(seconds uint32) rawmqtt.Option {
	return func(p *packets.Packet) {
		p.Properties.SessionExpiryInterval, p.Properties.SessionExpiryIntervalFlag = seconds, true
	}
}

func noProblemInfo(p *packets.Packet) {
	p.Properties.RequestProblemInfo, p.Properties.RequestProblemInfoFlag = 0, true
}

func user(name, password string) rawmqtt.Option {
	return func(p *packets.Packet) {
		p.Connect.UsernameFlag, p.Connect.PasswordFlag = true, true
		p.Connect.Username, p.Connect.Password = []byte(name), []byte(password)
	}
}

func will(topic, payload string, qos byte) rawmqtt.Option {
	return func(p *packets.Packet) {
		p.Connect.WillFlag, p.Connect.WillQos = true, qos
		p.Connect.WillTopic, p.Connect.WillPayload = topic, []byte(payload)
	}
}

func retainedWill(p *packets.Packet) { p.Connect.WillRetain = true }

// deny has the authorizer refuse one action on one topic.
func deny(action rules.Action, topic string) func(*rig) {
	return func(r *rig) {
		r.deps.Authorize = func(_ auth.Identity, q rules.Request) bool { return q.Action != action || q.Topic != topic }
	}
}

func limit(set func(*client.Limits)) func(*rig) {
	return func(r *rig) { set(&r.limits) }
}

var errTest = errors.New("by order of the test")
