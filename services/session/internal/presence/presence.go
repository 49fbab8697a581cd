// Package presence knows which clients are connected, as far as one session instance has seen it, and keeps the latest of
// what has changed. It is a plain value without goroutines, clock and I/O; the caller locks.
package presence

import "time"

// Reason is why a connection has ended, in the words that watchers see.
type Reason string

// The reasons.
const (
	Unknown     Reason = "unknown"
	Client      Reason = "client"
	Network     Reason = "network"
	Keepalive   Reason = "keepalive"
	Replaced    Reason = "replaced"
	Kicked      Reason = "kicked"
	Expired     Reason = "expired"
	Moved       Reason = "moved"
	Protocol    Reason = "protocol"
	Slow        Reason = "slow"
	Shutdown    Reason = "shutdown"
	GatewayDied Reason = "gateway_died"
)

// ReasonOf is the reason of that name that a gateway may give. Any other name is Unknown.
func ReasonOf(name string) Reason {
	switch r := Reason(name); r {
	case Client, Network, Keepalive, Replaced, Kicked, Expired, Moved, Protocol, Slow, Shutdown:
		return r
	case Unknown, GatewayDied:
	}
	return Unknown
}

// Event says that a client has connected or disconnected.
type Event struct {
	// Connected: else it has disconnected, and Reason says why.
	Connected bool
	Reason    Reason
	Client    string
	// Connection is the one that has begun or ended.
	Connection
	// Sequence counts events, from 1.
	Sequence uint64
	Time     time.Time
}

// Connection of a client.
type Connection struct {
	// Gateway is the incarnation that has it.
	Gateway string
	Epoch   uint64
	// Durable: the client has a session that is kept while it is away.
	Durable bool
}
