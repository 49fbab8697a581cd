package conn

import "sync"

// bufferSize is what a connection starts to gather with; keepSize is the largest buffer kept for reuse.
const (
	bufferSize = 4 << 10
	keepSize   = 128 << 10
)

// pool keeps the buffers of connections that have nothing to write, so that an idle connection holds none.
type pool struct {
	p sync.Pool
}

// buffers serves all connections of the process: a pool's purpose is to be shared.
var buffers pool //nolint:gochecknoglobals // a sync.Pool holds no state that anyone could observe

func (p *pool) get() *[]byte {
	if b, ok := p.p.Get().(*[]byte); ok {
		return b
	}
	b := make([]byte, 0, bufferSize)
	return &b
}

func (p *pool) put(b *[]byte) {
	if cap(*b) > keepSize {
		return
	}
	*b = (*b)[:0]
	p.p.Put(b)
}
