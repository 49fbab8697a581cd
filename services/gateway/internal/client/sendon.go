package client

import (
	"errors"
	"time"

	"github.com/beeline-mqtt/beeline/internal/message"
	"github.com/beeline-mqtt/beeline/internal/packet"
	"github.com/beeline-mqtt/beeline/internal/topic"
	"github.com/beeline-mqtt/beeline/internal/turn"
)

// publishing are messages of the client that are not sent on yet, in order: something has to be stored before, or
// somebody else of whom this is true is in front. It is bounded as what waits for receipts is.
type publishing struct {
	list  []*publish
	bytes int
	// busy: a goroutine is sending on.
	busy bool
}

// publish is one message.
type publish struct {
	id      uint16
	m       *message.Message
	waiting int         // for how many stores
	code    packet.Code // a failure when one of them was refused
}

// stored says that the packet identifier of a QoS 2 message is durable.
func (p *publishing) stored(id uint16) {
	for _, x := range p.list {
		if x.id == id && x.m.QoS == message.ExactlyOnce && x.waiting > 0 {
			x.waiting--
			return
		}
	}
}

// next takes the first message if it may be sent on.
func (p *publishing) next() *publish {
	if len(p.list) == 0 || p.list[0].waiting > 0 {
		return nil
	}
	x := p.list[0]
	p.list[0] = nil
	p.list = p.list[1:]
	if len(p.list) == 0 {
		p.list = nil
	}
	p.bytes -= x.m.Size()
	return x
}

// add takes a message that waits for so many stores, unless it may be sent on at once: then it returns nil.
func (p *publishing) add(id uint16, m *message.Message, stores int) *publish {
	if stores == 0 && len(p.list) == 0 && !p.busy {
		return nil
	}
	x := &publish{id: id, m: m, waiting: stores}
	p.list = append(p.list, x)
	p.bytes += m.Size()
	return x
}

// publish sends a message on, at once or when its turn has come. again: the client has sent it over a connection before.
// It runs on the reading goroutine.
func (c *Client) publish(id uint16, m *message.Message, again bool) {
	stores := 0
	retain := m.Retain && topic.IsRetained(m.Topic)
	if retain {
		stores++
	}
	x := c.line(id, m, stores, again)
	if x == nil {
		c.deps.Broker.Publish(c, id, m, &c.turn)
		return
	}
	if retain {
		c.deps.Journal.Retain(m, func(err error) { c.retained(x, err) })
	}
	c.sendOn(&c.turn)
}

// line puts a message that waits for so many stores behind those that are not sent on yet, and returns nil if it need
// not wait.
func (c *Client) line(id uint16, m *message.Message, stores int, again bool) *publish {
	c.mu.Lock()
	if c.durable == nil || m.QoS < message.ExactlyOnce {
		defer c.mu.Unlock()
		return c.publishing.add(id, m, stores)
	}
	defer c.unlock(&c.turn)
	return c.publishing.add(id, m, stores+c.take(id, m, again))
}

// take has the packet identifier of a QoS 2 message stored, so that the message is known when it is sent again over
// another connection, and returns for how many stores it waits. One that has been sent again keeps its id, comes in the
// order in which it was sent now, and need not wait. With c.mu held until the message is in the line: it may be stored
// at once.
func (c *Client) take(id uint16, m *message.Message, again bool) (stores int) {
	if !again {
		c.session.Taken(id, m.ID)
		return 1
	}
	if known, ok := c.session.TakenID(id); ok {
		place := m.ID
		m.ID, m.Order = known, &place
	}
	return 0
}

// retained is told that a retained message has been stored, or not.
func (c *Client) retained(x *publish, err error) {
	c.step(func(time.Time) {
		x.waiting--
		if errors.Is(err, ErrQuota) {
			x.code = packet.QuotaExceeded
		}
	})
}

// sendOn publishes everything whose turn has come, unless another goroutine is about it.
func (c *Client) sendOn(t *turn.Turn) {
	c.mu.Lock()
	if c.publishing.busy {
		c.mu.Unlock()
		return
	}
	c.publishing.busy = true
	for x := c.publishing.next(); x != nil; x = c.publishing.next() {
		c.mu.Unlock()
		c.sendOne(x, t)
		c.mu.Lock()
	}
	c.publishing.busy = false
	c.wakeReader()
	c.mu.Unlock()
}

func (c *Client) sendOne(x *publish, t *turn.Turn) {
	if !x.code.Failure() {
		c.deps.Broker.Publish(c, x.id, x.m, t)
		return
	}
	c.refusePublish(x.m, dropRetained, t)
	if x.m.QoS > 0 {
		c.acknowledge(x.id, x.m.QoS, x.code, t)
	}
}
