package pebble

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"time"

	"github.com/beeline-mqtt/beeline/internal/journal"
	"github.com/beeline-mqtt/beeline/internal/message"
	"github.com/beeline-mqtt/beeline/internal/subscriptions"
	"github.com/beeline-mqtt/beeline/services/session/internal/store"
)

// Every value is a version, a body, and a checksum over the key and both: Pebble guards its blocks, but not what
// happens between there and here, and a value at the wrong key would be as bad as a wrong value.
const (
	valueVersion = 1
	sumSize      = 4
)

func sum(b []byte) uint32 { return more(0, b) }

// more continues the checksum of what is before b.
func more(sum uint32, b []byte) uint32 {
	return crc32.Update(sum, crc32.MakeTable(crc32.Castagnoli), b)
}

// seal ends the value that begins at from in b.
func seal(b []byte, from int, key []byte) []byte {
	return binary.LittleEndian.AppendUint32(b, more(sum(key), b[from:]))
}

// open returns a reader of the body of a value.
func open(key, value []byte) (reader, error) {
	end := len(value) - sumSize
	if end < 1 || binary.LittleEndian.Uint32(value[end:]) != more(sum(key), value[:end]) {
		return reader{}, corrupt(key[0], "checksum does not match")
	}
	if value[0] != valueVersion {
		return reader{}, fmt.Errorf("%w: %s: value of version %d", store.ErrFuture, spaceName(key[0]), value[0])
	}
	return reader{b: value[1:end], space: key[0]}, nil
}

func corrupt(space byte, what string) error {
	return fmt.Errorf("%w: %s: %s", store.ErrCorrupt, spaceName(space), what)
}

// reader reads a body. What is read after an error is zero; err tells at the end.
type reader struct {
	b     []byte
	space byte
	bad   bool
}

func (r *reader) err() error {
	if r.bad {
		return corrupt(r.space, "value is malformed")
	}
	return nil
}

func (r *reader) fail() { r.b, r.bad = nil, true }

func (r *reader) octet() byte {
	if len(r.b) == 0 {
		r.fail()
		return 0
	}
	v := r.b[0]
	r.b = r.b[1:]
	return v
}

func (r *reader) number() uint64 {
	v, n := binary.Uvarint(r.b)
	if n <= 0 {
		r.fail()
		return 0
	}
	r.b = r.b[n:]
	return v
}

func (r *reader) bytes() []byte {
	n := r.number()
	if n > uint64(len(r.b)) {
		r.fail()
		return nil
	}
	v := r.b[:n:n]
	r.b = r.b[n:]
	return v
}

func (r *reader) text() string { return string(r.bytes()) }

// instant is a wall clock time in nanoseconds, 0 for the zero time.
func (r *reader) instant() time.Time {
	if n := int64(r.number()); n != 0 {
		return time.Unix(0, n)
	}
	return time.Time{}
}

func (r *reader) id() message.ID {
	return message.ID{Seq: r.number(), Origin: r.text()}
}

func putNumber(b []byte, n uint64) []byte { return binary.AppendUvarint(b, n) }

func putText[T string | []byte](b []byte, s T) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

func putInstant(b []byte, t time.Time) []byte {
	if t.IsZero() {
		return putNumber(b, 0)
	}
	return putNumber(b, uint64(t.UnixNano()))
}

func putID(b []byte, id message.ID) []byte { return putText(putNumber(b, id.Seq), id.Origin) }

func bit(set bool, n int) byte {
	if set {
		return 1 << n
	}
	return 0
}

// putRecord writes what the engine itself needs first.
func putRecord(b []byte, r *store.Record) []byte {
	b = append(b, valueVersion)
	b = putNumber(putNumber(b, uint64(r.Session)), r.Epoch)
	b = putText(putText(b, r.Holder), r.Former)
	b = putInstant(putNumber(b, uint64(r.Expiry)), r.Away)
	b = append(b, bit(r.Will != nil, 0)|bit(r.WillDue, 1)|bit(r.Will != nil && r.Will.HasExpiry, 2)|bit(r.User != "", 3))
	if r.User != "" {
		b = putText(b, r.User)
	}
	if r.Will == nil {
		return b
	}
	b = putNumber(putNumber(b, uint64(r.Will.Expiry)), uint64(r.Will.Delay))
	return putMessage(b, r.Will.Message)
}

