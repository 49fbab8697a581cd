package engine

// smallest and keep are lengths of ring buffers and windows: what the first element allocates, and what an empty
// one holds on to. They make an idle session small and a busy one free of allocations.
const (
	smallest = 4
	keep     = 64
)

// ring is a first-in first-out queue whose memory is reused. The zero ring is empty.
type ring[E any] struct {
	buf  []E // length is 0 or a power of two
	head int // index of the first element
	n    int
}

func (r *ring[E]) push(e E) {
	if r.n == len(r.buf) {
		r.grow()
	}
	r.n++
	*r.at(r.n - 1) = e
}

func (r *ring[E]) grow() {
	buf := make([]E, max(smallest, 2*len(r.buf)))
	k := copy(buf, r.buf[r.head:])
	copy(buf[k:], r.buf[:r.head])
	r.buf, r.head = buf, 0
}

// at returns the i-th element from the front, for as long as the ring is not pushed to or popped from.
func (r *ring[E]) at(i int) *E {
	return &r.buf[(r.head+i)&(len(r.buf)-1)]
}

// pop removes and returns the first element.
func (r *ring[E]) pop() E {
	p := r.at(0)
	e := *p
	var none E
	*p = none
	r.head = (r.head + 1) & (len(r.buf) - 1)
	r.n--
	if r.n == 0 && len(r.buf) > keep {
		*r = ring[E]{}
	}
	return e
}
