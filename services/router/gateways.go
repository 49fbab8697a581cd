package router

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	adminv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/admin/v1"
	gatewayv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/gateway/v1"
	"github.com/beeline-mqtt/beeline/internal/cluster"
	"github.com/beeline-mqtt/beeline/services/router/internal/fleet"
	"github.com/beeline-mqtt/beeline/services/router/internal/rebalance"
)

const (
	// gatewayTimeout bounds one question to a gateway.
	gatewayTimeout = 2 * time.Second
	// rebalanceRate is how many clients a second all gateways together move, unless it is said.
	rebalanceRate = 1000
	// mostRate keeps products of rates and clients in bounds.
	mostRate = 1_000_000
)

// gateways is the GatewayService.
type gateways struct {
	adminv1.UnimplementedGatewayServiceServer

	placer *placer
	fleet  *fleet.Fleet
}

// find returns the gateway with a name.
func (g *gateways) find(name string) (cluster.Member, error) {
	if name == "" {
		return cluster.Member{}, status.Error(codes.InvalidArgument, "gateway: must be given")
	}
	for _, m := range g.fleet.Gateways() {
		if name == m.ID || name == m.Address || name == m.MQTT {
			return m, nil
		}
	}
	return cluster.Member{}, status.Errorf(codes.NotFound, "gateway: there is no %q", name)
}

// ask has f ask a gateway, and says what the caller is told if that does not work.
func (g *gateways) ask(ctx context.Context, m cluster.Member, f func(context.Context, gatewayv1.DrainServiceClient) error) error {
	ctx, cancel := context.WithTimeout(ctx, gatewayTimeout)
	defer cancel()
	x, err := g.fleet.Gateway(m.ID)
	if err == nil {
		err = f(ctx, gatewayv1.NewDrainServiceClient(x.Conn))
	}
	switch s := status.Convert(err); s.Code() {
	case codes.OK:
		return nil
	case codes.FailedPrecondition, codes.InvalidArgument:
		return status.Errorf(s.Code(), "gateway at %s: %s", m.Address, s.Message())
	default:
		return status.Errorf(codes.Unavailable, "gateway at %s does not answer: %v", m.Address, err)
	}
}

// look is a gateway as it says that it is.
func (g *gateways) look(ctx context.Context, m cluster.Member) *adminv1.Gateway {
	x := &adminv1.Gateway{
		Id: m.ID, Address: m.Address, MqttAddress: m.MQTT, Zone: m.Zone, Weight: max(m.Weight, 1), Active: m.State == cluster.Active,
	}
	err := g.ask(ctx, m, func(ctx context.Context, c gatewayv1.DrainServiceClient) error {
		s, err := c.Status(ctx, &gatewayv1.StatusRequest{})
		if err != nil {
			return err
		}
		x.State, x.Trouble = stateOf(s), s.GetTrouble()
		x.Clients, x.Keep, x.Moved, x.Left = s.GetClients(), s.GetKeep(), s.GetMoved(), s.GetLeft()
		if x.GetState() == adminv1.GatewayState_GATEWAY_STATE_UNSPECIFIED {
			x.Trouble = fmt.Sprintf("gateway at %s is in a phase that this router does not know", m.Address)
		}
		return nil
	})
	if err != nil {
		x.Trouble = status.Convert(err).Message()
	}
	return x
}

func stateOf(s *gatewayv1.StatusResponse) adminv1.GatewayState {
	switch phase := s.GetPhase(); {
	case phase < gatewayv1.DrainPhase_DRAIN_PHASE_SERVING, phase > gatewayv1.DrainPhase_DRAIN_PHASE_DRAINED:
		return adminv1.GatewayState_GATEWAY_STATE_UNSPECIFIED
	case phase == gatewayv1.DrainPhase_DRAIN_PHASE_SERVING:
		return adminv1.GatewayState_GATEWAY_STATE_ACTIVE
	case s.GetStopping():
		return adminv1.GatewayState_GATEWAY_STATE_STOPPING
	case s.GetResumes():
		return adminv1.GatewayState_GATEWAY_STATE_REBALANCING
	case phase == gatewayv1.DrainPhase_DRAIN_PHASE_DRAINED:
		return adminv1.GatewayState_GATEWAY_STATE_DRAINED
	}
	return adminv1.GatewayState_GATEWAY_STATE_DRAINING
}

// survey asks all gateways at once.
func (g *gateways) survey(ctx context.Context) []*adminv1.Gateway {
	members := g.fleet.Gateways()
	all := make([]*adminv1.Gateway, len(members))
	var asking sync.WaitGroup
	for i, m := range members {
		asking.Go(func() { all[i] = g.look(ctx, m) })
	}
	asking.Wait()
	return all
}

// ListGateways implements GatewayService.
func (g *gateways) ListGateways(ctx context.Context, _ *adminv1.ListGatewaysRequest) (*adminv1.ListGatewaysResponse, error) {
	return &adminv1.ListGatewaysResponse{Gateways: g.survey(ctx)}, nil
}

