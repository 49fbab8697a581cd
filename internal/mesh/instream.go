package mesh

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	meshv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/mesh/v1"
)

var (
	errClosing     = errors.New("shutting down")
	errPeerGone    = errors.New("the incarnation has ended")
	errPeerUnknown = errors.New("the incarnation is not in the registry")
	errReplaced    = errors.New("a newer stream has taken its place")
	errWrongPeer   = errors.New("this is another incarnation")
)

// service is the MeshService of a process.
type service struct {
	meshv1.UnimplementedMeshServiceServer
	m *Mesh
}

// inStream is one stream from a peer. The handler's goroutine sends; a second one receives, because it may have
// to be left behind in RecvMsg, which ends when the handler returns.
type inStream struct {
	grpc.ServerStream
	m        *Mesh
	in       *inbound
	admitted chan *meshv1.Welcome
	wake     chan struct{}
	stopped  context.Context //nolint:containedctx // its cause is why the stream ended
	stop     context.CancelCauseFunc
}

// Connect serves one stream until either side ends it.
func (s *service) Connect(stream grpc.BidiStreamingServer[meshv1.ConnectRequest, meshv1.ConnectResponse]) error {
	ctx, cancel := context.WithCancelCause(stream.Context())
	defer cancel(nil)
	st := &inStream{
		ServerStream: stream,
		m:            s.m,
		admitted:     make(chan *meshv1.Welcome, 1), // room, so that the receiving goroutine need not be waited for
		wake:         make(chan struct{}, 1),
		stopped:      ctx,
		stop:         cancel,
	}
	if !s.m.enter(st.receive) {
		return refusal(errClosing)
	}
	return refusal(st.serve())
}

// refusal is the one place that makes gRPC statuses.
func refusal(err error) error {
	switch {
	case err == nil || errors.Is(err, errGoodbye):
		return nil
	case errors.Is(err, errPeerGone), errors.Is(err, errWrongPeer), errors.Is(err, errSequenceGap):
		return status.Error(codes.FailedPrecondition, err.Error())
	case errors.Is(err, errProtocol), errors.Is(err, errMalformed):
		return status.Error(codes.InvalidArgument, err.Error())
	case errors.Is(err, errReplaced):
		return status.Error(codes.Aborted, err.Error())
	}
	return status.Error(codes.Unavailable, err.Error())
}

// serve sends Welcome, and then receipts and acknowledgements as they come up.
func (st *inStream) serve() error {
	select {
	case w := <-st.admitted:
		f, err := encodeCold(welcomeFrame(w))
		if err != nil {
			return err
		}
		if err := st.send(f); err != nil {
			return err
		}
	case <-st.stopped.Done():
		return context.Cause(st.stopped)
	case <-st.m.ctx.Done():
		return errClosing
	}
	for {
		f, err := st.in.next(st)
		if err != nil {
			return err
		}
		if f != nil {
			if err := st.send(f); err != nil {
				return err
			}
			continue
		}
		select {
		case <-st.wake:
		case <-st.stopped.Done():
			return st.last()
		case <-st.m.ctx.Done():
			return st.goodbye()
		}
	}
}

func (st *inStream) goodbye() error {
	f, err := encodeCold(receiverGoodbye())
	if err != nil {
		return err
	}
	return st.send(f)
}

// last says Goodbye, or sends what is left when the peer has said it: it still listens.
func (st *inStream) last() error {
	switch cause := context.Cause(st.stopped); {
	case errors.Is(cause, errClosing):
		return st.goodbye()
	case !errors.Is(cause, errGoodbye):
		return cause
	}
	for {
		f, err := st.in.next(st)
		if err != nil || f == nil {
			return err
		}
		if err := st.send(f); err != nil {
			return err
		}
	}
}

func (st *inStream) send(f *frame) error {
	st.m.counters.framesOut.Add(1)
	if err := st.SendMsg(f); err != nil {
		return fmt.Errorf("send frame: %w", err)
	}
	return nil
}

func (st *inStream) nudge() {
	select {
	case st.wake <- struct{}{}:
	default:
	}
}

// receive admits the peer and hands over what it sends, until the stream ends.
func (st *inStream) receive() {
	err := st.receiveAll()
	if errors.Is(err, errProtocol) || errors.Is(err, errMalformed) || errors.Is(err, errSequenceGap) {
		st.m.counters.broken.Add(1)
		peer := ""
		if st.in != nil {
			peer = st.in.l.peer.ID
		}
		st.m.deps.Logger.LogAttrs(st.stopped, slog.LevelWarn, "stream ended because of what it carried",
			slog.String("peer", peer), slog.Any("error", err))
	}
	st.stop(err)
}

func (st *inStream) receiveAll() error {
	var in frame
	defer in.free()
	hello := true
	for {
		in.free()
		if err := st.RecvMsg(&in); err != nil {
			return err
		}
		if !st.m.deps.Serving() {
			return errNotServing
		}
		st.m.counters.framesIn.Add(1)
		var err error
		if hello {
			err = st.hello(in.bytes())
			hello = false
		} else {
			err = st.in.take(st, in.bytes())
		}
		if err != nil {
			return err
		}
	}
}

// hello admits the peer. A peer that the registry has not shown here yet is held: nothing is kept for it before
// it is confirmed.
func (st *inStream) hello(b []byte) error {
	m, err := decodeRequest(b)
	if err != nil {
		return err
	}
	h := m.GetHello()
	switch {
	case h == nil:
		return fmt.Errorf("%w: the first frame is not Hello", errProtocol)
	case h.GetProtocolVersion() != protocolVersion:
		return fmt.Errorf("%w: protocol version %d is not spoken here", errWrongPeer, h.GetProtocolVersion())
	case h.GetToIncarnation() != st.m.cfg.Incarnation:
		return fmt.Errorf("%w, not %q", errWrongPeer, h.GetToIncarnation())
	case h.GetLane() != 0:
		return fmt.Errorf("%w: lane %d", errProtocol, h.GetLane())
	}
	l, err := st.m.admit(st.stopped, h.GetIncarnation())
	if err != nil {
		return err
	}
	w, err := l.in.attach(st, h)
	if err != nil {
		return err
	}
	st.in = l.in
	st.admitted <- w
	return nil
}
