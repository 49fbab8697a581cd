package mesh

import (
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/mem"

	"github.com/beeline-mqtt/beeline/internal/message"
	"github.com/beeline-mqtt/beeline/internal/trace"
	"github.com/beeline-mqtt/beeline/internal/turn"
)

// spotBytes bounds what may be on its way to the peer for a caller of Send to write on the spot. grpc-go lets a
// write pass while the stream's quota of 64 KiB is not used up, so below this it cannot block; and what the
// peer has confirmed is no longer in the quota.
const spotBytes = 48 << 10

// frameOverhead is what gRPC adds to a message.
const frameOverhead = 5

// Link is this process's end of everything between it and one incarnation of a peer: deliveries to it, and, in
// its inbound half, deliveries and routes from it. A new incarnation has a new Link.
type Link struct {
	m    *Mesh
	peer Peer
	in   *inbound
	stop func()      // ends run; guarded by the mesh
	dead atomic.Bool // the peer is; set before stop is called
	wake chan struct{}

	announced atomic.Bool // a version of this process's routes is in force at the peer
	snapshot  atomic.Bool // the peer wants one
	adoptions atomic.Bool // the peer may have to be told of adoptions
	sendOns   atomic.Bool // the peer may have to be asked to send on

	mu     sync.Mutex
	out    sender
	estate estate
	stream *outStream // nil while there is none that has been welcomed
	lost   time.Time  // when there was one last, or the link began

	// busy is held by the one goroutine that may call SendMsg; it guards batch, too. waiting says that the
	// link's own goroutine wants it next.
	busy    bool
	waiting bool
	batch   batchWriter
	frame   frame

	// barriers wait for what the peer has not taken, ascending; settling, by client, for what it has accepted. telling says
	// that waiters are being told what has settled, so that what is taken need not have been told yet. digestWanted asks
	// for a digest behind everything that is unsent.
	barriers     []barrier
	settling     map[string][]barrier
	telling      bool
	digestWanted atomic.Bool
	echoes       echoes

	// gathered says that a turn will flush the link.
	gathered bool

	// Bytes written to the stream and those of them that the peer has confirmed; marks says up to which
	// sequence the peer must have got to have confirmed a frame.
	wrote, confirmed uint64
	marks            ring[mark]
	routesMark       mark
}

// mark is a place in the stream: everything up to and including seq (a delivery, or a route version) is in the
// first wrote bytes.
type mark struct{ seq, wrote uint64 }

func newLink(m *Mesh, p Peer) *Link {
	l := &Link{m: m, peer: p, wake: make(chan struct{}, 1), lost: time.Now()}
	l.out.limit = m.cfg.LinkBytes
	l.batch.self = m.cfg.Incarnation
	l.in = newInbound(l)
	return l
}

// Peer returns the incarnation at the other end.
func (l *Link) Peer() Peer { return l.peer }

// Send takes a delivery for the peer. It never blocks: when the stream is idle and the peer keeps up, the
// delivery is written on the spot, otherwise the link's own goroutine writes it, in the order of the calls and
// across breaks of the stream. False: the bound of unacknowledged bytes is reached, or the mesh has ended, and
// the delivery was not taken. w may be nil when nobody waits. A delivery to a dead peer settles as Gone, one of
// more than MaxMessageBytes as Refused.
//
// A TargetMatch for a durable session of a dead peer, at QoS 1 or 2, is taken, within the same bound, and kept for
// whoever adopts its sessions; one at QoS 0 is not taken while anything is kept. Settled is then called for the link and with the
// delivery by which it has reached the adopter.
func (l *Link) Send(d Delivery, w Waiter) bool {
	l.mu.Lock()
	if !l.push(d, w) {
		l.mu.Unlock()
		return l.settleAside(nil, d, w)
	}
	l.flush()
	return true
}

// SendInTurn is Send for a goroutine that handles a burst: the delivery is written at the end of t at the
// latest, together with what else has come by then.
func (l *Link) SendInTurn(t *turn.Turn, d Delivery, w Waiter) bool {
	l.mu.Lock()
	if !l.push(d, w) {
		l.mu.Unlock()
		return l.settleAside(t, d, w)
	}
	add := !l.gathered
	l.gathered = true
	l.mu.Unlock()
	if add {
		t.Add(l)
	}
	return true
}

var _ turn.Flusher = (*Link)(nil)

// Flush writes what waits, without blocking. It is called by a turn.
func (l *Link) Flush(*turn.Turn) {
	l.mu.Lock()
	l.gathered = false
	l.flush()
}

// push takes a delivery into the window. mu is held.
func (l *Link) push(d Delivery, w Waiter) bool {
	taken := l.estate.takes(&d) && d.Message.Size() <= MaxMessageBytes && l.out.push(d, w)
	if taken && l.m.deps.Trace.On() {
		l.m.deps.Trace.Step(trace.Forwarded, d.Message, l.peer.ID, "")
	}
	return taken
}

