package mesh

import (
	"slices"
	"strconv"

	"github.com/beeline-mqtt/beeline/internal/message"
	"github.com/beeline-mqtt/beeline/internal/turn"
)

// Peer is one incarnation of another process, as the registry shows it.
type Peer struct {
	// ID is its incarnation id.
	ID string
	// Address is where its gRPC server listens.
	Address string
	// Revision is the etcd create revision of its key. It orders processes by the time of their start.
	Revision int64
	// Quiet says that it publishes nothing, as session instances do not. It gets this process's routes, but nobody
	// waits until it has them.
	Quiet bool
}

// TargetKind says how the receiver of a delivery finds its sessions.
type TargetKind byte

// The kinds of target.
const (
	// TargetMatch: the receiver matches its ordinary subscriptions. The zero Target is this one.
	TargetMatch TargetKind = iota
	// TargetShare: one member of a shared subscription; the sender chose the holder.
	TargetShare
	// TargetClient: one client, by id.
	TargetClient
	// TargetOrphans: the durable sessions that a dead incarnation held, wherever they are now. The mesh makes
	// these itself, of what was sent as TargetMatch to a peer that died; see Mesh.Adopt.
	TargetOrphans
)

// Target is whom a delivery is for.
type Target struct {
	Kind TargetKind
	// Group and Filter name the shared subscription of a TargetShare.
	Group  string
	Filter string
	// ClientID and Epoch name the client of a TargetClient and the epoch at which the sender found its holder.
	ClientID string
	Epoch    uint64
	// Incarnation is the dead one of a TargetOrphans.
	Incarnation string
}

// Delivery is one message for one holder. The message is shared and must not change.
type Delivery struct {
	Target  Target
	Message *message.Message
	// Durable says of a TargetMatch, to its sender, that a durable session of the peer's matched: if the peer dies
	// before it has answered, whoever adopts its sessions gets the message. It is not on the wire, and the route may
	// have gone by then.
	Durable bool
	// UntilAcked says of a reported delivery that a transient session settles when its client has acknowledged the message.
	UntilAcked bool
	// ReportWithinMs is within how many milliseconds of its arrival a reported delivery is to be answered with a receipt
	// that names every client. 0: it is not reported.
	ReportWithinMs uint32
}

// Reported reports whether the receipt has to say what became of the message at each client.
func (d *Delivery) Reported() bool { return d.ReportWithinMs > 0 }

// outlives reports whether d is still of use when the peer has died that it was sent to.
func (d *Delivery) outlives() bool {
	return d.Message.QoS > message.AtMostOnce && (d.Target.Kind == TargetMatch && d.Durable || d.Target.Kind == TargetOrphans)
}

// orphanOf makes of a delivery that was sent to a dead incarnation one to its adopter. Orphans of another one, which
// the dead had adopted, stay what they are.
func (d Delivery) orphanOf(dead string) Delivery {
	if d.Target.Kind != TargetOrphans {
		d.Target = Target{Kind: TargetOrphans, Incarnation: dead}
	}
	return d
}

// Outcome is what became of a delivery. The values are those of the protocol; Gone alone is local.
type Outcome byte

// The outcomes; see beeline.mesh.v1.Outcome.
const (
	Queued     Outcome = 1
	Accepted   Outcome = 2
	Acked      Outcome = 3
	Stored     Outcome = 4
	Moved      Outcome = 5
	NotHolder  Outcome = 6
	NoMember   Outcome = 7
	Overloaded Outcome = 8
	Refused    Outcome = 9
	// Gone: the peer's incarnation died, or this process is closing, before the delivery was settled. Whether
	// the peer acted on it is not known. What is for durable sessions of a dead peer does not settle so, unless
	// this process is closing: it waits for the session service.
	Gone Outcome = 10

	outcomes = 11
)

