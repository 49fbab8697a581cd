package storetest

import (
	"maps"
	"slices"
	"time"

	"github.com/beeline-mqtt/beeline/internal/journal"
	"github.com/beeline-mqtt/beeline/internal/message"
	"github.com/beeline-mqtt/beeline/internal/subscriptions"
	"github.com/beeline-mqtt/beeline/internal/topic"
	"github.com/beeline-mqtt/beeline/services/session/internal/store"
)

// model is a store as the contract reads, without a disk.
type model struct {
	limits    store.Limits
	records   map[string]*record
	retained  map[string]string
	version   uint64
	unadopted map[string]bool
}

type record struct {
	record        store.Record
	limits        store.Limits
	entries       []held
	next          journal.Position
	dropped       uint64
	reason        store.DropReason
	subscriptions map[string]subscriptions.Options
	taken         map[uint16]message.ID
	// ids are those of QoS 2: when they were done with, zero while they are in the inbox.
	ids map[message.ID]time.Time
}

// held is an entry of an inbox.
type held struct {
	journal.Entry
	flies    bool
	appended time.Time
}

func newModel(l store.Limits) *model {
	return &model{limits: l, records: make(map[string]*record), retained: make(map[string]string), unadopted: make(map[string]bool)}
}

func (m *model) epoch(client string) uint64 {
	if x := m.records[client]; x != nil {
		return x.record.Epoch
	}
	return 0
}

func (m *model) put(ifEpoch uint64, r store.Record) error {
	switch {
	case m.epoch(r.Client) != ifEpoch:
		return store.ErrConflict
	case r.Epoch == 0 || r.Epoch < ifEpoch:
		return store.ErrInvalid
	}
	x := m.records[r.Client]
	if x == nil || x.record.Session != r.Session {
		x = &record{
			limits: m.limits, next: 1, subscriptions: make(map[string]subscriptions.Options),
			taken: make(map[uint16]message.ID), ids: make(map[message.ID]time.Time),
		}
		m.records[r.Client] = x
	}
	x.record = r
	return nil
}

func (m *model) delete(client string, ifEpoch uint64) error {
	if m.records[client] == nil {
		return nil
	}
	if m.epoch(client) != ifEpoch {
		return store.ErrConflict
	}
	delete(m.records, client)
	return nil
}

func (m *model) write(w journal.Write, now time.Time) ([]journal.LeftOut, error) {
	x := m.records[w.Client]
	if x == nil || x.record.Session == 0 || x.record.Session != w.Session || x.record.Epoch != w.Epoch {
		return nil, store.ErrFenced
	}
	var left []journal.LeftOut
	for _, c := range w.Changes {
		i := x.index(c.Position)
		switch c.Kind {
		case journal.Append:
			if l := x.append(c.Entry, now); l != nil {
				left = append(left, *l)
			}
		case journal.Sent:
			if i >= 0 {
				x.entries[i].PacketID, x.entries[i].flies = c.PacketID, true
			}
		case journal.Released:
			if i >= 0 {
				x.entries[i].Released, x.entries[i].flies = true, true
			}
		case journal.Done:
			if i >= 0 {
				x.drop(i, now)
			}
		case journal.Taken:
			x.taken[c.PacketID] = c.Message
		case journal.Completed:
			delete(x.taken, c.PacketID)
		case journal.Subscribed:
			x.subscriptions[c.Filter] = c.Options
		case journal.Unsubscribed:
			delete(x.subscriptions, c.Filter)
		}
	}
	return left, nil
}

func (x *record) index(at journal.Position) int {
	for i := range x.entries {
		if x.entries[i].Position == at {
			return i
		}
	}
	return -1
}

