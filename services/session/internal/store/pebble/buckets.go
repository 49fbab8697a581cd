package pebble

import (
	"errors"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"github.com/beeline-mqtt/beeline/internal/message"
)

const (
	// A bucket takes messages for so long, and so many bytes of them. It lasts as long as its last entry: smaller
	// buckets leave less behind of those whose other messages are long gone.
	bucketAge   = time.Minute
	bucketBytes = 64 << 20
	shareAtOnce = 4 << 10
	// recentMessages is for how many messages is known where they are. One that is not known any more is stored
	// once more, at the same place if the bucket is the same.
	recentMessages = 16 << 10
)

// buckets are where messages are stored that several inboxes may share.
type buckets struct {
	all map[uint64]*bucket
	// newest is the one that takes messages, if open is set.
	newest uint64
	open   bool
	opened time.Time
	bytes  int
	// changed are those whose number of references differs from their row.
	changed map[uint64]struct{}
	recent  recent
}

type bucket struct {
	references int64
}

// place is where a message is stored; bucket 0: in the entry of the first inbox that got it.
type place struct {
	bucket uint64
	sum    uint32
}

// find returns in which bucket a message is stored, or shall be: then put is true. It is 0 if the message shall be
// stored in its entry: most messages go to one inbox, which reads them in a row if they are there. Those of a size of
// shareAtOnce cost more to store twice than to look for.
func (b *buckets) find(id message.ID, m encoded, now time.Time) (at uint64, put bool) {
	p, known := b.recent.places[id]
	known = known && p.sum == m.sum
	if !known && len(m.b) < shareAtOnce {
		return 0, false
	}
	if known && p.bucket != 0 && b.all[p.bucket] != nil {
		return p.bucket, false
	}
	if !b.open || now.Sub(b.opened) >= bucketAge || b.bytes >= bucketBytes {
		if b.open {
			b.change(b.newest) // it may be without references already
		}
		b.newest++
		b.open, b.opened, b.bytes = true, now, 0
	}
	return b.newest, true
}

// put says that a message was stored in a bucket, or, if n is 0, in an entry.
func (b *buckets) put(n uint64, id message.ID, sum uint32, size int) {
	if n != 0 {
		b.bytes += size
	}
	b.recent.add(id, place{bucket: n, sum: sum})
}

// refer counts n more references to a bucket.
func (b *buckets) refer(to uint64, n int64) {
	if b.all[to] == nil {
		b.all[to] = &bucket{}
	}
	b.all[to].references += n
	b.change(to)
}

func (b *buckets) change(n uint64) {
	if b.changed == nil {
		b.changed = make(map[uint64]struct{})
	}
	b.changed[n] = struct{}{}
}

// stage puts the rows of the buckets that have changed, and drops those that nothing refers to.
func (b *buckets) stage(t *stage) error {
	var errs []error
	for n := range b.changed {
		x := b.all[n]
		key := keyNumber(nil, spaceBucket, n)
		if x != nil && (x.references > 0 || b.open && n == b.newest) {
			errs = append(errs, t.set(key, func(v []byte) []byte { return putNumbers(v, uint64(max(0, x.references))) }))
			continue
		}
		delete(b.all, n)
		errs = append(errs,
			t.Delete(key, nil),
			t.DeleteRange(keyNumber(nil, spaceMessage, n), keyNumber(nil, spaceMessage, n+1), &pebble.WriteOptions{}))
	}
	clear(b.changed)
	t.s.metrics.buckets.Store(int64(len(b.all)))
	return errors.Join(errs...)
}

// recent remembers where the newest messages are: a ring and a map.
type recent struct {
	places map[message.ID]place
	ring   []message.ID
	next   int
}

func (r *recent) add(id message.ID, p place) {
	if r.places == nil {
		r.places = make(map[message.ID]place)
	}
	if _, known := r.places[id]; !known {
		if len(r.ring) < recentMessages {
			r.ring = append(r.ring, id)
		} else {
			delete(r.places, r.ring[r.next])
			r.ring[r.next] = id
			r.next = (r.next + 1) % recentMessages
		}
	}
	r.places[id] = p
}
