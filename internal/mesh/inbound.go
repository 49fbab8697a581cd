package mesh

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	"google.golang.org/grpc/mem"

	meshv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/mesh/v1"
	"github.com/beeline-mqtt/beeline/internal/message"
)

// inbound is the receiving half of a link. It lives as long as the peer's incarnation does, across streams.
type inbound struct {
	l *Link

	// turn holds one token. Whoever has taken it hands things on; it keeps an old stream's goroutine and a new
	// one's apart while they call out, and guards the following fields.
	turn    chan struct{}
	app     Inbound // nil until a stream has been admitted
	routes  routesIn
	answers []numberedReceipt // room for those of one batch

	inForce atomic.Bool // the peer's routes are

	mu     sync.Mutex
	books  receiver
	stream *inStream // the one that may hand things on and send
	ended  bool
	ack    uint64 // route version to acknowledge; 0 is none
	wanted bool   // a snapshot is to be asked for

	adoptedAcks []*meshv1.AdoptedAck // to be sent; one for an incarnation
	sentOns     []*meshv1.SentOn     // the same; one for a SendOn
	echo        bool                 // an EchoAck is to be sent, behind all receipts
	expected    []expected
}

// expected is a call to make when everything up to seq has been taken.
type expected struct {
	seq  uint64
	call func()
}

func newInbound(l *Link) *inbound {
	in := &inbound{l: l, turn: make(chan struct{}, 1)}
	in.turn <- struct{}{}
	return in
}

// attach makes st the stream of this peer, in place of an older one, and says where it goes on.
func (in *inbound) attach(st *inStream, h *meshv1.Hello) (*meshv1.Welcome, error) {
	<-in.turn
	defer func() { in.turn <- struct{}{} }()

	in.mu.Lock()
	if in.ended {
		in.mu.Unlock()
		return nil, errPeerGone
	}
	if err := in.books.resume(h.GetNextSequence(), h.GetReceiptsThrough()); err != nil {
		in.mu.Unlock()
		return nil, err
	}
	old := in.stream
	in.stream = st
	in.ack, in.wanted = 0, false
	in.adoptedAcks, in.sentOns, in.echo = nil, nil, false // the peer asks again
	through := in.books.through
	in.mu.Unlock()

	if old != nil {
		old.stop(errReplaced)
	}
	in.routes.restart()
	if in.app == nil {
		in.app = in.l.m.deps.Accept(in.l.peer.ID)
	}
	return &meshv1.Welcome{
		ProtocolVersion: protocolVersion,
		Incarnation:     in.l.m.cfg.Incarnation,
		ReceivedThrough: through,
		RoutesVersion:   in.routes.version,
	}, nil
}

// end closes the receiver's side for good. The peer's routes change no more.
func (in *inbound) end() {
	<-in.turn
	defer func() { in.turn <- struct{}{} }()
	in.mu.Lock()
	in.ended = true
	st := in.stream
	in.stream = nil
	in.books = receiver{}
	in.adoptedAcks, in.sentOns, in.expected = nil, nil, nil
	in.mu.Unlock()
	if st != nil {
		st.stop(in.reason())
	}
	if in.app != nil {
		in.app.Close()
	}
}

func (in *inbound) reason() error {
	if in.l.dead.Load() {
		return errPeerGone
	}
	return errClosing
}

// settle is Later.Settle.
func (in *inbound) settle(seq uint64, r Receipt) {
	in.mu.Lock()
	var st *inStream
	if !in.ended && in.books.settle(seq, r.fit()) {
		st = in.stream
	}
	in.mu.Unlock()
	if st != nil {
		st.nudge()
	}
}

// next returns the next frame to send on st, nil when there is none.
func (in *inbound) next(st *inStream) (*frame, error) {
	in.mu.Lock()
	if in.stream != st {
		ended := in.ended
		in.mu.Unlock()
		if ended {
			return nil, in.reason()
		}
		return nil, errReplaced
	}
	if b, ok := in.books.next(); ok {
		in.mu.Unlock()
		return &frame{buf: mem.SliceBuffer(b)}, nil
	}
	cold := in.answer()
	in.mu.Unlock()
	if cold == nil {
		return nil, nil
	}
	return encodeCold(cold)
}

