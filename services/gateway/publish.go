package gateway

import (
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	gatewayv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/gateway/v1"
	"github.com/beeline-mqtt/beeline/internal/rpc"
	"github.com/beeline-mqtt/beeline/services/gateway/internal/publish"
)

// publisher is the PublishService, for whichever incarnation is in force.
type publisher struct {
	gatewayv1.UnimplementedPublishServiceServer

	gateway *Gateway
}

// Publish implements gatewayv1.PublishServiceServer.
func (p *publisher) Publish(s publish.Stream) error {
	if err := rpc.RequireRole(s.Context(), "router"); err != nil {
		return err
	}
	l := p.gateway.life.Load()
	if l == nil || !l.enter() {
		return status.Error(codes.Unavailable, "no incarnation is in force")
	}
	defer l.conns.Done()
	return publish.Serve(l.ctx, s, &l.conns, &l.publish)
}