// settleAside decides about a delivery that push has not taken, in the turn t if there is one.
func (l *Link) settleAside(t *turn.Turn, d Delivery, w Waiter) bool {
	l.mu.Lock()
	e := l.estate
	l.mu.Unlock()
	receipt := Receipt{Outcome: Refused}
	switch {
	case e.state == adopted && d.outlives():
		// The sender looked for routes just before those of the peer were dropped.
		d = d.orphanOf(l.peer.ID)
		if t != nil {
			return e.heir.SendInTurn(t, d, w)
		}
		return e.heir.Send(d, w)
	case (e.state == orphaned || e.state == adopted) && d.Target.Kind == TargetMatch && d.Message.QoS == message.AtMostOnce:
		return false
	case !e.takes(&d):
		receipt.Outcome = Gone
	case d.Message.Size() <= MaxMessageBytes:
		return false
	}
	// Not here: the caller may hold locks that Settled takes.
	return l.m.later(func() {
		l.m.counters.receipts[receipt.Outcome].Add(1)
		if w != nil {
			t := turn.Turn{Now: time.Now()}
			w.Settled(l, d, receipt, &t)
			t.End()
		}
	})
}

// flush writes up to two batches if this goroutine may and cannot block; what is left is for the link's
// goroutine. mu is held at the call and released at the return.
func (l *Link) flush() {
	s := l.stream
	if l.busy || l.waiting || s == nil || l.out.unsent() == 0 {
		// Whoever is busy or next looks again when it is done; a new stream starts with what is unsent.
		l.mu.Unlock()
		return
	}
	l.busy = true
	for range 2 {
		if l.wrote-l.confirmed >= spotBytes || l.stream != s || l.out.unsent() == 0 {
			break
		}
		l.encode()
		l.mu.Unlock()
		err := s.SendMsg(&l.frame)
		l.mu.Lock()
		if err != nil {
			s.broke(err)
			break
		}
	}
	l.release()
	l.mu.Unlock()
}

// acquire waits until this goroutine, which is the link's own, is the one that may send. mu is held at the
// return.
func (l *Link) acquire() {
	l.mu.Lock()
	for l.busy {
		l.waiting = true
		l.mu.Unlock()
		<-l.wake
		l.mu.Lock()
	}
	l.waiting = false
	l.busy = true
}

// release lets others send and wakes the link's goroutine if there is something left for it. mu is held.
func (l *Link) release() {
	l.busy = false
	if l.waiting || l.stream != nil && l.out.unsent() > 0 {
		l.nudge()
	}
}

// nudge has the link's goroutine look at what there is to do.
func (l *Link) nudge() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// encode puts the next batch into l.frame and counts it as sent. mu and busy are held.
func (l *Link) encode() {
	slab := l.m.slabs.Get(0)
	w := &l.batch
	w.begin(*slab)
	first := l.out.sent + 1
	payload := 0
	for l.out.unsent() > 0 {
		d := l.out.next()
		if !w.add(d) {
			break
		}
		payload += len(d.Message.Payload)
		l.out.advance()
	}
	start := w.finish(first, l.out.receiptsThrough)
	*slab = w.buf
	w.buf = nil
	whole := mem.NewBuffer(slab, l.m.slabs)
	l.frame.buf = whole.Slice(start, len(*slab))
	whole.Free() // the slice keeps it

	l.wrote += uint64(len(*slab) - start + frameOverhead)
	l.marks.push(mark{seq: l.out.sent, wrote: l.wrote})
	c := &l.m.counters
	c.framesOut.Add(1)
	c.batchesOut.Add(1)
	c.deliveriesOut.Add(uint64(w.count))
	c.payloadOut.Add(uint64(payload))
}

// confirm records that the peer has taken everything up to seq. mu is held.
func (l *Link) confirm(seq uint64) {
	for l.marks.len() > 0 && l.marks.at(0).seq <= seq {
		l.confirmed = max(l.confirmed, l.marks.pop().wrote)
	}
}

// confirmRoutes records that the peer has taken everything up to a route version. mu is held.
func (l *Link) confirmRoutes(version uint64) {
	if version == l.routesMark.seq {
		l.confirmed = max(l.confirmed, l.routesMark.wrote)
	}
}

func (l *Link) unacknowledged() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.out.bytes
}

// tell calls the waiters of what has settled, and then the barriers that this has passed. mu is held at the call
// and released at the return.
func (l *Link) tell(settled []settlement) {
	if len(settled) == 0 && len(l.barriers) == 0 {
		l.mu.Unlock()
		return
	}
	l.telling = true
	l.mu.Unlock()
	t := turn.Turn{Now: time.Now()}
	following := l.m.deps.Trace.On()
	for i := range settled {
		s := &settled[i]
		if following {
			l.m.deps.Trace.Step(trace.Receipt, s.delivery.Message, l.peer.ID, s.receipt.Outcome.String())
		}
		s.waiter.Settled(l, s.delivery, s.receipt, &t)
	}
	l.mu.Lock()
	l.telling = false
	passed, more := l.passed(settled), len(l.barriers) > 0
	l.mu.Unlock()
	for _, b := range passed {
		b.call()
	}
	t.End()
	if more {
		l.prompt()
	}
}
