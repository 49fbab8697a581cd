package pebble

import (
	"encoding/binary"

	"github.com/cockroachdb/pebble/v2"

	"github.com/beeline-mqtt/beeline/internal/message"
)

// remember keeps a message id at QoS 2 that the plan adds to the inbox, or takes out of it.
func (p *plan) remember(id message.ID) {
	if p.ids == nil {
		p.ids = make(map[message.ID]struct{})
	}
	p.ids[id] = struct{}{}
}

// known reports whether the inbox has a message id at QoS 2, or had it not long ago.
func (p *plan) known(id message.ID) (bool, error) {
	if _, ok := p.ids[id]; ok {
		return true, nil
	}
	if err := p.x.loadNewest(p.t, generation(p.now)); err != nil {
		return false, err
	}
	if p.x.newest.passes(id) {
		return false, nil
	}
	key := keyTwice(p.t.key[:0], p.x.id, id)
	value, err := p.t.get(key)
	now := generation(p.now)
	for g := now; value == nil && err == nil && g+generations > now; g-- {
		value, err = p.t.get(keyMemory(key[:0], g, p.x.id, id))
	}
	p.t.key = key
	return value != nil, err
}

// newest knows the greatest number of each origin among the message ids at QoS 2 that an inbox has or had. Messages
// come nearly in the order of their numbers, so that most need not be looked for. The zero value knows nothing.
type newest struct {
	known   bool
	origins map[string]uint64
}

// newestOrigins bounds the origins of one inbox. One that has more looks for every message.
const newestOrigins = 32

// passes reports whether id is newer than all that are known.
func (n *newest) passes(id message.ID) bool {
	last, ok := n.origins[id.Origin]
	return len(n.origins) < newestOrigins && (!ok || id.Seq > last)
}

func (n *newest) add(id message.ID) {
	last, ok := n.origins[id.Origin]
	if ok && last >= id.Seq || len(n.origins) >= newestOrigins {
		return
	}
	if n.origins == nil {
		n.origins = make(map[string]uint64)
	}
	n.origins[id.Origin] = id.Seq
}

// loadNewest reads what an earlier process has stored, once.
func (x *session) loadNewest(t *stage, now uint64) error {
	if x.newest.known {
		return nil
	}
	if err := x.addNewest(t, keySession(nil, spaceTwice, x.id)); err != nil {
		return err
	}
	for g := now; g+generations > now; g-- {
		if err := x.addNewest(t, binary.BigEndian.AppendUint64(keyNumber(nil, spaceMemory, g), uint64(x.id))); err != nil {
			return err
		}
	}
	x.newest.known = true
	return nil
}

func (x *session) addNewest(t *stage, prefix []byte) error {
	iter, err := t.NewIter(&pebble.IterOptions{LowerBound: prefix, UpperBound: after(prefix)})
	if err != nil {
		return readError(err)
	}
	defer closeQuietly(iter)
	for valid := iter.First(); valid; valid = iter.Next() {
		if id := iter.Key()[len(prefix):]; len(id) >= 8 {
			x.newest.add(message.ID{Seq: binary.BigEndian.Uint64(id), Origin: string(id[8:])})
		}
	}
	return readError(iter.Error())
}
