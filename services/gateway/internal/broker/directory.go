package broker

import (
	"hash/maphash"
	"maps"
	"slices"
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

	// newest is the newest epoch of any lease here. Epochs grow over all clients: a claim that begins now gets a
	// newer one.
	newest atomic.Uint64
}

type part struct {
	mu sync.RWMutex
	m  map[string]entry
}

// entry is what is known of a client id.
type entry struct {
	current *client.Client
	former  *client.Client // the one before, until it is gone
	held    uint64         // newest epoch of those before current: the lease that is given up when current gets none
	tenure
}

// tenure is since when a client has been here without having been anywhere else meanwhile, over however many
// connections. Once a message sent under a lease of an earlier tenure has been refused, so are all of that tenure:
// otherwise the later ones would overtake it when the client comes back.
type tenure struct {
	since uint64 // epoch of its first lease; 0 while that is not known
	after uint64 // what is not known yet is newer than this
}

// covers reports whether a lease of this epoch is, or may turn out to be, of this tenure.
func (t tenure) covers(epoch uint64) bool {
	if t.since == 0 {
		return epoch > t.after
	}
	return epoch >= t.since
}

// attaching reports whether the client's lease is on its way.
func (e entry) attaching() bool { return e.current != nil && e.current.Epoch() == 0 }

// epoch is that of the newest lease that may be in force.
func (e entry) epoch() uint64 {
	epoch := e.held
	for _, c := range [...]*client.Client{e.former, e.current} {
		if c != nil {
			epoch = max(epoch, c.Epoch())
		}
	}
	return epoch
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

// put makes c the connection of its id and returns the one before, if there is one. False: there are as many
// clients as there may be, and c is not one of them. The cluster's own services are not counted.
func (d *directory) put(c *client.Client, most int) (former *client.Client, ok bool) {
	p := d.part(c.ID)
	p.mu.Lock()
	defer p.mu.Unlock()
	e := p.m[c.ID]
	if e.current == nil && !c.Identity.Service && d.count.Add(1) > int64(most) {
		d.count.Add(-1)
		return nil, false
	}
	if e.current == nil {
		e.tenure = tenure{after: d.newest.Load()}
	}
	p.m[c.ID] = entry{current: c, former: e.current, held: e.epoch(), tenure: e.tenure}
	return e.current, true
}

// granted is called when a connection of id has got a lease.
func (d *directory) granted(id string, epoch uint64) {
	for was := d.newest.Load(); epoch > was && !d.newest.CompareAndSwap(was, epoch); was = d.newest.Load() {
	}
	d.change(id, func(e *entry) {
		if e.since == 0 {
			e.since = epoch
		}
	})
}

// evicted is called when another gateway has taken the lease of id.
func (d *directory) evicted(id string, epoch uint64) {
	d.change(id, func(e *entry) {
		if e.current.Epoch() < epoch {
			e.tenure = tenure{after: epoch}
		}
	})
}

// change applies f to the entry of id, if there is one.
func (d *directory) change(id string, f func(*entry)) {
	p := d.part(id)
	p.mu.Lock()
	defer p.mu.Unlock()
	if e, ok := p.m[id]; ok {
		f(&e)
		p.m[id] = e
	}
}

// ended lets go of a connection that has been replaced and is gone. Its place is still taken: the one that
// replaced it waits for this.
func (d *directory) ended(former *client.Client) {
	p := d.part(former.ID)
	p.mu.Lock()
	defer p.mu.Unlock()
	e := p.m[former.ID]
	e.held = max(e.held, former.Epoch())
	if e.former == former {
		e.former = nil
	}
	p.m[former.ID] = e
}

// remove drops c if it is still the connection of its id, and reports whether it was, and the epoch of the lease
// that is to be given up then: 0 when there is none.
func (d *directory) remove(c *client.Client) (epoch uint64, was bool) {
	p := d.part(c.ID)
	p.mu.Lock()
	defer p.mu.Unlock()
	e := p.m[c.ID]
	if e.current != c {
		return 0, false
	}
	delete(p.m, c.ID)
	if !c.Identity.Service {
		d.count.Add(-1)
	}
	return e.epoch(), true
}

// get returns the entry of an id; its current is nil when there is none.
func (d *directory) get(id string) entry {
	p := d.part(id)
	p.mu.RLock()
	defer p.mu.RUnlock()
	return p.m[id]
}

// each calls f for every entry in part i, without its lock.
func (d *directory) each(i int, f func(entry)) {
	p := &d.parts[i]
	p.mu.RLock()
	all := slices.Collect(maps.Values(p.m))
	p.mu.RUnlock()
	for _, e := range all {
		f(e)
	}
}
