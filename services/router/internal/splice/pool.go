package splice

import (
	"errors"
	"sync"

	"github.com/beeline-mqtt/beeline/internal/buffers"
)

// chunk is the length of a buffer: that of the longest TLS record.
const chunk = 16 << 10

// errNoPipe says that as many pipes are lent as there may be.
var errNoPipe = errors.New("no pipe is free")

// Pool lends pipes and buffers to the directions that pass bytes at the moment. It is safe for concurrent use.
type Pool struct {
	buffers *buffers.Pool
	limit   int

	mu     sync.Mutex // guards what follows
	free   []pipe
	open   int // free and lent
	closed bool
}

// pipe has two descriptors, and is empty while nobody has it.
type pipe struct{ r, w int }

// NewPool returns a Pool of at most so many pipes, which are two open files each; 0: all bytes are copied. Pipes are
// opened as they are needed, and stay open.
func NewPool(pipes int) *Pool { return &Pool{buffers: buffers.New(chunk, chunk), limit: pipes} }

// Pipes returns how many pipes are open, and how many of these are in use.
func (p *Pool) Pipes() (open, lent int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.open, p.open - len(p.free)
}

// Close closes the pipes, those that are lent when they come back. A Join that is under way goes on, copying.
func (p *Pool) Close() {
	p.mu.Lock()
	free := p.free
	p.free, p.closed = nil, true
	p.open -= len(free)
	p.mu.Unlock()
	for _, f := range free {
		f.close()
	}
}

// lend returns an empty pipe, to be taken back or dropped; or an error if there is none to be had.
func (p *Pool) lend() (pipe, error) {
	p.mu.Lock()
	if n := len(p.free); n > 0 {
		f := p.free[n-1]
		p.free = p.free[:n-1]
		p.mu.Unlock()
		return f, nil
	}
	if p.closed || p.open >= p.limit {
		p.mu.Unlock()
		return pipe{}, errNoPipe
	}
	p.open++
	p.mu.Unlock()

	f, err := openPipe()
	if err != nil {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.open--
		return pipe{}, err
	}
	return f, nil
}

// takeBack takes a pipe that was lent. One that is not empty is of no more use.
func (p *Pool) takeBack(f pipe, empty bool) {
	p.mu.Lock()
	if empty && !p.closed {
		p.free = append(p.free, f)
		p.mu.Unlock()
		return
	}
	p.open--
	p.mu.Unlock()
	f.close()
}