// change has f change a gateway, and returns it when this router sees the state that it has then.
func (g *gateways) change(
	ctx context.Context, name string, s cluster.State, f func(context.Context, gatewayv1.DrainServiceClient) error,
) (*adminv1.Gateway, error) {
	m, err := g.find(name)
	if err != nil {
		return nil, err
	}
	if err := g.ask(ctx, m, f); err != nil {
		return nil, err
	}
	g.placer.shows(ctx, func() bool {
		now, err := g.find(m.ID)
		return err != nil || now.State == s
	})
	if now, err := g.find(m.ID); err == nil {
		m = now
	}
	return g.look(ctx, m), nil
}

// DrainGateway implements GatewayService.
func (g *gateways) DrainGateway(ctx context.Context, r *adminv1.DrainGatewayRequest) (*adminv1.DrainGatewayResponse, error) {
	x, err := g.change(ctx, r.GetGateway(), cluster.Draining, func(ctx context.Context, c gatewayv1.DrainServiceClient) error {
		_, err := c.Drain(ctx, &gatewayv1.DrainRequest{Rate: r.GetRate(), TimeoutMs: r.GetTimeoutMs()})
		return err
	})
	if err != nil {
		return nil, err
	}
	return &adminv1.DrainGatewayResponse{Gateway: x}, nil
}

// ResumeGateway implements GatewayService.
func (g *gateways) ResumeGateway(ctx context.Context, r *adminv1.ResumeGatewayRequest) (*adminv1.ResumeGatewayResponse, error) {
	x, err := g.change(ctx, r.GetGateway(), cluster.Active, func(ctx context.Context, c gatewayv1.DrainServiceClient) error {
		_, err := c.Resume(ctx, &gatewayv1.ResumeRequest{})
		return err
	})
	if err != nil {
		return nil, err
	}
	return &adminv1.ResumeGatewayResponse{Gateway: x}, nil
}

// Rebalance implements GatewayService.
func (g *gateways) Rebalance(ctx context.Context, r *adminv1.RebalanceRequest) (*adminv1.RebalanceResponse, error) {
	if r.GetRate() > mostRate {
		return nil, status.Errorf(codes.InvalidArgument, "rate: at most %d", mostRate)
	}
	shares, err := plan(g.survey(ctx))
	if err != nil {
		return nil, err
	}
	rate := int(r.GetRate())
	if rate == 0 {
		rate = rebalanceRate
	}
	if !r.GetDryRun() {
		if err := g.carryOut(ctx, shares, rate); err != nil {
			return nil, err
		}
	}
	answer := &adminv1.RebalanceResponse{}
	for _, s := range shares {
		x := &adminv1.Share{
			Gateway: s.ID, Weight: s.Weight, Clients: uint64(s.Clients), Target: uint64(s.Target), ToMove: uint64(s.Move),
		}
		if m, err := g.find(s.ID); err == nil {
			x.Address = m.Address
		}
		answer.Shares = append(answer.Shares, x)
	}
	return answer, nil
}

// plan is for the gateways that take clients.
func plan(all []*adminv1.Gateway) ([]rebalance.Share, error) {
	var active []rebalance.Gateway
	for _, x := range all {
		switch x.GetState() {
		case adminv1.GatewayState_GATEWAY_STATE_ACTIVE:
			active = append(active, rebalance.Gateway{ID: x.GetId(), Weight: x.GetWeight(), Clients: int(x.GetClients())})
		case adminv1.GatewayState_GATEWAY_STATE_REBALANCING:
			return nil, status.Errorf(codes.FailedPrecondition, "gateway at %s is being rebalanced", x.GetAddress())
		case adminv1.GatewayState_GATEWAY_STATE_UNSPECIFIED:
			if x.GetActive() {
				return nil, status.Error(codes.Unavailable, x.GetTrouble())
			}
		case adminv1.GatewayState_GATEWAY_STATE_DRAINING, adminv1.GatewayState_GATEWAY_STATE_DRAINED,
			adminv1.GatewayState_GATEWAY_STATE_STOPPING:
		}
	}
	if len(active) < 2 {
		return nil, status.Errorf(codes.FailedPrecondition, "%d gateways take clients: there is nothing to share", len(active))
	}
	return rebalance.Plan(active), nil
}

// carryOut tells the gateways that have too many.
func (g *gateways) carryOut(ctx context.Context, shares []rebalance.Share, rate int) error {
	rates := rebalance.Rates(shares, rate)
	errs := make([]error, len(shares))
	var telling sync.WaitGroup
	for i, s := range shares {
		if s.Move == 0 {
			continue
		}
		telling.Go(func() {
			m, err := g.find(s.ID)
			if err == nil {
				err = g.ask(ctx, m, func(ctx context.Context, c gatewayv1.DrainServiceClient) error {
					_, err := c.Drain(ctx, &gatewayv1.DrainRequest{Keep: uint32(s.Target), Rate: uint32(rates[i]), ResumeAfter: true})
					return err
				})
			}
			if err != nil {
				errs[i] = fmt.Errorf("%d clients too many stay: %w", s.Move, err)
			}
		})
	}
	telling.Wait()
	if err := errors.Join(errs...); err != nil {
		return status.Error(codes.Unavailable, err.Error())
	}
	return nil
}
