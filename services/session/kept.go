package session

import (
	"context"
	"io"

	"github.com/beeline-mqtt/beeline/internal/journal"
	"github.com/beeline-mqtt/beeline/internal/message"
	"github.com/beeline-mqtt/beeline/internal/pages"
	"github.com/beeline-mqtt/beeline/services/session/internal/away"
	"github.com/beeline-mqtt/beeline/services/session/internal/claims"
	"github.com/beeline-mqtt/beeline/services/session/internal/groups"
	"github.com/beeline-mqtt/beeline/services/session/internal/store"
)

// kept is what a term keeps of clients beyond their connections, and what it holds while they are away.
type kept interface {
	keeper
	receiver
	operator
	grouper
	// Close is called at the end of the term, when nothing else is called any more. It waits.
	io.Closer
}

// keeper takes part in moving clients. None of these methods waits. Every done is called once, on a goroutine of the
// keeper's that may be used to call it again.
type keeper interface {
	// Look is claims.Config.Look. It is called with the term locked, as Held and View are: they answer from memory
	// and call nobody.
	Look(client string) (h claims.Holder, stored bool)
	// Held has the clients of which the store names a gateway as the holder, with their epochs. The map is the
	// caller's.
	Held(gateway string) map[string]uint64
	// View is a list of living gateways, complete up to an epoch. Whom the store names as a holder and is not in it has
	// died, unless its epoch is newer.
	View(gateways []string, epoch uint64)
	// Open carries out claims.Open.
	Open(e claims.Effect, done func(session *journal.State, err error))
	// Away carries out the second half of claims.Away: the record is not in force at this epoch, and the store holds
	// the client from then on.
	Away(e claims.Effect, epoch uint64, done func(err error))
}

// receiver takes what gateways want stored. Write and Retain may wait, until the term ends: then the stream is not read.
// Every done is called once, on another goroutine.
type receiver interface {
	// Write makes changes durable; see package store for its errors.
	Write(w journal.Write, done func(left []journal.LeftOut, err error))
	// Retain stores a retained message; see package store for its errors.
	Retain(m *message.Message, done func(version uint64, err error))
	// Settled says that the routes of a client that was opened at an epoch are in force everywhere.
	Settled(client string, epoch uint64)
	// Ghost says that a gateway still answers MOVED for a client that it held at an epoch, and does not know whether it
	// has to.
	Ghost(client string, epoch uint64)
}

// reader shows what is kept. Its methods wait for the disk.
type reader interface {
	// Inbox reads a page for the gateway that holds a session; see package away for its errors, and those of Retained.
	Inbox(r away.Reading) ([]journal.Entry, error)
	Retained(filter string, cursor []byte, limit int) (store.RetainedPage, error)
	// Inspect shows the session of a client that has one.
	Inspect(client string) (i away.Inspection, known bool, err error)
}

// grouper knows who belongs to which group.
type grouper interface {
	// Groups is always the same. Of its methods only Store waits, and is not called with the term locked.
	Groups() *groups.Book
	// Manage is called when members of groups have changed: the sessions of those who are away follow. done is called
	// once, when the whole cluster routes accordingly.
	Manage(members []store.Member, done func())
	// UserClients has the clients with a session that have connected as a user last, in no order.
	UserClients(user string) []string
}

// operator shows, and ends, what operators ask for. List and Receivers answer from memory, Peek waits for the disk, Remove
// for nothing. See package away.
type operator interface {
	reader
	List(r pages.Range, most int) (sessions []away.Absent, complete string)
	Receivers(topic string, most int) (all []away.Receiver, total int)
	Peek(client string, id journal.SessionID, most int) ([]journal.Entry, error)
	Remove(client string, done func(error))
}

// desk is what a term does for what it keeps. Nothing here waits.
type desk interface {
	// Publish has a gateway publish a message. done is called once: it has been published, or it failed.
	Publish(m *message.Message, done func(failed bool))
	// Forget tells all gateways that nobody sends them a client's messages for leases under older epochs any more.
	Forget(client string, epoch uint64)
	// Fail ends the term, and with it the incarnation.
	Fail(err error)
}

// keep makes what a term keeps, and says what is to be added to etcd's revisions to make epochs: base + revision is
// above all epochs that are known from before the term. What it makes stops working when the context is done.
type keep func(ctx context.Context, d desk, revision int64) (k kept, base uint64, err error)