// String returns the name that logs and metrics use.
func (o Outcome) String() string {
	switch o {
	case Queued:
		return "queued"
	case Accepted:
		return "accepted"
	case Acked:
		return "acked"
	case Stored:
		return "stored"
	case Moved:
		return "moved"
	case NotHolder:
		return "not_holder"
	case NoMember:
		return "no_member"
	case Overloaded:
		return "overloaded"
	case Refused:
		return "refused"
	case Gone:
		return "gone"
	}
	return "outcome_" + strconv.Itoa(int(o))
}

// Receipt is the outcome of one delivery.
type Receipt struct {
	Outcome Outcome
	// ClientID and Epoch are set for NotHolder.
	ClientID string
	Epoch    uint64
	// Moved is set for Moved: the clients, at least one. It may be set for Accepted: clients that the delivery is to be sent
	// after while others have not answered. Each is named once. Nobody changes it once it has been given.
	Moved []MovedClient
	// Clients are what became of a reported delivery at each client but those that moved. Nobody changes it once it has
	// been given.
	Clients []ClientReceipt
}

// then is what r and a receipt that was given for the same delivery after it say together.
func (r Receipt) then(next Receipt) Receipt {
	if r.Outcome != Accepted {
		return r // the first counts
	}
	if len(r.Moved) == 0 {
		return next
	}
	next.Moved = slices.Concat(r.Moved, next.Moved)
	switch next.Outcome {
	case Queued, Acked, Stored:
		next.Outcome = Moved
	}
	return next
}

// ClientReceipt is what became of a reported delivery at one client.
type ClientReceipt struct {
	ClientID string
	Outcome  ClientOutcome
	// Epoch is that under which the client is, or was, held at the receiver.
	Epoch uint64
}

// ClientOutcome is what became of a message at one client. The values are those of the protocol.
type ClientOutcome byte

// The outcomes; see beeline.mesh.v1.ClientOutcome.
const (
	ClientQueued   ClientOutcome = 1
	ClientAcked    ClientOutcome = 2
	ClientStored   ClientOutcome = 3
	ClientEnded    ClientOutcome = 4
	ClientTimedOut ClientOutcome = 5
	ClientExpired  ClientOutcome = 6
	ClientTooLarge ClientOutcome = 7
	ClientNoRoom   ClientOutcome = 8
	ClientDeclined ClientOutcome = 9

	clientOutcomes = 10

	// ClientAccepted and ClientUnknown are local, and never in a receipt: no more was waited for, and no client of that
	// name is known.
	ClientAccepted ClientOutcome = 10
	ClientUnknown  ClientOutcome = 11
)

// MovedClient is one durable client whose session was at the receiver and is somewhere else.
type MovedClient struct {
	ClientID string
	// Epoch is that under which it was there: its new holder's is newer.
	Epoch uint64
}

// Waiter learns what became of a delivery that it sent.
type Waiter interface {
	// Settled is called exactly once for each delivery that Send has taken, with any outcome but Accepted; before that,
	// any number of times, with Accepted when there are clients in Moved. It runs on a goroutine of the mesh, possibly
	// before Send has returned, and must not block. t ends when everything that was answered together has been told.
	Settled(l *Link, d Delivery, r Receipt, t *turn.Turn)
}

// Inbound takes the deliveries of one peer. All calls come one after another, in the order in which the peer
// sent, although not always from the same goroutine: a new stream has a new one.
type Inbound interface {
	// Deliver takes one delivery. An answer of Accepted promises that later.Settle will be called. The message
	// is the receiver's to keep. Deliver must not block: it holds up everything that the peer sends.
	Deliver(d Delivery, later Later) Receipt
	// Flush is called after the last delivery of what was received together.
	Flush()
	// Close is called last, when the peer is dead or the mesh has ended.
	Close()
}

// Later settles a delivery that was answered with Accepted.
type Later struct {
	in  *inbound
	seq uint64
}

// Settle gives the final receipt, at any time and on any goroutine, also while the stream is down. It never
// blocks. Only the first call for a delivery counts; on the zero Later it does nothing.
func (l Later) Settle(r Receipt) {
	if l.in != nil {
		l.in.settle(l.seq, r)
	}
}
