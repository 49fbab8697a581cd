package gateway

import (
	"context"
	"math"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	gatewayv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/gateway/v1"
	"github.com/beeline-mqtt/beeline/internal/rpc"
	"github.com/beeline-mqtt/beeline/services/gateway/internal/drain"
)

// drainService has the gateway drained by command. It is called by routers, who are asked by operators.
type drainService struct {
	gatewayv1.UnimplementedDrainServiceServer

	gateway *Gateway
}

// router is the role of the certificates of those who may drain a gateway.
const router = "router"

// longest bounds what is asked for.
const longest = 24 * time.Hour

// Drain implements DrainService.
func (s *drainService) Drain(ctx context.Context, r *gatewayv1.DrainRequest) (*gatewayv1.DrainResponse, error) {
	if err := rpc.RequireRole(ctx, router); err != nil {
		return nil, err
	}
	if r.GetKeep() > math.MaxInt32 || r.GetRate() > math.MaxInt32 || r.GetTimeoutMs() > uint64(longest.Milliseconds()) {
		return nil, status.Error(codes.InvalidArgument, "keep, rate or timeout: too large")
	}
	if !s.gateway.somewhere() {
		return nil, status.Error(codes.FailedPrecondition, drain.ErrNowhere.Error())
	}
	o := drain.Order{Keep: int(r.GetKeep()), Rate: int(r.GetRate()), Timeout: time.Duration(r.GetTimeoutMs()) * time.Millisecond}
	if r.GetResumeAfter() {
		o.Then = drain.Resume
	}
	if err := s.gateway.order(o); err != nil {
		return nil, status.Error(codes.FailedPrecondition, err.Error())
	}
	return &gatewayv1.DrainResponse{}, nil
}

// Resume implements DrainService.
func (s *drainService) Resume(ctx context.Context, _ *gatewayv1.ResumeRequest) (*gatewayv1.ResumeResponse, error) {
	if err := rpc.RequireRole(ctx, router); err != nil {
		return nil, err
	}
	if err := s.gateway.resume(); err != nil {
		return nil, status.Error(codes.FailedPrecondition, err.Error())
	}
	return &gatewayv1.ResumeResponse{}, nil
}

// Status implements DrainService.
func (s *drainService) Status(ctx context.Context, _ *gatewayv1.StatusRequest) (*gatewayv1.StatusResponse, error) {
	if err := rpc.RequireRole(ctx, router); err != nil {
		return nil, err
	}
	m, _ := s.gateway.drainer.look()
	p, clients := m.Progress(), s.gateway.clientsLeft()
	answer := &gatewayv1.StatusResponse{
		Phase: phaseOf(p.Phase), Clients: uint64(clients), Moved: uint64(p.Told), Weight: max(s.gateway.cfg.Weight, 1),
	}
	if p.Err != nil {
		answer.Trouble = p.Err.Error()
	}
	if m.Draining() {
		answer.Keep, answer.Left = uint64(p.Order.Keep), uint64(m.Left(clients))
		answer.Resumes, answer.Stopping = p.Order.Then == drain.Resume, p.Order.Then == drain.End
	}
	return answer, nil
}

func phaseOf(p drain.Phase) gatewayv1.DrainPhase {
	switch p {
	case drain.Serving:
		return gatewayv1.DrainPhase_DRAIN_PHASE_SERVING
	case drain.Grace:
		return gatewayv1.DrainPhase_DRAIN_PHASE_GRACE
	case drain.Moving:
		return gatewayv1.DrainPhase_DRAIN_PHASE_MOVING
	case drain.Settling:
		return gatewayv1.DrainPhase_DRAIN_PHASE_SETTLING
	case drain.Drained:
		return gatewayv1.DrainPhase_DRAIN_PHASE_DRAINED
	}
	return gatewayv1.DrainPhase_DRAIN_PHASE_UNSPECIFIED
}
