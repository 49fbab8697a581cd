package engine

import (
	"time"

	"github.com/beeline-mqtt/beeline/internal/packet"
)

// Limits are the bounds of one session.
type Limits struct {
	// QueueMessages and QueueBytes bound what is queued and has not been sent, in messages and in bytes as
	// counted by message.Message.Size. One message may always exceed them: an empty queue takes any message.
	// QueueBytes also bounds, separately, what is in flight; again one message may exceed it. A bound below
	// 1 counts as 1.
	QueueMessages, QueueBytes int
	// SendMaximum is how many QoS 1 and QoS 2 deliveries may be in flight: the smaller of the client's
	// Receive Maximum (3.1.2.11.3) and the server's own limit. At most 32,768 are used, so that a free packet
	// identifier is never far away. 0 counts as absent: 65,535.
	SendMaximum int
	// ReceiveMaximum is how many QoS 1 and QoS 2 messages of the client may be unacknowledged (3.2.2.3.3).
	// 0 counts as absent: 65,535.
	ReceiveMaximum int
}

// withDefaults returns the limits with every bound in its range.
func (l Limits) withDefaults() Limits {
	receiveMaximum := func(n int) int {
		if n < 1 || n > 65535 {
			return 65535
		}
		return n
	}
	return Limits{
		QueueMessages:  max(1, l.QueueMessages),
		QueueBytes:     max(1, l.QueueBytes),
		SendMaximum:    min(receiveMaximum(l.SendMaximum), maxInFlight),
		ReceiveMaximum: receiveMaximum(l.ReceiveMaximum),
	}
}

// Session is the state of one MQTT session. T is the caller's ticket for a delivery that somebody waits for;
// the zero T means that nobody does.
type Session[T comparable] struct {
	limits Limits
	// out and in are made when first needed: most sessions of a large installation are idle, and many use
	// one direction only.
	out     *outbound[T]
	in      *inbound
	durable *durable[T] // nil when the session ends with its connection
	ended   bool
}

// over reports whether the session has no connection any more.
func (s *Session[T]) over() bool { return s.ended || s.durable != nil && s.durable.away }

// New returns an empty session that ends with its connection.
func New[T comparable](l Limits) *Session[T] {
	return &Session[T]{limits: l.withDefaults()}
}

// outbound returns the outbound half, made when first needed.
func (s *Session[T]) outbound() *outbound[T] {
	if s.out == nil {
		s.out = &outbound[T]{limits: s.limits}
	}
	return s.out
}

// Offer hands the session a delivery, in arrival order. The session keeps the message and the subscription
// identifiers and changes neither.
//
// It answers
//   - Queued: the delivery is in the bounded queue; its receipt may be given now and the ticket is not kept. A
//     delivery at QoS 0 is answered so even with UntilAcked, because nobody will acknowledge it.
//   - Waiting: the ticket is kept and comes out of Settled exactly once. Either it asks for the client's
//     acknowledgement (UntilAcked), or the queue is full. In that case the oldest queued QoS 0 messages
//     have made way first, and the delivery is kept in its place, beyond the bound, until room reaches it. What
//     bounds these is that somebody waits for each; a delivery at QoS 1 or 2 without a ticket is kept as well,
//     so whoever passes none must bound them in another way.
//   - Dropped: the queue is full and the delivery has QoS 0.
//   - Ended: the session is over.
//
// On a durable session it differs in this:
//   - A delivery at QoS 1 or 2 that finds the queue full, or the session spilled, goes to the inbox only: Waiting,
//     and its ticket settles as Stored. What bounds the changes that are not confirmed is again that somebody waits
//     for each delivery.
//   - With UntilSafe it is Waiting in any case; Queued when the session has been given the same message before.
//   - With UntilAcked, for a shared subscription, a full or spilled session does not take it, nor one that has
//     been suspended: Ended, it is for another member.
//   - Moved: the session has been suspended or abandoned. At QoS 0 the answer is Dropped.
func (s *Session[T]) Offer(d Delivery[T], now time.Time) Outcome {
	if s.ended {
		return Ended
	}
	if s.durable != nil {
		return s.durable.offer(d, now)
	}
	return s.outbound().offer(d, now)
}

// Next returns the next packet to write to the client, and false when there is none or the window is closed.
//
// Packets leave in arrival order, except that QoS 0 messages overtake the QoS 1 and 2 messages that a closed
// window holds. Messages whose Message Expiry Interval passed before they were first sent are skipped
// (MQTT-3.3.2-5). At most SendMaximum deliveries are in flight (MQTT-3.3.4-9); a QoS 2 delivery is in flight
// until its PUBCOMP, or until a PUBREC that refuses it (4.9).
func (s *Session[T]) Next(now time.Time) (Outgoing, bool) {
	if s.durable != nil {
		return s.durable.nextPacket(now)
	}
	if s.out == nil {
		return Outgoing{}, false
	}
	return s.out.next(now)
}

// Acked takes a PUBACK, PUBREC or PUBCOMP from the client and returns the PUBREL to send, if any. Clients that
// acknowledge out of order are served all the same.
//
// A PUBREC that has been answered before is answered again; one for an unknown identifier is answered with
// Packet Identifier not found, and a PUBACK or PUBCOMP for an unknown identifier is ignored, since a client may
// repeat itself. A reason code of 0x80 or more ends the delivery: it settles as Declined, because the
// message must not be offered to anybody else in its stead (MQTT-4.8.2-6). An acknowledgement of the wrong
// kind for its delivery is an *packet.Error with Protocol Error, and changes nothing.
func (s *Session[T]) Acked(a packet.Ack) (reply packet.Ack, send bool, err error) {
	if s.over() {
		return packet.Ack{}, false, nil
	}
	if s.durable != nil {
		return s.durable.acked(a)
	}
	return s.outbound().acked(a)
}

