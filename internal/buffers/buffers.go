// Package buffers lends byte slices: whoever has nothing to read or to write at the moment holds none.
package buffers

import "sync"

// Pool lends buffers. It is safe for concurrent use.
type Pool struct {
	pool       sync.Pool
	size, keep int
}

// New returns a pool of buffers that begin with a capacity of size bytes. Those that have grown beyond keep are not
// taken back.
func New(size, keep int) *Pool { return &Pool{size: size, keep: keep} }

// Get lends an empty buffer with room for size bytes or more.
func (p *Pool) Get() *[]byte {
	if b, ok := p.pool.Get().(*[]byte); ok {
		return b
	}
	b := make([]byte, 0, p.size)
	return &b
}

// Put takes a buffer back. Nobody uses it, or what it holds, any more.
func (p *Pool) Put(b *[]byte) {
	if cap(*b) > p.keep || cap(*b) < p.size {
		return
	}
	*b = (*b)[:0]
	p.pool.Put(b)
}
