// Package administration is the AdminService of a router: it asks every gateway and the session service, and puts their
// answers together. It keeps nothing. What did not answer in time is named in the answer, or the call is UNAVAILABLE: an
// answer that looks complete is.
//
// Who may call what is not its business. It is safe for concurrent use; the goroutines of a call end with it.
package administration

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	adminv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/admin/v1"
	gatewayv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/gateway/v1"
	sessionv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/session/v1"
	"github.com/beeline-mqtt/beeline/internal/cluster"
	"github.com/beeline-mqtt/beeline/internal/rpc"
	"github.com/beeline-mqtt/beeline/services/router/internal/fleet"
)

// Fleet is the processes of the cluster; see package fleet.
type Fleet interface {
	Gateways() []cluster.Member
	Gateway(incarnation string) (fleet.Gateway, error)
	Session() (cluster.Member, grpc.ClientConnInterface, error)
}

// Deps are what the service works with; both are required.
type Deps struct {
	Fleet Fleet
	// LookUp reads leases from etcd; what it does not return has no valid lease.
	LookUp func(ctx context.Context, clientIDs []string) (map[string]cluster.Lease, error)
}

// Service is the AdminService.
type Service struct {
	adminv1.UnimplementedAdminServiceServer

	deps Deps
	// answerTimeout bounds what one process may take to answer; tests shorten it.
	answerTimeout time.Duration
	// stopping is closed by Close.
	stopping chan struct{}
	stop     func()
}

const (
	answerTimeout = 3 * time.Second
	// moveTimeout is how long a client is looked for that is on its way from one holder to the next, movePause how long
	// between two looks.
	moveTimeout = 5 * time.Second
	movePause   = 50 * time.Millisecond
	// changeTimeout bounds a change of subscriptions, for which every process has to acknowledge a route.
	changeTimeout = 10 * time.Second
)

// New returns the service.
func New(d Deps) *Service {
	s := &Service{deps: d, answerTimeout: answerTimeout, stopping: make(chan struct{})}
	s.stop = sync.OnceFunc(func() { close(s.stopping) })
	return s
}

// Close ends the calls that would go on for as long as their callers want, before the server stops in order.
func (s *Service) Close() { s.stop() }

// errMoving: the client is neither where its lease says nor anywhere else, for now.
var errMoving = errors.New("the client is moving")

// holder returns the gateway that has a client's connection, as etcd says; false: none has.
func (s *Service) holder(ctx context.Context, id string) (gatewayv1.InspectServiceClient, cluster.Lease, bool, error) {
	ctx, cancel := context.WithTimeout(ctx, s.answerTimeout)
	defer cancel()
	leases, err := s.deps.LookUp(ctx, []string{id})
	if err != nil {
		return nil, cluster.Lease{}, false, status.Errorf(codes.Unavailable, "who holds the client is not known: %v", err)
	}
	lease, held := leases[id]
	if !held {
		return nil, cluster.Lease{}, false, nil
	}
	g, err := s.deps.Fleet.Gateway(lease.Holder)
	if err != nil {
		// It is alive, or the lease would not be valid, but the view of the fleet is behind.
		return nil, lease, false, fmt.Errorf("%w: %w", errMoving, err)
	}
	return gatewayv1.NewInspectServiceClient(g.Conn), lease, true, nil
}

// session returns the session service; the error is made for callers.
func (s *Service) session() (sessionv1.SessionServiceClient, cluster.Member, error) {
	m, c, err := s.deps.Fleet.Session()
	if err != nil {
		return nil, m, status.Errorf(codes.Unavailable, "session service: %v", err)
	}
	return sessionv1.NewSessionServiceClient(c), m, nil
}

// settle calls f until its error is not that the client is moving, for a while.
func settle(ctx context.Context, f func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, moveTimeout)
	defer cancel()
	for {
		err := f(ctx)
		if !errors.Is(err, errMoving) {
			return err
		}
		pause := time.NewTimer(movePause)
		select {
		case <-pause.C:
		case <-ctx.Done():
			pause.Stop()
			return status.Errorf(codes.Unavailable, "%v", err)
		}
	}
}

// atHolder calls f with the gateway that has a client's connection. NOT_FOUND from there means that the client is on its way
// somewhere else, or ending, until its lease says that nobody has it.
func (s *Service) atHolder(ctx context.Context, id string, f func(context.Context, gatewayv1.InspectServiceClient) error) error {
	var last cluster.Lease
	return settle(ctx, func(ctx context.Context) error {
		g, lease, held, err := s.holder(ctx, id)
		switch {
		case err != nil:
			return err
		case !held:
			return status.Error(codes.NotFound, "the client is not connected")
		}
		err = f(ctx, g)
		if status.Code(err) == codes.NotFound && last != lease {
			// Once more, and under the same lease it is final: what is not there may also be a subscription.
			last = lease
			return fmt.Errorf("%w: %w", errMoving, err)
		}
		return passed(err)
	})
}

// passed is the error of another process for the caller: what that says about the request stays, and everything that says
// that it cannot be asked is UNAVAILABLE.
func passed(err error) error {
	if err == nil {
		return nil
	}
	switch code := status.Code(err); code {
	case codes.NotFound, codes.InvalidArgument, codes.ResourceExhausted, codes.Unavailable, codes.Canceled:
		return status.Error(code, status.Convert(err).Message())
	case codes.DeadlineExceeded:
		return status.Error(codes.Unavailable, "no answer in time")
	case codes.FailedPrecondition:
		if rpc.ReasonOf(err) == "" {
			return status.Error(code, status.Convert(err).Message())
		}
		return status.Error(codes.Unavailable, status.Convert(err).Message())
	case codes.Unimplemented:
		return status.Error(codes.Unavailable, "it is of a version that cannot be asked this")
	default:
		return status.Error(codes.Unavailable, status.Convert(err).Message())
	}
}
