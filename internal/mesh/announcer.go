package mesh

import (
	"errors"
	"iter"
	"maps"
	"slices"
	"sort"
	"time"

	"github.com/beeline-mqtt/beeline/internal/routes"
)

// ErrNotAcknowledged is what Announce reports when a living peer has not acknowledged a change in time.
var ErrNotAcknowledged = errors.New("routes not acknowledged by every peer")

// maxLog bounds the changes that are kept to make deltas from. A peer that lags further behind gets a snapshot.
const maxLog = 16384

// announcer is the table of this process's own routes, the log of its changes, and the announcements that wait
// for peers of type P. It is a plain value; the mesh locks.
type announcer[P comparable] struct {
	version uint64
	own     map[routeKey]ownRoute
	gone    map[routeKey]uint64 // version of the withdrawal, while the log remembers it
	hash    uint64

	log   []change // ascending
	floor uint64   // the log has every change after this version

	acked   map[P]uint64 // peers to which a snapshot has been sent
	waiting []*announcement
	oldest  []*announcement // the same, by deadline
}

type routeKey struct{ filter, group string }

type ownRoute struct {
	route   routes.Route
	changed uint64
}

type change struct {
	version uint64
	key     routeKey
}

// announcement waits until every peer has version need.
type announcement struct {
	need     uint64
	deadline time.Time
	done     func(error)
	over     bool
}

// finished is a call to make once the lock is released.
type finished struct {
	done func(error)
	err  error
}

func newAnnouncer[P comparable]() *announcer[P] {
	// Version 1 is the empty table, because 0 means that nothing is in force.
	return &announcer[P]{
		version: 1,
		floor:   1,
		own:     make(map[routeKey]ownRoute),
		gone:    make(map[routeKey]uint64),
		acked:   make(map[P]uint64),
	}
}

// announce applies changes, as one new version if any of them changes anything, and has done wait for the
// versions in which these routes were last changed.
func (a *announcer[P]) announce(changes []routes.Route, deadline time.Time, done func(error), out []finished) []finished {
	need, next := uint64(0), a.version+1
	for _, r := range changes {
		key := routeKey{r.Filter, r.Group}
		had, ok := a.own[key]
		gone := r.Members == 0 && !r.Keeps()
		switch {
		case gone && !ok:
			need = max(need, a.gone[key])
			continue
		case gone:
			delete(a.own, key)
			a.gone[key] = next
			a.hash -= hashOf(had.route)
		case ok && had.route == r:
			need = max(need, had.changed)
			continue
		default:
			if ok {
				a.hash -= hashOf(had.route)
			}
			a.own[key] = ownRoute{route: r, changed: next}
			delete(a.gone, key)
			a.hash += hashOf(r)
		}
		a.log = append(a.log, change{version: next, key: key})
		a.version, need = next, next
	}
	a.trim()
	if need <= a.inForce() {
		return append(out, finished{done: done})
	}
	w := &announcement{need: need, deadline: deadline, done: done}
	i := sort.Search(len(a.waiting), func(i int) bool { return a.waiting[i].need > need })
	a.waiting = slices.Insert(a.waiting, i, w)
	a.oldest = append(a.oldest, w)
	return out
}

// trim forgets the older half of a log that has become too long, at a version's end.
func (a *announcer[P]) trim() {
	if len(a.log) <= maxLog {
		return
	}
	n := len(a.log) - maxLog/2
	a.floor = a.log[n-1].version
	for n < len(a.log) && a.log[n].version == a.floor {
		n++
	}
	for _, c := range a.log[:n] {
		if a.gone[c.key] == c.version {
			delete(a.gone, c.key)
		}
	}
	a.log = slices.Clone(a.log[n:])
}

// inForce returns the version that every peer that counts has acknowledged.
func (a *announcer[P]) inForce() uint64 {
	v := a.version
	for _, acked := range a.acked {
		v = min(v, acked)
	}
	return v
}