// readRecord shares nothing with value.
func readRecord(key, value []byte) (store.Record, error) {
	r, err := open(key, value)
	if err != nil {
		return store.Record{}, err
	}
	rec := store.Record{Client: string(key[1:]), Session: journal.SessionID(r.number()), Epoch: r.number()}
	rec.Holder, rec.Former = r.text(), r.text()
	rec.Expiry, rec.Away = uint32(r.number()), r.instant()
	flags := r.octet()
	rec.WillDue = flags&2 != 0
	if flags&8 != 0 {
		rec.User = r.text()
	}
	if flags&1 != 0 {
		w := &journal.Will{Expiry: time.Duration(r.number()), Delay: time.Duration(r.number()), HasExpiry: flags&4 != 0}
		w.Message = readMessage(&r, true)
		rec.Will = w
	}
	return rec, r.err()
}

// inbox is the row of an inbox as a whole, and what is kept of it in memory.
type inbox struct {
	// next is the position of the next entry. No entry is below first, and none was appended before oldest; if exact
	// is set, first is the position of the oldest entry and oldest its time.
	next, first journal.Position
	oldest      int64 // milliseconds since 1970
	exact       bool
	reason      store.DropReason
	messages    uint64
	bytes       uint64
	dropped     uint64
}

func putInbox(b []byte, q *inbox) []byte {
	b = append(b, valueVersion, bit(q.exact, 0), byte(q.reason))
	b = putNumber(putNumber(b, uint64(q.next)), uint64(q.first))
	b = putNumber(putNumber(b, uint64(q.oldest)), q.messages)
	return putNumber(putNumber(b, q.bytes), q.dropped)
}

func readInbox(key, value []byte) (inbox, error) {
	r, err := open(key, value)
	if err != nil {
		return inbox{}, err
	}
	q := inbox{exact: r.octet()&1 != 0, reason: store.DropReason(r.octet())}
	q.next, q.first = journal.Position(r.number()), journal.Position(r.number())
	q.oldest, q.messages = int64(r.number()), r.number()
	q.bytes, q.dropped = r.number(), r.number()
	return q, r.err()
}

// flight is what happened to an entry since it was first sent, or is about to be.
type flight struct {
	packet   uint16
	twice    bool // QoS 2
	released bool
}

func putFlight(b []byte, f flight) []byte {
	return putNumber(append(b, valueVersion, bit(f.twice, 0)|bit(f.released, 1)), uint64(f.packet))
}

func readFlight(key, value []byte) (flight, error) {
	r, err := open(key, value)
	if err != nil {
		return flight{}, err
	}
	flags := r.octet()
	return flight{twice: flags&1 != 0, released: flags&2 != 0, packet: uint16(r.number())}, r.err()
}

func putOptions(b []byte, o subscriptions.Options) []byte {
	b = append(b, valueVersion, o.QoS|bit(o.NoLocal, 2)|bit(o.RetainAsPublished, 3)|o.RetainHandling<<4)
	return putNumber(b, uint64(o.ID))
}

func readOptions(key, value []byte) (subscriptions.Options, error) {
	r, err := open(key, value)
	if err != nil {
		return subscriptions.Options{}, err
	}
	flags := r.octet()
	return subscriptions.Options{
		QoS: flags & 3, NoLocal: flags&4 != 0, RetainAsPublished: flags&8 != 0, RetainHandling: flags >> 4 & 3,
		ID: uint32(r.number()),
	}, r.err()
}

// readNumbers reads a value that is only numbers.
func readNumbers(key, value []byte, into ...*uint64) error {
	r, err := open(key, value)
	if err != nil {
		return err
	}
	for _, n := range into {
		*n = r.number()
	}
	return r.err()
}

func putNumbers(b []byte, numbers ...uint64) []byte {
	b = append(b, valueVersion)
	for _, n := range numbers {
		b = putNumber(b, n)
	}
	return b
}
