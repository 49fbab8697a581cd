package away

import (
	"math"
	"time"

	"github.com/beeline-mqtt/beeline/internal/journal"
	"github.com/beeline-mqtt/beeline/services/session/internal/claims"
	"github.com/beeline-mqtt/beeline/services/session/internal/store"
)

// What MQTT says about the end of connections and sessions (3.1.2.5, 3.1.2.11.2, 3.1.3.2.2), as functions of a record.

// end is what is left of a record when the client's connection ends: nobody holds it from then on. e is what the
// gateway has told about the end, nil if nothing. over: the session ends with the connection.
func end(r store.Record, e *claims.Ending, now time.Time) (left store.Record, over bool) {
	r.Holder, r.Away = "", now
	if e != nil {
		if e.WithoutWill {
			r.Will = nil
		}
		if e.HasExpiry {
			r.Expiry = e.Expiry
		}
	}
	return r, r.Session == 0 || r.Expiry == 0
}

// expiresAt is when the session of an absent client ends; false: it never does.
func expiresAt(r store.Record) (time.Time, bool) {
	switch {
	case r.Session == 0:
		return r.Away, true
	case r.Expiry == journal.Never:
		return time.Time{}, false
	}
	return r.Away.Add(time.Duration(r.Expiry) * time.Second), true
}

// willAt is when the will of an absent client is to be published: when its delay has passed or the session ends
// (MQTT-3.1.3-9). There has to be one.
func willAt(r store.Record) time.Time {
	at := r.Away.Add(r.Will.Delay)
	if ends, does := expiresAt(r); does && ends.Before(at) {
		return ends
	}
	return at
}

// dueAt is when something is to be done about an absent client's record; false: never.
func dueAt(r store.Record) (time.Time, bool) {
	at, due := expiresAt(r)
	if r.Will != nil {
		// Never later than the end of the session.
		return willAt(r), true
	}
	return at, due
}

// fate is what becomes of an absent client's session and will at some moment.
type fate struct {
	// over: the session has ended. fire: the will is to be published now.
	over, fire bool
}

func fateOf(r store.Record, now time.Time) fate {
	at, ends := expiresAt(r)
	f := fate{over: ends && !now.Before(at)}
	f.fire = r.Will != nil && (f.over || !now.Before(willAt(r)))
	return f
}

// opened is what an opening makes of a record.
type opened struct {
	// next is the new record; stored says that there is one.
	next   store.Record
	stored bool
	// present: it continues the session that the client had.
	present bool
	// fire: the will of the connection before is to be published.
	fire bool
}

// open is what a claim makes of a client's record, which may be the zero Record when nothing is stored. id is for a
// new session.
func open(r store.Record, o claims.Effect, id journal.SessionID, now time.Time) opened {
	var f fate
	switch {
	case r.Holder != "":
		// The connection before ends now.
		var over bool
		if r, over = end(r, o.Ending, now); over {
			f.over = true
		}
		f.fire = r.Will != nil && fateOf(r, now).fire
	case r.Client != "":
		f = fateOf(r, now)
	}
	terms := o.Request.Terms
	if r.Session == 0 || terms.CleanStart {
		f.over = true
	}
	f.fire = f.fire || f.over && r.Will != nil
	p := opened{
		fire:    f.fire,
		present: !f.over,
		next:    store.Record{Client: o.Client, Epoch: o.Epoch, Holder: o.Gateway, Expiry: terms.Expiry, Will: terms.Will, User: terms.User},
	}
	switch {
	case p.present:
		p.next.Session = r.Session
	case terms.Expiry > 0:
		p.next.Session = id
	}
	p.stored = p.next.Session != 0 || p.next.Will != nil
	return p
}

// leaseOf is the epoch of the last lease that named a holder. An adopted session has the one after it, so that the
// dead holder can write nothing more.
func leaseOf(r store.Record) uint64 {
	if r.Former != "" && r.Epoch < math.MaxUint64 {
		return r.Epoch - 1
	}
	return r.Epoch
}
