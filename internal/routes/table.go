// Package routes owns the table of what the peers of this process want: which peer has subscribers for which
// topic filter, and which have members of which shared subscription, or keep its messages. The publish path asks it where a
// message has to go.
//
// It does not know subscribers (package subscriptions), how routes arrive or what a peer is (package mesh), and
// not the routes of its own process unless they are announced to it like a peer's.
//
// A Table and its Shares are safe for concurrent use. Matching runs in parallel with matching and waits for a
// change only briefly, even while a peer's whole table is replaced. Changes that concern one peer take effect in
// the order in which they are called; it is for the caller not to announce for a peer after dropping it.
package routes

import (
	"slices"
	"strings"
	"sync"

	"github.com/beeline-mqtt/beeline/internal/topic"
)

// Route says that a peer wants the messages of a topic filter.
type Route struct {
	// Filter is the topic filter, for a shared subscription the part behind the group.
	Filter string
	// Group is the ShareName of a shared subscription, empty for ordinary subscriptions.
	Group string
	// Members is the number of online members that a shared subscription has at the peer; with 0 there is no
	// route, unless it is durable: see Keeps. For an ordinary route it has no meaning.
	Members uint32
	// Durable says whether a durable session is behind the route; of a shared subscription, whether one is that gets
	// messages at QoS 1 or 2.
	Durable bool
}

// Keeps reports whether r is that of a shared subscription with no member online, and with durable ones away: the peer is
// to keep what nobody online gets, or to hand that over soon to one that does.
func (r Route) Keeps() bool { return r.Group != "" && r.Members == 0 && r.Durable }

// withdrawn reports whether r stands for the absence of a route.
func (r Route) withdrawn() bool {
	return r.Group != "" && r.Members == 0 && !r.Durable
}

// key is what a route of a peer is known by.
type key struct {
	filter, group string
}

func (r Route) key() key {
	return key{r.Filter, r.Group}
}

// terms are what a route says beside its key.
type terms struct {
	members uint32
	durable bool
}

// peer is what one peer has announced.
type peer struct {
	routes map[key]terms
	hash   uint64 // see Digest
}

// holders are the peers with an ordinary route for one filter.
type holders[P comparable] struct {
	list []Match[P]
}

// find returns where p is in a list, or -1.
func find[P comparable](list []Match[P], p P) int {
	return slices.IndexFunc(list, func(x Match[P]) bool { return x.Peer == p })
}

func (h *holders[P]) add(p P, durable bool) { h.list = append(h.list, Match[P]{p, durable}) }

func (h *holders[P]) change(p P, durable bool) { h.list[find(h.list, p)].Durable = durable }

func (h *holders[P]) remove(p P) {
	i, last := find(h.list, p), len(h.list)-1
	h.list[i] = h.list[last]
	clear(h.list[last:])
	h.list = h.list[:last]
}

// groups are the shared subscriptions of one filter, of different groups.
type groups[P comparable] struct {
	list []*Share[P]
}

// Table holds the routes of all peers. P is the handle of a peer, for instance a pointer to its link; the zero
// P is never a peer.
type Table[P comparable] struct {
	// changes lets one change at a time happen; it is taken before mu. peers and shares belong to it.
	changes sync.Mutex
	peers   map[P]*peer
	shares  map[key]*Share[P]

	// mu guards what matching reads. A large change takes it many times, for a few routes each.
	mu       sync.RWMutex
	ordinary topic.Map[holders[P]]
	shared   topic.Map[groups[P]]
}

// atOnce is how many routes are changed while matching waits: some tens of microseconds.
const atOnce = 64

// NewTable returns an empty Table.
func NewTable[P comparable]() *Table[P] {
	return &Table[P]{peers: make(map[P]*peer), shares: make(map[key]*Share[P])}
}

// Announce adds a route of p, or replaces the one with the same filter and group. A shared subscription
// with neither members nor a durable session is withdrawn. The filter must be valid (topic.ValidateFilter); the table keeps copies.
func (t *Table[P]) Announce(p P, r Route) {
	t.changes.Lock()
	defer t.changes.Unlock()
	t.mu.Lock()
	defer t.mu.Unlock()
	t.announce(p, r)
}

