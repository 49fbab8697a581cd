package book

import (
	"container/list"
	"context"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/beeline-mqtt/beeline/internal/lifecycle"
)

const (
	writeTimeout = 2 * time.Second
	// writeDelay is how long a write waits for others that go with it.
	writeDelay = 100 * time.Millisecond
	retryLeast = 50 * time.Millisecond
	retryMost  = 2 * time.Second
	// flushTimeout bounds what is written after Run has been told to end.
	flushTimeout = time.Second
)

// write is one node that is to be recorded.
type write struct {
	id, node string
}

// writeQueue has the last node of each client that waits to be recorded. It drops the oldest when it is full.
type writeQueue struct {
	bound int
	wake  chan struct{} // one element: something has been added

	mu    sync.Mutex // guards the following
	order list.List  // of write, oldest first
	byID  map[string]*list.Element
}

func newWriteQueue(bound int) *writeQueue {
	return &writeQueue{bound: bound, wake: make(chan struct{}, 1), byID: map[string]*list.Element{}}
}

func (q *writeQueue) len() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.order.Len()
}

// add takes a write, in the place of one that waits for the same client, and reports how many were dropped.
func (q *writeQueue) add(w write) (dropped int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if at := q.byID[w.id]; at != nil {
		at.Value = w
		return 0
	}
	if q.order.Len() >= q.bound {
		q.remove(q.order.Front())
		dropped = 1
	}
	q.byID[w.id] = q.order.PushBack(w)
	select {
	case q.wake <- struct{}{}:
	default:
	}
	return dropped
}

// take hands out the oldest, count at most.
func (q *writeQueue) take(count int) []write {
	q.mu.Lock()
	defer q.mu.Unlock()
	batch := make([]write, min(count, q.order.Len()))
	for i := range batch {
		batch[i] = q.remove(q.order.Front())
	}
	return batch
}

// again puts back what was handed out, as the oldest, unless a newer one of the same client waits. What finds no room
// is dropped.
func (q *writeQueue) again(batch []write) (dropped int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for i := len(batch) - 1; i >= 0; i-- {
		w := batch[i]
		switch {
		case q.byID[w.id] != nil:
		case q.order.Len() >= q.bound:
			dropped++
		default:
			q.byID[w.id] = q.order.PushFront(w)
		}
	}
	return dropped
}

// remove needs mu.
func (q *writeQueue) remove(e *list.Element) write {
	w, _ := q.order.Remove(e).(write)
	delete(q.byID, w.id)
	return w
}

// write records what waits until ctx is done, and then what waits still, within flushTimeout. There is one writer: two
// records of a client are never on their way at once, so that the last one stays.
func (n *nodes) write(ctx context.Context) {
	wait := retryLeast
	for n.gatherWrites(ctx) {
		if n.writeBatch(ctx) {
			wait = retryLeast
			continue
		}
		// A quarter more or less, so that not all routers come back together.
		lifecycle.Pause(ctx, wait*3/4+rand.N(wait/2))
		wait = min(2*wait, retryMost)
	}
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), flushTimeout)
	defer cancel()
	for n.queue.len() > 0 && n.writeBatch(last) {
		continue
	}
	n.metrics.drop(dropStopped, len(n.queue.take(n.cfg.WriteQueue)))
	n.metrics.writesWaiting.Set(0)
}

// gatherWrites waits until there is something to write and it has waited for company; false: ctx is done.
func (n *nodes) gatherWrites(ctx context.Context) bool {
	for n.queue.len() == 0 {
		select {
		case <-ctx.Done():
			return false
		case <-n.queue.wake:
		}
	}
	if n.queue.len() < mostOperations {
		lifecycle.Pause(ctx, writeDelay)
	}
	return ctx.Err() == nil
}

// writeBatch reports whether it makes sense to go on at once.
func (n *nodes) writeBatch(ctx context.Context) bool {
	batch := n.queue.take(mostOperations)
	err := n.put(ctx, batch)
	switch {
	case err == nil:
	case refused(err):
		n.metrics.drop(dropRefused, len(batch))
	default:
		n.metrics.drop(dropFull, n.queue.again(batch))
	}
	n.metrics.writesWaiting.Set(float64(n.queue.len()))
	if err != nil && ctx.Err() == nil {
		n.deps.Logger.WarnContext(ctx, "clients' nodes are not recorded", slog.Int("clients", len(batch)), slog.Any("error", err))
	}
	return err == nil
}
