package engine

import (
	"time"

	"github.com/beeline-mqtt/beeline/internal/journal"
	"github.com/beeline-mqtt/beeline/internal/message"
	"github.com/beeline-mqtt/beeline/internal/packet"
)

// Resume returns a durable session: one that outlives its connection, because everything about it that must not be
// lost is written down elsewhere. It continues the state st, or begins anew when that is empty. l are the limits of
// the new connection; the session keeps nothing of st.
//
// What the package comment says of calls and effects holds, with these added:
//
//	any call                                     may yield changes          ->  Changes, after Next
//	Written                                      may make packets and acknowledgements due, and settle tickets
//	                                                                        ->  Next, NextAck, Ready, Settled
//	any call                                     may want a page            ->  Wanted
func Resume[T comparable](l Limits, st journal.State) *Session[T] {
	s := New[T](l)
	s.durable = newDurable[T](s.limits, st)
	s.out = &s.durable.outbound
	return s
}

// Durable reports whether the session came from Resume.
func (s *Session[T]) Durable() bool { return s.durable != nil }

// Changes appends to dst what has to be written now, gives it positions, and returns it: everything that something
// waits for, and all deliveries that were offered at or before before and have been neither acknowledged nor
// stored, with everything older. Each change is given out once; the caller writes them in this order, and repeats
// that until they are durable or refused for good. They share memory with the session that neither side changes.
//
// Call it after every step, behind Next, with a before that lies back as far as acknowledgements may take; it costs
// nothing when there is nothing to write. Changes of subscriptions are the caller's own. A transient session has no
// changes.
func (s *Session[T]) Changes(now, before time.Time, dst []journal.Change) []journal.Change {
	if s.durable == nil {
		return dst
	}
	return s.durable.changes(now, before, dst)
}

// Unsafe returns when the oldest delivery was offered that is neither acknowledged nor stored nor on its way there,
// and false when there is none: the caller arms its next look at Changes by it.
func (s *Session[T]) Unsafe() (oldest time.Time, ok bool) {
	if s.durable == nil {
		return time.Time{}, false
	}
	return s.durable.unsafe()
}

// Written says that the first n changes which were given out, by Changes or Suspend, and not confirmed yet are durable. Tickets settle as
// Stored by it, also after Suspend; packets, acknowledgements and Ready may become due.
func (s *Session[T]) Written(n int) {
	if s.durable != nil {
		s.durable.written(n, s.in)
	}
}

// LeftOut says that an entry whose Append has been given out and not confirmed was not appended. What the inbox has
// already, or had lately, is then not sent, and its ticket settles as Queued; what it has no room for is not sent
// either, unless it has been, and settles as Refused. Call it before the Written that confirms the Append.
func (s *Session[T]) LeftOut(x journal.LeftOut) {
	if s.durable != nil {
		s.durable.leftOut(x)
	}
}

// Spilled reports whether deliveries at QoS 1 and 2 go to the inbox and are read from there, because the queue
// was full, or because the inbox has not been read to its end. A spilled session takes nothing for shared
// subscriptions.
func (s *Session[T]) Spilled() bool { return s.durable != nil && s.durable.spilled }

// Wanted asks for a page of the inbox, the entries behind after, and reports whether one is wanted. Once it has
// answered true it answers false until Page or PageFailed. It asks while less than half of the bounds is queued;
// how large a page is, and so by how much it may exceed the bounds, is the caller's choice.
func (s *Session[T]) Wanted() (after journal.Position, want bool) {
	if s.durable == nil {
		return 0, false
	}
	return s.durable.wanted()
}

// Page takes the page that Wanted asked for, in the order of positions; empty says that there was nothing. It may
// hold entries whose writing is not confirmed yet. It is ignored when none is outstanding, and after Suspend.
func (s *Session[T]) Page(entries []journal.Entry) {
	if s.durable != nil {
		s.durable.page(entries)
	}
}

// PageFailed says that the page could not be read: Wanted asks for it again.
func (s *Session[T]) PageFailed() {
	if s.durable != nil {
		s.durable.paging = false
	}
}

// Taken gives the QoS 2 message which got the verdict Forward its message id. On a durable session it must be
// sent on only when Ready says so; on a transient one it is called for nothing.
func (s *Session[T]) Taken(id uint16, m message.ID) {
	if s.durable != nil && s.in != nil {
		s.durable.took(id, m, s.in)
	}
}

// TakenID returns the message id of the client's unfinished QoS 2 message with the packet identifier id: what the
// verdict Again is to be forwarded under.
func (s *Session[T]) TakenID(id uint16) (message.ID, bool) {
	if s.durable == nil {
		return message.ID{}, false
	}
	k, ok := s.durable.ids[id]
	return k.message, ok
}

// Ready appends to dst the packet identifiers of the client's QoS 2 messages that may be sent on now, because their
// ids are durable, in the order in which they were taken, and returns it. Each comes out once.
func (s *Session[T]) Ready(dst []uint16) []uint16 {
	if s.durable == nil {
		return dst
	}
	return s.durable.drainReady(dst)
}

// Release takes a PUBREL from the client and returns the PUBCOMP to send now, if any. Its code is Success, or Packet
// Identifier not found, which is also the answer of a transient session while the PUBREC is not out, in which case the
// identifier stays in use. On a durable session the PUBCOMP for a message that is known comes out of NextAck once that is
// durable.
func (s *Session[T]) Release(id uint16) (reply packet.Ack, send bool) {
	if s.durable != nil && !s.durable.away {
		return s.durable.release(id, s.in)
	}
	code := packet.PacketIdentifierNotFound
	if s.in != nil {
		code = s.in.release(id, false)
	}
	return packet.Ack{Type: packet.PUBCOMP, PacketID: id, Code: code}, true
}

// Suspend ends the connection of a durable session and returns what is left to write, appended to dst, as Changes
// does. Tickets that are waiting settle as Stored with Written; those for shared subscriptions as Ended, unless
// they have QoS 2 and a packet identifier, in which case they are written too. QoS 0 messages are dropped and count
// as Ended. From then on Offer answers Moved, Published Duplicate, and nothing is due any more but what Settled
// has. Without a second effect when called again.
func (s *Session[T]) Suspend(now time.Time, dst []journal.Change) []journal.Change {
	if s.durable == nil || s.ended {
		return dst
	}
	if s.in != nil {
		s.in.end()
	}
	return s.durable.suspend(now, dst)
}

// Abandon ends a durable session for this holder, because it has a newer one and writes are refused, before or after
// Suspend. Every ticket that is still waiting settles: as Moved, or, for shared subscriptions, as with End. From
// then on Offer answers Moved, and no change is given out any more.
func (s *Session[T]) Abandon() {
	if s.durable == nil || s.ended {
		return
	}
	if s.in != nil {
		s.in.end()
	}
	s.durable.finish(Moved)
}

// ForgetSeen stops the bookkeeping of message ids by which a durable session drops what it is given twice: once its
// former holder is forgotten, nobody sends anything twice any more. A spilled session stops when it has read its
// inbox, which may hold a message twice. Only the newest 4,096 ids are known, and those of deliveries that are neither
// UntilSafe nor read from the inbox are not.
//
// A QoS 2 message that is given twice is answered with Moved while the first copy waits for its outcome: its publisher
// has sent it again, and what becomes of the first copy is not known. It is to be offered once more.
func (s *Session[T]) ForgetSeen() {
	switch {
	case s.durable == nil:
	case s.durable.spilled:
		s.durable.seen.forget = true
	default:
		s.durable.seen = seen{off: true}
	}
}
