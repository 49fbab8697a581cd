package mesh

// keepSlots is the capacity up to which an empty ring keeps its slots. What a burst needed beyond it is given
// back.
const keepSlots = 1024

// ring is a queue in a circular slice whose length is a power of two.
type ring[T any] struct {
	slots []T
	head  int
	n     int
}

func (r *ring[T]) len() int { return r.n }

// at returns the i-th oldest element, in place.
func (r *ring[T]) at(i int) *T {
	return &r.slots[(r.head+i)&(len(r.slots)-1)]
}

func (r *ring[T]) push(v T) {
	if r.n == len(r.slots) {
		slots := make([]T, max(16, 2*len(r.slots)))
		for i := range r.n {
			slots[i] = *r.at(i)
		}
		r.slots, r.head = slots, 0
	}
	r.n++
	*r.at(r.n - 1) = v
}

func (r *ring[T]) pop() T {
	p := r.at(0)
	v := *p
	var zero T
	*p = zero
	r.head = (r.head + 1) & (len(r.slots) - 1)
	r.n--
	if r.n == 0 && len(r.slots) > keepSlots {
		r.slots, r.head = nil, 0
	}
	return v
}

func (r *ring[T]) clear() { *r = ring[T]{} }
