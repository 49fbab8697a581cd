// Package journal holds the words in which a durable session's state is written down: the changes that its holder has
// the session service make durable, and the state that the next holder gets back.
//
// It owns types and their form on the wire (beeline.session.v1), no behaviour. What changes when, internal/engine
// decides; how it is stored, the session service. Values are shared without copying: nobody changes what they point
// to once they have been handed on.
package journal

import (
	"time"

	"github.com/beeline-mqtt/beeline/internal/message"
	"github.com/beeline-mqtt/beeline/internal/subscriptions"
)

// SessionID names one session of one client; another session of the same client has another. Random, never 0.
type SessionID uint64

// Position is the place of an entry in a session's inbox: positions grow in the order of arrival, from 1.
type Position uint64

// Entry is one delivery at QoS 1 or 2 as it stands in an inbox.
type Entry struct {
	// Position is 0 until the entry has been given one.
	Position Position
	Message  *message.Message
	// QoS, Retain and IDs are those of the delivery: see engine.Delivery.
	QoS    byte
	Retain bool
	IDs    []uint32
	// PacketID is the identifier under which it was sent or is about to be; 0: it never was.
	PacketID uint16
	// Released says that PUBREC has come for it. Of the message only the QoS counts then.
	Released bool
}

// Kind says what a Change changes.
type Kind byte

// The kinds of change. Each may be applied again with the same result.
const (
	// Append adds Entry at its Position.
	Append Kind = iota + 1
	// Sent: the entry at Position is about to be sent, or was, as PacketID.
	Sent
	// Released: PUBREC has come for the entry at Position.
	Released
	// Done: the entry at Position is done with, and so is its place.
	Done
	// Taken: the client's own QoS 2 message with PacketID was taken, to be sent on as Message.
	Taken
	// Completed: the client has released its QoS 2 message with PacketID.
	Completed
	// Subscribed: Filter is subscribed to with Options.
	Subscribed
	// Unsubscribed: Filter no longer is.
	Unsubscribed
)

// Change is one change of a durable session's state. Which fields count is said with its Kind.
type Change struct {
	Kind     Kind
	Entry    Entry
	Position Position
	PacketID uint16
	Message  message.ID
	// Filter is as the client wrote it, $share included.
	Filter  string
	Options subscriptions.Options
}

// Subscription is a topic filter of a session, as the client wrote it, with its options.
type Subscription struct {
	Filter  string
	Options subscriptions.Options
}

// State is what a session's next holder gets back, the inbox apart, which it reads page by page.
type State struct {
	ID SessionID
	// Present says that the session continues one that the client had.
	Present       bool
	Subscriptions []Subscription
	// Taken are the client's own QoS 2 messages that it has not released, by packet identifier.
	Taken map[uint16]message.ID
	// First is the position of the oldest entry in the inbox, Next that which the next entry gets. They are
	// equal when it is empty.
	First, Next Position
}

// Write is a group of changes of one session, made durable together or not at all, but for entries that are left out.
type Write struct {
	Client  string
	Session SessionID
	// Epoch is that of the holder which writes. A write under any other than the session's present one is refused.
	Epoch   uint64
	Changes []Change
}

// LeftOut is an Append that was not carried out, while the rest of its Write was.
type LeftOut struct {
	Position Position
	// Duplicate: the inbox has the message id, at QoS 2, at another position, or had it within the last ten minutes.
	// Otherwise there was no room for the entry: the disk is all but full, or all others in the inbox are in the middle
	// of QoS 2.
	Duplicate bool
}

// Will is a will message and when it is to be published.
type Will struct {
	// Message has neither an id nor an expiry: the Message Expiry Interval begins when the will is published.
	Message *message.Message
	// Expiry is the Message Expiry Interval, HasExpiry whether there is one.
	Expiry    time.Duration
	HasExpiry bool
	// Delay is the Will Delay Interval.
	Delay time.Duration
}

// Never is a Session Expiry Interval that never passes (3.1.2.11.2).
const Never = 1<<32 - 1
