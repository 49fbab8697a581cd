package publish

import (
	"context"
	"sync"

	gatewayv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/gateway/v1"
)

// Results puts the results of a stream into the order of its messages, and bounds those that have none yet. One goroutine
// takes room, another one results.
type Results struct {
	room chan struct{} // one element: there may be room

	mu    sync.Mutex // guards the following
	known []*gatewayv1.Result
	first uint64 // the request id that the oldest message without a result has
	next  uint64 // that of the next message
}

// NewResults has room for most messages.
func NewResults(most int) *Results {
	return &Results{room: make(chan struct{}, 1), known: make([]*gatewayv1.Result, most), first: 1, next: 1}
}

// Take waits until there is room for a message, takes it for at most n, and returns the request id of the first and for how
// many there is room. The error is that of ctx.
func (r *Results) Take(ctx context.Context, n int) (first uint64, taken int, err error) {
	for {
		r.mu.Lock()
		if free := len(r.known) - int(r.next-r.first); free > 0 {
			first, taken = r.next, min(n, free)
			r.next += uint64(taken)
			r.mu.Unlock()
			return first, taken, nil
		}
		r.mu.Unlock()
		select {
		case <-r.room:
		case <-ctx.Done():
			return 0, 0, context.Cause(ctx)
		}
	}
}

// Put takes results and appends those to dst whose turn it is. Their room stays taken until Done. A result that nobody
// waits for is passed over.
func (r *Results) Put(dst, results []*gatewayv1.Result) []*gatewayv1.Result {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, x := range results {
		if id := x.GetRequestId(); id >= r.first && id < r.next {
			r.known[id%uint64(len(r.known))] = x
		}
	}
	for id := r.first; id < r.next; id++ {
		x := r.known[id%uint64(len(r.known))]
		if x == nil {
			break
		}
		dst = append(dst, x)
	}
	return dst
}

// Done returns the room of the n oldest messages, whose results have been passed on.
func (r *Results) Done(n int) {
	r.mu.Lock()
	for range n {
		r.known[r.first%uint64(len(r.known))] = nil
		r.first++
	}
	r.mu.Unlock()
	signal(r.room)
}

// Outstanding is how many messages have no result yet that has been passed on.
func (r *Results) Outstanding() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return int(r.next - r.first)
}
