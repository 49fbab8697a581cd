package pebble

import (
	"sync"

	"github.com/beeline-mqtt/beeline/services/session/internal/store"
)

// operation is one change that waits to be carried out.
type operation struct {
	// line is what the operation takes its place among: a client, or one of those below.
	line string
	// size is what the queue is charged for it.
	size int
	// adds says that it is refused with ErrFull when the disk is all but full.
	adds bool
	// stage puts the changes into the batch, or nothing if it fails.
	stage func(*stage) error
	done  func(error)
	err   error
	seq   uint64
}

// Lines that are no clients: no client id contains a zero byte.
const (
	lineRetained = "\x00retained"
	lineMeta     = "\x00meta"
	lineSweep    = "\x00sweep"
	// lineAll is for readers: everything.
	lineAll = "\x00all"
)

// operationSize bounds the number of operations that wait by their bytes.
const operationSize = 256

// queue holds the operations that wait. It is safe for concurrent use.
type queue struct {
	bound int

	mu sync.Mutex
	// changed is signalled when there is room, when something was staged, and at the end.
	changed sync.Cond
	waiting []operation
	bytes   int
	closed  bool
	// taken and staged number operations in the order of their calls; latest is the newest of each line that is
	// not staged.
	taken, staged uint64
	latest        map[string]uint64
	// wake has an element while there may be something to take.
	wake chan struct{}
}

func newQueue(bound int) *queue {
	q := &queue{bound: bound, latest: make(map[string]uint64), wake: make(chan struct{}, 1)}
	q.changed.L = &q.mu
	return q
}

// put adds op and reports whether the queue is open. With wait set it waits for room first.
func (q *queue) put(op operation, wait bool) bool {
	q.mu.Lock()
	for wait && q.bytes > q.bound && !q.closed {
		q.changed.Wait()
	}
	if q.closed {
		q.mu.Unlock()
		return false
	}
	q.taken++
	op.seq = q.taken
	q.latest[op.line] = op.seq
	q.waiting = append(q.waiting, op)
	q.bytes += op.size
	q.mu.Unlock()
	q.nudge()
	return true
}

func (q *queue) nudge() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// take returns what waits, at most about limit bytes of it, and whether nothing comes after it, ever.
func (q *queue) take(limit int) (ops []operation, end bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	n, size := 0, 0
	for n < len(q.waiting) && size < limit {
		size += q.waiting[n].size
		n++
	}
	ops = append(ops, q.waiting[:n]...)
	rest := copy(q.waiting, q.waiting[n:])
	clear(q.waiting[rest:])
	q.waiting = q.waiting[:rest]
	q.bytes -= size
	q.changed.Broadcast()
	if rest > 0 {
		q.nudge()
	}
	return ops, q.closed && rest == 0
}

// stagedAll says that ops can be seen by readers.
func (q *queue) stagedAll(ops []operation) {
	if len(ops) == 0 {
		return
	}
	q.mu.Lock()
	for i := range ops {
		if q.latest[ops[i].line] == ops[i].seq {
			delete(q.latest, ops[i].line)
		}
	}
	q.staged = ops[len(ops)-1].seq
	q.changed.Broadcast()
	q.mu.Unlock()
}

// await returns when everything of a line that was called before can be seen.
func (q *queue) await(line string) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	upTo := q.latest[line]
	if line == lineAll {
		upTo = q.taken
	}
	for q.staged < upTo {
		q.changed.Wait()
	}
	if q.closed {
		return store.ErrClosed
	}
	return nil
}

// close refuses what comes from now on, and what waits for room.
func (q *queue) close() (first bool) {
	q.mu.Lock()
	first = !q.closed
	q.closed = true
	q.changed.Broadcast()
	q.mu.Unlock()
	q.nudge()
	return first
}

func (q *queue) load() (operations, bytes int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.waiting), q.bytes
}
