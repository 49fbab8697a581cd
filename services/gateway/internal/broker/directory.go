package broker

import (
	"hash/maphash"
	"sync"
	"sync/atomic"

	"github.com/beeline-mqtt/beeline/services/gateway/internal/client"
)

// shards is the number of parts of the directory: connects do not wait for each other's locks, and a sweep
// of one part is short.
const shards = 64

// directory says which connection is a client id's here. The newest has the entry from the moment it begins
// to attach until it is gone.
type directory struct {
	seed  maphash.Seed
	count atomic.Int64
	parts [shards]part
}

type part struct {
	mu sync.RWMutex
	m  map[string]entry
}

// entry is a client id's newest connection, and the one before while that is still ending.
type entry struct {
	current, former *client.Client
}

func (d *directory) init() {
	d.seed = maphash.MakeSeed()
	for i := range d.parts {
		d.parts[i].m = make(map[string]entry)
	}
}

func (d *directory) part(id string) *part {
	return &d.parts[maphash.String(d.seed, id)%shards]
}

// put makes c the connection of its id and returns the one before, if it is there.
func (d *directory) put(c *client.Client) (former *client.Client) {
	p := d.part(c.ID)
	p.mu.Lock()
	defer p.mu.Unlock()
	former = p.m[c.ID].current
	p.m[c.ID] = entry{current: c, former: former}
	if former == nil {
		d.count.Add(1)
	}
	return former
}

// remove drops c if it is still the connection of its id, and reports whether it was.
func (d *directory) remove(c *client.Client) bool {
	p := d.part(c.ID)
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.m[c.ID].current != c {
		return false
	}
	delete(p.m, c.ID)
	d.count.Add(-1)
	return true
}

// get returns the entry of an id; its current is nil when there is none.
func (d *directory) get(id string) entry {
	p := d.part(id)
	p.mu.RLock()
	defer p.mu.RUnlock()
	return p.m[id]
}

// each calls f for every connection in part i, without its lock.
func (d *directory) each(i int, f func(*client.Client)) {
	p := &d.parts[i]
	p.mu.RLock()
	all := make([]*client.Client, 0, len(p.m))
	for _, e := range p.m {
		all = append(all, e.current)
	}
	p.mu.RUnlock()
	for _, c := range all {
		f(c)
	}
}
