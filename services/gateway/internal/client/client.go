// Package client is the MQTT server's side of one connection: it reads a client's packets and does what they
// ask, and writes what the client is owed. Everything that concerns more than one client, subscriptions,
// routing, leases, is behind the Broker.
//
// One goroutine per connection reads; it never waits for the cluster while it has packets to read, except
// where the client is over its bounds. Deliveries and acknowledgements come from any goroutine: they go
// through the session (internal/engine) into the connection's output under the client's lock, and are flushed
// at the end of the turn that brought them. No goroutine ever holds the locks of two clients.
package client

import (
	"context"
	"log/slog"
	"maps"
	"net"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/beeline-mqtt/beeline/internal/buffers"
	"github.com/beeline-mqtt/beeline/internal/engine"
	"github.com/beeline-mqtt/beeline/internal/message"
	"github.com/beeline-mqtt/beeline/internal/packet"
	"github.com/beeline-mqtt/beeline/internal/subscriptions"
	"github.com/beeline-mqtt/beeline/internal/tcp"
	"github.com/beeline-mqtt/beeline/internal/trace"
	"github.com/beeline-mqtt/beeline/internal/turn"
	"github.com/beeline-mqtt/beeline/services/gateway/internal/auth"
	"github.com/beeline-mqtt/beeline/services/gateway/internal/conn"
)

// Broker is what a client needs of all the others.
type Broker interface {
	// Attach makes c the connection of its client id in the whole cluster: it ends the former connection,
	// wherever it is, takes the lease, and tells c its epoch. It returns when the former connection is gone.
	// ctx ends when c is stopped.
	Attach(ctx context.Context, c *Client) error
	// Detach undoes Attach and drops the client's subscriptions. No delivery begins after it.
	Detach(c *Client)
	// Publish sends m to everybody it is for. With QoS 1 or 2 it keeps a Publication for the packet id and
	// settles it, possibly before it returns, when every holder has given its receipt. from is nil for a will.
	Publish(from *Client, id uint16, m *message.Message, t *turn.Turn)
	// Subscribe calls done once: with nil when the whole cluster routes to c, else with the reason; it may do so
	// before it returns. When done answers true to a reason, the subscription is withdrawn, in one step with done.
	Subscribe(c *Client, filter string, o subscriptions.Options, done func(error) (withdraw bool))
	// Unsubscribe drops a subscription.
	Unsubscribe(c *Client, filter string)
}

// Ticket is told what became of a delivery that could not be settled at once.
type Ticket interface {
	Settle(o engine.Outcome, t *turn.Turn)
}

// Delivery is a message for one client.
type Delivery = engine.Delivery[Ticket]

// Deps are what clients share.
type Deps struct {
	Broker       Broker
	Journal      Journal
	Authenticate auth.Authenticate
	Authorize    auth.Authorize
	// Serving reports whether this gateway's incarnation is in force; looked at after every read.
	Serving func() bool
	// Available reports whether new clients can be taken.
	Available func() bool
	// Draining reports whether no new clients are taken because the gateway is being drained, and the public address of
	// a gateway where they may go, empty when none is known; nil: never.
	Draining func() (reference string, yes bool)
	// Incarnation and NextSequence name messages.
	Incarnation  string
	NextSequence func() uint64
	Metrics      *Metrics
	Logger       *slog.Logger
	// Trace shows what becomes of messages to whoever follows them; nil: nobody can.
	Trace *trace.Tap
}

// state is where a client is in its life. It only grows.
type state byte

const (
	unknown state = iota // nothing says yet that the other side speaks MQTT
	opening              // CONNECT has come, CONNACK has not been written
	open
	ended // no packet is handled and no delivery taken any more
)

// Client is one connection with its session.
type Client struct {
	// ID, Version and the other exported fields do not change once the CONNECT has been accepted.
	ID       string
	Version  packet.Version
	Identity auth.Identity

	deps      *Deps
	limits    *Limits
	nc        net.Conn
	spot      *tcp.Conn // nc, if it is a plain socket
	reader    *packet.Reader
	turn      turn.Turn // of the reading goroutine, as is aliasesIn
	aliasesIn []string
	listener  string
	since     int64 // when the client was told that it is connected, unix nanoseconds; guarded by mu
	// resolved from CONNECT
	will          *packet.Will
	keepAlive     time.Duration // 0: none
	maximumPacket int           // what the client takes; 0: any size
	receiveMax    uint16        // the client's Receive Maximum
	problemInfo   bool
	cleanStart    bool
	expiry        uint32 // Session Expiry Interval: 0 when the session ends with the connection
	sessionLimits engine.Limits
	durable       *durable // nil for a session that ends with the connection

	epoch    atomic.Uint64
	lost     atomic.Bool
	lastRead atomic.Int64  // unix nanoseconds
	greedy   bool          // the last read took all it could; of the reading goroutine
	paused   atomic.Bool   // the socket is not read for now
	stopped  chan struct{} // closed when the connection is to end

	// changing is held while filters are added or dropped, until the broker and the journal have been told, and while the
	// session ends: others than the reading goroutine do that, too. It is taken before mu.
	changing sync.Mutex

	mu         sync.Mutex // guards what follows, and out
	state      state
	cause      *Cause
	abort      context.CancelFunc // ends the attaching
	flagged    bool               // in somebody's turn
	out        *conn.Output
	session    *engine.Session[Ticket]     // nil before CONNECT
	filters    map[string]uint64           // the number of the SUBSCRIBE that each filter came with last
	managed    map[string]Membership       // filters among them that it has not subscribed to; nil for most
	asked      uint64                      // filters in SUBSCRIBEs so far
	awaited    int                         // SUBSCRIBEs without SUBACK
	owed       []engine.Settlement[Ticket] // beside those of the session
	unsettled  unsettledList
	publishing publishing
	retaining  retaining
	room       chan struct{} // wakes the reading goroutine from a pause; nil before the first
	aliases    aliasTable
	ended      uint64        // messages that ended with the session, as far as they are in the metrics
	drops      *drops        // nil before the first
	gone       chan struct{} // closed when nothing of it is left but the socket; nil until somebody asks
	isGone     bool
}

