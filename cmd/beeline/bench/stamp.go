package bench

import (
	"encoding/binary"
	"hash/crc32"
	"time"
)

// MinSize is the least size of a payload in bytes: what it has to say for the checks.
const MinSize = 24

// stamp is what every payload begins with, behind a checksum of all the rest of it.
type stamp struct {
	publisher uint32
	seq       uint64        // of this publisher, from 0
	due       time.Duration // when it was to be sent, since the begin of the run
}

// put writes the stamp into payload, which has at least MinSize bytes. The rest of it stays as it is.
func (s stamp) put(payload []byte) {
	binary.BigEndian.PutUint32(payload[4:], s.publisher)
	binary.BigEndian.PutUint64(payload[8:], s.seq)
	binary.BigEndian.PutUint64(payload[16:], uint64(s.due))
	binary.BigEndian.PutUint32(payload, checksum(payload))
}

// readStamp reads what put wrote. ok is false when a single byte of the payload is another.
func readStamp(payload []byte) (s stamp, ok bool) {
	if len(payload) < MinSize || binary.BigEndian.Uint32(payload) != checksum(payload) {
		return stamp{}, false
	}
	return stamp{
		publisher: binary.BigEndian.Uint32(payload[4:]),
		seq:       binary.BigEndian.Uint64(payload[8:]),
		due:       time.Duration(binary.BigEndian.Uint64(payload[16:])),
	}, true
}

func checksum(payload []byte) uint32 {
	return crc32.Checksum(payload[4:], crc32.MakeTable(crc32.Castagnoli))
}

// blank makes a payload without a stamp. Its bytes look random, so that nothing on the way can make it smaller.
func blank(size int) []byte {
	b := make([]byte, size)
	x := uint32(2463534242)
	for i := range b {
		x ^= x << 13
		x ^= x >> 17
		x ^= x << 5
		b[i] = byte(x)
	}
	return b
}
