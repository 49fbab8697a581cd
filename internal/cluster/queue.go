package cluster

import (
	"sync"
	"time"
)

// op is one change of a client's record.
type op struct {
	client string
	holder string
	// value is the record of the holder.
	value string
	// release deletes the record; epoch 0 means whichever names the holder.
	release bool
	epoch   uint64
	added   time.Time
	done    func(Claimed)
}

// size is about how many bytes the operation takes in a request.
func (o *op) size() int { return 2*len(o.client) + len(o.value) + len(o.holder) + 64 }

// opQueue gathers operations for requests. It hands out an operation only after the one before it on the same
// client has been completed: two of one client are never in one request, nor in two at a time.
//
// A request costs etcd far more than an operation in it. So while requests are under way, a further one is worth
// while only when many operations wait; the others go with the request that starts when one has ended.
type opQueue struct {
	mu      sync.Mutex
	changed sync.Cond // on mu: something that take waits for
	waiting []*op     // at most one of each client
	// running requests, and how many operations have to wait for each of them before another one starts.
	running, step int
	// hurry: what waits has waited long, as when one request is stuck.
	hurry bool
	// behind has an entry for each client with an operation in waiting or handed out: those that come after it.
	behind map[string][]*op
	length int // all operations that were not completed
	bound  int
	closed bool
}

func newOpQueue(bound, step int) *opQueue {
	q := &opQueue{behind: map[string][]*op{}, bound: bound, step: step}
	q.changed.L = &q.mu
	return q
}

// add reports why the operation was not taken: ErrNotActive after close, ErrUnavailable when the queue is full.
func (q *opQueue) add(o *op) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	switch {
	case q.closed:
		return ErrNotActive
	case q.length >= q.bound:
		return ErrUnavailable
	}
	q.length++
	if behind, busy := q.behind[o.client]; busy {
		q.behind[o.client] = append(behind, o)
		return nil
	}
	q.behind[o.client] = nil
	q.waiting = append(q.waiting, o)
	q.changed.Signal()
	return nil
}

// take waits for operations and hands out the oldest, up to count and bytes but at least one. None: closed.
func (q *opQueue) take(count, bytes int) []*op {
	q.mu.Lock()
	defer q.mu.Unlock()
	for !q.ready() && !q.closed {
		q.changed.Wait()
	}
	if q.closed {
		return nil
	}
	q.running++
	q.hurry = false
	n, size := 0, 0
	for n < len(q.waiting) && n < count && (n == 0 || size+q.waiting[n].size() <= bytes) {
		size += q.waiting[n].size()
		n++
	}
	taken := make([]*op, n)
	copy(taken, q.waiting)
	rest := copy(q.waiting, q.waiting[n:])
	clear(q.waiting[rest:])
	q.waiting = q.waiting[:rest]
	return taken
}

// ready needs mu.
func (q *opQueue) ready() bool {
	return len(q.waiting) > 0 && (q.hurry || len(q.waiting) > q.running*q.step)
}

// ended says that the request for which operations were taken is not under way any more.
func (q *opQueue) ended() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.running--
	q.changed.Signal()
}

// again puts back what was handed out and is to be tried once more, before everything that waits. Not taken after
// close.
func (q *opQueue) again(ops []*op) (taken bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return false
	}
	q.waiting = append(append(make([]*op, 0, len(ops)+len(q.waiting)), ops...), q.waiting...)
	q.changed.Broadcast()
	return true
}

// complete lets the next operations of these clients go on.
func (q *opQueue) complete(ops []*op) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, o := range ops {
		q.next(o.client)
	}
	q.changed.Signal()
}

// next needs mu.
func (q *opQueue) next(client string) {
	q.length--
	behind := q.behind[client]
	if len(behind) == 0 {
		delete(q.behind, client)
		return
	}
	q.behind[client] = behind[1:]
	q.waiting = append(q.waiting, behind[0])
}

// expire takes out what was added before a time and has not been handed out since. What is left and could be sent
// is sent.
func (q *opQueue) expire(before time.Time) []*op {
	q.mu.Lock()
	defer q.mu.Unlock()
	var expired []*op
	for client, behind := range q.behind {
		keep := behind[:0]
		for _, o := range behind {
			if o.added.Before(before) {
				expired = append(expired, o)
				q.length--
			} else {
				keep = append(keep, o)
			}
		}
		clear(behind[len(keep):])
		q.behind[client] = keep
	}
	waiting := q.waiting
	q.waiting = nil
	for _, o := range waiting {
		if o.added.Before(before) {
			expired = append(expired, o)
			q.next(o.client)
		} else {
			q.waiting = append(q.waiting, o)
		}
	}
	q.hurry = len(q.waiting) > 0
	q.changed.Broadcast()
	return expired
}

// close ends take and add, and returns what was not handed out.
func (q *opQueue) close() []*op {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	left := q.waiting
	for _, behind := range q.behind {
		left = append(left, behind...)
	}
	q.waiting, q.behind = nil, map[string][]*op{}
	q.changed.Broadcast()
	return left
}