// sent records that p is being sent a snapshot: from now on announcements wait for it.
func (a *announcer[P]) sent(p P) {
	if _, ok := a.acked[p]; !ok {
		a.acked[p] = 0
	}
}

// ack records that p has version in force.
func (a *announcer[P]) ack(p P, version uint64, out []finished) []finished {
	if version > a.acked[p] {
		a.acked[p] = version
	}
	return a.release(out)
}

// drop forgets a peer that is dead.
func (a *announcer[P]) drop(p P, out []finished) []finished {
	delete(a.acked, p)
	return a.release(out)
}

// release finishes what the peers have acknowledged.
func (a *announcer[P]) release(out []finished) []finished {
	v, n := a.inForce(), 0
	for ; n < len(a.waiting) && a.waiting[n].need <= v; n++ {
		w := a.waiting[n]
		a.waiting[n] = nil
		if !w.over {
			w.over = true
			out = append(out, finished{done: w.done})
		}
	}
	a.waiting = a.waiting[n:]
	a.forget()
	return out
}

// expire finishes with ErrNotAcknowledged what has waited until now.
func (a *announcer[P]) expire(now time.Time, out []finished) []finished {
	return a.finish(ErrNotAcknowledged, func(w *announcement) bool { return !w.deadline.After(now) }, out)
}

// close finishes with ErrClosed whatever waits.
func (a *announcer[P]) close(out []finished) []finished {
	return a.finish(ErrClosed, func(*announcement) bool { return true }, out)
}

// finish finishes the oldest announcements, as far as due says.
func (a *announcer[P]) finish(err error, due func(*announcement) bool, out []finished) []finished {
	n := len(out)
	for _, w := range a.oldest {
		if w.over {
			continue
		}
		if !due(w) {
			break
		}
		w.over = true
		out = append(out, finished{done: w.done, err: err})
	}
	if len(out) > n {
		a.waiting = slices.DeleteFunc(a.waiting, func(w *announcement) bool { return w.over })
	}
	a.forget()
	return out
}

// forget drops what is over from the front of the line by deadline.
func (a *announcer[P]) forget() {
	n := 0
	for n < len(a.oldest) && a.oldest[n].over {
		a.oldest[n] = nil
		n++
	}
	a.oldest = a.oldest[n:]
}

// deadline returns when the next announcement expires.
func (a *announcer[P]) deadline() (time.Time, bool) {
	if len(a.oldest) == 0 {
		return time.Time{}, false
	}
	return a.oldest[0].deadline, true
}

// update is what takes a peer from one version of the table to another.
type update struct {
	version   uint64
	snapshot  bool
	announced []routes.Route
	withdrawn []routeKey
}

// since returns what has changed after version v, combined, or the whole table when the log does not go back
// so far.
func (a *announcer[P]) since(v uint64) update {
	if v < a.floor || v > a.version {
		return a.snapshot()
	}
	u := update{version: a.version}
	from := sort.Search(len(a.log), func(i int) bool { return a.log[i].version > v })
	for _, c := range a.log[from:] {
		if own, ok := a.own[c.key]; ok {
			if own.changed == c.version {
				u.announced = append(u.announced, own.route)
			}
		} else if a.gone[c.key] == c.version {
			u.withdrawn = append(u.withdrawn, c.key)
		}
	}
	return u
}

func (a *announcer[P]) snapshot() update {
	return update{version: a.version, snapshot: true, announced: slices.AppendSeq(make([]routes.Route, 0, len(a.own)), a.all())}
}

func (a *announcer[P]) all() iter.Seq[routes.Route] {
	return func(yield func(routes.Route) bool) {
		for own := range maps.Values(a.own) {
			if !yield(own.route) {
				return
			}
		}
	}
}

// hashOf is one route's part of the digest, which is a sum.
func hashOf(r routes.Route) uint64 {
	_, h := routes.DigestOf(func(yield func(routes.Route) bool) { yield(r) })
	return h
}
