package pebble

import (
	"github.com/beeline-mqtt/beeline/internal/journal"
	"github.com/beeline-mqtt/beeline/internal/message"
)

// The flags of a message. Its id follows, so that it can be read without the rest.
const (
	messageQoS     = 3
	messageRetain  = 1 << 2
	messageExpires = 1 << 3
	messageProps   = 1 << 4
	messageFormat  = 1 << 5
	messageCorrel  = 1 << 6
)

// putMessage appends m, the payload last.
func putMessage(b []byte, m *message.Message) []byte {
	flags := m.QoS&messageQoS | bit(m.Retain, 2) | bit(!m.Expires.IsZero(), 3) | bit(m.Props != nil, 4)
	if m.Props != nil {
		flags |= bit(m.Props.HasPayloadFormat, 5) | bit(m.Props.CorrelationData != nil, 6)
	}
	b = putID(append(b, flags), m.ID)
	b = putText(putText(b, m.Publisher), m.Topic)
	if flags&messageExpires != 0 {
		b = putInstant(b, m.Expires)
	}
	if p := m.Props; p != nil {
		b = append(b, p.PayloadFormat)
		b = putText(putText(b, p.ContentType), p.ResponseTopic)
		b = putNumber(putText(b, p.CorrelationData), uint64(len(p.User)))
		for _, u := range p.User {
			b = putText(putText(b, u.Name), u.Value)
		}
	}
	return append(b, m.Payload...)
}

// messageBound is enough for m.
func messageBound(m *message.Message) int {
	return m.Size() + len(m.Origin) + len(m.Publisher)
}

// readMessage reads what is left of r. Unless copied, the message keeps the bytes that are read: they must not be
// used for anything else.
func readMessage(r *reader, copied bool) *message.Message {
	flags := r.octet()
	m := &message.Message{ID: r.id(), QoS: flags & messageQoS, Retain: flags&messageRetain != 0}
	m.Publisher, m.Topic = r.text(), r.text()
	if flags&messageExpires != 0 {
		m.Expires = r.instant()
	}
	if flags&messageProps != 0 {
		m.Props = readProperties(r, flags, copied)
	}
	if len(r.b) > 0 {
		m.Payload = r.b
		if copied {
			m.Payload = append([]byte(nil), r.b...)
		}
	}
	r.b = nil
	return m
}

func readProperties(r *reader, flags byte, copied bool) *message.Properties {
	p := &message.Properties{PayloadFormat: r.octet(), HasPayloadFormat: flags&messageFormat != 0}
	p.ContentType, p.ResponseTopic = r.text(), r.text()
	if data := r.bytes(); flags&messageCorrel != 0 {
		p.CorrelationData = data
		if copied || data == nil {
			p.CorrelationData = append([]byte{}, data...)
		}
	}
	n := r.number()
	if n > uint64(len(r.b))/2 { // each takes two bytes at least
		r.fail()
		return p
	}
	for range n {
		p.User = append(p.User, message.UserProperty{Name: r.text(), Value: r.text()})
	}
	return p
}

// Where the message of an entry is.
const (
	bodyNone   = iota // there is none: only QoS and state of the entry count
	bodyInline        // in the entry
	bodyShared        // in a bucket
)

// entry is an entry of an inbox without its message.
type entry struct {
	qos      byte
	retain   bool
	body     byte
	appended int64 // milliseconds since 1970
	expires  int64 // of the message, nanoseconds since 1970; 0: never
	size     uint64
	ids      []uint32
	id       message.ID
	// bucket and sum are those of a shared message; inline is the message that is not.
	bucket uint64
	sum    uint32
	inline reader
}

func (e *entry) expired(now int64) bool { return e.expires != 0 && now >= e.expires }

// putEntry appends e, with encoded behind it if it is inline.
func putEntry(b []byte, e *entry, encoded []byte) []byte {
	b = append(b, valueVersion, e.qos&3|bit(e.retain, 2)|e.body<<3)
	b = putNumber(putNumber(b, uint64(e.appended)), uint64(e.expires))
	b = putNumber(putNumber(b, e.size), uint64(len(e.ids)))
	for _, id := range e.ids {
		b = putNumber(b, uint64(id))
	}
	switch e.body {
	case bodyInline:
		b = append(b, encoded...)
	case bodyShared:
		b = putNumber(putID(putNumber(b, e.bucket), e.id), uint64(e.sum))
	}
	return b
}

// readEntry keeps value for the message that is inline.
func readEntry(key, value []byte) (entry, error) {
	r, err := open(key, value)
	if err != nil {
		return entry{}, err
	}
	flags := r.octet()
	e := entry{qos: flags & 3, retain: flags&4 != 0, body: flags >> 3 & 3}
	e.appended, e.expires = int64(r.number()), int64(r.number())
	e.size = r.number()
	n := r.number()
	if n > uint64(len(r.b)) {
		r.fail()
		n = 0
	}
	for range n {
		e.ids = append(e.ids, uint32(r.number()))
	}
	switch e.body {
	case bodyInline:
		e.inline = r
		r.octet()
		e.id = r.id()
	case bodyShared:
		e.bucket, e.id, e.sum = r.number(), r.id(), uint32(r.number())
	}
	return e, r.err()
}

// encoded is a message as it is stored. Making it is most of the work of an append, and is done by who appends.
type encoded struct {
	b   []byte
	sum uint32
}

// encode encodes the messages of all appends; nil for those without one.
func encode(changes []journal.Change) []encoded {
	size, appends := 0, false
	for i := range changes {
		if c := &changes[i]; c.Kind == journal.Append && c.Entry.Message != nil {
			size += messageBound(c.Entry.Message)
			appends = true
		}
	}
	if !appends {
		return nil
	}
	all := make([]encoded, len(changes))
	arena := make([]byte, 0, size)
	for i := range changes {
		if c := &changes[i]; c.Kind == journal.Append && c.Entry.Message != nil {
			from := len(arena)
			arena = putMessage(arena, c.Entry.Message)
			b := arena[from:len(arena):len(arena)]
			all[i] = encoded{b: b, sum: sum(b)}
		}
	}
	return all
}
