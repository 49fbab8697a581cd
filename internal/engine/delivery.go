package engine

import (
	"github.com/beeline-mqtt/beeline/internal/message"
	"github.com/beeline-mqtt/beeline/internal/packet"
)

// Until says how far a delivery must get before its ticket settles well.
type Until byte

const (
	// UntilQueued: it is in the bounded queue.
	UntilQueued Until = iota
	// UntilAcked: the client has acknowledged it, with PUBACK at QoS 1 and PUBREC at QoS 2. On a durable session
	// these are deliveries for shared subscriptions: see Session.Suspend.
	UntilAcked
	// UntilSafe: the client has acknowledged it, or it is stored, whichever is first. Of these a durable session
	// drops what it is given twice: see Session.ForgetSeen. On a transient session it means UntilQueued.
	UntilSafe
)

// Delivery is one message on its way to the client.
type Delivery[T comparable] struct {
	Message *message.Message
	// QoS is that of the delivery: the lower one of message and subscription.
	QoS byte
	// Retain is the RETAIN flag of the packet.
	Retain bool
	// IDs are the Subscription Identifiers of the packet.
	IDs []uint32
	// Ticket comes back in a Settlement; the zero T when nobody waits.
	Ticket T
	Until  Until
}

// Outcome is what has become of a delivery.
type Outcome byte

const (
	// Queued: it is in the bounded queue.
	Queued Outcome = iota
	// Waiting: it is kept, and its ticket will settle later. Only Offer answers this.
	Waiting
	// Dropped: it had QoS 0 and the queue was full. Only Offer answers this.
	Dropped
	// Acked: the client has acknowledged it.
	Acked
	// Expired: its Message Expiry Interval passed before it was sent. Nobody needs it any more, so a publisher
	// that waits for it is answered as after Acked.
	Expired
	// Ended: the session ended first. At QoS 1 the client may or may not have the message.
	Ended
	// Interrupted: the session ended when the message had been sent at QoS 2 and not been acknowledged. The client may
	// or may not have it, and nobody else may get it (MQTT-4.8.2-5).
	Interrupted
	// Stored: it is in the session's inbox.
	Stored
	// Moved: the session has, or is about to have, a newer holder: the delivery is to be taken there.
	Moved
	// Refused: there is no room for it where it would have to be stored.
	Refused
	// Declined: the client has acknowledged it with a reason code of 0x80 or more. Nobody else gets it in its stead
	// (MQTT-4.8.2-6), so a publisher that waits for it is answered as after Acked.
	Declined
)

func (o Outcome) String() string {
	return [...]string{"queued", "waiting", "dropped", "acked", "expired", "ended", "interrupted", "stored", "moved", "refused", "declined"}[o]
}

// Settlement says what has become of the delivery with the ticket: anything but Waiting and Dropped.
type Settlement[T comparable] struct {
	Ticket  T
	Outcome Outcome
}

// LossReason is why a session has lost a message.
type LossReason byte

// The reasons.
const (
	// NoRoom: it has QoS 0 and found the queue full. Offer has answered Dropped.
	NoRoom LossReason = iota
	// MadeWay: it has QoS 0 and was queued, and made way for a message of higher QoS.
	MadeWay
	// TooOld: its Message Expiry Interval passed before it was sent.
	TooOld
)

func (r LossReason) String() string { return [...]string{"no room", "made way", "too old"}[r] }

// Loss is a message that the client does not get, although its session goes on.
type Loss struct {
	Message *message.Message
	// QoS of the delivery.
	QoS byte
	Why LossReason
}

// Outgoing is a packet to write to the client. A PUBREL has a PacketID and nothing else.
type Outgoing struct {
	// Type is PUBLISH, or PUBREL on a durable session; that of a transient one comes out of Acked. Dup is set where
	// a session goes on over another connection (MQTT-4.4.0-1).
	Type packet.Type
	// PacketID is 0 at QoS 0.
	PacketID uint16
	Dup      bool
	Message  *message.Message
	QoS      byte
	Retain   bool
	IDs      []uint32
}

// Verdict is what to do with a PUBLISH from the client.
type Verdict byte

const (
	// Forward: the message is new. Forward it, then call Forwarded.
	Forward Verdict = iota
	// Duplicate: do not forward it. It is a message that has been forwarded and whose acknowledgement comes, or
	// comes again, out of NextAck by itself; or the session is over.
	Duplicate
	// OverReceiveMaximum: the client has exceeded Receive Maximum; close with 0x93 (MQTT-3.3.4-7). Nothing
	// has changed.
	OverReceiveMaximum
	// IdentifierInUse: the packet identifier belongs to an unfinished message of another QoS (MQTT-2.2.1-3);
	// close with 0x82 (Protocol Error). Nothing has changed.
	IdentifierInUse
	// Again: the message was taken before the session was resumed, and its client does not know. Forward it at once
	// under the id that TakenID has, then call Forwarded.
	Again
)

func (v Verdict) String() string {
	return [...]string{"forward", "duplicate", "over receive maximum", "identifier in use", "again"}[v]
}

// Counters count what has happened in one session since it began.
type Counters struct {
	// Sent counts PUBLISH packets that came out of Next.
	Sent uint64
	// Acknowledged counts deliveries that the client completed; Refused those that it ended with a reason code of
	// 0x80 or more.
	Acknowledged, Refused uint64
	// Dropped counts QoS 0 messages that found the queue full; Shed those that were queued and made way for a
	// message of higher QoS.
	Dropped, Shed uint64
	// Expired counts messages that were queued and expired before they were sent.
	Expired uint64
	// Ended counts messages that were queued, or in flight and not acknowledged, when the session ended.
	Ended uint64
	// Unmatched counts acknowledgements for packet identifiers that were not in flight.
	Unmatched uint64
	// Received counts QoS 1 and QoS 2 messages of the client with the verdict Forward, Duplicates those with the
	// verdict Duplicate.
	Received, Duplicates uint64
	// Spilled counts deliveries that went to the inbox only; Stored all deliveries that were written to it and
	// confirmed; Repeated those that were dropped because the session had been given them before.
	Spilled, Stored, Repeated uint64
}
