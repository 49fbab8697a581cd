// Package ledger holds what receivers got against what publishers sent and had acknowledged. It finds what was
// lost, doubled, reordered, invented or forgotten, and by whom; it does not know what a gateway is, nor what went
// wrong with it.
//
// The order of the calls is the order of things: a message that is written down as sent after a subscription is
// written down as acknowledged was sent after it. So Send is called before the PUBLISH is written, Subscribe before
// the SUBSCRIBE is, and Subscribed after the SUBACK was read.
//
// A Ledger may be used from any goroutine. It starts none, and sees the time only through the clock that it is
// given, for its texts.
package ledger

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/beeline-mqtt/beeline/internal/topic"
)

// Stream is what one publisher sends to one topic, all at one QoS.
type Stream struct {
	Publisher string
	Topic     string
	QoS       byte
	// Durable: the publisher has a durable session and sends again, on its next connection, what was not
	// acknowledged.
	Durable bool
}

// Message is one message of a stream, by its number from 0 on.
type Message struct {
	Stream
	Number int
}

// Payload is what the message says.
func (m Message) Payload() string { return m.Publisher + " " + strconv.Itoa(m.Number) }

// Delivery is a PUBLISH that a session got.
type Delivery struct {
	Session string
	// Group is the one that got it through this member, if it came for a shared subscription.
	Group      string
	Connection int
	Topic      string
	Payload    string
	QoS        byte
	PacketID   uint16
	DUP        bool
}

// Mark is a moment.
type Mark uint64

// Ledger is the book. Make it with New.
type Ledger struct {
	now func() time.Time

	mu       sync.Mutex // guards the following
	mark     Mark       // of the last event
	streams  map[key]*stream
	sessions map[string]*session
	order    []string // of sessions, by their opening
	wrongs   []Wrong
	count    map[Kind]int
}

type key struct{ publisher, topic string }

type stream struct {
	Stream
	sent []sent
}

// sent is one message.
type sent struct {
	mark            Mark // of the first PUBLISH
	at              time.Time
	first, last     int // connections that it was sent on
	again           bool
	acknowledged    bool
	acknowledgement time.Time
	code            byte
}

func (m *sent) success() bool { return m.acknowledged && m.code < 0x80 }

type session struct {
	name    string
	durable bool
	group   bool // its members get each message once between them, each in an order of its own
	ended   bool
	filters []filter
	open    map[uint16]Message // at QoS 2, between PUBLISH and PUBREL
	columns map[*stream]*column
}

// filter is one that a session has asked for.
type filter struct {
	text    string
	granted Mark // 0: not yet, as far as is known
}

// matches reports whether the session has asked for what is published to a topic.
func (s *session) matches(name string) bool {
	for _, f := range s.filters {
		if f.matches(name) {
			return true
		}
	}
	return false
}

// matches knows, other than MQTT, filters of what is for one client alone.
func (f filter) matches(name string) bool {
	if topic.IsDirect(name) {
		prefix, all := strings.CutSuffix(f.text, "#")
		return all && topic.IsDirect(f.text) && strings.HasPrefix(name, prefix)
	}
	return topic.Match(f.text, name)
}

// since is the moment from which the session is owed what is published to a topic: what was sent after it.
func (s *session) since(name string) (since Mark, ever bool) {
	for _, f := range s.filters {
		if f.granted > 0 && f.matches(name) && (!ever || f.granted < since) {
			since, ever = f.granted, !s.ended && !s.group
		}
	}
	return since, ever
}

// column is what a session got of a stream.
type column struct {
	came      []uint16    // by number: how often, as a new delivery
	highest   map[int]int // by the publisher's connection: the highest number that came first and can only be from it
	repeated  int
	doubled   int
	reordered int
}

// New makes an empty ledger.
func New(now func() time.Time) *Ledger {
	return &Ledger{now: now, streams: map[key]*stream{}, sessions: map[string]*session{}, count: map[Kind]int{}}
}

// Now returns the present moment.
func (l *Ledger) Now() Mark {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.mark
}

// Send writes down that the publisher is about to send its next message, on this connection.
func (l *Ledger) Send(s Stream, connection int) Message {
	l.mu.Lock()
	defer l.mu.Unlock()
	x := l.streams[key{s.Publisher, s.Topic}]
	if x == nil {
		x = &stream{Stream: s}
		l.streams[key{s.Publisher, s.Topic}] = x
	}
	l.mark++
	x.sent = append(x.sent, sent{mark: l.mark, at: l.now(), first: connection, last: connection})
	return Message{Stream: s, Number: len(x.sent) - 1}
}

// Resend writes down that the publisher is about to send a message again, on a newer connection.
func (l *Ledger) Resend(m Message, connection int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	x := &l.streams[key{m.Publisher, m.Topic}].sent[m.Number]
	x.last, x.again = connection, true
}

// Acknowledge writes down the PUBACK or PUBREC of a message.
func (l *Ledger) Acknowledge(m Message, code byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	x := &l.streams[key{m.Publisher, m.Topic}].sent[m.Number]
	if !x.acknowledged {
		x.acknowledged, x.acknowledgement, x.code = true, l.now(), code
	}
}

// Open writes down that a session has begun. The name of a transient one is that of its connection: none is used
// twice.
func (l *Ledger) Open(name string, durable bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.sessions[name] = &session{name: name, durable: durable, open: map[uint16]Message{}, columns: map[*stream]*column{}}
	l.order = append(l.order, name)
}

