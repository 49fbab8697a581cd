package mesh

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"time"

	"google.golang.org/grpc"

	meshv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/mesh/v1"
)

// goodbyeTime is how long a closing process waits for a peer to end a stream after Goodbye.
const goodbyeTime = time.Second

var (
	errNotServing = errors.New("this incarnation is not in force")
	errGoodbye    = errors.New("the peer said goodbye")
)

// outStream is one stream of a link, from Hello to its end.
type outStream struct {
	grpc.ClientStream
	stopped context.Context //nolint:containedctx // its cause is why the stream ended
	stop    context.CancelCauseFunc
	done    chan struct{} // closed when the receiving goroutine has ended
	feed    routeFeed
}

// broke ends the stream for an error of SendMsg. When the stream is broken, that is io.EOF, and RecvMsg ends by
// itself and has the reason.
func (s *outStream) broke(err error) {
	if !errors.Is(err, io.EOF) {
		s.stop(err)
	}
}

// run keeps a stream to the peer until ctx ends, and then ends the link.
func (l *Link) run(ctx context.Context) {
	defer l.end()
	log := l.m.deps.Logger.With(slog.String("peer", l.peer.ID))
	pause := l.m.cfg.ReconnectMin
	for welcomed := 0; ; {
		up, err := l.connect(ctx, welcomed > 0, log)
		if ctx.Err() != nil {
			return
		}
		if up {
			welcomed++
			log.LogAttrs(ctx, slog.LevelWarn, "link down", slog.Any("error", err))
		} else {
			log.LogAttrs(ctx, slog.LevelDebug, "link not up", slog.Any("error", err))
		}
		if up {
			pause = l.m.cfg.ReconnectMin
		}
		// Half of the pause is left to chance, so that peers do not come back all at once.
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause/2 + rand.N(pause/2+1)):
		}
		pause = min(2*pause, l.m.cfg.ReconnectMax)
	}
}

// connect opens a stream and works it until it ends. up says whether it was welcomed.
func (l *Link) connect(ctx context.Context, again bool, log *slog.Logger) (up bool, err error) {
	if !l.m.deps.Serving() {
		return false, errNotServing
	}
	cc, err := l.m.deps.Dial(l.peer.Address)
	if err != nil {
		return false, fmt.Errorf("dial %s: %w", l.peer.Address, err)
	}
	defer func() { err = errors.Join(err, cc.Close()) }()

	// The stream outlives ctx by a Goodbye, but only once it is up.
	sctx, stop := context.WithCancelCause(context.WithoutCancel(ctx))
	defer stop(nil)
	unhook := context.AfterFunc(ctx, func() { stop(errClosing) })
	late := time.AfterFunc(l.m.cfg.ConnectTimeout, func() { stop(context.DeadlineExceeded) })
	stream, welcome, err := l.open(sctx, cc)
	if err == nil && !late.Stop() {
		err = context.DeadlineExceeded
	}
	if err != nil {
		return false, fmt.Errorf("open stream: %w", err)
	}
	unhook()

	s := &outStream{ClientStream: stream, stopped: sctx, stop: stop, done: make(chan struct{})}
	if err := l.attach(s, welcome); err != nil {
		return false, fmt.Errorf("resume: %w", err)
	}
	if again {
		l.m.counters.reconnects.Add(1)
	}
	log.LogAttrs(ctx, slog.LevelInfo, "link up", slog.Uint64("resumed_after", welcome.GetReceivedThrough()))
	l.m.wg.Go(func() { l.receive(s) })
	l.write(ctx, s)
	l.detach(ctx, s)
	return true, context.Cause(sctx)
}

// open sends Hello and waits for Welcome.
func (l *Link) open(ctx context.Context, cc *grpc.ClientConn) (grpc.ClientStream, *meshv1.Welcome, error) {
	stream, err := meshv1.NewMeshServiceClient(cc).Connect(ctx, grpc.ForceCodecV2(codec{}))
	if err != nil {
		return nil, nil, err
	}
	l.mu.Lock()
	hello := &meshv1.Hello{
		ProtocolVersion: protocolVersion,
		Incarnation:     l.m.cfg.Incarnation,
		ToIncarnation:   l.peer.ID,
		NextSequence:    l.out.taken + 1,
		ReceiptsThrough: l.out.receiptsThrough,
	}
	l.mu.Unlock()
	f, err := encodeCold(helloFrame(hello))
	if err != nil {
		return nil, nil, err
	}
	var in frame
	// An error of SendMsg is io.EOF; RecvMsg has the reason.
	_ = stream.SendMsg(f)
	if err := stream.RecvMsg(&in); err != nil {
		return nil, nil, err
	}
	defer in.free()
	l.m.counters.framesOut.Add(1)
	l.m.counters.framesIn.Add(1)
	m, err := decodeResponse(in.bytes())
	if err != nil {
		return nil, nil, err
	}
	w := m.GetWelcome()
	switch {
	case w == nil:
		return nil, nil, fmt.Errorf("%w: the first frame is not Welcome", errProtocol)
	case w.GetProtocolVersion() != protocolVersion:
		return nil, nil, fmt.Errorf("%w: version %d", errProtocol, w.GetProtocolVersion())
	case w.GetIncarnation() != l.peer.ID:
		return nil, nil, fmt.Errorf("%w: %q answered", errProtocol, w.GetIncarnation())
	}
	return stream, w, nil
}

