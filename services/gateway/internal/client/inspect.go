package client

import (
	"time"

	"github.com/beeline-mqtt/beeline/internal/engine"
)

// Inspection is what is known of a connection and its session at one moment.
type Inspection struct {
	Username, Listener, Remote string
	Since                      time.Time
	KeepAlive                  time.Duration // 0: none
	Idle                       time.Duration // since the last packet
	ReceiveMaximum             uint16        // of the client
	MaximumPacketSize          int           // of the client; 0: any
	CleanStart, Will           bool
	Paused                     bool // not read for now
	OutputBytes                int
	Subscriptions              int

	Durable bool
	Expiry  uint32 // Session Expiry Interval
	// Queued messages, with their bytes, wait to be sent; InFlight ones for an acknowledgement of the client, Unsettled
	// ones of the client for one of the cluster.
	Queued, QueuedBytes int
	InFlight, Unsettled int
	Counters            engine.Counters
	// Drops are the last ones, newest first.
	Drops []Drop
}

// Inspect shows the client; false: its connection is not open yet, or is ending.
func (c *Client) Inspect(now time.Time) (Inspection, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.state != open || c.cause != nil {
		return Inspection{}, false
	}
	i := Inspection{
		Username: c.Identity.Username, Listener: c.listener, Remote: c.nc.RemoteAddr().String(),
		Since: time.Unix(0, c.since), KeepAlive: c.keepAlive, Idle: now.Sub(time.Unix(0, c.lastRead.Load())),
		ReceiveMaximum: c.receiveMax, MaximumPacketSize: c.maximumPacket, CleanStart: c.cleanStart, Will: c.will != nil,
		Paused: c.paused.Load(), OutputBytes: c.out.Len(), Subscriptions: len(c.filters) - len(c.managed),
		Durable: c.durable != nil, Expiry: c.expiry, InFlight: c.session.InFlight(),
		Unsettled: len(c.unsettled.list) + len(c.publishing.list), Counters: c.session.Counters(),
		Drops: c.drops.newest(),
	}
	i.Queued, i.QueuedBytes = c.session.QueueLen()
	return i, true
}
