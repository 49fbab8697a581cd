package router

import (
	"context"
	"fmt"
	"net"

	"google.golang.org/grpc"

	adminv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/admin/v1"
	messagingv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/messaging/v1"
	"github.com/beeline-mqtt/beeline/internal/rpc"
)

// Register adds the public services to a server.
func (r *Router) Register(s grpc.ServiceRegistrar) {
	adminv1.RegisterPlacementServiceServer(s, &admin{placer: r.placer})
	adminv1.RegisterAdminServiceServer(s, r.administration)
	adminv1.RegisterGatewayServiceServer(s, &gateways{placer: r.placer, fleet: r.fleet})
	messagingv1.RegisterGroupServiceServer(s, &groupService{fleet: r.fleet})
	messagingv1.RegisterMessagingServiceServer(s, &messaging{subscribing: r.subscribing, commanding: r.commanding})
}

// Serve puts the public services on the process's server, which has to be a public one, with what decides about calls before
// them. REST becomes calls to the same server.
func (r *Router) Serve(s *rpc.Server) error {
	s.Guard(r.gate)
	r.Register(s)
	if r.rest == nil {
		return nil
	}
	var err error
	if r.within, err = s.Connect(); err != nil {
		return fmt.Errorf("rest: %w", err)
	}
	return r.rest.Connect(context.Background(), r.within, s.MaxMessageSize())
}

// REST is where the public services are served over HTTP; nil when they are not.
func (r *Router) REST() net.Addr {
	if r.rest == nil {
		return nil
	}
	return r.rest.Addr()
}

// serveREST serves it until ctx ends, if there is to be any.
func (r *Router) serveREST(ctx context.Context) error {
	if r.within == nil {
		<-ctx.Done()
		return nil
	}
	err := r.rest.Run(ctx)
	_ = r.within.Close()
	return err
}
