package client

import (
	"time"

	"github.com/beeline-mqtt/beeline/internal/engine"
	"github.com/beeline-mqtt/beeline/internal/message"
	"github.com/beeline-mqtt/beeline/internal/packet"
	"github.com/beeline-mqtt/beeline/internal/trace"
	"github.com/beeline-mqtt/beeline/internal/turn"
	"github.com/beeline-mqtt/beeline/services/gateway/internal/conn"
)

// Deliver puts a message into the client's queue and, where there is room, into its output, to be flushed at
// the end of the turn. See engine.Session.Offer for what it returns; a client that is ending takes nothing more
// and answers Ended. It never blocks.
func (c *Client) Deliver(d Delivery, t *turn.Turn) engine.Outcome {
	c.mu.Lock()
	defer c.unlock(t)
	if !c.Takes(&d) {
		c.drop(d.Message, d.QoS, dropTooLarge, t.Now)
		return engine.Queued
	}
	if c.state == ended || c.cause != nil {
		return c.departed(d.QoS)
	}
	if c.retaining.had.covers(&d) {
		return engine.Queued
	}
	c.cameLive(d.Message)
	if c.durable != nil && d.QoS > 0 {
		if d.Until == engine.UntilQueued {
			d.Until = engine.UntilSafe
		}
		if o, held := c.hold(d, t.Now); held {
			return o
		}
	}
	a := c.session.Offer(d, t.Now)
	c.fill(t.Now)
	c.flag(t)
	return a
}

// Takes reports whether a delivery is not too large for the client. One that is too large Deliver discards.
func (c *Client) Takes(d *Delivery) bool {
	return c.fits(d.Message, packet.PublishOptions{QoS: d.QoS, Retain: d.Retain, IDs: d.IDs})
}

// HasRoom reports whether the client's queue takes a message now. It chooses members of shared subscriptions.
func (c *Client) HasRoom() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.state == open && c.cause == nil && c.session.FullSince().IsZero() && !c.session.Spilled()
}

// acknowledge tells the client what became of a message that it published: the acknowledgement goes out as
// soon as those of its earlier messages have.
func (c *Client) acknowledge(id uint16, qos byte, code packet.Code, t *turn.Turn) {
	if code.Failure() && !c.canRefuse(qos, code) {
		// The connection ends and the client keeps its message.
		c.Stop(notDelivered(code))
		return
	}
	c.mu.Lock()
	defer c.unlock(t)
	if c.state == ended {
		return
	}
	c.session.Forwarded(id, qos, code)
	c.fillAcks()
	c.flag(t)
	c.wakeReader()
}

// canRefuse reports whether an acknowledgement can say no with that code. MQTT 3.1.1 has none that does. And a PUBREC that
// says no ends a QoS 2 message, which is no answer of a durable session when it is not known what has become of it: if the
// PUBREC were lost, the client would send the message again, and it would be another one, to those too who have the first.
func (c *Client) canRefuse(qos byte, code packet.Code) bool {
	unknown := qos == message.ExactlyOnce && c.durable != nil && code == packet.UnspecifiedError
	return c.Version >= packet.V5 && !unknown
}

// wakeReader ends a pause of the reading goroutine when the client is within its bounds again. With c.mu held.
func (c *Client) wakeReader() {
	if c.paused.Load() && !c.overBounds() {
		select {
		case c.room <- struct{}{}:
		default: // it has been told
		}
	}
}

// fill moves what the session has to send into the output, up to its high-water mark. With c.mu held.
func (c *Client) fill(now time.Time) {
	if c.state != open || c.cause != nil {
		return
	}
	for c.out.Len() < conn.HighWater {
		o, ok := c.session.Next(now)
		if !ok {
			return
		}
		if c.durable != nil && c.discard(o, now) {
			continue
		}
		c.out.Append(c.encode(c.out.Buffer(), o, now))
	}
}

// discard drops a packet that is too large for the client, as if it had been sent and acknowledged (MQTT-3.1.2-25). It
// can only have been waiting in the inbox: an earlier connection took larger ones. With c.mu held.
func (c *Client) discard(o engine.Outgoing, now time.Time) bool {
	if o.Type != packet.PUBLISH || o.PacketID == 0 ||
		c.fits(o.Message, packet.PublishOptions{QoS: o.QoS, Retain: o.Retain, IDs: o.IDs}) {
		return false
	}
	c.drop(o.Message, o.QoS, dropTooLarge, now)
	ack := packet.Ack{Type: packet.PUBACK, PacketID: o.PacketID}
	if o.QoS == message.ExactlyOnce {
		ack.Type, ack.Code = packet.PUBREC, packet.PacketTooLarge
	}
	_, _, _ = c.session.Acked(ack) // it is in flight, and of that kind
	return true
}

// fillAcks moves acknowledgements that are due into the output. They are few: the client's own window bounds
// them. With c.mu held.
func (c *Client) fillAcks() {
	for {
		a, ok := c.session.NextAck()
		if !ok {
			return
		}
		c.out.Append(packet.AppendAck(c.out.Buffer(), c.Version, a.Type, a.PacketID, a.Code))
	}
}

// refill is the output's: a write has made room.
func (c *Client) refill() {
	if !c.holdsBack() {
		return
	}
	t := turn.Turn{Now: time.Now()}
	err := c.protect(func() error {
		c.mu.Lock()
		defer c.unlock(&t)
		c.fill(t.Now)
		return nil
	})
	if err != nil {
		c.Stop(causeOf(err))
	}
	t.End()
}

// holdsBack reports whether messages wait for room in the output, or for the client.
func (c *Client) holdsBack() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.session == nil {
		return false
	}
	messages, _ := c.session.QueueLen()
	return messages > 0
}

func (c *Client) encode(dst []byte, o engine.Outgoing, now time.Time) []byte {
	if o.Type == packet.PUBREL {
		return packet.AppendAck(dst, c.Version, packet.PUBREL, o.PacketID, packet.Success)
	}
	po := packet.PublishOptions{
		PacketID: o.PacketID, Dup: o.Dup, QoS: o.QoS, Retain: o.Retain, IDs: o.IDs, NamePublisher: c.Identity.Service,
	}
	if c.aliasFits(o) {
		po.Alias, po.OmitTopic = c.aliases.use(o.Message.Topic)
	}
	c.deps.Metrics.sent(o.QoS)
	if c.deps.Trace.On() {
		c.deps.Trace.Step(trace.Delivered, o.Message, c.ID, qosName(o.QoS))
	}
	return packet.AppendPublish(dst, c.Version, o.Message, po, now)
}

// qosName is a QoS as it is shown.
func qosName(qos byte) string { return "QoS " + string('0'+rune(qos)) }

// aliasFits reports whether a topic alias may be given: the three bytes that it takes must not make a packet
// too large that is not so without it.
func (c *Client) aliasFits(o engine.Outgoing) bool {
	return c.aliases.maximum == 0 || c.fits(o.Message, packet.PublishOptions{QoS: o.QoS, IDs: o.IDs, Alias: 1})
}

// fits reports whether a PUBLISH is not too large for the client. One that is too large is discarded, as if it had been
// sent (MQTT-3.1.2-25).
func (c *Client) fits(m *message.Message, o packet.PublishOptions) bool {
	o.NamePublisher = c.Identity.Service
	return c.maximumPacket == 0 || packet.PublishSize(c.Version, m, o) <= c.maximumPacket
}
