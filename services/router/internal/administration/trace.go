package administration

import (
	"context"
	"errors"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	adminv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/admin/v1"
	tracev1 "github.com/beeline-mqtt/beeline/api/gen/beeline/trace/v1"
	"github.com/beeline-mqtt/beeline/internal/rpc"
	"github.com/beeline-mqtt/beeline/internal/topic"
)

// lookAround is how often a trace looks for processes that have come, and for those that have to be tried again.
const lookAround = time.Second

// Trace implements the service.
func (s *Service) Trace(r *adminv1.TraceRequest, out grpc.ServerStreamingServer[adminv1.TraceResponse]) error {
	switch {
	case r.GetClientId() == "" && r.GetFilter() == "":
		return status.Error(codes.InvalidArgument, "client_id or filter must be given")
	case r.GetFilter() != "":
		if err := topic.ValidateFilter(r.GetFilter(), anyTopic()); err != nil {
			return status.Errorf(codes.InvalidArgument, "filter: %v", err)
		}
	}
	ctx, stop := context.WithCancel(out.Context())
	t := &tracing{
		s: s, asked: &tracev1.FollowRequest{ClientId: r.GetClientId(), Filter: r.GetFilter()},
		steps: make(chan *adminv1.TraceResponse), changed: make(chan struct{}, 1), followed: make(map[string]bool), told: make(map[string]string),
	}
	defer t.all.Wait()
	defer stop()
	return t.run(ctx, out)
}

// tracing is one call of Trace.
type tracing struct {
	s     *Service
	asked *tracev1.FollowRequest
	all   sync.WaitGroup
	// steps has no room: whoever is too slow holds up the streams, and each process counts what it leaves out.
	steps   chan *adminv1.TraceResponse
	changed chan struct{} // signal: who is followed

	mu       sync.Mutex
	followed map[string]bool // by process: whether it has begun; guarded by mu
	// told is the trouble that has been told of a process; of run's goroutine.
	told map[string]string
}

// run passes steps on until the call ends. The header follows when everybody has begun who is to be followed at first.
func (t *tracing) run(ctx context.Context, out grpc.ServerStreamingServer[adminv1.TraceResponse]) error {
	tick := time.NewTicker(lookAround)
	defer tick.Stop()
	t.follow(ctx)
	begun := time.NewTimer(t.s.answerTimeout)
	defer begun.Stop()
	var steps <-chan *adminv1.TraceResponse // nil before the header is sent, which comes first
	head := func(now bool) error {
		if steps != nil || !now && !t.begun() {
			return nil
		}
		steps = t.steps
		return out.SendHeader(metadata.MD{})
	}
	for {
		if err := head(false); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return status.FromContextError(ctx.Err()).Err()
		case <-t.s.stopping:
			return rpc.Refuse(rpc.Stopping, "the router is stopping")
		case <-t.changed:
		case <-begun.C:
			if err := head(true); err != nil {
				return err
			}
		case <-tick.C:
			t.follow(ctx)
		case step := <-steps:
			if step.GetTrouble() != "" && t.told[step.GetIncarnation()] == step.GetTrouble() {
				continue
			}
			t.told[step.GetIncarnation()] = step.GetTrouble()
			if err := out.Send(step); err != nil {
				return err
			}
		}
	}
}

// begun reports whether everybody has begun who is followed.
func (t *tracing) begun() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, has := range t.followed {
		if !has {
			return false
		}
	}
	return true
}

// set says whether a process has begun; drop that it is not followed any more.
func (t *tracing) set(name string, has, drop bool) {
	t.mu.Lock()
	if drop {
		delete(t.followed, name)
	} else {
		t.followed[name] = has
	}
	t.mu.Unlock()
	select {
	case t.changed <- struct{}{}:
	default:
	}
}

// follow begins with those that are not followed.
func (t *tracing) follow(ctx context.Context) {
	for _, p := range append(t.s.gateways(), t.s.active()) {
		t.mu.Lock()
		_, is := t.followed[p.name()]
		t.mu.Unlock()
		if is {
			continue
		}
		t.set(p.name(), false, false)
		t.all.Go(func() {
			err := t.one(ctx, p)
			t.set(p.name(), false, true)
			if ctx.Err() == nil {
				t.pass(ctx, &adminv1.TraceResponse{Incarnation: p.member.ID, Trouble: p.name() + ": " + explained(err)})
			}
		})
	}
}

// one follows a process for as long as it goes.
func (t *tracing) one(ctx context.Context, p process) error {
	if p.err != nil {
		return p.err
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	// The stream has no end of its own: only its beginning is bounded.
	late := time.AfterFunc(t.s.answerTimeout, stop)
	defer late.Stop()
	stream, err := tracev1.NewTraceServiceClient(p.conn).Follow(ctx, t.asked)
	if err != nil {
		return err
	}
	for first := true; ; first = false {
		frame, err := stream.Recv()
		if first {
			if !late.Stop() {
				return errors.New("no answer in time")
			}
			t.set(p.name(), true, false)
		}
		if err != nil {
			return err
		}
		for _, x := range frame.GetSteps() {
			t.pass(ctx, &adminv1.TraceResponse{
				Time: x.GetTime(), Incarnation: frame.GetIncarnation(), Step: x.GetStep(), MessageId: x.GetMessageId(), Topic: x.GetTopic(),
				Publisher: x.GetPublisher(), Other: x.GetOther(), Detail: x.GetDetail(), LeftOut: x.GetLeftOut(),
			})
		}
	}
}

// pass hands a step to whoever sends it.
func (t *tracing) pass(ctx context.Context, step *adminv1.TraceResponse) {
	select {
	case t.steps <- step:
	case <-ctx.Done():
	}
}