// OpenGroup writes down that there is a shared subscription. Nothing is owed to it: members that are away get nothing,
// and whether one was there at the time is not known here.
func (l *Ledger) OpenGroup(name string) {
	l.Open(name, true)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.sessions[name].group = true
}

// Subscribe writes down that a session is about to ask for a filter.
func (l *Ledger) Subscribe(name, text string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.sessions[name].filters = append(l.sessions[name].filters, filter{text: text})
}

// Subscribed writes down that a SUBACK has granted what the session has asked for last.
func (l *Ledger) Subscribed(name string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.mark++
	s := l.sessions[name]
	s.filters[len(s.filters)-1].granted = l.mark
}

// Ended writes down that a session is over: nothing more is owed to it. What it got stays.
func (l *Ledger) Ended(name string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.sessions[name].ended = true
}

// Forgotten writes down that a client that has a durable session was told that it has none.
func (l *Ledger) Forgotten(client string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.wrong(Forgotten, client, "its session is not present any more")
}

// Received writes down a PUBLISH. It reports whether that is a new message to the client: not one that came again
// under a packet identifier that is in use at QoS 2.
func (l *Ledger) Received(d Delivery) (fresh bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	s, to := l.sessions[d.Session], l.sessions[cmp.Or(d.Group, d.Session)]
	x, m, why := l.find(to, d)
	if why != "" {
		l.wrong(Invented, d.Session, "%q on %q (packet %d, connection %d): %s", d.Payload, d.Topic, d.PacketID, d.Connection, why)
		return false
	}
	if d.QoS == 2 {
		before, open := s.open[d.PacketID]
		switch {
		case open && before == m:
			if !d.DUP {
				l.wrong(Reused, d.Session, "%s again under packet %d on connection %d, without DUP", m.Payload(), d.PacketID, d.Connection)
			}
			return false
		case open:
			// A client takes it for the message that it has: this one is lost on it.
			l.wrong(Reused, d.Session, "%s under packet %d on connection %d, which is %s until PUBREL", m.Payload(), d.PacketID, d.Connection, before.Payload())
			return false
		}
		s.open[d.PacketID] = m
	}
	l.enter(to, x, m, d)
	return true
}

// Released writes down a PUBREL.
func (l *Ledger) Released(name string, packetID uint16) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.sessions[name].open, packetID)
}

// find returns the message that a PUBLISH carries, or why there is none.
func (l *Ledger) find(to *session, d Delivery) (x *stream, m Message, why string) {
	publisher, text, found := strings.Cut(d.Payload, " ")
	n, err := strconv.Atoi(text)
	if !found || err != nil {
		return nil, m, "nobody says such things"
	}
	x = l.streams[key{publisher, d.Topic}]
	switch {
	case x == nil:
		return nil, m, "its publisher does not publish there"
	case n < 0 || n >= len(x.sent):
		return nil, m, fmt.Sprintf("its publisher is at number %d", len(x.sent)-1)
	case d.QoS > x.QoS:
		return nil, m, fmt.Sprintf("QoS %d, published with %d", d.QoS, x.QoS)
	}
	if !to.matches(d.Topic) {
		return nil, m, "it has no such subscription"
	}
	return x, Message{Stream: x.Stream, Number: n}, ""
}

// enter writes a new delivery into its column, and says what is wrong with it.
func (l *Ledger) enter(s *session, x *stream, m Message, d Delivery) {
	c := s.columns[x]
	if c == nil {
		c = &column{highest: map[int]int{}}
		s.columns[x] = c
	}
	for len(c.came) <= m.Number {
		c.came = append(c.came, 0)
	}
	c.came[m.Number]++
	was := &x.sent[m.Number]
	if c.came[m.Number] > 1 {
		c.repeated++
		// A message that was sent once may come once, and so may one between two durable sessions. For a group another
		// member is chosen when it is sent again, and when the gateway of the first dies before it has answered.
		if d.QoS == 2 && !s.group && (!was.again || x.Durable && s.durable) {
			c.doubled++
			l.wrong(Doubled, s.name, "%s on %q at QoS 2 for the %d. time, packet %d (DUP %t) on connection %d; sent %s", m.Payload(), m.Topic,
				c.came[m.Number], d.PacketID, d.DUP, d.Connection, was.story())
		}
		return
	}
	// What was sent on several connections may have come from any of them. All that can be said is that it came
	// from the last one, or before.
	if highest, known := c.highest[was.last]; known && m.Number < highest && !s.group {
		c.reordered++
		kind := Reordered
		if was.again {
			kind = Overtaken
		}
		l.wrong(kind, s.name, "%s on %q after %d, packet %d (DUP %t) on connection %d; sent %s", m.Payload(), m.Topic,
			highest, d.PacketID, d.DUP, d.Connection, was.story())
	}
	if !was.again {
		c.highest[was.first] = max(c.highest[was.first], m.Number)
	}
}

// clock is how times are shown, like those in the logs.
const clock = "15:04:05.000"

// story says what became of a message at its publisher.
func (m *sent) story() string {
	text := fmt.Sprintf("at %s on connection %d", m.at.UTC().Format(clock), m.first)
	if m.again {
		text += fmt.Sprintf(", last on %d", m.last)
	}
	if m.acknowledged {
		return text + fmt.Sprintf(", acknowledged with %#x at %s", m.code, m.acknowledgement.UTC().Format(clock))
	}
	return text + ", not acknowledged"
}
