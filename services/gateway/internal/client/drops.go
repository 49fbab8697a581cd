package client

import (
	"strings"
	"time"

	"github.com/beeline-mqtt/beeline/internal/engine"
	"github.com/beeline-mqtt/beeline/internal/message"
	"github.com/beeline-mqtt/beeline/internal/trace"
	"github.com/beeline-mqtt/beeline/internal/turn"
)

// dropReason is why a message was not delivered, or not taken, as metrics, traces and operators see it.
type dropReason string

const (
	dropQueueFull dropReason = "queue_full"
	dropShed      dropReason = "shed" // QoS 0 that made way for a message of higher QoS
	dropExpired   dropReason = "expired"
	dropEnded     dropReason = "session_ended"
	dropTooLarge  dropReason = "packet_too_large"
	dropDenied    dropReason = "not_authorized"
	dropRetained  dropReason = "retained_quota"
)

// Drop is a message that the client did not get, or one of its own that was not taken from it: then it is the publisher.
type Drop struct {
	Time             time.Time
	Topic, Publisher string
	QoS              byte // of the delivery
	Reason           string
}

// drops are the last of them.
type drops struct {
	ring [8]Drop
	n    int // how many there have been
}

func (d *drops) note(x Drop) {
	d.ring[d.n%len(d.ring)] = x
	d.n++
}

// newest returns a copy of what is kept, the newest first.
func (d *drops) newest() []Drop {
	if d == nil {
		return nil
	}
	all := make([]Drop, 0, len(d.ring))
	for i := d.n - 1; i >= max(0, d.n-len(d.ring)); i-- {
		all = append(all, d.ring[i%len(d.ring)])
	}
	return all
}

// refusePublish notes that a message is not taken from the client.
func (c *Client) refusePublish(m *message.Message, why dropReason, t *turn.Turn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.drop(m, m.QoS, why, t.Now)
}

// drop notes that a message is not delivered to the client, or not taken from it. With c.mu held.
func (c *Client) drop(m *message.Message, qos byte, why dropReason, now time.Time) {
	c.deps.Metrics.dropped(why, 1)
	if c.deps.Trace.On() {
		c.deps.Trace.Step(trace.Dropped, m, c.ID, string(why))
	}
	if c.drops == nil {
		c.drops = &drops{}
	}
	// The names are parts of the message's buffer, which is not kept for them.
	c.drops.note(Drop{Time: now, Topic: strings.Clone(m.Topic), Publisher: strings.Clone(m.Publisher), QoS: qos, Reason: string(why)})
}

// dropLost notes what the last step has made the session lose. With c.mu held.
func (c *Client) dropLost(now time.Time) {
	for _, l := range c.session.Lost(nil) {
		c.drop(l.Message, l.QoS, reasonOf(l.Why), now)
	}
}

func reasonOf(r engine.LossReason) dropReason {
	switch r {
	case engine.MadeWay:
		return dropShed
	case engine.TooOld:
		return dropExpired
	default:
		return dropQueueFull
	}
}
