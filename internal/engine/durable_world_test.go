package engine

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"pgregory.net/rapid"

	"github.com/beeline-mqtt/beeline/internal/journal"
	"github.com/beeline-mqtt/beeline/internal/message"
	"github.com/beeline-mqtt/beeline/internal/packet"
)

// fakeStore is a session's record where it is durable. It applies changes, and insists that they make sense at any
// point: a crash may come behind each.
type fakeStore struct {
	next     journal.Position
	inbox    map[journal.Position]journal.Entry
	taken    map[uint16]message.ID
	appended map[message.ID]bool // ever
	leftOut  map[journal.Position]journal.LeftOut
	full     bool // nothing is appended
}

func newFakeStore() *fakeStore {
	return &fakeStore{
		next: 1, inbox: map[journal.Position]journal.Entry{}, taken: map[uint16]message.ID{},
		appended: map[message.ID]bool{}, leftOut: map[journal.Position]journal.LeftOut{},
	}
}

func (s *fakeStore) apply(t *rapid.T, c journal.Change) {
	entry, there := s.inbox[c.Position]
	if _, left := s.leftOut[c.Position]; left {
		return
	}
	if !there && (c.Kind == journal.Sent || c.Kind == journal.Released || c.Kind == journal.Done) {
		t.Fatalf("%v", fmt.Errorf("change %+v of an entry that is not there", c))
	}
	switch c.Kind {
	case journal.Append:
		if c.Entry.Position < s.next {
			t.Fatalf("position %d given again or out of order, the next is %d", c.Entry.Position, s.next)
		}
		s.next = c.Entry.Position + 1
		if c.Entry.QoS == 2 && s.appended[c.Entry.Message.ID] {
			s.leftOut[c.Entry.Position] = journal.LeftOut{Position: c.Entry.Position, Duplicate: true}
			return
		}
		if s.full {
			s.leftOut[c.Entry.Position] = journal.LeftOut{Position: c.Entry.Position}
			return
		}
		s.inbox[c.Entry.Position] = c.Entry
		s.appended[c.Entry.Message.ID] = true
	case journal.Sent:
		entry.PacketID = c.PacketID
		s.inbox[c.Position] = entry
	case journal.Released:
		// Whoever needs the message now finds nothing.
		s.inbox[c.Position] = journal.Entry{Position: c.Position, QoS: entry.QoS, PacketID: entry.PacketID, Released: true}
		if entry.QoS != 2 || entry.PacketID != c.PacketID {
			t.Fatalf("released %+v as %d", entry, c.PacketID)
		}
	case journal.Done:
		delete(s.inbox, c.Position)
	case journal.Taken:
		s.taken[c.PacketID] = c.Message
	case journal.Completed:
		delete(s.taken, c.PacketID)
	}
	s.check(t)
}

// check looks for what the next holder relies on: what has a packet identifier comes first, and none has another's.
func (s *fakeStore) check(t *rapid.T) {
	ids := map[uint16]bool{}
	unsent := false
	for _, p := range slices.Sorted(maps.Keys(s.inbox)) {
		id := s.inbox[p].PacketID
		switch {
		case id == 0:
			unsent = true
		case unsent:
			t.Fatalf("entry %d has packet identifier %d, and an older one has none", p, id)
		case ids[id]:
			t.Fatalf("two entries have packet identifier %d", id)
		}
		ids[id] = true
	}
}

// orphan appends what the next holder is given because the one before died, unless it is known.
func (s *fakeStore) orphan(m *letter) {
	if s.appended[m.message.ID] {
		return
	}
	s.appended[m.message.ID] = true
	s.inbox[s.next] = journal.Entry{Position: s.next, Message: m.message, QoS: m.qos}
	s.next++
}

func (s *fakeStore) state() journal.State {
	st := journal.State{ID: 1, Present: true, First: s.next, Next: s.next, Taken: maps.Clone(s.taken)}
	for p := range s.inbox {
		st.First = min(st.First, p)
	}
	return st
}

func (s *fakeStore) read(after journal.Position, n int) (page []journal.Entry) {
	for _, p := range slices.Sorted(maps.Keys(s.inbox)) {
		if p > after && len(page) < n {
			page = append(page, s.inbox[p])
		}
	}
	return page
}

// letter is one message with what its sender and its receiver know of it.
type letter struct {
	message   *message.Message
	number    int
	qos       byte
	until     Until
	delivered int
	received  bool // PUBREC has been sent
	refused   bool
	// kept says that the session has answered for it, ended that somebody else has got it, excused that it was in
	// the only memory that had it when that was lost, which may be.
	kept, ended, excused bool
	unstored             bool // the store had no room for it
}

// reader is an MQTT client that keeps its session.
type reader struct {
	letters map[message.ID]*letter
	held    map[uint16]*letter // QoS 2: PUBLISH has come, PUBREL has not
	last    map[string]int     // newest first delivery of each topic and QoS
	// flying are the deliveries of this connection that have not been completed, answers what the client has to
	// send for them.
	flying  map[uint16]flying
	answers []packet.Ack
	maximum int
	// resend is what has to come again on this connection, before anything new.
	resend map[uint16]flying
	// here is what has come on this connection.
	here map[*letter]bool
}

