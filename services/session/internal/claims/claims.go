// Package claims decides, for each client, whose claim is recorded next, who has to be evicted before it is
// answered, and which claims come too late. It is a pure state machine: what happens is told to a Queue by its
// methods, what is to be done comes out of Effects. It has no clock, no goroutine and no I/O; the caller locks.
//
// For one client:
//
//	claim ──> waiting ──Record──> recording ──recorded──> held ──Claimed──>
//	             │ a newer claim      │ refused              │ a newer one recorded
//	             v                    v                      v
//	          Refused              Refused                Refused
//
// The newest claim wins. A claim that is held is answered when everybody has answered who was told to Evict the
// client, or has died, or has had its time; but not while a newer claim is being recorded, because that one makes
// the answer worthless. A fresh instance does not know which evictions its predecessor had not finished: it
// answers nothing before all gateways have shown their holdings.
package claims

import (
	"maps"
	"slices"
	"time"
)

// Config bounds a Queue; all fields are required.
type Config struct {
	// EvictTimeout is how long a claim waits for a former holder, and a fresh instance for holdings.
	EvictTimeout time.Duration
	// FlapLimit replacements of one client within FlapWindow are borne; further claims wait FlapDelay each.
	FlapLimit  int
	FlapWindow time.Duration
	FlapDelay  time.Duration
	// Tracked is how many clients are watched for flapping.
	Tracked int
	// Owed is how many unanswered evictions are kept for one gateway, to be repeated when it attaches again. What
	// is beyond is found when it shows its holdings.
	Owed int
}

// Request is a claim of a gateway: its incarnation, the stream it came by, and its number there.
type Request struct {
	Gateway string
	Stream  uint64
	ID      uint64
}

// Kind says what is to be done.
type Kind byte

// What is to be done.
const (
	// Record Client for Gateway, and call Recorded with the outcome.
	Record Kind = iota + 1
	// Evict Client from Gateway: connections under an epoch older than Epoch.
	Evict
	// Claimed answers Request: Client is held at Epoch, Former held it before.
	Claimed
	// Superseded, HolderDead and Unavailable refuse Request.
	Superseded
	HolderDead
	Unavailable
)

// Effect is one thing to be done.
type Effect struct {
	Kind    Kind
	Client  string
	Gateway string
	Request Request
	Epoch   uint64
	Former  string
	// Took is the time since the claim came, in answers.
	Took time.Duration
}

// Outcome of recording a claim: Err is zero, or the Kind of the refusal.
type Outcome struct {
	Epoch       uint64
	Former      string
	FormerEpoch uint64
	Err         Kind
}

// Counters count since the last time they were taken.
type Counters struct {
	// Evictions were asked for, EvictTimeouts were not answered in time, Delayed claims belong to flapping clients.
	Evictions, EvictTimeouts, Delayed int
}

// Queue holds all clients about whom something is under way.
type Queue struct {
	config  Config
	clients map[string]*client
	// owed are evictions without an answer, by gateway and client.
	owed     map[string]map[string]debt
	attached map[string]bool
	alive    map[string]bool
	// revision up to which alive is complete.
	revision int64
	// recovering are gateways that have not shown their holdings to this fresh instance.
	recovering map[string]bool
	recoverBy  time.Time
	// timers are in order of time, because each kind has one delay; delays and evictions each have a list.
	evictBy  []timer
	recordAt []timer
	flaps    flaps
	effects  []Effect
	counters Counters
}

// debt is an eviction that was not answered; held is what shows, with a view, that the gateway has died.
type debt struct{ epoch, held uint64 }

type timer struct {
	at              time.Time
	client, gateway string
}

type client struct {
	id        string
	waiting   *claim
	recording *claim
	held      *claim
	evictions []eviction
}

type claim struct {
	Request
	came      time.Time
	notBefore time.Time
	epoch     uint64
	former    string
	// gone: the stream that it came by has ended, nobody waits for an answer.
	gone bool
}