// Withdraw removes the route of p for filter and group, if there is one.
func (t *Table[P]) Withdraw(p P, filter, group string) {
	t.changes.Lock()
	defer t.changes.Unlock()
	t.mu.Lock()
	defer t.mu.Unlock()
	t.withdraw(p, key{filter, group})
}

// Replace makes routes all that p has announced; of two with the same filter and group the later one counts.
// There is no moment at which a route is missing that p had before and has afterwards, but routes come and
// go one after another: new ones first, then those that are gone.
func (t *Table[P]) Replace(p P, routes []Route) {
	t.changes.Lock()
	defer t.changes.Unlock()
	keep := make(map[key]struct{}, len(routes))
	for _, r := range routes {
		keep[r.key()] = struct{}{}
	}
	t.announceAll(p, routes)
	t.withdrawAllBut(p, func(k key, _ terms) bool {
		_, ok := keep[k]
		return ok
	})
}

// Drop removes all routes of p.
func (t *Table[P]) Drop(p P) {
	t.changes.Lock()
	defer t.changes.Unlock()
	t.withdrawAllBut(p, func(key, terms) bool { return false })
}

// DropTransient removes all routes of p but its durable ones, and returns how many those are. Of shared subscriptions no
// member is online there any more. It is for a peer that is dead: its durable sessions will be held by somebody else.
func (t *Table[P]) DropTransient(p P) (left int) {
	t.changes.Lock()
	defer t.changes.Unlock()
	t.withdrawAllBut(p, func(_ key, is terms) bool { return is.durable })
	from := t.peers[p]
	if from == nil {
		return 0
	}
	var keeps []Route
	for k, is := range from.routes {
		if k.group != "" && is.members > 0 {
			keeps = append(keeps, Route{Filter: k.filter, Group: k.group, Durable: true})
		}
	}
	t.announceAll(p, keeps)
	return len(from.routes)
}

// announceAll announces routes of p. The caller holds changes, not mu.
func (t *Table[P]) announceAll(p P, routes []Route) {
	for chunk := range slices.Chunk(routes, atOnce) {
		t.mu.Lock()
		for _, r := range chunk {
			t.announce(p, r)
		}
		t.mu.Unlock()
	}
}

// withdrawAllBut removes the routes of p that keep does not want. The caller holds changes, not mu.
func (t *Table[P]) withdrawAllBut(p P, keep func(key, terms) bool) {
	from := t.peers[p]
	if from == nil {
		return
	}
	var gone []key
	for k, is := range from.routes {
		if !keep(k, is) {
			gone = append(gone, k)
		}
	}
	for chunk := range slices.Chunk(gone, atOnce) {
		t.mu.Lock()
		for _, k := range chunk {
			t.withdraw(p, k)
		}
		t.mu.Unlock()
	}
}

// announce expects both locks to be held.
func (t *Table[P]) announce(p P, r Route) {
	k := r.key()
	if r.withdrawn() {
		t.withdraw(p, k)
		return
	}
	to := t.peers[p]
	if to == nil {
		to = &peer{routes: make(map[key]terms)}
		t.peers[p] = to
	}
	now := terms{members: r.Members, durable: r.Durable}
	before, known := to.routes[k]
	if known && before == now {
		return
	}
	if !known {
		// A copy, because the route may be part of a whole frame.
		k = key{strings.Clone(k.filter), strings.Clone(k.group)}
	}
	switch {
	case k.group != "":
		t.share(k).set(p, r.Members)
	case !known:
		t.ordinary.Add(k.filter).add(p, now.durable)
	case before.durable != now.durable:
		t.ordinary.Get(k.filter).change(p, now.durable)
	}
	if known {
		to.hash -= hashOf(k, before)
	}
	to.hash += hashOf(k, now)
	to.routes[k] = now
}

// withdraw expects both locks to be held.
func (t *Table[P]) withdraw(p P, k key) {
	from := t.peers[p]
	if from == nil {
		return
	}
	before, known := from.routes[k]
	if !known {
		return
	}
	delete(from.routes, k)
	from.hash -= hashOf(k, before)
	if len(from.routes) == 0 {
		delete(t.peers, p)
	}
	if k.group != "" {
		t.leave(k, p)
		return
	}
	h := t.ordinary.Get(k.filter)
	h.remove(p)
	if len(h.list) == 0 {
		t.ordinary.Delete(k.filter)
	}
}

