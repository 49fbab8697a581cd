package engine

import "slices"

// maxInFlight keeps half of the packet identifiers free.
const maxInFlight = 1 << 15

// flight is a delivery at QoS 1 or 2 that has been sent and not completed.
type flight[T comparable] struct {
	entry[T]
	id uint16 // 0 when the slot is free
	// released is set when PUBREC has come and PUBREL is due or sent. The message is not kept from then on.
	released bool
}

// window holds what is in flight, by packet identifier.
//
// Identifiers go round through 1 to 65,535, so one that the client has just acknowledged is not used again soon.
// The delivery with identifier id is in slot id modulo the number of slots; an identifier whose slot is taken is
// passed over. There are at least twice as many slots as deliveries, which makes finding a free one
// O(1) on average, whatever the order of the acknowledgements.
type window[T comparable] struct {
	slots []flight[T] // length is 0 or a power of two
	n     int         // deliveries in flight
	bytes int         // sum of their sizes, as far as the messages are kept
	last  uint16      // the identifier given last
}

// slot returns the slot that id belongs into.
func (w *window[T]) slot(id uint16) *flight[T] {
	return &w.slots[int(id)&(len(w.slots)-1)]
}

// find returns the delivery in flight with the packet identifier id, or nil.
func (w *window[T]) find(id uint16) *flight[T] {
	if id == 0 || w.n == 0 {
		return nil
	}
	if f := w.slot(id); f.id == id {
		return f
	}
	return nil
}

// add puts e in flight and returns its packet identifier.
func (w *window[T]) add(e entry[T]) uint16 {
	if 2*(w.n+1) > len(w.slots) {
		w.grow()
	}
	for {
		w.last++
		if w.last == 0 {
			continue
		}
		if w.slot(w.last).id == 0 {
			w.place(e, w.last)
			return w.last
		}
	}
}

// put puts e in flight under a packet identifier that is not in flight. Those that were in flight together once
// fit into as many slots as then.
func (w *window[T]) put(e entry[T], id uint16) *flight[T] {
	for 2*(w.n+1) > len(w.slots) || w.slot(id).id != 0 {
		w.grow()
	}
	w.last = id
	return w.place(e, id)
}

// place fills the free slot of id.
func (w *window[T]) place(e entry[T], id uint16) *flight[T] {
	f := w.slot(id)
	*f = flight[T]{entry: e, id: id}
	w.n++
	w.bytes += int(e.size)
	return f
}

func (w *window[T]) grow() {
	old := w.slots
	w.slots = make([]flight[T], max(smallest, 2*len(old)))
	for _, f := range old {
		if f.id != 0 {
			*w.slot(f.id) = f
		}
	}
}

// release lets go of the message of f, of which only the packet identifier counts from now on.
func (w *window[T]) release(f *flight[T]) {
	w.bytes -= int(f.size)
	f.entry = entry[T]{number: f.number, mark: f.mark, qos: f.qos}
	f.released = true
}

// remove takes f out of flight and frees its packet identifier.
func (w *window[T]) remove(f *flight[T]) {
	w.bytes -= int(f.size)
	w.n--
	*f = flight[T]{}
	if w.n == 0 && len(w.slots) > keep {
		w.slots = nil
	}
}

// oldestFirst returns what is in flight in the order in which it was sent.
func (w *window[T]) oldestFirst() []*flight[T] {
	flights := make([]*flight[T], 0, w.n)
	for i := range w.slots {
		if f := &w.slots[i]; f.id != 0 {
			flights = append(flights, f)
		}
	}
	slices.SortFunc(flights, func(a, b *flight[T]) int { return int(int32(a.number - b.number)) })
	return flights
}
