package client_test

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/beeline-mqtt/beeline/internal/engine"
	"github.com/beeline-mqtt/beeline/internal/message"
	"github.com/beeline-mqtt/beeline/internal/packet"
	"github.com/beeline-mqtt/beeline/internal/subscriptions"
	"github.com/beeline-mqtt/beeline/internal/topic"
	"github.com/beeline-mqtt/beeline/internal/turn"
	"github.com/beeline-mqtt/beeline/services/gateway/internal/client"
)

// broker is a well-behaved client.Broker in memory: one connection for each id, subscriptions matched one by
// one, receipts at once or, for topics under held/, when the test gives them.
type broker struct {
	// The hooks, where set, come first; an error or a panic is theirs to choose.
	onAttach    func(ctx context.Context, c *client.Client) error
	onDetach    func(c *client.Client)
	onPublish   func(from *client.Client, m *message.Message)
	onSubscribe func(filter string, done func(error) bool) (taken bool)

	shelf     *shelf
	published chan *message.Message // everything
	held      chan *publication     // what waits for the test

	epoch atomic.Uint64

	mu      sync.Mutex
	clients map[string]*client.Client
	subs    map[*client.Client]map[string]subscriptions.Options
}

func newBroker() *broker {
	return &broker{
		published: make(chan *message.Message, 100_000), held: make(chan *publication, 1000),
		clients: make(map[string]*client.Client), subs: make(map[*client.Client]map[string]subscriptions.Options),
	}
}

// client returns the connection of an id, nil when there is none.
func (b *broker) client(id string) *client.Client {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.clients[id]
}

func (b *broker) Attach(ctx context.Context, c *client.Client) error {
	if b.onAttach != nil {
		if err := b.onAttach(ctx, c); err != nil {
			return err
		}
	}
	b.mu.Lock()
	former := b.clients[c.ID]
	b.clients[c.ID] = c
	b.mu.Unlock()
	if former != nil {
		former.Stop(client.TakenOver())
		select {
		case <-former.Gone():
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	epoch := b.epoch.Add(1)
	c.Open(epoch, b.shelf.open(c.ID, c.Terms()))
	c.Granted(epoch)
	return nil
}

func (b *broker) Detach(c *client.Client) {
	if b.onDetach != nil {
		b.onDetach(c)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.subs, c)
	if b.clients[c.ID] == c {
		delete(b.clients, c.ID)
	}
}

func (b *broker) Subscribe(c *client.Client, filter string, o subscriptions.Options, done func(error) bool) {
	if b.onSubscribe != nil && b.onSubscribe(filter, done) {
		return
	}
	b.mu.Lock()
	if b.subs[c] == nil {
		b.subs[c] = make(map[string]subscriptions.Options)
	}
	b.subs[c][filter] = o
	b.mu.Unlock()
	done(nil)
}

func (b *broker) Unsubscribe(c *client.Client, filter string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.subs[c], filter)
}

func (b *broker) Publish(from *client.Client, id uint16, m *message.Message, t *turn.Turn) {
	if b.onPublish != nil {
		b.onPublish(from, m)
	}
	b.published <- m
	var p *publication
	if m.QoS > 0 {
		p = &publication{m: m}
		p.Begin(from, id, m.QoS, m.Size(), t.Now)
		if topic.Match("held/#", m.Topic) {
			p.Expect()
			b.held <- p
		}
	}
	for c, o := range b.matching(m.Topic) {
		d := client.Delivery{Message: m, QoS: min(m.QoS, o.QoS)}
		if o.ID > 0 {
			d.IDs = []uint32{o.ID}
		}
		if p == nil {
			c.Deliver(d, t)
			continue
		}
		p.Expect()
		d.Ticket = p
		switch c.Deliver(d, t) {
		case engine.Waiting:
		case engine.Ended:
			p.Done(packet.NoMatchingSubscribers, t)
		default:
			p.Done(packet.Success, t)
		}
	}
	if p != nil {
		p.Done(packet.NoMatchingSubscribers, t)
		p.Pending()
	}
}

func (b *broker) matching(name string) map[*client.Client]subscriptions.Options {
	b.mu.Lock()
	defer b.mu.Unlock()
	found := make(map[*client.Client]subscriptions.Options)
	for c, filters := range b.subs {
		for f, o := range filters {
			if topic.Match(f, name) {
				found[c] = o
			}
		}
	}
	return found
}

// publication is a message whose publisher waits.
type publication struct {
	client.Publication

	m *message.Message
}

func (p *publication) Settle(o engine.Outcome, t *turn.Turn) {
	if o == engine.Ended {
		p.Done(packet.NoMatchingSubscribers, t)
		return
	}
	p.Done(packet.Success, t)
}

// settle gives the receipt that the test has held back, on a turn of its own.
func (p *publication) settle(code packet.Code) {
	var t turn.Turn
	p.Done(code, &t)
	t.End()
}

// deliver offers d to c on a turn of its own.
func deliver(c *client.Client, d client.Delivery) engine.Outcome {
	t := turn.Turn{Now: time.Now()}
	defer t.End()
	return c.Deliver(d, &t)
}

// ticket tells what became of a delivery.
type ticket chan engine.Outcome

func newTicket() ticket { return make(ticket, 1) }

func (k ticket) Settle(o engine.Outcome, _ *turn.Turn) { k <- o }

// holdAttach is an onAttach that shows each client and waits until release is closed, or the client is stopped.
func holdAttach(attaching chan<- *client.Client, release <-chan struct{}) func(context.Context, *client.Client) error {
	return func(ctx context.Context, c *client.Client) error {
		attaching <- c
		select {
		case <-release:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}
