package engine

import (
	"slices"
	"time"

	"github.com/beeline-mqtt/beeline/internal/journal"
	"github.com/beeline-mqtt/beeline/internal/message"
)

// record is what a durable session knows of a delivery at QoS 1 or 2 beyond its entry. It lives as long as the
// entry does, and until the last change that names it is confirmed.
type record[T comparable] struct {
	message *message.Message // until its Append has been given out
	id      message.ID
	ids     []uint32
	ticket  T // zero when nobody waits, or no longer
	offered time.Time
	// position is 0 until the Append has been given out.
	position journal.Position

	links      links
	references int // the entry, and the changes that name it

	number   uint32 // as in the entry
	packetID uint16 // 0 until it has one
	qos      byte
	retain   bool
	until    Until
	release  release

	appended bool // its Append is to be given out, or was
	blocked  bool // it has been given a place in the window and must not be sent before that is written
	sent     bool // on this connection
	again    bool // it may have been sent on a connection before this one
	spilled  bool // it is in the inbox only, or in the tail
	over     bool // nobody needs it any more
}

// release is how far a QoS 2 delivery is behind its PUBREC.
type release byte

const (
	unreleased  release = iota
	releasing           // PUBREC has come, which is being written
	releaseDue          // PUBREL is to be sent
	releaseSent         // PUBREL has been sent on this connection
)

// shared reports whether the delivery is for a shared subscription.
func (r *record[T]) shared() bool { return r.until == UntilAcked }

// records holds the records of a session, by mark. Marks are given again; 0 is none.
type records[T comparable] struct {
	all  []record[T]
	free uint32 // the first free record; the next is its links.next
	n    int

	lists [listCount]list
}

// at returns the record with the mark, until the next add.
func (s *records[T]) at(mark uint32) *record[T] { return &s.all[mark] }

func (s *records[T]) add(r record[T]) uint32 {
	r.references = 1
	s.n++
	if s.free != 0 {
		mark := s.free
		s.free = s.all[mark].links.next
		s.all[mark] = r
		return mark
	}
	if s.all == nil {
		s.all = make([]record[T], 1, smallest)
	}
	s.all = append(s.all, r)
	return uint32(len(s.all) - 1)
}

// awaited reports whether somebody waits for the outcome of a delivery of the message. It looks at every record.
func (s *records[T]) awaited(id message.ID) bool {
	return slices.ContainsFunc(s.all, func(r record[T]) bool { return r.ticket != *new(T) && r.id == id })
}

// drop drops one reference to the record, and the record with the last.
func (s *records[T]) drop(mark uint32) {
	if mark == 0 {
		return
	}
	r := s.at(mark)
	r.references--
	if r.references > 0 {
		return
	}
	s.n--
	if s.n == 0 && len(s.all) > keep {
		*s = records[T]{}
		return
	}
	*r = record[T]{links: links{next: s.free}}
	s.free = mark
}

// links are a record's place in one of the lists of its session.
type links struct {
	list       listName
	prev, next uint32
}

// listName names a list of records.
type listName byte

const (
	unlisted listName = iota
	// unstored are deliveries that are neither acknowledged nor to be appended, in the order of arrival.
	unstored
	// unnamed are deliveries that are stored, or to be, and have been given packet identifiers that are not
	// written, in that order.
	unnamed
	// lent are deliveries at QoS 2 for shared subscriptions that have no packet identifier, in the order of arrival.
	lent
	listCount
)

// list is a list of records by their marks.
type list struct{ first, last uint32 }

// link puts the record, which is in no list, at the end of a list.
func (s *records[T]) link(name listName, mark uint32) {
	x := &s.lists[name]
	s.at(mark).links = links{list: name, prev: x.last}
	if x.last == 0 {
		x.first = mark
	} else {
		s.at(x.last).links.next = mark
	}
	x.last = mark
}

// unlink takes the record out of the list that it is in, if any.
func (s *records[T]) unlink(mark uint32) {
	r := s.at(mark)
	if r.links.list == unlisted {
		return
	}
	x := &s.lists[r.links.list]
	if r.links.prev == 0 {
		x.first = r.links.next
	} else {
		s.at(r.links.prev).links.next = r.links.next
	}
	if r.links.next == 0 {
		x.last = r.links.prev
	} else {
		s.at(r.links.next).links.prev = r.links.prev
	}
	r.links = links{}
}