// attach makes s the link's stream, continuing where the peer says.
func (l *Link) attach(s *outStream, w *meshv1.Welcome) error {
	l.acquire()
	defer l.mu.Unlock()
	defer l.release()
	resent, err := l.out.resume(w.GetReceivedThrough())
	if err != nil {
		return err
	}
	l.m.counters.resent.Add(resent)
	l.wrote, l.confirmed = 0, 0
	l.marks.clear()
	l.routesMark = mark{}
	l.stream = s
	l.digestWanted.Store(len(l.barriers) > 0)
	l.adoptions.Store(true) // those that the last stream has left unanswered
	l.sendOns.Store(true)   // the same
	l.echoes.wanted.Store(len(l.echoes.sent) > 0)
	s.feed.sent = w.GetRoutesVersion()
	return nil
}

// detach takes the stream away and waits for its receiving goroutine. When the process closes, the peer is told
// and given a moment to answer what it has got.
func (l *Link) detach(ctx context.Context, s *outStream) {
	if ctx.Err() != nil && !l.dead.Load() {
		bound := time.AfterFunc(goodbyeTime, func() { s.stop(errClosing) })
		l.acquire()
		l.mu.Unlock()
		if f, err := encodeCold(senderGoodbye()); err == nil && s.SendMsg(f) == nil && s.CloseSend() == nil {
			l.m.counters.framesOut.Add(1)
			<-s.done
		}
		l.mu.Lock()
		l.release()
		l.mu.Unlock()
		bound.Stop()
	}
	s.stop(errClosing)
	<-s.done
	l.acquire() // whoever is sending on s has found it broken
	l.stream, l.lost = nil, time.Now()
	l.release()
	l.mu.Unlock()
}

// write sends, one frame at a time, what no caller of Send has sent on the spot: batches, routes, digests.
func (l *Link) write(ctx context.Context, s *outStream) {
	if s.feed.sent > 0 {
		l.m.routesMu.Lock()
		l.told()
		l.m.routesMu.Unlock()
		l.m.acked(l, s.feed.sent)
	}
	digest := time.NewTicker(l.m.cfg.DigestInterval)
	defer digest.Stop()
	for batch := true; ; batch = !batch {
		select {
		case <-digest.C:
			s.feed.digest = true
		default:
		}
		sent, err := l.writeOne(s, batch)
		if err != nil {
			s.broke(err)
			select {
			case <-s.done:
			case <-ctx.Done():
			}
			return
		}
		if sent {
			if ctx.Err() != nil {
				return
			}
			continue
		}
		select {
		case <-l.wake:
		case <-digest.C:
			s.feed.digest = true
		case <-s.done:
			return
		case <-ctx.Done():
			return
		}
	}
}

// told has announcements wait for the peer, if it is one to wait for. The mesh's routesMu is held.
func (l *Link) told() {
	if !l.peer.Quiet {
		l.m.routes.sent(l)
	}
}

// writeOne sends one frame if there is one: a batch first or routes first.
func (l *Link) writeOne(s *outStream, batch bool) (sent bool, err error) {
	var f *frame
	var version uint64
	l.acquire()
	if l.out.unsent() == 0 && l.digestWanted.Swap(false) {
		s.feed.digest = true
	}
	if !batch || l.out.unsent() == 0 {
		l.mu.Unlock()
		f, version, err = s.feed.next(l)
		l.mu.Lock()
	}
	switch {
	case err != nil:
	case f != nil:
		l.m.counters.framesOut.Add(1)
		l.wrote += uint64(f.buf.Len() + frameOverhead)
		if version > 0 {
			l.routesMark = mark{seq: version, wrote: l.wrote}
		}
	case l.out.unsent() > 0:
		l.encode()
		f = &l.frame
	}
	if f != nil {
		l.mu.Unlock()
		err = s.SendMsg(f)
		l.mu.Lock()
	}
	l.release()
	l.mu.Unlock()
	return f != nil, err
}

// receive works the peer's answers until the stream ends.
func (l *Link) receive(s *outStream) {
	defer close(s.done)
	err := l.receiveAll(s)
	if errors.Is(err, errProtocol) || errors.Is(err, errMalformed) || errors.Is(err, errBooks) {
		l.m.counters.broken.Add(1)
	}
	s.stop(err)
}

