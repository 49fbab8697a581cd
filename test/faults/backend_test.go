//go:build linux

package faults

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/beeline-mqtt/beeline/api/beeline"
	messagingv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/messaging/v1"
	"github.com/beeline-mqtt/beeline/test/faults/processes"
	"github.com/beeline-mqtt/beeline/test/rawmqtt"
)

// backend is a service that uses the cluster through the router.
type backend struct {
	*beeline.Client
	t *testing.T
	c *processes.Cluster
}

// serve starts a cluster of three gateways and a router, and connects a service to it. What a durable client does not acknowledge
// is not stored as long as its gateway lives: that would settle a Send.
func serve(t *testing.T) *backend {
	t.Helper()
	b := &backend{t: t, c: start(t, processes.Config{Router: true, Limits: "store_after: 1m"})}
	o := b.c.Router.Operator
	client, err := beeline.Dial(b.within(patience), b.c.Router.GRPC, beeline.Options{CAFile: o.CA, CertFile: o.Cert, KeyFile: o.Key})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	b.Client = client
	return b
}

// within is the context of one call.
func (b *backend) within(limit time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	b.t.Cleanup(cancel)
	return ctx
}

// text is a message.
func text(topic, payload string) *messagingv1.Message {
	return &messagingv1.Message{Topic: topic, Payload: []byte(payload)}
}

// entry is the gateway at which what services publish enters the cluster.
func (b *backend) entry() int {
	b.t.Helper()
	eventually(b.t, "the router knows that gateways are active", func() bool {
		_, err := b.Publish(b.within(patience), text("nobody/wants/it", ""))
		return err == nil
	})
	for i, g := range b.c.Gateways {
		if g.Metric(b.t, "beeline_gateway_service_streams") > 0 {
			return i
		}
	}
	b.t.Fatal("no router publishes at any gateway")
	return -1
}

// comesTo is the gateway that has one more client when f has returned.
func (b *backend) comesTo(f func()) int {
	b.t.Helper()
	var before []float64
	for _, g := range b.c.Gateways {
		before = append(before, g.Metric(b.t, "beeline_gateway_clients"))
	}
	f()
	at := -1
	eventually(b.t, "there is one client more", func() bool {
		for i, g := range b.c.Gateways {
			if g.Metric(b.t, "beeline_gateway_clients") == before[i]+1 {
				at = i
			}
		}
		return at >= 0
	})
	return at
}

// commands has a device answer commands, commands it, and returns the gateway to which the answer went.
func (b *backend) commands(d *client) (gateway int) {
	b.t.Helper()
	d.hear(d.answerCommand)
	return b.comesTo(func() {
		if _, err := b.Command(b.within(patience), d.id, text("first", ""), beeline.CommandOptions{}); err != nil {
			b.t.Fatal(err)
		}
	})
}

// answerCommand answers a command with what it says.
func (c *client) answerCommand(pk packets.Packet) {
	if pk.Properties.ResponseTopic == "" {
		return
	}
	answer := rawmqtt.PublishPacket(pk.Properties.ResponseTopic, string(pk.Payload), 1)
	answer.PacketID, answer.Properties.CorrelationData = pk.PacketID, pk.Properties.CorrelationData
	answer.Mods.AllowResponseInfo = true
	_ = c.send(answer) // that it fails shows in the command
}

// group makes a group.
func (b *backend) group(name string, members ...*member) {
	b.t.Helper()
	r := &messagingv1.AddMembersRequest{Group: name}
	for _, m := range members {
		r.Members = append(r.Members, &messagingv1.Member{Member: &messagingv1.Member_ClientId{ClientId: m.id}})
	}
	if _, err := b.Groups().CreateGroup(b.within(patience), &messagingv1.CreateGroupRequest{Name: name}); err != nil {
		b.t.Fatal(err)
	}
	if _, err := b.Groups().AddMembers(b.within(patience), r); err != nil {
		b.t.Fatal(err)
	}
}

// sending is a Send that is under way.
type sending struct {
	payload  string
	began    time.Time
	done     chan struct{} // closed with the following
	took     time.Duration
	response *messagingv1.SendResponse
	err      error
}

// sendTo begins a Send; the topic is its payload, too.
func (b *backend) sendTo(to *messagingv1.Receiver, payload string, o beeline.SendOptions) *sending {
	s := &sending{payload: payload, began: time.Now(), done: make(chan struct{})}
	ctx := b.within(o.Timeout + patience)
	go func() {
		defer close(s.done)
		s.response, s.err = b.Send(ctx, to, text(payload, payload), o)
		s.took = time.Since(s.began)
	}()
	return s
}