type eviction struct {
	gateway string
	// epoch of the newer lease; held is that of the gateway's own.
	epoch, held uint64
	by          time.Time
}

// New returns the queue of an instance that has just become active. The gateways alive at this moment are given
// with the revision of that knowledge.
func New(now time.Time, c Config, gateways []string, revision int64) *Queue {
	q := &Queue{
		config:  c,
		clients: map[string]*client{}, owed: map[string]map[string]debt{}, attached: map[string]bool{},
		alive: set(gateways), revision: revision,
		recovering: set(gateways), recoverBy: now.Add(c.EvictTimeout),
		flaps: flaps{limit: c.FlapLimit, window: c.FlapWindow, tracked: c.Tracked, of: map[string]*flap{}},
	}
	return q
}

func set(names []string) map[string]bool {
	s := make(map[string]bool, len(names))
	for _, n := range names {
		s[n] = true
	}
	return s
}

// Effects hands out what is to be done since the last call, in order. The slice is the caller's.
func (q *Queue) Effects() []Effect {
	e := q.effects
	q.effects = nil
	return e
}

// Counters hands out what was counted since the last call.
func (q *Queue) Counters() Counters {
	c := q.counters
	q.counters = Counters{}
	return c
}

// Len is the number of clients about whom something is under way.
func (q *Queue) Len() int { return len(q.clients) }

// Claim is a new claim. The gateway has ended its own older connection of the client.
func (q *Queue) Claim(now time.Time, id string, r Request) {
	c := q.clients[id]
	if c == nil {
		c = &client{id: id}
		q.clients[id] = c
	}
	q.settle(c, r.Gateway, ^uint64(0))
	next := &claim{Request: r, came: now, notBefore: now}
	switch {
	case c.waiting != nil:
		q.refuse(now, c, c.waiting, Superseded)
		next.notBefore = c.waiting.notBefore
	case q.flaps.hot(now, id):
		next.notBefore = now.Add(q.config.FlapDelay)
		q.recordAt = append(q.recordAt, timer{at: next.notBefore, client: id})
		q.counters.Delayed++
	}
	c.waiting = next
	q.advance(now, c)
}

// Recorded is the outcome of Record.
func (q *Queue) Recorded(now time.Time, id string, o Outcome) {
	c := q.clients[id]
	if c == nil || c.recording == nil {
		return
	}
	next := c.recording
	c.recording = nil
	if o.Err != 0 {
		q.refuse(now, c, next, o.Err)
		q.advance(now, c)
		return
	}
	unanswered := uint64(0)
	if c.held != nil {
		unanswered = c.held.epoch
		q.refuse(now, c, c.held, Superseded)
	}
	next.epoch, next.former = o.Epoch, o.Former
	c.held = next
	if o.Former != "" && !q.dead(o.Former, o.FormerEpoch) {
		q.flaps.replaced(now, id)
		// Who was never answered has nothing to end, and a gateway ends its own connections itself.
		if o.Former != next.Gateway && o.FormerEpoch != unanswered {
			q.evict(now, c, eviction{gateway: o.Former, epoch: o.Epoch, held: o.FormerEpoch})
		}
	}
	q.advance(now, c)
}

// Stale says that a gateway has shown a holding at an epoch that is not in force any more; older connections than
// epoch are to end.
func (q *Queue) Stale(now time.Time, id, gateway string, held, epoch uint64) {
	c := q.clients[id]
	if c == nil {
		c = &client{id: id}
		q.clients[id] = c
	}
	q.evict(now, c, eviction{gateway: gateway, epoch: epoch, held: held})
	q.advance(now, c)
}

