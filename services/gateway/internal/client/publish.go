package client

import (
	"strings"
	"time"

	"github.com/beeline-mqtt/beeline/internal/engine"
	"github.com/beeline-mqtt/beeline/internal/message"
	"github.com/beeline-mqtt/beeline/internal/packet"
	"github.com/beeline-mqtt/beeline/internal/topic"
	"github.com/beeline-mqtt/beeline/services/gateway/internal/rules"
)

// onPublish handles a PUBLISH from the client.
func (c *Client) onPublish(p packet.Publish) error {
	c.deps.Metrics.received(p.QoS)
	if err := c.resolveAlias(&p); err != nil {
		return err
	}
	if err := c.limits.ValidName(p.Topic); err != nil {
		return &packet.Error{Code: packet.TopicNameInvalid, Detail: err.Error()}
	}
	var again bool
	if p.QoS > 0 {
		switch c.published(p.PacketID, p.QoS) {
		case engine.Duplicate:
			return nil
		case engine.Again:
			again = true
		case engine.OverReceiveMaximum:
			// MQTT-3.3.4-7.
			return &packet.Error{Code: packet.ReceiveMaximumExceeded, Detail: "more messages in flight than the Receive Maximum"}
		case engine.IdentifierInUse:
			return &packet.Error{Code: packet.ProtocolError, Detail: "packet identifier in use at another QoS"}
		}
	}
	if !c.mayAddress(p.Topic) || !c.deps.Authorize(c.Identity, rules.Request{Action: rules.Publish, Topic: p.Topic, QoS: p.QoS, Retain: p.Retain}) {
		c.refusePublish(c.message(p), dropDenied, &c.turn)
		if p.QoS > 0 {
			c.acknowledge(p.PacketID, p.QoS, packet.NotAuthorized, &c.turn)
		}
		return nil
	}
	c.publish(p.PacketID, c.message(p), again)
	if p.QoS > 0 || p.Retain {
		c.waitForRoom()
	}
	return nil
}

// ValidName says whether name may be published to; an address of a client or a group has to be complete.
func (l *Limits) ValidName(name string) error {
	if err := topic.ValidateName(name, l.Topic()); err != nil {
		return err
	}
	var err error
	switch {
	case topic.IsDirect(name):
		_, err = topic.ParseDirect(name)
	case topic.IsGroup(name):
		_, err = topic.ParseGroup(name)
	}
	return err
}

// published asks the session what to do with a PUBLISH, and answers one that it has seen before.
func (c *Client) published(id uint16, qos byte) engine.Verdict {
	c.mu.Lock()
	defer c.mu.Unlock()
	verdict := c.session.Published(id, qos)
	if verdict == engine.Duplicate {
		c.fillAcks()
		c.flag(&c.turn)
	}
	return verdict
}

// resolveAlias puts the topic name in place of a topic alias (MQTT 5, 3.3.2.3.4).
func (c *Client) resolveAlias(p *packet.Publish) error {
	if p.Alias == 0 {
		return nil
	}
	if int(p.Alias) > c.limits.TopicAliases {
		// MQTT-3.3.2-9.
		return &packet.Error{Code: packet.TopicAliasInvalid, Detail: "topic alias above the Topic Alias Maximum"}
	}
	if c.aliasesIn == nil {
		c.aliasesIn = make([]string, c.limits.TopicAliases+1)
	}
	if p.Topic != "" {
		// The name lives longer than the message whose buffer it is part of.
		c.aliasesIn[p.Alias] = strings.Clone(p.Topic)
		return nil
	}
	p.Topic = c.aliasesIn[p.Alias]
	if p.Topic == "" {
		return &packet.Error{Code: packet.ProtocolError, Detail: "topic alias that was not set"}
	}
	return nil
}

func (c *Client) message(p packet.Publish) *message.Message {
	m := &message.Message{
		ID:        message.ID{Origin: c.deps.Incarnation, Seq: c.deps.NextSequence()},
		Publisher: c.ID,
		Topic:     p.Topic,
		Payload:   p.Payload,
		QoS:       p.QoS,
		Retain:    p.Retain,
		Props:     p.Props,
	}
	if p.HasExpiry {
		m.Expires = c.turn.Now.Add(time.Duration(p.Expiry) * time.Second)
	}
	return m
}

// onAck handles PUBACK, PUBREC and PUBCOMP for what we sent, and PUBREL for what we received.
func (c *Client) onAck(a packet.Ack) error {
	c.mu.Lock()
	defer c.unlock(&c.turn)
	if a.Type == packet.PUBREL {
		if reply, send := c.session.Release(a.PacketID); send {
			c.out.Append(packet.AppendAck(c.out.Buffer(), c.Version, reply.Type, reply.PacketID, reply.Code))
			c.flag(&c.turn)
		}
		return nil
	}
	reply, send, err := c.session.Acked(a)
	if send {
		c.out.Append(packet.AppendAck(c.out.Buffer(), c.Version, reply.Type, reply.PacketID, reply.Code))
	}
	c.fill(c.turn.Now)
	c.flag(&c.turn)
	return err
}

// unansweredSubscribes is how many SUBSCRIBEs of a client may wait for the cluster at once.
const unansweredSubscribes = 16

// overBounds reports whether the client's socket is not to be read for now: 3.1.1 has no Receive Maximum to
// exceed, and bytes are bounded for all, as are SUBSCRIBEs. Of what is published only what the cluster has to settle counts, never what waits for the
// client's own PUBREL, which would not be read either. With c.mu held.
func (c *Client) overBounds() bool {
	return c.unsettled.bytes+c.publishing.bytes > int(c.limits.UnsettledBytes) || c.awaited > unansweredSubscribes ||
		(c.Version < packet.V5 && len(c.unsettled.list)+len(c.publishing.list) >= c.limits.ReceiveMaximum)
}

// waitForRoom returns when the client is within its bounds again, or is to end. Its keepalive is suspended
// meanwhile: it may well have sent a PINGREQ that nobody reads.
func (c *Client) waitForRoom() {
	c.mu.Lock()
	over := c.overBounds()
	if over {
		c.paused.Store(true)
		if c.room == nil {
			c.room = make(chan struct{}, 1)
		}
	}
	room := c.room
	c.mu.Unlock()
	if !over {
		return
	}
	c.turn.End()
	for over {
		select {
		case <-room:
		case <-c.stopped:
		}
		c.mu.Lock()
		over = c.overBounds() && c.cause == nil
		c.mu.Unlock()
	}
	c.lastRead.Store(time.Now().UnixNano())
	c.paused.Store(false)
}
