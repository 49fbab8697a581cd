package router

import (
	"context"
	"errors"
	"fmt"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	gatewayv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/gateway/v1"
	"github.com/beeline-mqtt/beeline/internal/packet"
	"github.com/beeline-mqtt/beeline/services/router/internal/client"
	"github.com/beeline-mqtt/beeline/services/router/internal/consume"
	"github.com/beeline-mqtt/beeline/services/router/internal/fleet"
)

// tunnelAttempts is how many gateways are tried for one session.
const tunnelAttempts = 3

// session opens an MQTT session of the router's at a gateway. Its error is a status.
func (r *Router) session(ctx context.Context, c client.Config) (*client.Conn, error) {
	n, _, err := r.sessionSomewhere(ctx, c)
	return n, err
}

// consumerSession is session, of which can be asked what it is subscribed to.
func (r *Router) consumerSession(ctx context.Context, c client.Config) (consume.Session, error) {
	n, g, err := r.sessionSomewhere(ctx, c)
	if err != nil {
		return consume.Session{}, err
	}
	return consume.Session{Conn: n, Subscriptions: func(ctx context.Context) ([]string, error) {
		known, err := gatewayv1.NewInspectServiceClient(g.Conn).GetClient(ctx, &gatewayv1.GetClientRequest{ClientId: c.Connect.ClientID})
		if err != nil {
			return nil, fmt.Errorf("ask gateway %s for subscriptions: %w", g.ID, err)
		}
		var filters []string
		for _, s := range known.GetSubscriptions() {
			filters = append(filters, s.GetFilter())
		}
		return filters, nil
	}}, nil
}

// sessionSomewhere opens a session at a gateway: the next one when one does not take it.
func (r *Router) sessionSomewhere(ctx context.Context, c client.Config) (*client.Conn, fleet.Gateway, error) {
	tried := make(map[string]bool)
	var last error
	for range tunnelAttempts {
		g, err := r.fleet.Next(func(incarnation string) bool { return tried[incarnation] })
		switch {
		case errors.Is(err, fleet.ErrNoGateway) && last != nil:
			return nil, fleet.Gateway{}, status.Errorf(codes.Unavailable, "no gateway gives a session: %v", last)
		case err != nil:
			return nil, fleet.Gateway{}, status.Error(codes.Unavailable, err.Error())
		}
		tried[g.ID] = true
		n, err := sessionAt(ctx, g, c)
		if err == nil {
			return n, g, nil
		}
		if ctx.Err() != nil {
			return nil, fleet.Gateway{}, status.FromContextError(ctx.Err()).Err()
		}
		var refused *client.RefusedError
		if errors.As(err, &refused) && refused.Code == packet.ClientIdentifierNotValid {
			return nil, fleet.Gateway{}, status.Error(codes.InvalidArgument, "durable_name: the gateway does not take it")
		}
		last = err
	}
	return nil, fleet.Gateway{}, status.Errorf(codes.Unavailable, "no gateway gives a session: %v", last)
}

func sessionAt(ctx context.Context, g fleet.Gateway, c client.Config) (*client.Conn, error) {
	rw, err := client.Tunnel(g.Conn)
	if err != nil {
		return nil, err
	}
	return client.Open(ctx, rw, c)
}