// Evicted says that a gateway has no connection of the client under an epoch older than this.
func (q *Queue) Evicted(now time.Time, id, gateway string, epoch uint64) {
	if owed := q.owed[gateway]; owed != nil && owed[id].epoch <= epoch {
		q.forget(gateway, id)
	}
	if c := q.clients[id]; c != nil {
		q.settle(c, gateway, epoch)
		q.advance(now, c)
	}
}

// Attached says that a gateway has opened a stream. Evictions that it has not answered are repeated.
func (q *Queue) Attached(gateway string) {
	q.attached[gateway] = true
	owed := q.owed[gateway]
	for _, id := range slices.Sorted(maps.Keys(owed)) {
		q.effects = append(q.effects, Effect{Kind: Evict, Client: id, Gateway: gateway, Epoch: owed[id].epoch})
	}
}

// Detached says that a gateway's stream has ended. It repeats the claims that it still wants.
func (q *Queue) Detached(now time.Time, gateway string) {
	delete(q.attached, gateway)
	for _, c := range q.clients {
		if c.waiting != nil && c.waiting.Gateway == gateway {
			c.waiting = nil
		}
		for _, cl := range []*claim{c.recording, c.held} {
			if cl != nil && cl.Gateway == gateway {
				cl.gone = true
			}
		}
		q.advance(now, c)
	}
}

// Compared says that all holdings of a gateway have been compared with the records, and Stale called.
func (q *Queue) Compared(now time.Time, gateway string) {
	if q.recovering[gateway] {
		delete(q.recovering, gateway)
		q.recovered(now)
	}
}

// View is a new list of living gateways, complete up to a revision.
func (q *Queue) View(now time.Time, gateways []string, revision int64) {
	q.alive, q.revision = set(gateways), revision
	for gateway := range q.owed {
		for id := range q.owed[gateway] {
			if q.dead(gateway, q.owed[gateway][id].held) {
				q.forget(gateway, id)
			}
		}
	}
	for gateway := range q.recovering {
		if !q.alive[gateway] {
			delete(q.recovering, gateway)
		}
	}
	for _, c := range q.clients {
		c.evictions = slices.DeleteFunc(c.evictions, func(e eviction) bool { return q.dead(e.gateway, e.held) })
		q.advance(now, c)
	}
}

// dead: whoever was recorded at an epoch was alive then. If it is not in a list that is complete up to that
// revision or a later one, it has died.
func (q *Queue) dead(holder string, epoch uint64) bool {
	return !q.alive[holder] && int64(epoch) <= q.revision
}

// Next is when Tick is due; false: nothing is.
func (q *Queue) Next() (time.Time, bool) {
	var at time.Time
	consider := func(t time.Time) {
		if at.IsZero() || t.Before(at) {
			at = t
		}
	}
	if len(q.recovering) > 0 {
		consider(q.recoverBy)
	}
	for len(q.evictBy) > 0 && !q.evicting(q.evictBy[0]) {
		q.evictBy = q.evictBy[1:]
	}
	if len(q.evictBy) > 0 {
		consider(q.evictBy[0].at)
	}
	for len(q.recordAt) > 0 && !q.delayed(q.recordAt[0]) {
		q.recordAt = q.recordAt[1:]
	}
	if len(q.recordAt) > 0 {
		consider(q.recordAt[0].at)
	}
	return at, !at.IsZero()
}

func (q *Queue) evicting(t timer) bool {
	c := q.clients[t.client]
	return c != nil && slices.ContainsFunc(c.evictions, func(e eviction) bool {
		return e.gateway == t.gateway && e.by.Equal(t.at)
	})
}

func (q *Queue) delayed(t timer) bool {
	c := q.clients[t.client]
	return c != nil && c.waiting != nil && c.waiting.notBefore.Equal(t.at)
}