type flying struct {
	m        *letter
	released bool // PUBREC has been sent, or PUBREL has come
}

func (c *reader) connect(maximum int) {
	c.flying, c.answers, c.maximum = map[uint16]flying{}, nil, maximum
	c.here = map[*letter]bool{}
}

// lost is called when the connection has ended and everything is written.
func (c *reader) lost() {
	for id, f := range c.flying {
		if f.m == nil || !f.m.unstored && (f.m.until != UntilAcked || f.m.qos == 2) {
			c.resend[id] = f
		}
	}
}

// again checks what comes again.
func (c *reader) again(t *rapid.T, o Outgoing, m *letter) {
	want, ok := c.resend[o.PacketID]
	delete(c.resend, o.PacketID)
	if ok {
		if want.released != (o.Type == packet.PUBREL) || m != nil && (want.m != m || !o.Dup) {
			t.Fatalf("%v, want %+v again", o, want)
		}
		return
	}
	if m == nil {
		return
	}
	if !o.Dup && len(c.resend) > 0 {
		t.Fatalf("message %d comes before %v, which has to come again", m.number, c.resend)
	}
	for _, other := range c.resend {
		if other.m == m {
			t.Fatalf("message %d comes again under another identifier", m.number)
		}
	}
}

func (c *reader) receive(t *rapid.T, o Outgoing, now time.Time) {
	if o.Type == packet.PUBREL {
		c.again(t, o, nil)
		c.flying[o.PacketID] = flying{c.held[o.PacketID], true}
		delete(c.held, o.PacketID)
		c.answers = append(c.answers, packet.Ack{Type: packet.PUBCOMP, PacketID: o.PacketID})
		return
	}
	m := c.letters[o.Message.ID]
	if m.qos != o.QoS {
		t.Fatalf("message %d was sent at QoS %d, want %d", m.number, o.QoS, m.qos)
	}
	if c.here[m] {
		t.Fatalf("message %d comes twice on one connection", m.number)
	}
	c.here[m] = true
	if !o.Dup && o.Message.Expired(now) {
		t.Fatalf("message %d had expired", m.number)
	}
	if o.QoS > 0 {
		c.again(t, o, m)
		if _, taken := c.flying[o.PacketID]; taken || o.PacketID == 0 {
			t.Fatalf("packet identifier %d is in flight or zero", o.PacketID)
		}
		c.flying[o.PacketID] = flying{m: m}
		if len(c.flying) > c.maximum {
			t.Fatalf("%d in flight, the client's maximum is %d", len(c.flying), c.maximum)
		}
	}
	switch o.QoS {
	case 1:
		c.answers = append(c.answers, packet.Ack{Type: packet.PUBACK, PacketID: o.PacketID})
	case 2:
		c.answers = append(c.answers, packet.Ack{Type: packet.PUBREC, PacketID: o.PacketID})
		if h := c.held[o.PacketID]; h != nil {
			if h != m || !o.Dup {
				t.Fatalf("packet identifier %d carried message %d and now %d, dup %v", o.PacketID, h.number, m.number, o.Dup)
			}
			return
		}
		c.held[o.PacketID] = m
	}
	c.witness(t, m, o.Message.Expired(now))
}

// witness takes note of a delivery.
func (c *reader) witness(t *rapid.T, m *letter, expired bool) {
	m.delivered++
	if m.delivered > 1 && m.qos != 1 {
		t.Fatalf("message %d was delivered %d times at QoS %d", m.number, m.delivered, m.qos)
	}
	if m.ended && m.qos == 2 && !m.excused {
		t.Fatalf("message %d was delivered though it was given back", m.number)
	}
	if m.delivered > 1 || m.refused || expired || m.unstored || m.until == UntilAcked {
		// The order is that of first deliveries; a shared subscription has none. What has expired comes only because
		// it may have come before; what found no room in the store may be offered once more by whoever was not told.
		return
	}
	key := fmt.Sprintf("%s at %d", m.message.Topic, m.qos)
	if m.number < c.last[key] {
		t.Fatalf("message %d was first delivered behind %d, %s", m.number, c.last[key], key)
	}
	c.last[key] = m.number
}

// answer takes one of the answers that the client has to send; refuse makes it one that refuses.
func (c *reader) answer(i int, refuse bool) packet.Ack {
	a := c.answers[i]
	c.answers = slices.Delete(c.answers, i, i+1)
	m := c.held[a.PacketID]
	if refuse && (a.Type == packet.PUBACK || a.Type == packet.PUBREC && !m.received) {
		a.Code = packet.UnspecifiedError
	}
	switch {
	case a.Type == packet.PUBREC && !a.Code.Failure():
		m.received = true
		c.flying[a.PacketID] = flying{m, true}
		return a // its place in the window is taken until PUBCOMP
	case a.Type == packet.PUBREC:
		// It is as if it had not come.
		m.refused = true
		m.delivered--
		delete(c.held, a.PacketID)
	}
	delete(c.flying, a.PacketID)
	return a
}