// share returns the shared subscription k, creating it if need be.
func (t *Table[P]) share(k key) *Share[P] {
	s := t.shares[k]
	if s == nil {
		g := t.shared.Add(k.filter)
		s = &Share[P]{filter: k.filter, group: k.group, at: len(g.list)}
		g.list = append(g.list, s)
		t.shares[k] = s
	}
	return s
}

// leave takes p out of the shared subscription k, and the last one takes the shared subscription along.
func (t *Table[P]) leave(k key, p P) {
	s := t.shares[k]
	if left := s.remove(p); left > 0 {
		return
	}
	delete(t.shares, k)
	g := t.shared.Get(k.filter)
	last := len(g.list) - 1
	g.list[s.at] = g.list[last]
	g.list[s.at].at = s.at
	g.list[last] = nil
	g.list = g.list[:last]
	if last == 0 {
		t.shared.Delete(k.filter)
	}
}

// Match is a peer with an ordinary route that matches. Durable says that a durable session is behind one of those.
type Match[P comparable] struct {
	Peer    P
	Durable bool
}

// Match appends to dst, each once and in no order, the peers with an ordinary route that matches name. What
// dst holds already is left alone. With room in dst it does not allocate, unless more than 16 different
// filters match. Nothing matches a name under topic.DirectPrefix.
func (t *Table[P]) Match(name string, dst []Match[P]) []Match[P] {
	var room [16]*holders[P]
	t.mu.RLock()
	defer t.mu.RUnlock()
	matches := t.ordinary.AppendMatches(room[:0], name)
	base := len(dst)
	for i, h := range matches {
		if i == 0 {
			dst = append(dst, h.list...)
			continue
		}
		for _, x := range h.list {
			at := find(dst[base:], x.Peer)
			if at < 0 {
				dst = append(dst, x)
			} else if x.Durable {
				dst[base+at].Durable = true
			}
		}
	}
	return dst
}

// Shares appends to dst the shared subscriptions that match name, each once and in no order. It allocates as
// little as Match.
func (t *Table[P]) Shares(name string, dst []*Share[P]) []*Share[P] {
	var room [16]*groups[P]
	t.mu.RLock()
	defer t.mu.RUnlock()
	for _, g := range t.shared.AppendMatches(room[:0], name) {
		dst = append(dst, g.list...)
	}
	return dst
}

// Share returns one shared subscription, nil when no peer has a route for it.
func (t *Table[P]) Share(group, filter string) *Share[P] {
	t.changes.Lock()
	defer t.changes.Unlock()
	return t.shares[key{filter, group}]
}

// PeerRoute is one route of a peer.
type PeerRoute[P comparable] struct {
	Peer P
	Route
}

// Explain returns the routes that match name, ordinary ones and shared subscriptions, in no order and at most so many. It is
// Match and Shares for who wants to know why, and slower.
func (t *Table[P]) Explain(name string, most int) (found []PeerRoute[P]) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	add := func(r PeerRoute[P]) {
		if len(found) < most {
			found = append(found, r)
		}
	}
	t.ordinary.EachMatch(name, func(filter string, h *holders[P]) {
		for _, x := range h.list {
			add(PeerRoute[P]{x.Peer, Route{Filter: filter, Members: 1, Durable: x.Durable}})
		}
	})
	t.shared.EachMatch(name, func(_ string, g *groups[P]) {
		for _, s := range g.list {
			s.each(func(p P, members uint32) {
				add(PeerRoute[P]{p, Route{Filter: s.filter, Group: s.group, Members: members, Durable: members == 0}})
			})
		}
	})
	return found
}

// Digest returns the number of routes of p and the hash of them all, to be compared with what DigestOf makes
// of the routes that p has. It costs the same however many there are.
func (t *Table[P]) Digest(p P) (count, hash uint64) {
	t.changes.Lock()
	defer t.changes.Unlock()
	from := t.peers[p]
	if from == nil {
		return 0, 0
	}
	return uint64(len(from.routes)), from.hash
}