func (l *Link) receiveAll(s *outStream) error {
	var in frame
	defer in.free()
	var receipts receiptsFrame
	var settled []settlement
	for {
		in.free()
		if err := s.RecvMsg(&in); err != nil {
			return err
		}
		if !l.m.deps.Serving() {
			return errNotServing
		}
		l.m.counters.framesIn.Add(1)
		num, body, err := only(in.bytes())
		switch {
		case err != nil:
		case num == responseReceipts:
			if err = decodeReceipts(body, &receipts); err == nil {
				settled, err = l.settle(&receipts, settled[:0])
			}
		default:
			err = l.answer(in.bytes())
		}
		if err != nil {
			return err
		}
	}
}

// settle works one Receipts frame, with settled as room.
func (l *Link) settle(f *receiptsFrame, settled []settlement) ([]settlement, error) {
	var counts [outcomes]uint64
	l.mu.Lock()
	settled, err := l.out.take(f, settled, &counts)
	if err == nil {
		l.confirm(f.through)
	}
	l.m.counters.settled(&counts)
	l.tell(settled)
	clear(settled)
	return settled, err
}

// answer works any other frame from the receiver.
func (l *Link) answer(b []byte) error {
	m, err := decodeResponse(b)
	if err != nil {
		return err
	}
	switch f := m.GetFrame().(type) {
	case *meshv1.ConnectResponse_RoutesAck:
		version := f.RoutesAck.GetVersion()
		l.mu.Lock()
		l.confirmRoutes(version)
		l.mu.Unlock()
		l.m.acked(l, version)
		return nil
	case *meshv1.ConnectResponse_RoutesWanted:
		l.snapshot.Store(true)
		l.nudge()
		return nil
	case *meshv1.ConnectResponse_AdoptedAck:
		id := f.AdoptedAck.GetIncarnation()
		if id == "" {
			return fmt.Errorf("%w: AdoptedAck without an incarnation", errProtocol)
		}
		l.m.adoptedAcked(l, id, f.AdoptedAck.GetThroughSequence())
		return nil
	case *meshv1.ConnectResponse_SentOn:
		l.m.sentOn(l, f.SentOn.GetNumber(), f.SentOn.GetThroughSequence())
		return nil
	case *meshv1.ConnectResponse_EchoAck:
		return l.echoed()
	case *meshv1.ConnectResponse_Goodbye:
		return errGoodbye
	default:
		return fmt.Errorf("%w: %T from a receiver", errProtocol, f)
	}
}

// routeFeed is what one stream still has to be told about routes, about adoptions, which come behind the routes
// that were there before them, and about sessions that have come here. The link's goroutine owns it.
type routeFeed struct {
	sent    uint64 // version that the peer has or will have by what was sent
	pending update
	parts   bool // pending has parts that were not sent
	digest  bool // one is due
	adopts  []adopt
	sendOns []*sendOn
	asked   uint64 // number of the newest of them
}

// next returns the next of these frames and, for the last part of an update, its version; nil when there is
// none.
func (r *routeFeed) next(l *Link) (*frame, uint64, error) {
	a := l.m.routes
	if !r.parts {
		if l.adoptions.Swap(false) {
			r.adopts = l.m.unanswered(l)
		}
		if len(r.adopts) > 0 && r.adopts[0].routes <= r.sent {
			f, err := encodeCold(adoptedFrame(r.adopts[0].incarnation))
			r.adopts = r.adopts[1:]
			return f, 0, err
		}
		if l.sendOns.Swap(false) {
			r.sendOns, r.asked = l.m.unsentOn(l, r.sendOns, r.asked)
		}
		if len(r.sendOns) > 0 {
			f, err := encodeCold(sendOnFrame(r.sendOns[0].number, r.sendOns[0].client))
			r.sendOns = r.sendOns[1:]
			return f, 0, err
		}
		if l.echoes.wanted.Swap(false) {
			f, err := encodeCold(echoFrame())
			return f, 0, err
		}
		wanted := l.snapshot.Swap(false)
		l.m.routesMu.Lock()
		switch {
		case wanted:
			r.pending, r.parts = a.snapshot(), true
		case a.version != r.sent:
			r.pending, r.parts = a.since(r.sent), true
		}
		if r.parts {
			l.told()
		}
		d := &meshv1.RouteDigest{Version: a.version, Count: uint64(len(a.own)), Hash: a.hash}
		l.m.routesMu.Unlock()
		if !r.parts {
			if !r.digest {
				return nil, 0, nil
			}
			r.digest = false
			f, err := encodeCold(digestFrame(d))
			return f, 0, err
		}
		r.sent = r.pending.version
	}
	p := r.pending.part()
	r.parts = p.GetMore()
	f, err := encodeCold(routesFrame(p))
	if r.parts {
		return f, 0, err
	}
	return f, r.sent, err
}
