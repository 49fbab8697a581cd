package pebble

import (
	"fmt"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"github.com/beeline-mqtt/beeline/internal/journal"
	"github.com/beeline-mqtt/beeline/internal/message"
	"github.com/beeline-mqtt/beeline/services/session/internal/store"
)

// Write is store.Inboxes's.
func (s *Store) Write(w journal.Write, done func([]journal.LeftOut, error)) {
	now := s.o.Now()
	messages := encode(w.Changes)
	size := 64 * len(w.Changes)
	for i := range w.Changes {
		if messages != nil {
			size += len(messages[i].b)
		}
	}
	var left []journal.LeftOut
	s.submit(operation{
		line: w.Client, size: size,
		stage: func(t *stage) error {
			x := s.sessions[w.Client]
			if x == nil || x.id == 0 || x.id != w.Session || x.epoch != w.Epoch {
				return store.ErrFenced
			}
			p := newPlan(t, x, now)
			defer p.close()
			if err := p.changes(w.Changes, messages); err != nil {
				return err
			}
			left = p.left
			return p.apply()
		},
		done: func(err error) {
			if done != nil {
				if err != nil {
					left = nil
				}
				done(left, err)
			}
		},
	}, true)
}

// plan is one Write, or one trim, in the making. All that can fail is done first, and nothing is changed before all of
// it has succeeded.
type plan struct {
	t       *stage
	x       *session
	inbox   inbox
	now     time.Time
	left    []journal.LeftOut
	rows    []row
	arena   []byte
	entries map[journal.Position]*entry // those that were added here; nil for those that were removed
	order   []journal.Position          // those that were added here
	flights map[journal.Position]*flight
	twice   uint64 // how many flights are at QoS 2
	ids     map[message.ID]struct{}
	refer   []reference
	shared  []sharing
	room    *pebble.Iterator
	drops   [store.TooOld + 1]int
	expired int
}

// row is a row to put, or to delete if it has no value; both are in the arena.
type row struct {
	key, value, end int
	remove          bool
}

type reference struct {
	bucket uint64
	n      int64
}

type sharing struct {
	bucket uint64
	id     message.ID
	sum    uint32
	size   int
}

func newPlan(t *stage, x *session, now time.Time) *plan {
	return &plan{t: t, x: x, inbox: x.inbox, twice: x.twice, now: now, arena: t.s.arena[:0], rows: t.s.rows[:0]}
}

func (p *plan) close() {
	p.t.s.arena, p.t.s.rows = p.arena[:0], p.rows[:0]
	if p.room != nil {
		closeQuietly(p.room)
	}
}

// put plans a row. key and value append.
func (p *plan) put(key, value func([]byte) []byte) {
	from := len(p.arena)
	p.arena = key(p.arena)
	split := len(p.arena)
	p.arena = value(p.arena)
	p.arena = seal(p.arena, split, p.arena[from:split])
	p.rows = append(p.rows, row{key: from, value: split, end: len(p.arena)})
}

func (p *plan) remove(key func([]byte) []byte) {
	from := len(p.arena)
	p.arena = key(p.arena)
	p.rows = append(p.rows, row{key: from, value: len(p.arena), remove: true})
}

// apply changes what was planned. The batch takes all rows.
func (p *plan) apply() error {
	t, s, x := p.t, p.t.s, p.x
	for _, r := range p.rows {
		var err error
		if r.remove {
			err = t.Delete(p.arena[r.key:r.value], nil)
		} else {
			err = t.Set(p.arena[r.key:r.value], p.arena[r.value:r.end], nil)
		}
		if err != nil {
			return fmt.Errorf("stage: %w", err)
		}
	}
	for _, r := range p.refer {
		s.buckets.refer(r.bucket, r.n)
	}
	for _, h := range p.shared {
		s.buckets.put(h.bucket, h.id, h.sum, h.size)
	}
	for reason, n := range p.drops {
		if n > 0 {
			s.metrics.dropped.WithLabelValues(store.DropReason(reason).String()).Add(float64(n))
		}
	}
	if p.expired > 0 {
		s.metrics.dropped.WithLabelValues(reasonExpired).Add(float64(p.expired))
	}
	s.metrics.inboxMessages.Add(int64(p.inbox.messages) - int64(x.inbox.messages))
	s.metrics.inboxBytes.Add(int64(p.inbox.bytes) - int64(x.inbox.bytes))
	for id := range p.ids {
		x.newest.add(id)
	}
	for at, e := range p.entries {
		if e == nil {
			s.lately.gone(x.id, at)
		}
	}
	for at, f := range p.flights {
		if f == nil {
			x.dropFlight(at)
		} else {
			x.setFlight(at, *f)
		}
	}
	if p.inbox == x.inbox {
		return nil
	}
	s.mu.Lock()
	x.inbox = p.inbox
	s.mu.Unlock()
	return t.putInbox(x)
}