// answer takes one of the answers that wait to be sent, nil when none does. mu is held.
func (in *inbound) answer() *meshv1.ConnectResponse {
	switch {
	case in.echo: // there is no receipt in front of it any more
		in.echo = false
		return echoAckFrame()
	case in.ack > 0:
		ack := in.ack
		in.ack = 0
		return routesAckFrame(ack)
	case len(in.adoptedAcks) > 0:
		ack := in.adoptedAcks[0]
		in.adoptedAcks = in.adoptedAcks[1:]
		return adoptedAckFrame(ack)
	case len(in.sentOns) > 0:
		ack := in.sentOns[0]
		in.sentOns = in.sentOns[1:]
		return sentOnFrame(ack)
	case in.wanted:
		in.wanted = false
		return routesWantedFrame()
	}
	return nil
}

// take works one frame that st has received.
func (in *inbound) take(st *inStream, b []byte) error {
	num, body, err := only(b)
	if err != nil {
		return err
	}
	select {
	case <-in.turn:
	case <-st.stopped.Done():
		return context.Cause(st.stopped)
	}
	defer func() { in.turn <- struct{}{} }()
	if num == requestBatch {
		return in.takeBatch(st, body)
	}
	in.mu.Lock()
	err = in.mine(st)
	in.mu.Unlock()
	if err != nil {
		return err
	}
	return in.takeCold(st, b)
}

// mine returns why st must not hand anything on, nil if it may. mu is held.
func (in *inbound) mine(st *inStream) error {
	switch {
	case in.ended:
		return in.reason()
	case in.stream != st:
		return errReplaced
	}
	return nil
}

// takeBatch hands over the deliveries of a batch and records the answers. Deliveries that were taken before are
// passed over.
func (in *inbound) takeBatch(st *inStream, body []byte) error {
	r, err := readBatch(body)
	if err != nil {
		return err
	}
	in.mu.Lock()
	if err := in.mine(st); err != nil {
		in.mu.Unlock()
		return err
	}
	in.books.confirm(r.receiptsThrough)
	through := in.books.through
	in.mu.Unlock()
	if r.first > through+1 {
		return fmt.Errorf("%w: taken up to %d, got %d", errSequenceGap, through, r.first)
	}

	last, urgent, err := in.deliver(&r, through)
	in.app.Flush()

	in.mu.Lock()
	if r.first <= through {
		in.books.again()
	}
	due := in.books.took(last, len(body), in.answers, urgent)
	come := in.come()
	in.mu.Unlock()
	clear(in.answers)
	in.answers = in.answers[:0]
	if due {
		st.nudge()
	}
	for _, e := range come {
		e.call()
	}
	return err
}

// come removes and returns what was expected and has been taken. mu is held.
func (in *inbound) come() (come []expected) {
	if len(in.expected) == 0 {
		return nil
	}
	in.expected = slices.DeleteFunc(in.expected, func(e expected) bool {
		if e.seq > in.books.through {
			return false
		}
		come = append(come, e)
		return true
	})
	return come
}

// expect calls f once everything up to seq has been handed over, which may be so already. Without that, it never does
// when the peer dies.
func (in *inbound) expect(seq uint64, f func()) {
	in.mu.Lock()
	if in.ended || in.books.through < seq {
		if !in.ended {
			in.expected = append(in.expected, expected{seq: seq, call: f})
		}
		in.mu.Unlock()
		return
	}
	in.mu.Unlock()
	f()
}