// Settled appends to dst the tickets that have settled since the last call, in the order in which that
// happened, and returns it.
func (s *Session[T]) Settled(dst []Settlement[T]) []Settlement[T] {
	if s.out == nil {
		return dst
	}
	return s.out.drainSettled(dst)
}

// Lost appends to dst what the session has lost since the last call, in the order in which that happened, and returns it.
func (s *Session[T]) Lost(dst []Loss) []Loss {
	if s.out == nil {
		return dst
	}
	return s.out.drainLost(dst)
}

// Published takes the packet identifier and QoS of a PUBLISH from the client and says what to do with it. A
// message at QoS 0 is always forwarded (unless the session is over) and leaves no trace.
func (s *Session[T]) Published(id uint16, qos byte) Verdict {
	if s.over() {
		return Duplicate
	}
	if qos == 0 {
		return Forward
	}
	if s.in == nil {
		s.in = newInbound(s.limits.ReceiveMaximum)
	}
	if s.durable != nil {
		return s.durable.published(id, qos, s.in)
	}
	return s.in.published(id, qos)
}

// Forwarded says that the message which got the verdict Forward is settled, and with which reason code to
// acknowledge it. Call it once for each such message: once its acknowledgement is out the client may use the
// identifier for another. It is ignored for an identifier that is not waiting for it, and after End.
func (s *Session[T]) Forwarded(id uint16, qos byte, code packet.Code) {
	switch {
	case s.in == nil:
	case s.durable != nil:
		s.durable.forwarded(id, qos, code, s.in)
	default:
		s.in.forwarded(id, qos, code)
	}
}

// NextAck returns the PUBACK or PUBREC that is now due, on a durable session the PUBCOMP as well, and false when
// there is none. Apart from PUBCOMP they come out in the order
// in which the client sent its messages, whatever the order in which these were settled (MQTT-4.6.0-2,
// MQTT-4.6.0-3).
func (s *Session[T]) NextAck() (packet.Ack, bool) {
	if s.durable != nil && s.durable.completions.n > 0 {
		return packet.Ack{Type: packet.PUBCOMP, PacketID: s.durable.completions.pop()}, true
	}
	if s.in == nil {
		return packet.Ack{}, false
	}
	return s.in.nextAck()
}

// Unacknowledged returns how many messages of the client count against ReceiveMaximum: at QoS 1 until the
// PUBACK has come out of NextAck, at QoS 2 until PUBREL, or until the PUBREC that refuses the message; on a durable
// session, until the PUBREL is durable.
func (s *Session[T]) Unacknowledged() int {
	if s.in == nil {
		return 0
	}
	return len(s.in.ids)
}

// InFlight returns how many deliveries are in flight, against SendMaximum; on a durable session, with those that have
// been given a packet identifier and not been sent.
func (s *Session[T]) InFlight() int {
	if s.out == nil {
		return 0
	}
	return s.out.window.n
}

// QueueLen returns what is queued and has not been sent, including what waits beyond the bound; on a durable session,
// among the messages, PUBRELs that are due, and what is in flight already but has not been sent. As long as it is
// not 0, Next may have something.
func (s *Session[T]) QueueLen() (messages, bytes int) {
	if s.out == nil {
		return 0, 0
	}
	messages, bytes = s.out.unordered.n+s.out.ordered.n, s.out.bytes+s.out.beyond
	if s.durable != nil {
		messages += s.durable.staged.n + s.durable.releases.n
	}
	return messages, bytes
}

// FullSince returns since when the queue has been full, or the zero time if it is not: the time at which the
// longest-waiting delivery beyond the bound was offered, or at which the first QoS 0 message was dropped since
// a message last left the queue, whichever is earlier. A client that keeps up with its publishers, if only because they are
// made to wait, therefore never looks full for long. A durable session is never full: it spills.
func (s *Session[T]) FullSince() time.Time {
	if s.out == nil || s.durable != nil {
		return time.Time{}
	}
	return s.out.fullSince()
}

// Counters returns what has happened in the session so far.
func (s *Session[T]) Counters() Counters {
	var c Counters
	if s.out != nil {
		n := &s.out.counters
		c = Counters{
			Sent: n.Sent, Acknowledged: n.Acknowledged, Refused: n.Refused, Dropped: n.Dropped,
			Shed: n.Shed, Expired: n.Expired, Ended: n.Ended, Unmatched: n.Unmatched,
		}
	}
	if d := s.durable; d != nil {
		c.Spilled, c.Stored, c.Repeated = d.overflowed, d.confirmations, d.repetitions
	}
	if s.in != nil {
		c.Received, c.Duplicates = s.in.received, s.in.duplicates
	}
	return c
}

// End ends the session. Every ticket that is still waiting settles as Ended, oldest delivery first. From then on
// Offer answers Ended, Published answers Duplicate, and nothing is due any more but what Settled has. A second
// End does nothing.
func (s *Session[T]) End() {
	if s.ended {
		return
	}
	s.ended = true
	switch {
	case s.durable != nil:
		s.durable.finish(Ended)
	case s.out != nil:
		s.out.end()
	}
	if s.in != nil {
		s.in.end()
	}
}