func (p *plan) changes(changes []journal.Change, messages []encoded) error {
	for i := range changes {
		c := &changes[i]
		var err error
		switch c.Kind {
		case journal.Append:
			var m encoded
			if messages != nil {
				m = messages[i]
			}
			err = p.add(&c.Entry, m)
		case journal.Sent:
			err = p.sent(c.Position, c.PacketID)
		case journal.Released:
			err = p.released(c.Position)
		case journal.Done:
			_, err = p.drop(c.Position)
		case journal.Taken:
			p.put(func(b []byte) []byte { return keyTaken(b, p.x.id, c.PacketID) },
				func(b []byte) []byte { return putID(append(b, valueVersion), c.Message) })
		case journal.Completed:
			p.remove(func(b []byte) []byte { return keyTaken(b, p.x.id, c.PacketID) })
		case journal.Subscribed:
			p.put(func(b []byte) []byte { return keySubscription(b, p.x.id, c.Filter) },
				func(b []byte) []byte { return putOptions(b, c.Options) })
		case journal.Unsubscribed:
			p.remove(func(b []byte) []byte { return keySubscription(b, p.x.id, c.Filter) })
		default:
			err = fmt.Errorf("%w: change of kind %d", store.ErrInvalid, c.Kind)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// add plans an Append.
func (p *plan) add(je *journal.Entry, m encoded) error {
	at := je.Position
	switch {
	case at == 0:
		return fmt.Errorf("%w: append without a position", store.ErrInvalid)
	case at < p.inbox.next:
		return p.repeat(je)
	}
	e := &entry{
		qos: je.QoS, retain: je.Retain, ids: je.IDs,
		appended: p.now.UnixMilli(), size: uint64(len(m.b)),
	}
	if msg := je.Message; msg != nil {
		e.body, e.id = bodyInline, msg.ID
		if !msg.Expires.IsZero() {
			e.expires = msg.Expires.UnixNano()
		}
	}
	p.inbox.next = at + 1
	if e.twice() {
		known, err := p.known(e.id)
		if err != nil {
			return err
		}
		if known {
			p.left = append(p.left, journal.LeftOut{Position: at, Duplicate: true})
			return nil
		}
	}
	if p.t.s.space.full {
		p.t.s.metrics.refused.Inc()
		p.left = append(p.left, journal.LeftOut{Position: at})
		return nil
	}
	if fits, err := p.makeRoom(e.size); err != nil || !fits {
		p.left = append(p.left, journal.LeftOut{Position: at})
		return err
	}
	p.addMessage(e, m)
	p.put(func(b []byte) []byte { return keyPosition(b, spaceEntry, p.x.id, at) },
		func(b []byte) []byte { return putEntry(b, e, m.b) })
	if e.twice() {
		p.put(func(b []byte) []byte { return keyTwice(b, p.x.id, e.id) },
			func(b []byte) []byte { return putNumbers(b, uint64(at)) })
		p.remember(e.id)
	}
	if p.inbox.messages == 0 {
		p.inbox.first, p.inbox.oldest, p.inbox.exact = at, e.appended, true
	}
	p.inbox.messages++
	p.inbox.bytes += e.size
	p.note(at, e)
	p.order = append(p.order, at)
	if je.PacketID != 0 || je.Released {
		p.fly(at, flight{packet: je.PacketID, twice: e.qos == message.ExactlyOnce, released: je.Released})
	}
	return nil
}

// repeat answers an Append that was carried out before. Whoever repeats it may not have been told that it was left out: if
// it has gone since, to be told so does no harm.
func (p *plan) repeat(je *journal.Entry) error {
	e, err := p.entry(je.Position)
	if e != nil || err != nil {
		return err
	}
	known := false
	if je.QoS == message.ExactlyOnce && je.Message != nil {
		known, err = p.known(je.Message.ID)
	}
	p.left = append(p.left, journal.LeftOut{Position: je.Position, Duplicate: known})
	return err
}

// twice reports whether the entry may not be there a second time.
func (e *entry) twice() bool { return e.qos == message.ExactlyOnce && e.id != message.ID{} }

// addMessage decides where the message of e is stored.
func (p *plan) addMessage(e *entry, m encoded) {
	if len(m.b) < p.t.s.o.ShareAbove || e.body != bodyInline {
		return
	}
	at, put := p.t.s.buckets.find(e.id, m, p.now)
	if put || at == 0 {
		p.shared = append(p.shared, sharing{bucket: at, id: e.id, sum: m.sum, size: len(m.b)})
	}
	if at == 0 {
		return
	}
	e.body, e.bucket, e.sum = bodyShared, at, m.sum
	p.refer = append(p.refer, reference{bucket: at, n: 1})
	if put {
		p.put(func(b []byte) []byte { return keyMessage(b, at, e.id, m.sum) },
			func(b []byte) []byte { return append(append(b, valueVersion), m.b...) })
	}
}

// note keeps what the plan itself has added, or removed if e is nil.
func (p *plan) note(at journal.Position, e *entry) {
	if p.entries == nil {
		p.entries = make(map[journal.Position]*entry)
	}
	p.entries[at] = e
}

// entry returns an entry, or nil if there is none.
func (p *plan) entry(at journal.Position) (*entry, error) {
	if e, ok := p.entries[at]; ok {
		return e, nil
	}
	if at >= p.inbox.next || at < p.inbox.first {
		return nil, nil
	}
	if e, known := p.t.s.lately.get(p.x.id, at); known {
		return e, nil
	}
	p.t.key = keyPosition(p.t.key[:0], spaceEntry, p.x.id, at)
	value, err := p.t.get(p.t.key)
	if value == nil || err != nil {
		return nil, err
	}
	e, err := readEntry(p.t.key, value)
	return &e, err
}

func (p *plan) flight(at journal.Position) (flight, bool) {
	if f, ok := p.flights[at]; ok {
		if f == nil {
			return flight{}, false
		}
		return *f, true
	}
	f, ok := p.x.flights[at]
	return f, ok
}

// fly plans the row of a flight.
func (p *plan) fly(at journal.Position, f flight) {
	p.land(at)
	p.flights[at] = &f
	if f.twice {
		p.twice++
	}
	p.put(func(b []byte) []byte { return keyPosition(b, spaceFlight, p.x.id, at) },
		func(b []byte) []byte { return putFlight(b, f) })
}

// land forgets a flight, and reports whether there was one.
func (p *plan) land(at journal.Position) bool {
	f, ok := p.flight(at)
	if ok && f.twice {
		p.twice--
	}
	if p.flights == nil {
		p.flights = make(map[journal.Position]*flight)
	}
	p.flights[at] = nil
	return ok
}

func (p *plan) sent(at journal.Position, packet uint16) error {
	return p.progress(at, func(f *flight) { f.packet = packet })
}

func (p *plan) released(at journal.Position) error {
	return p.progress(at, func(f *flight) { f.released = true })
}

// progress plans what becomes of the flight of an entry; it begins with that if there is none. Without the entry nothing
// does.
func (p *plan) progress(at journal.Position, change func(*flight)) error {
	f, ok := p.flight(at)
	if !ok {
		e, err := p.entry(at)
		if e == nil || err != nil {
			return err
		}
		f.twice = e.qos == message.ExactlyOnce
	}
	was := f
	change(&f)
	if !ok || f != was {
		p.fly(at, f)
	}
	return nil
}

// drop plans the end of an entry, and reports whether there was one.
func (p *plan) drop(at journal.Position) (bool, error) {
	e, err := p.entry(at)
	if e == nil || err != nil {
		return false, err
	}
	p.remove(func(b []byte) []byte { return keyPosition(b, spaceEntry, p.x.id, at) })
	if p.land(at) {
		p.remove(func(b []byte) []byte { return keyPosition(b, spaceFlight, p.x.id, at) })
	}
	if e.twice() {
		p.remove(func(b []byte) []byte { return keyTwice(b, p.x.id, e.id) })
		p.put(func(b []byte) []byte { return keyMemory(b, generation(p.now), p.x.id, e.id) },
			func(b []byte) []byte { return append(b, valueVersion) })
		p.remember(e.id)
	}
	if e.body == bodyShared {
		p.refer = append(p.refer, reference{bucket: e.bucket, n: -1})
	}
	p.note(at, nil)
	p.inbox.messages--
	p.inbox.bytes -= e.size
	switch {
	case p.inbox.messages == 0:
		p.inbox.first, p.inbox.exact = p.inbox.next, false
	case at == p.inbox.first:
		p.inbox.first, p.inbox.exact = at+1, false
	}
	return true, nil
}
