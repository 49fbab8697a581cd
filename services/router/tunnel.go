package router

import (
	"context"
	"errors"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/beeline-mqtt/beeline/internal/packet"
	"github.com/beeline-mqtt/beeline/services/router/internal/client"
	"github.com/beeline-mqtt/beeline/services/router/internal/fleet"
)

// tunnelAttempts is how many gateways are tried for one session.
const tunnelAttempts = 3

// session opens an MQTT session of the router's at a gateway: the next one when one does not take it. Its error is a status.
func (r *Router) session(ctx context.Context, c client.Config) (*client.Conn, error) {
	tried := make(map[string]bool)
	var last error
	for range tunnelAttempts {
		g, err := r.fleet.Next(func(incarnation string) bool { return tried[incarnation] })
		switch {
		case errors.Is(err, fleet.ErrNoGateway) && last != nil:
			return nil, status.Errorf(codes.Unavailable, "no gateway gives a session: %v", last)
		case err != nil:
			return nil, status.Error(codes.Unavailable, err.Error())
		}
		tried[g.ID] = true
		n, err := sessionAt(ctx, g, c)
		if err == nil {
			return n, nil
		}
		if ctx.Err() != nil {
			return nil, status.FromContextError(ctx.Err()).Err()
		}
		var refused *client.RefusedError
		if errors.As(err, &refused) && refused.Code == packet.ClientIdentifierNotValid {
			return nil, status.Error(codes.InvalidArgument, "durable_name: the gateway does not take it")
		}
		last = err
	}
	return nil, status.Errorf(codes.Unavailable, "no gateway gives a session: %v", last)
}

func sessionAt(ctx context.Context, g fleet.Gateway, c client.Config) (*client.Conn, error) {
	rw, err := client.Tunnel(g.Conn)
	if err != nil {
		return nil, err
	}
	return client.Open(ctx, rw, c)
}