// Tick does what is due.
func (q *Queue) Tick(now time.Time) {
	if len(q.recovering) > 0 && !now.Before(q.recoverBy) {
		clear(q.recovering)
		q.recovered(now)
	}
	for len(q.evictBy) > 0 && !now.Before(q.evictBy[0].at) {
		t := q.evictBy[0]
		q.evictBy = q.evictBy[1:]
		if c := q.clients[t.client]; c != nil {
			before := len(c.evictions)
			c.evictions = slices.DeleteFunc(c.evictions, func(e eviction) bool {
				return e.gateway == t.gateway && e.by.Equal(t.at)
			})
			q.counters.EvictTimeouts += before - len(c.evictions)
			q.advance(now, c)
		}
	}
	for len(q.recordAt) > 0 && !now.Before(q.recordAt[0].at) {
		t := q.recordAt[0]
		q.recordAt = q.recordAt[1:]
		if c := q.clients[t.client]; c != nil {
			q.advance(now, c)
		}
	}
}

func (q *Queue) recovered(now time.Time) {
	if len(q.recovering) > 0 {
		return
	}
	for _, id := range slices.Sorted(maps.Keys(q.clients)) {
		q.advance(now, q.clients[id])
	}
}

// advance does what a client's state allows, and forgets the client when nothing is under way.
func (q *Queue) advance(now time.Time, c *client) {
	if c.recording == nil && c.waiting != nil && !now.Before(c.waiting.notBefore) {
		c.recording, c.waiting = c.waiting, nil
		q.effects = append(q.effects, Effect{Kind: Record, Client: c.id, Gateway: c.recording.Gateway})
	}
	if c.held != nil && c.recording == nil && len(c.evictions) == 0 && len(q.recovering) == 0 {
		h := c.held
		c.held = nil
		if !h.gone {
			q.effects = append(q.effects, Effect{
				Kind: Claimed, Client: c.id, Gateway: h.Gateway, Request: h.Request,
				Epoch: h.epoch, Former: h.former, Took: now.Sub(h.came),
			})
		}
	}
	if c.waiting == nil && c.recording == nil && c.held == nil && len(c.evictions) == 0 {
		delete(q.clients, c.id)
	}
}

func (q *Queue) refuse(now time.Time, c *client, cl *claim, why Kind) {
	if cl.gone {
		return
	}
	q.effects = append(q.effects, Effect{
		Kind: why, Client: c.id, Gateway: cl.Gateway, Request: cl.Request, Took: now.Sub(cl.came),
	})
}

func (q *Queue) evict(now time.Time, c *client, e eviction) {
	e.by = now.Add(q.config.EvictTimeout)
	at := slices.IndexFunc(c.evictions, func(o eviction) bool { return o.gateway == e.gateway })
	if at >= 0 {
		// Its time is running already.
		e.by = c.evictions[at].by
		c.evictions[at] = e
	} else {
		c.evictions = append(c.evictions, e)
		q.evictBy = append(q.evictBy, timer{at: e.by, client: c.id, gateway: e.gateway})
	}
	q.counters.Evictions++
	owed := q.owed[e.gateway]
	if owed == nil {
		owed = map[string]debt{}
		q.owed[e.gateway] = owed
	}
	if _, known := owed[c.id]; known || len(owed) < q.config.Owed {
		owed[c.id] = debt{epoch: e.epoch, held: e.held}
	}
	if q.attached[e.gateway] {
		q.effects = append(q.effects, Effect{Kind: Evict, Client: c.id, Gateway: e.gateway, Epoch: e.epoch})
	}
}

// settle takes an eviction as answered, up to an epoch. The caller advances.
func (q *Queue) settle(c *client, gateway string, epoch uint64) {
	c.evictions = slices.DeleteFunc(c.evictions, func(e eviction) bool {
		return e.gateway == gateway && e.epoch <= epoch
	})
	if epoch == ^uint64(0) {
		q.forget(gateway, c.id)
	}
}

func (q *Queue) forget(gateway, id string) {
	owed := q.owed[gateway]
	delete(owed, id)
	if len(owed) == 0 {
		delete(q.owed, gateway)
	}
}
