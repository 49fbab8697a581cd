package away

import (
	"context"
	"sync"
)

// queue carries out calls in order, with one goroutine or, in no particular order, several. Its length is bounded by
// those who push: every call belongs to one client that waits for it, or to an arrival, whose bytes are counted.
type queue struct {
	mu    sync.Mutex
	calls []func()
	// ready holds a token for each goroutine that may look.
	ready chan struct{}
}

func newQueue(goroutines int) *queue { return &queue{ready: make(chan struct{}, goroutines)} }

func (q *queue) push(call func()) {
	q.mu.Lock()
	q.calls = append(q.calls, call)
	q.mu.Unlock()
	q.wake()
}

func (q *queue) wake() {
	select {
	case q.ready <- struct{}{}:
	default:
	}
}

// next takes out the oldest call, nil when there is none.
func (q *queue) next() func() {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.calls) == 0 {
		q.calls = nil
		return nil
	}
	call := q.calls[0]
	q.calls[0] = nil
	q.calls = q.calls[1:]
	return call
}

// run carries out calls until the context is done; what is left then is forgotten.
func (q *queue) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-q.ready:
		}
		for call := q.next(); call != nil; call = q.next() {
			// Another goroutine may take the one after it meanwhile.
			q.wake()
			call()
			if ctx.Err() != nil {
				return
			}
		}
	}
}
