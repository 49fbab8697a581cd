package administration

import (
	"context"
	"fmt"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	adminv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/admin/v1"
	gatewayv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/gateway/v1"
	sessionv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/session/v1"
	"github.com/beeline-mqtt/beeline/internal/cluster"
	"github.com/beeline-mqtt/beeline/internal/rpc"
)

// RemoveSession implements the service. Whoever holds the client ends its session: a gateway with the connection, as if the
// client had said so, or the session service. Neither takes the client over for that: nothing that is on its way to it
// gets into other hands than it would anyway.
func (s *Service) RemoveSession(ctx context.Context, r *adminv1.RemoveSessionRequest) (*adminv1.RemoveSessionResponse, error) {
	x := removal{s: s, id: r.GetClientId()}
	if err := settle(ctx, x.try); err != nil {
		return nil, err
	}
	return &adminv1.RemoveSessionResponse{}, nil
}

// removal is a session on its way out. Once its connection has been ended, the session that it had is waited for, and the
// client may have another one already, which is let alone.
type removal struct {
	s       *Service
	id      string
	last    cluster.Lease
	ended   bool   // the connection
	session uint64 // that is to go; 0: none that is kept
}

func (x *removal) try(ctx context.Context) error {
	kept, err := x.inspect(ctx)
	if err != nil {
		return err
	}
	if x.ended {
		if kept != nil && kept.GetSessionId() == x.session && x.session != 0 {
			return fmt.Errorf("%w: its session has not ended yet", errMoving)
		}
		return nil
	}
	g, lease, held, err := x.s.holder(ctx, x.id)
	if err != nil {
		return err
	}
	if held {
		_, err := g.EndSession(ctx, &gatewayv1.EndSessionRequest{ClientId: x.id})
		switch {
		case err == nil:
			x.ended, x.session = true, kept.GetSessionId()
			return x.try(ctx)
		case status.Code(err) != codes.NotFound:
			return passed(err)
		case x.last != lease:
			x.last = lease
			return fmt.Errorf("%w: %w", errMoving, err)
		}
	}
	switch {
	case kept == nil:
		return status.Error(codes.NotFound, "the client is not connected and has no session")
	case kept.GetHolder() != "":
		return fmt.Errorf("%w: gateway %s holds its session", errMoving, kept.GetHolder())
	}
	return x.removeAway(ctx)
}

// inspect returns the session that is kept of the client, nil if none is.
func (x *removal) inspect(ctx context.Context) (*sessionv1.InspectSessionResponse, error) {
	session, _, err := x.s.session()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, x.s.answerTimeout)
	defer cancel()
	kept, err := session.InspectSession(ctx, &sessionv1.InspectSessionRequest{ClientId: x.id})
	if status.Code(err) == codes.NotFound {
		return nil, nil //nolint:nilnil // none is kept
	}
	return kept, passed(err)
}

// removeAway has the session service end a session that it holds.
func (x *removal) removeAway(ctx context.Context) error {
	session, _, err := x.s.session()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, x.s.answerTimeout)
	defer cancel()
	_, err = session.RemoveSession(ctx, &sessionv1.RemoveSessionRequest{ClientId: x.id})
	if rpc.ReasonOf(err) == rpc.Held {
		return fmt.Errorf("%w: %w", errMoving, err)
	}
	return passed(err)
}
