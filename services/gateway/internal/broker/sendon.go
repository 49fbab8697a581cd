package broker

import (
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/beeline-mqtt/beeline/internal/mesh"
)

// underway lets SendOn wait for those publishes that have looked for routes and have not put the message on the links. A
// publish shares its lock with few others, so that processors do not wait for each other.
type underway struct {
	next  atomic.Uint32
	locks [16]struct {
		sync.RWMutex
		_ [40]byte // to the end of a cache line
	}
}

// one returns a lock for publishes, with those of others in turn.
func (u *underway) one() *sync.RWMutex {
	return &u.locks[u.next.Add(1)%uint32(len(u.locks))].RWMutex
}

// wait returns when every publish has ended that has begun.
func (u *underway) wait() {
	for i := range u.locks {
		u.locks[i].Lock()
		u.locks[i].Unlock() //nolint:staticcheck // there is nothing to do in between
	}
}

// SendOn calls done when whatever was published here before has got to where a durable session is now that has moved, or
// that takes too long: peers have answered what was sent to them, and what came back has been sent on. It is the mesh's
// Deps.SendOn.
func (b *Broker) SendOn(to *mesh.Link, client string, done func()) {
	b.underway.wait()
	s := &sendingOn{d: b.direct, to: to, client: client, done: done}
	b.direct.watch(s)
	s.enough = time.AfterFunc(b.cfg.Settle*4/5, s.giveUp) // whoever has asked waits for all gateways, and longer
	s.behindReceipts()
}

// sendingOn is one SendOn.
type sendingOn struct {
	d      *direct
	to     *mesh.Link // nil: this gateway
	client string
	done   func()
	enough *time.Timer
	over   atomic.Bool
	// without: a peer has been left out that cannot be reached.
	without atomic.Bool
	// sent: something has been sent on for the client since this round began, and the round does not know whether that has
	// come back. direct's mu guards it.
	sent bool
}

// complete ends it when everything has been sent on.
func (s *sendingOn) complete() {
	if s.over.CompareAndSwap(false, true) {
		s.enough.Stop()
		s.d.unwatch(s)
		if s.without.Load() {
			s.d.b.deps.Metrics.notSentOn.Inc()
		}
		s.done()
	}
}

// giveUp ends it when that takes too long.
func (s *sendingOn) giveUp() {
	if s.over.CompareAndSwap(false, true) {
		s.d.unwatch(s)
		s.d.b.deps.Metrics.notSentOn.Inc()
		s.done()
	}
}

// behindReceipts goes on when everything has been answered that was sent to peers, and the answers are here that they have
// given by then.
func (s *sendingOn) behindReceipts() {
	if s.over.Load() {
		return
	}
	s.d.mu.Lock()
	s.sent = false
	s.d.mu.Unlock()
	receipts := &countdown{then: s.behindLookUps}
	receipts.add()
	reachable, all := s.d.b.deps.Mesh.Reachable(s.d.b.cfg.Settle)
	if !all {
		s.without.Store(true)
	}
	for _, l := range reachable {
		receipts.add()
		named := s.client
		if l == s.to {
			named = "" // what it has for the session itself it keeps until this is over
		}
		l.Barrier(named, math.MaxUint64, func() { l.Echo(receipts.done) })
	}
	receipts.done()
}

// behindLookUps ends it, or, if something has come back for the client, goes round again when that has been sent on, or at
// once if it has been already: where it went may give it back, too.
func (s *sendingOn) behindLookUps() {
	s.d.mu.Lock()
	u := s.d.waiting[s.client]
	if u != nil {
		u.sent = append(u.sent, s.behindReceipts)
	}
	sent := s.sent
	s.d.mu.Unlock()
	switch {
	case u != nil:
	case sent:
		s.behindReceipts()
	default:
		s.complete()
	}
}

// watch has s know of what is sent on for its client.
func (d *direct) watch(s *sendingOn) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.watching == nil {
		d.watching = make(map[string][]*sendingOn)
	}
	d.watching[s.client] = append(d.watching[s.client], s)
}

// unwatch ends watch.
func (d *direct) unwatch(s *sendingOn) {
	d.mu.Lock()
	defer d.mu.Unlock()
	left := slices.DeleteFunc(d.watching[s.client], func(x *sendingOn) bool { return x == s })
	if len(left) > 0 {
		d.watching[s.client] = left
	} else {
		delete(d.watching, s.client)
	}
}

// countdown calls then when done has been called as often as add.
type countdown struct {
	left atomic.Int64
	then func()
}

func (c *countdown) add() { c.left.Add(1) }

func (c *countdown) done() {
	if c.left.Add(-1) == 0 {
		c.then()
	}
}
