package publish

import (
	"errors"
	"time"

	"github.com/beeline-mqtt/beeline/internal/packet"
	"github.com/beeline-mqtt/beeline/internal/turn"
	"github.com/beeline-mqtt/beeline/services/gateway/internal/client"
)

// waits are the plain messages without a result in the order in which they came.
type waits struct{ head, tail *item }

// add takes a message. A reported one has a time of its own, and is not taken.
func (w *waits) add(it *item) {
	if it.report != nil {
		return
	}
	it.prev = w.tail
	if w.tail == nil {
		w.head = it
	} else {
		w.tail.next = it
	}
	w.tail = it
}

func (w *waits) remove(it *item) {
	switch {
	case it.prev != nil:
		it.prev.next = it.next
	case w.head == it:
		w.head = it.next
	default:
		return // it is not in the list
	}
	if it.next != nil {
		it.next.prev = it.prev
	} else {
		w.tail = it.prev
	}
	it.prev, it.next = nil, nil
}

// first returns the oldest, nil when there is none.
func (w *waits) first() *item { return w.head }

// line are messages that are not published yet, in order: they are being stored as retained messages, or one in front of
// them is.
type line struct {
	items []*item
	// busy: a goroutine publishes what is in front.
	busy bool
}

// queued puts a message into the line if it has to wait.
func (st *stream) queued(it *item) bool {
	st.mu.Lock()
	it.storing = retains(it.m)
	waits := it.storing || len(st.line.items) > 0 || st.line.busy
	if waits {
		st.line.items = append(st.line.items, it)
	}
	st.mu.Unlock()
	if it.storing {
		st.d.Broker.Retain(it.m, it.stored)
	}
	return waits
}

// stored is told that a retained message is stored, or not.
func (it *item) stored(err error) {
	st := it.st
	st.mu.Lock()
	it.storing = false
	if errors.Is(err, client.ErrQuota) {
		it.code = packet.QuotaExceeded
	}
	st.mu.Unlock()
	t := turn.Turn{Now: time.Now()}
	st.sendOn(&t)
	t.End()
}

// sendOn publishes what is in front of the line and need not wait any more, unless another goroutine is about it.
func (st *stream) sendOn(t *turn.Turn) {
	st.mu.Lock()
	defer st.mu.Unlock()
	l := &st.line
	if l.busy {
		return
	}
	l.busy = true
	for len(l.items) > 0 && !l.items[0].storing {
		it := l.items[0]
		l.items[0] = nil
		l.items = l.items[1:]
		st.mu.Unlock()
		it.send(t)
		st.mu.Lock()
	}
	l.busy = false
	if len(l.items) == 0 {
		l.items = nil
	}
}
