package trace

import (
	"errors"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	adminv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/admin/v1"
	messagev1 "github.com/beeline-mqtt/beeline/api/gen/beeline/message/v1"
	tracev1 "github.com/beeline-mqtt/beeline/api/gen/beeline/trace/v1"
	"github.com/beeline-mqtt/beeline/internal/rpc"
)

// frameSteps bounds one frame: it has to fit into a gRPC message whatever the topics.
const frameSteps = 64

// Register adds the TraceService of a process to its gRPC server. Calls end with the tap, which has to be closed before
// the server stops in order.
func Register(s grpc.ServiceRegistrar, t *Tap) {
	tracev1.RegisterTraceServiceServer(s, &service{tap: t})
}

type service struct {
	tracev1.UnimplementedTraceServiceServer

	tap *Tap
}

// Follow implements the service.
func (s *service) Follow(r *tracev1.FollowRequest, stream grpc.ServerStreamingServer[tracev1.FollowResponse]) error {
	if err := rpc.RequireRole(stream.Context(), "router"); err != nil {
		return err
	}
	filter := Filter{Client: r.GetClientId(), Topic: r.GetFilter()}
	if filter == (Filter{}) {
		return status.Error(codes.InvalidArgument, "a client or a topic filter must be given")
	}
	f, err := s.tap.Follow(filter)
	switch {
	case errors.Is(err, ErrTooMany):
		return status.Error(codes.ResourceExhausted, err.Error())
	case err != nil:
		return rpc.Refuse(rpc.Stopping, err.Error())
	}
	defer f.Leave()
	if err := stream.Send(&tracev1.FollowResponse{Incarnation: s.tap.Incarnation()}); err != nil {
		return err
	}
	for {
		select {
		case <-stream.Context().Done():
			return status.FromContextError(stream.Context().Err()).Err()
		case <-f.Over():
			return rpc.Refuse(rpc.Stopping, ErrClosed.Error())
		case <-f.Filled():
		}
		for steps := f.Take(); len(steps) > 0; {
			n := min(len(steps), frameSteps)
			if err := stream.Send(s.frame(steps[:n])); err != nil {
				return err
			}
			steps = steps[n:]
		}
	}
}

func (s *service) frame(steps []Step) *tracev1.FollowResponse {
	w := &tracev1.FollowResponse{Incarnation: s.tap.Incarnation(), Steps: make([]*tracev1.Step, len(steps))}
	for i, x := range steps {
		w.Steps[i] = &tracev1.Step{
			Time: timestamppb.New(x.Time), Step: adminv1.TraceStep(x.Kind),
			MessageId: &messagev1.MessageId{Origin: x.ID.Origin, Sequence: x.ID.Seq},
			Topic:     x.Topic, Publisher: x.Publisher, Other: x.Other, Detail: x.Detail, LeftOut: x.LeftOut,
		}
	}
	return w
}