func (x *record) append(e journal.Entry, now time.Time) *journal.LeftOut {
	done, known := x.ids[e.Message.ID]
	duplicate := e.QoS == 2 && known && (done.IsZero() || now.Sub(done) <= 10*time.Minute)
	switch {
	case e.Position >= x.next:
	case x.index(e.Position) >= 0:
		return nil
	default:
		return &journal.LeftOut{Position: e.Position, Duplicate: duplicate}
	}
	x.next = e.Position + 1
	if duplicate {
		return &journal.LeftOut{Position: e.Position, Duplicate: true}
	}
	for uint64(len(x.entries)) >= x.limits.InboxMessages {
		x.dropped++
		x.reason = store.TooMany
		i := 0
		for i < len(x.entries) && x.entries[i].flies && x.entries[i].QoS == 2 {
			i++
		}
		if i == len(x.entries) {
			return &journal.LeftOut{Position: e.Position}
		}
		x.drop(i, now)
	}
	x.entries = append(x.entries, held{Entry: e, flies: e.PacketID != 0, appended: now})
	if e.QoS == 2 {
		x.ids[e.Message.ID] = time.Time{}
	}
	return nil
}

func (x *record) drop(i int, now time.Time) {
	if e := x.entries[i]; e.QoS == 2 {
		x.ids[e.Message.ID] = now
	}
	x.entries = append(x.entries[:i:i], x.entries[i+1:]...)
}

// sure returns the ids of which the contract says whether they would be left out: those whose time is between ten
// minutes and a little more are the engine's business.
func (x *record) sure(now time.Time) []int {
	var ids []int
	for id, done := range x.ids {
		if ago := now.Sub(done); done.IsZero() || ago <= 10*time.Minute || ago > 15*time.Minute {
			ids = append(ids, int(id.Seq))
		}
	}
	slices.Sort(ids)
	return ids
}

func (x *record) trimExpired(now time.Time) {
	for i := 0; i < len(x.entries); i++ {
		if e := x.entries[i]; !e.flies && e.Message.Expired(now) {
			x.drop(i, now)
			i--
		}
	}
}

func (m *model) trimOld(now time.Time) {
	for _, x := range m.records {
		for i := 0; i < len(x.entries); i++ {
			if e := x.entries[i]; !e.flies && now.Sub(e.appended) > m.limits.InboxAge {
				x.drop(i, now)
				x.dropped++
				x.reason = store.TooOld
				i--
			}
		}
	}
}

func (x *record) list() []journal.Entry {
	var all []journal.Entry
	for _, e := range x.entries {
		all = append(all, e.Entry)
	}
	return all
}

func (x *record) stats() store.Stats {
	s := store.Stats{Messages: uint64(len(x.entries)), Dropped: x.dropped, LastDropReason: x.reason}
	if len(x.entries) > 0 {
		s.Oldest = x.entries[0].appended.Truncate(time.Millisecond)
	}
	return s
}

func (x *record) state() journal.State {
	s := journal.State{ID: x.record.Session, Present: true, Taken: x.taken, First: x.next, Next: x.next}
	if len(x.entries) > 0 {
		s.First = x.entries[0].Position
	}
	for _, filter := range slices.Sorted(maps.Keys(x.subscriptions)) {
		s.Subscriptions = append(s.Subscriptions, journal.Subscription{Filter: filter, Options: x.subscriptions[filter]})
	}
	return s
}

func (m *model) retain(msg *message.Message) (uint64, error) {
	_, there := m.retained[msg.Topic]
	switch {
	case len(msg.Payload) == 0 && !there:
		return m.version, nil
	case len(msg.Payload) == 0:
		delete(m.retained, msg.Topic)
	case !there && uint64(len(m.retained)) >= m.limits.Retained:
		return 0, store.ErrQuota
	default:
		m.retained[msg.Topic] = string(msg.Payload)
	}
	m.version++
	return m.version, nil
}

func (m *model) find(filter string) map[string]string {
	found := make(map[string]string)
	for name, payload := range m.retained {
		if topic.Match(filter, name) {
			found[name] = payload
		}
	}
	return found
}
