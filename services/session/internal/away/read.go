package away

import (
	"fmt"

	"github.com/beeline-mqtt/beeline/internal/journal"
	"github.com/beeline-mqtt/beeline/internal/message"
	"github.com/beeline-mqtt/beeline/services/session/internal/store"
)

// Write makes changes durable for the gateway that holds a session: see store.Inboxes. It waits while too much is
// waiting already. store.ErrFenced says that the session has a newer holder, or has ended.
func (k *Keeper) Write(w journal.Write, done func([]journal.LeftOut, error)) {
	k.deps.Store.Write(w, func(left []journal.LeftOut, err error) {
		for _, l := range left {
			if l.Duplicate {
				k.metrics.dropped(dropDuplicate)
			} // else the store has counted it
		}
		done(left, err)
	})
}

// Retain stores a retained message: see store.Retained. It waits as Write does.
func (k *Keeper) Retain(m *message.Message, done func(version uint64, err error)) {
	k.deps.Store.Retain(m, done)
}

// Retained reads retained messages: see store.Retained.
func (k *Keeper) Retained(filter string, cursor []byte, limit int) (store.RetainedPage, error) {
	p, err := k.deps.Store.Retained(filter, cursor, limit)
	if err != nil {
		return store.RetainedPage{}, fmt.Errorf("read retained messages: %w", err)
	}
	return p, nil
}

// Reading is what the holder of a session asks for of its inbox; see store.Inboxes.
type Reading struct {
	Client     string
	Session    journal.SessionID
	Epoch      uint64
	After      journal.Position
	MaxEntries int
	MaxBytes   int
}

// Inbox reads a page for the gateway that holds a session at an epoch; for any other it fails with store.ErrFenced.
func (k *Keeper) Inbox(r Reading) ([]journal.Entry, error) {
	k.mu.Lock()
	s := k.clients[r.Client]
	holds := s != nil && s.stored && s.rec.Session == r.Session && s.rec.Epoch == r.Epoch
	k.mu.Unlock()
	if !holds {
		return nil, fmt.Errorf("read inbox: %w", store.ErrFenced)
	}
	entries, err := k.deps.Store.Inbox(r.Client, r.Session, r.After, r.MaxEntries, r.MaxBytes)
	if err != nil {
		return nil, fmt.Errorf("read inbox: %w", err)
	}
	return entries, nil
}

// Inspection is what is known of one client's session.
type Inspection struct {
	Record        store.Record
	Subscriptions []journal.Subscription
	Stats         store.Stats
	// Groups that the client is a member of, sorted, as long as the session is held here.
	Groups []string
}

// Inspect shows a client's session; false: it has none.
func (k *Keeper) Inspect(client string) (Inspection, bool, error) {
	k.mu.Lock()
	s := k.clients[client]
	known := s != nil && s.stored && s.rec.Session != 0
	var i Inspection
	if known {
		i.Record = s.rec
		i.Groups = groupsOf(s.subs)
	}
	k.mu.Unlock()
	if !known {
		return Inspection{}, false, nil
	}
	st, err := k.deps.Store.State(client, i.Record.Session)
	if err != nil {
		return Inspection{}, false, fmt.Errorf("inspect session: %w", err)
	}
	i.Subscriptions = st.Subscriptions
	if i.Stats, err = k.deps.Store.Stats(client); err != nil {
		return Inspection{}, false, fmt.Errorf("inspect session: %w", err)
	}
	return i, true, nil
}