// acknowledgeAdopted has the peer told that what was held for a dead incarnation is on its way, up to through.
func (in *inbound) acknowledgeAdopted(incarnation string, through uint64) {
	ack := &meshv1.AdoptedAck{Incarnation: incarnation, ThroughSequence: through}
	in.mu.Lock()
	st := in.stream
	if i := slices.IndexFunc(in.adoptedAcks, func(a *meshv1.AdoptedAck) bool { return a.GetIncarnation() == incarnation }); i >= 0 {
		in.adoptedAcks[i] = ack
	} else if st != nil {
		in.adoptedAcks = append(in.adoptedAcks, ack)
	}
	in.mu.Unlock()
	if st != nil {
		st.nudge()
	}
}

// acknowledgeSendOn has the peer told that what is older than its SendOn is on its way, up to through.
func (in *inbound) acknowledgeSendOn(number, through uint64) {
	in.mu.Lock()
	st := in.stream
	if st != nil {
		in.sentOns = append(in.sentOns, &meshv1.SentOn{Number: number, ThroughSequence: through})
	}
	in.mu.Unlock()
	if st != nil {
		st.nudge()
	}
}

// deliver hands the deliveries of r that come after through to the application, and leaves the answers that say more than
// Queued in in.answers. It returns the last sequence that was taken, also with an error.
func (in *inbound) deliver(r *batchReader, through uint64) (last uint64, urgent bool, err error) {
	var clk clock
	c := &in.l.m.counters
	payload := 0
	last = through
	for seq := r.first; ; seq++ {
		var raw []byte
		if raw, err = r.delivery(); err != nil || raw == nil {
			break
		}
		if seq <= through {
			c.duplicates.Add(1)
			continue
		}
		var d Delivery
		if d, err = decodeDelivery(raw, in.l.peer.ID, &clk); err != nil {
			break
		}
		payload += len(d.Message.Payload)
		if d.Message.QoS > message.AtMostOnce || d.Reported() {
			urgent = true
		}
		if receipt := in.app.Deliver(d, Later{in: in, seq: seq}); receipt.Outcome != Queued || len(receipt.Clients) > 0 {
			in.answers = append(in.answers, numberedReceipt{seq: seq, receipt: receipt.fit()})
		}
		last = seq
	}
	c.batchesIn.Add(1)
	c.deliveriesIn.Add(last - through)
	c.payloadIn.Add(uint64(payload))
	return last, urgent, err
}

// takeCold works any other frame.
func (in *inbound) takeCold(st *inStream, b []byte) error {
	m, err := decodeRequest(b)
	if err != nil {
		return err
	}
	table := in.l.m.deps.Routes
	switch f := m.GetFrame().(type) {
	case *meshv1.ConnectRequest_RouteUpdate:
		ack, err := applyRoutes(&in.routes, f.RouteUpdate, table, in.l)
		if err != nil {
			return err
		}
		if ack {
			in.mu.Lock()
			in.ack = in.routes.version
			in.books.flush()
			in.mu.Unlock()
			st.nudge()
			if !in.inForce.Swap(true) {
				in.l.m.progressed()
			}
		}
		return nil
	case *meshv1.ConnectRequest_RouteDigest:
		differ := differs(&in.routes, f.RouteDigest, table, in.l)
		in.mu.Lock()
		in.wanted = in.wanted || differ
		in.books.flush()
		in.mu.Unlock()
		st.nudge()
		return nil
	case *meshv1.ConnectRequest_Adopted:
		id := f.Adopted.GetIncarnation()
		if id == "" || id == in.l.peer.ID {
			return fmt.Errorf("%w: %q adopts %q", errProtocol, in.l.peer.ID, id)
		}
		in.l.m.adopted(id, in.l)
		return nil
	case *meshv1.ConnectRequest_SendOn:
		number := f.SendOn.GetNumber()
		in.l.m.sendOn(in.l, f.SendOn.GetClientId(), func() { in.l.sentOn(number) })
		return nil
	case *meshv1.ConnectRequest_Echo:
		in.mu.Lock()
		in.echo = true
		in.mu.Unlock()
		st.nudge()
		return nil
	case *meshv1.ConnectRequest_Goodbye:
		return errGoodbye
	default:
		return fmt.Errorf("%w: %T from a sender", errProtocol, f)
	}
}
