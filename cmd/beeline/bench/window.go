package bench

import (
	"fmt"
	"sync"
)

// window holds the packet identifiers of one publisher at QoS 1 or 2: at most size messages are not acknowledged.
type window struct {
	mu      sync.Mutex
	state   []byte   // by identifier: the packet that is awaited for it, 0 when it is free
	free    []uint16 // a ring: identifiers are used again as late as can be
	head    int      // of the ring
	taken   int
	starved bool // somebody wanted one when there was none
}

func newWindow(size int) *window {
	w := &window{state: make([]byte, size+1), free: make([]uint16, size)}
	for i := range w.free {
		w.free[i] = uint16(i + 1)
	}
	return w
}

// take takes an identifier for a message of this QoS; 0: the window is full.
func (w *window) take(qos byte) uint16 {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.taken == len(w.free) {
		w.starved = true
		return 0
	}
	id := w.free[w.head]
	w.head = (w.head + 1) % len(w.free)
	w.taken++
	w.state[id] = puback
	if qos == 2 {
		w.state[id] = pubrec
	}
	return id
}

// ack says that a PUBACK, PUBREC or PUBCOMP came. wanted: somebody can take who could not. It is an error when the
// packet was not awaited.
func (w *window) ack(first byte, id uint16) (wanted bool, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if int(id) >= len(w.state) || w.state[id] != first {
		return false, fmt.Errorf("packet 0x%02X acknowledges %d, for which it was not awaited", first, id)
	}
	if first == pubrec {
		w.state[id] = pubcomp
		return false, nil
	}
	w.state[id] = 0
	w.free[(w.head+len(w.free)-w.taken)%len(w.free)] = id
	w.taken--
	wanted, w.starved = w.starved, false
	return wanted, nil
}

// open is how many messages are not acknowledged.
func (w *window) open() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.taken
}
