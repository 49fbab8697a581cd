package cluster

import (
	"context"
	"fmt"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

const (
	lookUpKeys     = 100
	lookUpInFlight = 4
	lookUpWaiting  = 100_000
)

// Directory reads leases of clients. Reads are linearizable and batched: whatever waits while reads are under way
// goes together.
type Directory struct {
	// Pause is the least time between the beginnings of two reads; 0: none. With it many clients that are looked up one
	// by one are few reads, each a little later. It is set before the first look-up.
	Pause time.Duration

	deps  Deps
	alive func(holder string) bool

	mu      sync.Mutex // guards the following
	waiting []*read
	reading int
	next    time.Time // when the next read may begin
	closed  bool
	workers sync.WaitGroup
}

// read is one key that somebody waits for.
type read struct {
	key  string
	done chan<- *read // of the call; has room for all its reads
	// set before it is sent to done:
	value    []byte
	revision int64 // mod revision; 0 = there is no such key
	err      error
}

// NewDirectory returns a directory. alive says whether a holder is alive for certain, from the member list; a
// holder that it does not know is looked up in etcd. alive may be nil.
func NewDirectory(d Deps, alive func(holder string) bool) *Directory {
	if alive == nil {
		alive = func(string) bool { return false }
	}
	return &Directory{deps: d, alive: alive}
}

// Close waits for the reads under way. What is looked up afterwards is ErrUnavailable.
func (d *Directory) Close() {
	d.mu.Lock()
	d.closed = true
	d.mu.Unlock()
	d.workers.Wait()
}

// LookUp returns the leases that are in force of some clients. A client that is not in the result has none. An
// error says nothing about any client.
func (d *Directory) LookUp(ctx context.Context, clientIDs []string) (map[string]Lease, error) {
	leases, err := d.Records(ctx, clientIDs)
	if err != nil {
		return nil, err
	}
	living := map[string]bool{}
	var unknown []string
	for _, l := range leases {
		if _, listed := living[l.Holder]; listed {
			continue
		}
		living[l.Holder] = d.alive(l.Holder)
		if !living[l.Holder] {
			unknown = append(unknown, l.Holder)
		}
	}
	keys := make([]string, len(unknown))
	for i, holder := range unknown {
		keys[i] = d.deps.Keys.Member(Gateway, holder)
	}
	members, err := d.read(ctx, keys)
	if err != nil {
		return nil, fmt.Errorf("look up holders: %w", err)
	}
	for i, holder := range unknown {
		living[holder] = members[i].revision > 0
	}
	for id, l := range leases {
		if !living[l.Holder] {
			delete(leases, id)
		}
	}
	return leases, nil
}

// Records returns the records of some clients, whether their holders are alive or not.
func (d *Directory) Records(ctx context.Context, clientIDs []string) (map[string]Lease, error) {
	keys := make([]string, len(clientIDs))
	for i, id := range clientIDs {
		keys[i] = d.deps.Keys.Client(id)
	}
	reads, err := d.read(ctx, keys)
	if err != nil {
		return nil, fmt.Errorf("look up clients: %w", err)
	}
	leases := make(map[string]Lease, len(reads))
	for i, r := range reads {
		if r.revision == 0 {
			continue
		}
		rec, err := decodeRecord(r.value)
		if err != nil {
			return nil, fmt.Errorf("look up client %q: %w", clientIDs[i], err)
		}
		leases[clientIDs[i]] = Lease{Holder: rec.Holder, Epoch: rec.Base + uint64(r.revision)}
	}
	return leases, nil
}

// read gets keys in their order. It waits no longer than readTimeout.
func (d *Directory) read(ctx context.Context, keys []string) ([]*read, error) {
	if len(keys) == 0 {
		return nil, nil
	}
	done := make(chan *read, len(keys))
	reads := make([]*read, len(keys))
	for i, key := range keys {
		reads[i] = &read{key: key, done: done}
	}
	d.mu.Lock()
	if d.closed || len(d.waiting)+len(reads) > lookUpWaiting {
		d.mu.Unlock()
		return nil, ErrUnavailable
	}
	d.waiting = append(d.waiting, reads...)
	for i := 0; i < len(reads) && d.reading < lookUpInFlight; i += lookUpKeys {
		d.reading++
		d.workers.Go(d.work)
	}
	d.mu.Unlock()
	var err error
	for range reads {
		select {
		case r := <-done:
			if r.err != nil {
				err = r.err
			}
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
	return reads, err
}

// work reads until nothing waits. Each request serves several callers, therefore it has a deadline of its own.
func (d *Directory) work() {
	for {
		d.mu.Lock()
		if len(d.waiting) > 0 {
			d.await()
		}
		n := min(len(d.waiting), lookUpKeys)
		if n == 0 {
			d.reading--
			d.waiting = nil
			d.mu.Unlock()
			return
		}
		batch := d.waiting[:n]
		d.waiting = d.waiting[n:]
		d.mu.Unlock()
		d.get(batch)
		for _, r := range batch {
			r.done <- r
		}
	}
}

// await returns when it is time for a read. With mu held, which it leaves meanwhile: whoever comes before that is read
// by whoever is the next.
func (d *Directory) await() {
	if d.Pause == 0 {
		return
	}
	wait := max(0, time.Until(d.next))
	d.next = time.Now().Add(wait + d.Pause)
	d.mu.Unlock()
	time.Sleep(wait)
	d.mu.Lock()
}

func (d *Directory) get(batch []*read) {
	gets := make([]clientv3.Op, len(batch))
	for i, r := range batch {
		gets[i] = clientv3.OpGet(r.key)
	}
	ctx, cancel := context.WithTimeout(context.Background(), readTimeout)
	defer cancel()
	answer, err := d.deps.Client.Txn(ctx).Then(gets...).Commit()
	for i, r := range batch {
		if err != nil {
			r.err = fmt.Errorf("read etcd: %w", err)
			continue
		}
		if kvs := answer.Responses[i].GetResponseRange().Kvs; len(kvs) > 0 {
			r.value, r.revision = kvs[0].Value, kvs[0].ModRevision
		}
	}
}
