package client

import (
	"time"

	"github.com/beeline-mqtt/beeline/internal/engine"
	"github.com/beeline-mqtt/beeline/internal/message"
	"github.com/beeline-mqtt/beeline/internal/packet"
	"github.com/beeline-mqtt/beeline/internal/subscriptions"
	"github.com/beeline-mqtt/beeline/internal/topic"
)

// retaining are the retained messages that the client's subscriptions still have to bring it, filter by filter and
// page by page.
type retaining struct {
	reads []retainedRead
	busy  bool // a page has been asked for
	// newer are the topics of retained messages that came live meanwhile: what is read of them is older, or the same.
	newer map[string]struct{}
	had   hadRetained
}

// mostHad bounds the retained messages that a client remembers.
const mostHad = 1024

// hadRetained are the messages that the client was given as retained ones lately. One that was published after its SUBACK
// may have been stored before it was read, and come live after that.
type hadRetained struct {
	messages map[message.ID]asRetained
	until    time.Time // nothing of it is on its way any more
}

// asRetained is how a message was given.
type asRetained struct {
	qos byte
	id  uint32 // of the subscription; 0 is none
}

// note remembers a retained message that is given to the client. One without a sequence number has no id.
func (h *hadRetained) note(d Delivery, until time.Time) {
	if d.Message.Seq == 0 {
		return
	}
	if h.messages == nil || len(h.messages) == mostHad {
		h.messages = make(map[message.ID]asRetained)
	}
	x := asRetained{qos: d.QoS}
	if len(d.IDs) > 0 {
		x.id = d.IDs[0]
	}
	h.messages[d.Message.ID], h.until = x, until
}

// covers reports whether the client has been given d as a retained message: nothing is missing that d would add.
func (h *hadRetained) covers(d *Delivery) bool {
	if !d.Message.Retain || d.Until == engine.UntilAcked || len(h.messages) == 0 {
		return false
	}
	x, ok := h.messages[d.Message.ID]
	if !ok || x.qos < d.QoS || len(d.IDs) > 1 {
		return false
	}
	return len(d.IDs) == 0 && x.id == 0 || len(d.IDs) == 1 && x.id == d.IDs[0]
}

// tidy forgets what is not on its way any more.
func (h *hadRetained) tidy(now time.Time) {
	if h.messages != nil && now.After(h.until) {
		*h = hadRetained{}
	}
}

// retainedRead is a filter whose retained messages are read.
type retainedRead struct {
	filter  string
	options subscriptions.Options
	cursor  []byte
}

// Retain Handling (3.8.3.1).
const (
	retainAlways = 0
	retainIfNew  = 1
)

// wantsRetained adds a filter to reads if its subscription asks for retained messages. A shared one never does
// (4.8.2).
func (c *Client) wantsRetained(reads []retainedRead, filter string, o subscriptions.Options, isNew bool) []retainedRead {
	_, shared, _ := topic.ParseShared(filter) // valid: it has been admitted
	if shared || o.RetainHandling != retainAlways && (o.RetainHandling != retainIfNew || !isNew) {
		return reads
	}
	return append(reads, retainedRead{filter: filter, options: o})
}

// readRetained begins to read what a SUBSCRIBE has asked for, after its SUBACK.
func (c *Client) readRetained(reads []retainedRead) {
	if len(reads) == 0 {
		return
	}
	c.step(func(time.Time) {
		if c.state == open {
			c.retaining.reads = append(c.retaining.reads, reads...)
		}
	})
}

// readMore asks for the next page if the queue has room for it. With c.mu held.
func (c *Client) readMore() {
	r := &c.retaining
	if len(r.reads) == 0 || r.busy || c.state != open || c.cause != nil {
		return
	}
	if messages, bytes := c.session.QueueLen(); messages > c.sessionLimits.QueueMessages/2 || bytes > c.sessionLimits.QueueBytes/2 {
		return
	}
	r.busy = true
	next := r.reads[0]
	c.deps.Journal.ReadRetained(c, next.filter, next.cursor, func(page []*message.Message, cursor []byte) {
		c.step(func(now time.Time) { c.retainedPage(page, cursor, now) })
	})
}

// retainedPage takes a page. With c.mu held.
func (c *Client) retainedPage(page []*message.Message, cursor []byte, now time.Time) {
	r := &c.retaining
	r.busy = false
	if c.state != open || len(r.reads) == 0 {
		r.forget()
		return
	}
	read := &r.reads[0]
	_, still := c.filters[read.filter]
	for _, m := range page {
		if _, newer := r.newer[m.Topic]; still && !newer {
			c.offerRetained(m, read.options, now)
		}
	}
	read.cursor = cursor
	if still && len(cursor) > 0 {
		return
	}
	r.reads = r.reads[1:]
	if len(r.reads) == 0 {
		r.forget()
	}
}

// forget lets go of what is needed only while messages are read.
func (r *retaining) forget() { *r = retaining{had: r.had} }

// offerRetained queues one retained message (MQTT-3.3.1-8). With c.mu held.
func (c *Client) offerRetained(m *message.Message, o subscriptions.Options, now time.Time) {
	d := Delivery{Message: m, QoS: min(m.QoS, o.QoS), Retain: true}
	if o.ID != 0 {
		d.IDs = []uint32{o.ID}
	}
	if !c.fits(m, packet.PublishOptions{QoS: d.QoS, Retain: true, IDs: d.IDs}) {
		c.drop(m, d.QoS, dropTooLarge, now)
		return
	}
	if c.offerUnasked(d, now) != engine.Dropped {
		c.retaining.had.note(d, now.Add(c.limits.ReceiptTimeout))
	}
}

// offerUnasked offers a delivery for which nobody waits. With c.mu held.
func (c *Client) offerUnasked(d Delivery, now time.Time) engine.Outcome {
	if c.durable != nil && d.QoS > 0 {
		d.Ticket = nobody{}
	}
	return c.session.Offer(d, now)
}

// cameLive notes a retained message that is delivered while others are read. With c.mu held.
func (c *Client) cameLive(m *message.Message) {
	if !m.Retain || len(c.retaining.reads) == 0 {
		return
	}
	if c.retaining.newer == nil {
		c.retaining.newer = make(map[string]struct{})
	}
	c.retaining.newer[m.Topic] = struct{}{}
}