// Epoch returns the epoch of the client's lease, 0 before it has one.
func (c *Client) Epoch() uint64 { return c.epoch.Load() }

// Filters returns what the client is subscribed to, as it wrote it.
func (c *Client) Filters() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Collect(maps.Keys(c.filters))
}

// LoseLease says that another gateway has taken the client's lease: there is nothing to give up any more.
func (c *Client) LoseLease() { c.lost.Store(true) }

// LeaseLost reports whether LoseLease has been called.
func (c *Client) LeaseLost() bool { return c.lost.Load() }

// Gone is closed when the connection has ended: the session too, and its last packet written or given up.
func (c *Client) Gone() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.gone == nil {
		c.gone = make(chan struct{})
		if c.isGone {
			close(c.gone)
		}
	}
	return c.gone
}

func (c *Client) setGone() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.isGone = true
	if c.gone != nil {
		close(c.gone)
	}
}

// Stopped is closed when the connection begins to end.
func (c *Client) Stopped() <-chan struct{} { return c.stopped }

// Stopping reports whether the connection has begun to end.
func (c *Client) Stopping() bool {
	select {
	case <-c.stopped:
		return true
	default:
		return false
	}
}

// Read is the reading end under the packet reader: whatever the goroutine has gathered goes out before it may
// block, and after a pause of the process nothing is read on behalf of an incarnation that has ended. A client
// that does not read its answers is not read.
func (c *Client) Read(p []byte) (int, error) {
	c.beforeRead()
	n, err := c.nc.Read(p)
	if !c.afterRead(n == len(p)) {
		return 0, errNotServing
	}
	return n, err
}

// ReadPooled is Read for a packet reader that holds no buffer. Only a socket can wait without one.
func (c *Client) ReadPooled(pool *buffers.Pool) (*[]byte, error) {
	c.beforeRead()
	b, err := c.spot.ReadPooled(pool)
	if !c.afterRead(err == nil && len(*b) == cap(*b)) {
		return nil, errNotServing
	}
	return b, err
}

func (c *Client) beforeRead() {
	c.turn.End()
	c.out.Hold(c.held)
	if c.greedy {
		// There is more where the last read came from, and there always may be: let the others have their turn.
		runtime.Gosched()
	}
}

// afterRead reports whether what was read may be handled. full: it filled the buffer.
func (c *Client) afterRead(full bool) bool {
	c.greedy = full
	now := time.Now()
	c.turn.Now = now
	c.lastRead.Store(now.UnixNano())
	return c.deps.Serving()
}

// held suspends the keepalive while the client is not read.
func (c *Client) held(yes bool) {
	c.lastRead.Store(time.Now().UnixNano())
	c.paused.Store(yes)
}

// Flush writes what waits for the client. It is called at the end of turns.
func (c *Client) Flush(*turn.Turn) {
	c.mu.Lock()
	c.flagged = false
	c.mu.Unlock()
	c.out.Flush()
}

// flag has c flushed at the end of the turn. With c.mu held.
func (c *Client) flag(t *turn.Turn) {
	if !c.flagged {
		c.flagged = true
		t.Add(c)
	}
}

// unlock releases c.mu, after it has had stored what has to be, and tells the tickets that the last step has settled.
// It is deferred wherever the step does more than assign: a panic must not leave the lock held, or everybody who
// publishes to c would hang.
func (c *Client) unlock(t *turn.Turn) {
	for _, s := range c.unlockSettled(t.Now) {
		s.Ticket.Settle(s.Outcome, t)
	}
}

func (c *Client) unlockSettled(now time.Time) []engine.Settlement[Ticket] {
	defer c.mu.Unlock()
	if c.session == nil {
		return nil
	}
	c.store(now)
	c.readMore()
	c.dropLost(now)
	settled := c.session.Settled(c.owed)
	c.owed = nil
	return settled
}

// send appends a packet made by f and flushes it at the end of the turn.
func (c *Client) send(t *turn.Turn, f func(dst []byte) []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.out.Append(f(c.out.Buffer()))
	c.flag(t)
}
