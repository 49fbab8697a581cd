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
//
// A client of whom the store keeps something, or is to keep something, takes a longer way. The other end of it is
// that the store never names a holder that has given the client up, for nobody would take what comes for it then:
//
//	claim ──> waiting ──Evict the store's holder, if it is another one──> recording ──Open──> held ──Claimed──>
//	                                                                         │ whatever fails, and nobody follows
//	                                                                         v
//	leave ───────────────────────────────────────────────────────────────> Away ──> nothing is under way
//
// The holder goes first, and what it has not seen acknowledged it writes before it answers; only then the next one is
// recorded. Record, Open, Away and adoptions of one client never overlap.
package claims

import (
	"time"

	"github.com/beeline-mqtt/beeline/internal/journal"
)

// Config bounds a Queue; all fields but Look are required.
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
	// Look says who holds what the store keeps of a client, if it keeps anything. It answers from memory, and for a
	// client about whom an Open or Away is under way either as before or as after it. nil: nothing is stored.
	Look func(client string) (h Holder, stored bool)
}

// Holder of a client in the store. Gateway is empty while the client is away.
type Holder struct {
	Gateway string
	Epoch   uint64
}

// Request is a claim, or a leave, of a gateway: its incarnation, the stream it came by, and its number there.
type Request struct {
	Gateway string
	Stream  uint64
	ID      uint64

	// Terms are those of a claim.
	Terms
}

// Terms on which a client connects, as far as the store is concerned.
type Terms struct {
	CleanStart bool
	// User is the user name that the client has presented; empty: none.
	User string
	// Expiry is the Session Expiry Interval in seconds; 0: the session is not stored.
	Expiry uint32
	// Will is to be stored; nil: there is none.
	Will *journal.Will
}

// stores says that something has to be stored of the client, even if nothing is so far.
func (t Terms) stores() bool { return t.Expiry > 0 || t.Will != nil }

// Ending is how a connection ended that a gateway leaves.
type Ending struct {
	// WithoutWill: the will is forgotten.
	WithoutWill bool
	// Expiry is the new Session Expiry Interval in seconds, if HasExpiry.
	Expiry    uint32
	HasExpiry bool
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
	// Open what the store keeps of Client for Gateway, which holds it at Epoch, on the terms of Request, and call
	// Opened. Former is whom the store had as holder. Ending is that of the connection before, if it was told.
	Open
	// Away: nobody holds Client any more. Delete the record of Gateway at Epoch, if it is in force, then let the
	// store hold it, and call AwayDone. Ending is that of the connection, if it was told.
	Away
	// Left answers Request, a leave.
	Left
	// Release the record of Gateway at Epoch, and answer Request: nothing is stored of Client.
	Release
)

// Effect is one thing to be done.
type Effect struct {
	Kind    Kind
	Client  string
	Gateway string
	Request Request
	Epoch   uint64
	Former  string
	Ending  *Ending
	// Session is what was opened, in Claimed; nil: nothing is stored.
	Session *journal.State
	// Took is the time since the claim or leave came, in answers.
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
	// adopting are clients that somebody else has in hand.
	adopting map[string]bool
	// timers are in order of time, because each kind has one delay; each kind has a list.
	evictBy  []timer
	recordAt []timer
	awayAt   []timer
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

	// opening: held is being opened. leaving: Away is under way.
	opening, leaving bool
	// vacant is who has been recorded or stored as the holder, but has given the client up, or was told to, or does
	// not know of it yet. Unless a claim is answered, the client is to be put away. Empty: the store is right.
	vacant Holder
	// leave waits for Away; ending is what it said.
	leave  *claim
	ending *Ending
	// awayAt is when Away is tried again.
	awayAt time.Time
}

// busy: no other operation may begin.
func (c *client) busy() bool { return c.recording != nil || c.opening || c.leaving }

// claimed: there is a claim, at whatever stage.
func (c *client) claimed() bool { return c.waiting != nil || c.recording != nil || c.held != nil }

type claim struct {
	Request
	came      time.Time
	notBefore time.Time
	epoch     uint64
	former    string
	// stored: the store is concerned.
	stored, opened bool
	session        *journal.State
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
		recovering: set(gateways), recoverBy: now.Add(c.EvictTimeout), adopting: map[string]bool{},
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

// Len is the number of clients about whom something is under way, adoptions apart.
func (q *Queue) Len() int { return len(q.clients) }

// Recovering says whether this fresh instance waits for gateways to show their holdings.
func (q *Queue) Recovering() bool { return len(q.recovering) > 0 }

// Busy says whether anything is under way for a client.
func (q *Queue) Busy(id string) bool { return q.clients[id] != nil || q.adopting[id] }

func (q *Queue) look(id string) (Holder, bool) {
	if q.config.Look == nil {
		return Holder{}, false
	}
	return q.config.Look(id)
}

// client returns what is under way for a client, which may be nothing yet. The caller advances.
func (q *Queue) client(id string) *client {
	c := q.clients[id]
	if c == nil {
		c = &client{id: id}
		q.clients[id] = c
	}
	return c
}
