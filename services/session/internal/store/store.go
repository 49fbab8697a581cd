// Package store is where the session service keeps what must outlive a process: session records, subscriptions and
// inboxes of durable sessions, wills, and retained messages. It owns the interface and its contract; engines are
// packages below it, and each passes the suite in storetest.
//
// # Asynchrony
//
// Everything that changes something returns at once and calls done once, when the change is durable or refused: until
// then nothing may be reported to anybody. Many changes share one sync of the disk. Operations that name one client
// take effect and are answered in the order of the calls; those of different clients in any order. A read of a client
// sees every operation on it whose call returned before, whether it is durable yet or not.
//
// done is called on a goroutine of the store. It must not block, and must not call the store: what it has to tell goes
// into a list of the caller's.
//
// Write and Retain wait while too much is waiting to be stored already (a bound in bytes, of the engine): that is how
// a slow disk slows down those who write. All other operations are always admitted. Slices, messages and wills handed
// in are shared: nobody changes them afterwards.
//
// # Failure
//
// An operation that fails with an error that is not listed with it may be durable or not. ErrFull passes by itself
// when there is room again. After ErrFailed the store can do nothing more: it has to be closed, and opened again,
// best by a fresh process.
package store

import (
	"errors"
	"io"
	"time"

	"github.com/beeline-mqtt/beeline/internal/journal"
	"github.com/beeline-mqtt/beeline/internal/message"
)

// Why the store refuses something. They come wrapped: compare with errors.Is.
var (
	// ErrFenced: the session has ended, or has another epoch than the one that writes or reads.
	ErrFenced = errors.New("session has another holder, or has ended")
	// ErrConflict: the record is not what the caller took it for.
	ErrConflict = errors.New("record has changed")
	// ErrInvalid: the caller's mistake; nothing was changed.
	ErrInvalid = errors.New("invalid operation")
	// ErrQuota: as many topics have a retained message as may.
	ErrQuota = errors.New("too many retained messages")
	// ErrFull: what would add much to the store is refused, because the disk is all but full. Nothing was changed.
	ErrFull = errors.New("disk is full")
	// ErrFailed: the disk failed, and the store with it.
	ErrFailed = errors.New("store has failed")
	// ErrClosed: the store was closed.
	ErrClosed = errors.New("store is closed")
	// ErrCorrupt: what was read is not what was written. The error names the part of the store.
	ErrCorrupt = errors.New("store is corrupt")
	// ErrLocked: another process, or this one, has the store open.
	ErrLocked = errors.New("store is open elsewhere")
	// ErrFuture: the store was written by a newer version of this program.
	ErrFuture = errors.New("store is from a newer version")
)

// Record is what is known of one client's session, subscriptions and inbox apart.
type Record struct {
	Client string
	// Session is 0 when only a will is kept, of a client without a durable session.
	Session journal.SessionID
	// Epoch is the holder's: at least 1. It never gets smaller.
	Epoch uint64
	// Holder is the incarnation of the gateway that holds the client; empty while the client is away.
	Holder string
	// Former is the incarnation that the session was adopted from, until all peers have answered; else empty.
	Former string
	// Expiry is the Session Expiry Interval in seconds; journal.Never: it does not pass.
	Expiry uint32
	// Away is when the client went away; zero while it is not.
	Away time.Time
	// User is the user name that the client has connected with; empty: none.
	User string
	// Will is nil when there is none.
	Will *journal.Will
	// WillDue says that the will is to be published, come what may.
	WillDue bool
}

// DropReason is why an inbox dropped a message.
type DropReason byte

// The reasons.
const (
	// NotDropped: none was.
	NotDropped DropReason = iota
	// TooMany: the inbox had as many messages as it may.
	TooMany
	// TooBig: it had as many bytes as it may.
	TooBig
	// TooOld: the message had waited for as long as it may.
	TooOld
)

// String returns the reason as it is shown: messages, bytes, age, or nothing.
func (r DropReason) String() string {
	switch r {
	case TooMany:
		return "messages"
	case TooBig:
		return "bytes"
	case TooOld:
		return "age"
	case NotDropped:
		return ""
	}
	return "unknown"
}

// Stats is how an inbox is filled. Entries whose message has expired count until they are trimmed, which happens
// when they are read at the latest.
type Stats struct {
	Messages uint64
	// Bytes are those of the messages in the store's encoding, each counted as if it were stored for itself.
	Bytes uint64
	// Oldest is when the oldest entry was appended; zero when there is none.
	Oldest time.Time
	// Dropped counts what the session has lost to the bounds.
	Dropped        uint64
	LastDropReason DropReason
}

// Limits bounds an inbox and the retained messages. When an entry is appended to a full inbox, the oldest entries
// make room, except those at QoS 2 that have a packet identifier; when there are only such, the new entry is left
// out. What has waited for longer than InboxAge is dropped likewise.
type Limits struct {
	// InboxMessages and InboxBytes bound one inbox. A single larger message is stored all the same.
	InboxMessages uint64
	InboxBytes    uint64
	InboxAge      time.Duration
	// Retained bounds the topics that have a retained message.
	Retained uint64
}

// DefaultLimits is what applies unless it is configured otherwise.
func DefaultLimits() Limits {
	return Limits{InboxMessages: 100_000, InboxBytes: 64 << 20, InboxAge: 7 * 24 * time.Hour, Retained: 1_000_000}
}

