package pebble

import (
	"encoding/binary"
	"strings"

	"github.com/beeline-mqtt/beeline/internal/journal"
	"github.com/beeline-mqtt/beeline/internal/message"
	"github.com/beeline-mqtt/beeline/services/session/internal/store"
)

// The key spaces: the first byte of every key. Numbers in keys are big endian, so that they sort.
const (
	spaceUnadopted = 'a' // incarnation
	spaceBucket    = 'b' // bucket: how many entries refer to its messages
	spaceRecord    = 'c' // client
	spaceTwice     = 'd' // session, message id: a message at QoS 2 that the inbox has
	spaceEntry     = 'e' // session, position
	spaceFlight    = 'f' // session, position: under which packet identifier an entry was sent
	spaceGroups    = 'g' // group, zero byte, and for a member: c or u, name
	spaceMemory    = 'h' // generation, session, message id: a message at QoS 2 that an inbox had
	spaceMeta      = 'i' // name
	spaceMessage   = 'm' // bucket, message id, checksum
	spaceQueue     = 'q' // session: the inbox as a whole
	spaceRetained  = 'r' // levels of the topic, each ended by a zero byte
	spaceSubscribe = 's' // session, filter
	spaceTaken     = 't' // session, packet identifier
	spaceGarbage   = 'x' // session: one that has ended, and whose rows in d, e, f, s, t are to be removed
)

// spaceName is for errors.
func spaceName(space byte) string {
	switch space {
	case spaceUnadopted:
		return "unadopted incarnations"
	case spaceBucket:
		return "message buckets"
	case spaceRecord:
		return "session records"
	case spaceTwice, spaceMemory:
		return "message ids"
	case spaceEntry:
		return "inbox entries"
	case spaceFlight:
		return "packet identifiers"
	case spaceGroups:
		return "groups"
	case spaceMeta:
		return "store properties"
	case spaceMessage:
		return "messages"
	case spaceQueue:
		return "inboxes"
	case spaceRetained:
		return "retained messages"
	case spaceSubscribe:
		return "subscriptions"
	case spaceTaken:
		return "inbound packet identifiers"
	case spaceGarbage:
		return "ended sessions"
	}
	return "unknown keys"
}

// The rows of spaceMeta.
const (
	metaSchema   = "schema"
	metaID       = "id"
	metaEpoch    = "epoch"
	metaRetained = "retained"
)

func keyMeta(name string) []byte               { return append([]byte{spaceMeta}, name...) }
func keyRecord(b []byte, client string) []byte { return append(append(b, spaceRecord), client...) }
func keyUnadopted(b []byte, id string) []byte  { return append(append(b, spaceUnadopted), id...) }
func keyNumber(b []byte, space byte, n uint64) []byte {
	return binary.BigEndian.AppendUint64(append(b, space), n)
}

func keySession(b []byte, space byte, id journal.SessionID) []byte {
	return keyNumber(b, space, uint64(id))
}

func keyPosition(b []byte, space byte, id journal.SessionID, p journal.Position) []byte {
	return binary.BigEndian.AppendUint64(keySession(b, space, id), uint64(p))
}

func keyTaken(b []byte, id journal.SessionID, packet uint16) []byte {
	return binary.BigEndian.AppendUint16(keySession(b, spaceTaken, id), packet)
}

func keySubscription(b []byte, id journal.SessionID, filter string) []byte {
	return append(keySession(b, spaceSubscribe, id), filter...)
}

func keyTwice(b []byte, id journal.SessionID, m message.ID) []byte {
	return appendID(keySession(b, spaceTwice, id), m)
}

func keyMemory(b []byte, generation uint64, id journal.SessionID, m message.ID) []byte {
	return appendID(binary.BigEndian.AppendUint64(keyNumber(b, spaceMemory, generation), uint64(id)), m)
}

// keyMessage has the checksum because nothing but care keeps two messages from having the same id.
func keyMessage(b []byte, bucket uint64, m message.ID, sum uint32) []byte {
	return binary.BigEndian.AppendUint32(appendID(keyNumber(b, spaceMessage, bucket), m), sum)
}

// keyGroup is the row of a group. Names of groups have no zero byte.
func keyGroup(b []byte, group string) []byte {
	return append(append(append(b, spaceGroups), group...), 0)
}

func keyMember(b []byte, group string, m store.Member) []byte {
	kind := byte('c')
	if m.User {
		kind = 'u'
	}
	return append(append(keyGroup(b, group), kind), m.Name...)
}

// appendID puts the number first: the origin has no fixed length.
func appendID(b []byte, m message.ID) []byte {
	return append(binary.BigEndian.AppendUint64(b, m.Seq), m.Origin...)
}

// keyRetained ends every level with a zero byte, which no topic contains: so the topics below a level are one range,
// the topic itself first, and topics sort level by level.
func keyRetained(b []byte, topic string) []byte {
	b = append(b, spaceRetained)
	for level := range strings.SplitSeq(topic, "/") {
		b = append(append(b, level...), 0)
	}
	return b
}

// number reads the n-th number of a key.
func number(key []byte, n int) (uint64, bool) {
	at := 1 + 8*n
	if len(key) < at+8 {
		return 0, false
	}
	return binary.BigEndian.Uint64(key[at:]), true
}

// after returns the first key behind all that begin with prefix.
func after(prefix []byte) []byte {
	end := append([]byte(nil), prefix...)
	for i := len(end) - 1; i >= 0; i-- {
		if end[i]++; end[i] != 0 {
			return end[:i+1]
		}
	}
	return nil
}
