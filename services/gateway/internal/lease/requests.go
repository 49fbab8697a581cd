package lease

import (
	"iter"
	"time"

	sessionv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/session/v1"
)

// frame is something to be sent. It gets its form when it is sent, and again when it is repeated: what is left until
// a message expires counts from then.
type frame interface {
	wire(id uint64, now time.Time) *sessionv1.AttachRequest
}

// request is a frame whose answer is awaited.
type request struct {
	id           uint64
	what         frame
	older, newer *request
}

// requests are those without an answer, in the order in which they were made. The zero value has none.
type requests struct {
	byID           map[uint64]*request
	oldest, newest *request
	last           uint64 // id
	// told are ids of requests that have no answer of their own, oldest first.
	told []uint64
}

// add returns the id of the request.
func (q *requests) add(what frame) uint64 {
	q.last++
	r := &request{id: q.last, what: what, older: q.newest}
	if r.older != nil {
		r.older.newer = r
	} else {
		q.oldest = r
	}
	q.newest = r
	if q.byID == nil {
		q.byID = map[uint64]*request{}
	}
	q.byID[r.id] = r
	return r.id
}

// tell is add for a frame that has no answer of its own: see heard.
func (q *requests) tell(what frame) uint64 {
	id := q.add(what)
	q.told = append(q.told, id)
	return id
}

// heard drops what was told before the request id was sent: that one has been answered, so the other side has read
// everything before it. It is so on whichever stream the answer comes. One that was sent on an earlier stream had the
// same in front of it there.
func (q *requests) heard(id uint64) {
	n := 0
	for n < len(q.told) && q.told[n] < id {
		q.remove(q.told[n])
		n++
	}
	q.told = q.told[n:]
}

func (q *requests) remove(id uint64) {
	r := q.byID[id]
	if r == nil {
		return
	}
	delete(q.byID, id)
	if r.older != nil {
		r.older.newer = r.newer
	} else {
		q.oldest = r.newer
	}
	if r.newer != nil {
		r.newer.older = r.older
	} else {
		q.newest = r.older
	}
}

// all yields them oldest first. None may be removed meanwhile.
func (q *requests) all() iter.Seq2[uint64, frame] {
	return func(yield func(uint64, frame) bool) {
		for r := q.oldest; r != nil; r = r.newer {
			if !yield(r.id, r.what) {
				return
			}
		}
	}
}

// find returns the request id if it is an F.
func find[F frame](q *requests, id uint64) (f F, ok bool) {
	if r := q.byID[id]; r != nil {
		f, ok = r.what.(F)
	}
	return f, ok
}
