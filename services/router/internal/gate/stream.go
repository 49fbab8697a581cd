package gate

import (
	"context"
	"errors"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	messagingv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/messaging/v1"
	"github.com/beeline-mqtt/beeline/services/router/internal/access"
)

// check says whether a request is as the contract says, and within the caller's limits.
func (g *Gate) check(p access.Principal, req any) error {
	m, ok := req.(proto.Message)
	if !ok {
		return nil
	}
	if err := g.validate(m); err != nil {
		return violated(err)
	}
	if err := p.Limits.Check(m); err != nil {
		var left *access.OutsideError
		if errors.As(err, &left) {
			return outside(left)
		}
		return err
	}
	return nil
}

// validate asks protovalidate, except about what comes by the hundred thousand and is plainly right.
func (g *Gate) validate(m proto.Message) error {
	if r, ok := m.(*messagingv1.PublishStreamRequest); ok && plain(r) {
		return nil
	}
	return g.valid.Validate(m)
}

// stream is a stream whose requests are checked before the handler sees them.
type stream struct {
	grpc.ServerStream

	gate *Gate
	ctx  context.Context //nolint:containedctx // a stream has one: it is the handler's
	p    access.Principal
}

func (g *Gate) wrap(ss grpc.ServerStream, p access.Principal, method string) grpc.ServerStream {
	s := &stream{ServerStream: ss, gate: g, ctx: access.With(ss.Context(), p), p: p}
	if method == messagingv1.MessagingService_CommandStream_FullMethodName {
		return &commands{stream: s}
	}
	return s
}

// Context implements grpc.ServerStream.
func (s *stream) Context() context.Context { return s.ctx }

// RecvMsg implements grpc.ServerStream. Who sends too fast is held up: the stream's window passes it on.
func (s *stream) RecvMsg(m any) error {
	if err := s.ServerStream.RecvMsg(m); err != nil {
		return err
	}
	if err := s.admit(m); err != nil {
		return s.gate.refuse(err)
	}
	return nil
}

func (s *stream) admit(m any) error {
	if err := s.gate.check(s.p, m); err != nil {
		return err
	}
	return s.gate.rates.messages(s.ctx, s.p, messagesIn(m))
}

func messagesIn(m any) int {
	if r, ok := m.(*messagingv1.PublishStreamRequest); ok {
		return len(r.GetMessages())
	}
	return 1
}

// commands is a CommandStream: a command that cannot be is answered here, and the others go on.
type commands struct {
	*stream

	sending sync.Mutex // the handler sends, too
}

// SendMsg implements grpc.ServerStream.
func (s *commands) SendMsg(m any) error {
	s.sending.Lock()
	defer s.sending.Unlock()
	return s.ServerStream.SendMsg(m)
}

// RecvMsg implements grpc.ServerStream.
func (s *commands) RecvMsg(m any) error {
	for {
		if err := s.ServerStream.RecvMsg(m); err != nil {
			return err
		}
		err := s.admit(m)
		r, ok := m.(*messagingv1.CommandStreamRequest)
		if err == nil || !ok || s.ctx.Err() != nil {
			return err
		}
		why := status.Convert(s.gate.refuse(err))
		failure := &messagingv1.CommandFailure{Code: uint32(why.Code()), Message: why.Message()}
		if err := s.SendMsg(&messagingv1.CommandStreamResponse{
			RequestId: r.GetRequestId(), End: &messagingv1.CommandStreamResponse_Failure{Failure: failure},
		}); err != nil {
			return err
		}
	}
}
