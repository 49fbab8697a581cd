package router

import (
	"context"
	"sync"

	messagingv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/messaging/v1"
	"github.com/beeline-mqtt/beeline/services/router/internal/access"
	"github.com/beeline-mqtt/beeline/services/router/internal/consume"
)

// subscribing is the part of MessagingService that streams what clients publish.
type subscribing struct {
	deps consume.Deps
	stop func()
}

func newSubscribing(r *Router) *subscribing {
	stopping := make(chan struct{})
	return &subscribing{
		deps: consume.Deps{Connect: r.consumerSession, Caller: func(ctx context.Context) string { return access.From(ctx).ID() }, Stopping: stopping, Metrics: consume.NewMetrics(r.deps.Metrics)},
		stop: sync.OnceFunc(func() { close(stopping) }),
	}
}

// Subscribe implements MessagingService.
func (x *subscribing) Subscribe(s messagingv1.MessagingService_SubscribeServer) error {
	return consume.Serve(s, x.deps)
}

// run has streams end with ctx. Those that are held up by their callers end with the gRPC server.
func (x *subscribing) run(ctx context.Context) error {
	<-ctx.Done()
	x.stop()
	return nil
}