// Sessions are the records.
type Sessions interface {
	// Put stores r if the client's record has the epoch ifEpoch, or there is none and ifEpoch is 0; else it fails
	// with ErrConflict. If r.Session is another than before, what was stored of the former one is gone with the
	// same change. An epoch smaller than ifEpoch, and a session id that was in use before, are ErrInvalid.
	Put(ifEpoch uint64, r Record, done func(error))
	// Delete removes the record, if it has the epoch ifEpoch, with all that is stored of its session; else it
	// fails with ErrConflict. That there is none is success.
	Delete(client string, ifEpoch uint64, done func(error))
	// Get returns a client's record, and whether there is one.
	Get(client string) (Record, bool, error)
	// Load visits all records in no particular order until visit returns an error, and returns that. It is meant for
	// the start: what changes meanwhile may be visited or not.
	Load(visit func(Record, Stats) error) error
	// Stats returns how a client's inbox is filled; the zero value without a session.
	Stats(client string) (Stats, error)
}

// Inboxes are what is stored of the sessions that records name.
type Inboxes interface {
	// Write makes changes durable, all or none, in their order. It fails with ErrFenced unless the client's record
	// has exactly the session and the epoch of w.
	//
	// Positions of appends ascend over all Writes of a session: an Append below State.Next is a repetition, and
	// changes nothing; one of which the inbox has no entry is left out once more. An Append at QoS 2 of a message id that
	// is stored at another position is left out as a duplicate; so is every other Append that finds no room (see
	// journal.LeftOut). Sent, Released and Done of what is not there change nothing.
	Write(w journal.Write, done func([]journal.LeftOut, error))
	// State returns the session's state. It fails with ErrFenced when the client has no such session; so does Inbox.
	// Present is true: whoever opens a new session knows better.
	State(client string, session journal.SessionID) (journal.State, error)
	// Inbox returns entries behind the position after (0: from the oldest) in order, at most maxEntries and about
	// maxBytes, but at least one if there is one. Entries whose message has expired, or that are older than the
	// bound, are passed over and trimmed, unless they have a packet identifier.
	Inbox(client string, session journal.SessionID, after journal.Position, maxEntries, maxBytes int) ([]journal.Entry, error)
}

// Clients is what is kept of clients.
type Clients interface {
	Sessions
	Inboxes
}

// RetainedMessage is a retained message and its version.
type RetainedMessage struct {
	Message *message.Message
	Version uint64
}

// RetainedPage is part of the retained messages that match a filter.
type RetainedPage struct {
	// Messages may be empty although others follow.
	Messages []RetainedMessage
	// Cursor is where the next page begins; nil: there is none.
	Cursor []byte
}

// Retained are the retained messages, one a topic.
type Retained interface {
	// Retain stores m under its topic, or, if its payload is empty, removes what is there. The version grows with
	// every change of any topic. It fails with ErrQuota when the topic would be one too many, and with ErrFull.
	// All calls are carried out in their order.
	Retain(m *message.Message, done func(version uint64, err error))
	// Retained returns a page of at most limit messages whose topics match filter, as topic.Match says, in the order
	// of the store. cursor is that of the page before; empty for the first; one that is no cursor is ErrInvalid.
	// Messages that have expired are passed over and removed. It sees every Retain whose call returned before.
	Retained(filter string, cursor []byte, limit int) (RetainedPage, error)
	// RetainedCount returns how many topics have one.
	RetainedCount() uint64
}

// Meta is what the store knows about itself and about the cluster.
type Meta interface {
	// ID is random and stays the store's own. A copy has it as well.
	ID() string
	// HighestEpoch returns an epoch than which no record, present or past, has a greater one.
	HighestEpoch() uint64
	// Unadopted returns the incarnations whose sessions have not been adopted by all peers, sorted.
	Unadopted() []string
	// AddUnadopted and RemoveUnadopted change them. Both may be repeated.
	AddUnadopted(incarnation string, done func(error))
	RemoveUnadopted(incarnation string, done func(error))
}

// Member is who belongs to a group: a client, or all clients of a user.
type Member struct {
	User bool
	Name string
}

// GroupChangeKind is what happens to a group.
type GroupChangeKind byte

// What happens.
const (
	GroupMade GroupChangeKind = iota + 1
	// GroupEnded: Members are all that it had.
	GroupEnded
	MembersAdded
	MembersRemoved
)

// GroupChange is one change of one group.
type GroupChange struct {
	Kind  GroupChangeKind
	Group string
	// At is when the group was made.
	At      time.Time
	Members []Member
}

// Groups are who belongs to which group.
type Groups interface {
	// ChangeGroup makes a change durable, all of it or nothing. Changes are carried out in the order of the calls, and may
	// be repeated. Whether they make sense is for the caller to say. It fails with ErrFull when members are added.
	ChangeGroup(c GroupChange, done func(error))
	// LoadGroups visits, as changes to nothing, every group before its members, until visit returns an error, and
	// returns that.
	LoadGroups(visit func(GroupChange) error) error
}

// Store is everything. Close carries out what was called before, calls every done, and ends all goroutines; what is
// called later fails with ErrClosed.
type Store interface {
	Clients
	Retained
	Groups
	Meta
	io.Closer
}