// underWay fails the test if the Send has ended.
func (s *sending) underWay(t testing.TB) {
	t.Helper()
	select {
	case <-s.done:
		t.Fatalf("%q has ended already: %v, %v", s.payload, s.response.GetCounts(), s.err)
	default:
	}
}

// member is a client that is sent messages, over all of its connections.
type member struct {
	id      string
	number  int
	at      int // the gateway
	durable bool
	mute    bool // it acknowledges nothing on its first connection
	lines   []*client
}

// come connects a member.
func (b *backend) come(m *member, gateway int) {
	b.t.Helper()
	var opts []rawmqtt.Option
	if m.durable {
		opts = append(opts, rawmqtt.Durable(3600))
	}
	x := connect(b.t, b.c.Gateways[gateway].MQTT, version(m.number), m.id, opts...)
	if m.mute && len(m.lines) == 0 {
		x.hush()
	}
	m.at, m.lines = gateway, append(m.lines, x)
}

// members are clients on all gateways in turn, every other one of a gateway durable.
func (b *backend) members(name string, n int) (all []*member) {
	b.t.Helper()
	gateways := len(b.c.Gateways)
	for i := range n {
		m := &member{id: fmt.Sprintf("%s-%d", name, i), number: i / gateways / 2, durable: i/gateways%2 == 0}
		b.come(m, i%gateways)
		all = append(all, m)
	}
	return all
}

// got says whether a message has come to a member, and whether it may have acknowledged it.
func (m *member) got(payload string) (came, acked bool) {
	for _, x := range m.lines {
		for _, a := range x.arrivals("") {
			if a.payload == payload {
				came, acked = true, acked || a.acked
			}
		}
	}
	return came, acked
}

// awaitAll waits until a message has come to all of some members.
func awaitAll(t testing.TB, payload string, members []*member) {
	t.Helper()
	eventually(t, fmt.Sprintf("%q has come to all", payload), func() bool {
		for _, m := range members {
			if came, _ := m.got(payload); !came {
				return false
			}
		}
		return true
	})
}

// chore is something that a service does again and again.
type chore struct {
	name string
	t    testing.TB
	stop chan struct{}
	idle chan struct{} // closed when it has ended

	mu      sync.Mutex // guards the following
	done    int
	longest time.Duration
	errs    []error
}

// chore begins one. f is called with how often it was called before.
func (b *backend) chore(name string, pace time.Duration, f func(n int) error) *chore {
	x := &chore{name: name, t: b.t, stop: make(chan struct{}), idle: make(chan struct{})}
	go func() {
		defer close(x.idle)
		tick := time.NewTicker(pace)
		defer tick.Stop()
		for n := 0; ; n++ {
			select {
			case <-x.stop:
				return
			case <-tick.C:
			}
			began := time.Now()
			err := f(n)
			x.mu.Lock()
			x.longest = max(x.longest, time.Since(began))
			if x.done++; err != nil {
				x.errs = append(x.errs, fmt.Errorf("%d, %v after its begin: %w", n, time.Since(began).Round(time.Millisecond), err))
			}
			x.mu.Unlock()
		}
	}()
	b.t.Cleanup(func() { x.end() })
	return x
}

// more waits until the chore was done n times more.
func (x *chore) more(n int) {
	x.t.Helper()
	at := func() int {
		x.mu.Lock()
		defer x.mu.Unlock()
		return x.done
	}
	want := at() + n
	eventually(x.t, fmt.Sprintf("%s is done %d times more", x.name, n), func() bool { return at() >= want })
}

// end ends it, and returns what went wrong.
func (x *chore) end() []error {
	x.mu.Lock()
	select {
	case <-x.stop:
	default:
		close(x.stop)
	}
	x.mu.Unlock()
	<-x.idle
	return x.errs
}

// untouched ends a chore and fails the test if anything went wrong with it.
func (x *chore) untouched(longest time.Duration) {
	x.t.Helper()
	if errs := x.end(); len(errs) > 0 {
		x.t.Errorf("%s: %d of %d times it went wrong: %v", x.name, len(errs), x.done, errs[0])
	}
	within(x.t, fmt.Sprintf("%s, the longest of %d", x.name, x.done), x.longest, longest)
}

// hasStatus fails the test unless err is of a code and says something.
func hasStatus(t testing.TB, what string, err error, code codes.Code, says string) {
	t.Helper()
	if status.Code(err) != code || !strings.Contains(status.Convert(err).Message(), says) {
		t.Errorf("%s: %v, want %v, %q", what, err, code, says)
	}
}
