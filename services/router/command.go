package router

import (
	"context"

	messagingv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/messaging/v1"
	"github.com/beeline-mqtt/beeline/services/router/internal/command"
)

// commanding is the part of MessagingService that sends commands.
type commanding struct {
	commander *command.Commander
}

func newCommanding(r *Router) *commanding {
	return &commanding{commander: command.New(command.Deps{
		Connect: r.session, Metrics: command.NewMetrics(r.deps.Metrics), Logger: r.deps.Logger,
	})}
}

// Command implements MessagingService.
func (x *commanding) Command(ctx context.Context, r *messagingv1.CommandRequest) (*messagingv1.CommandResponse, error) {
	return x.commander.Do(ctx, r)
}

// CommandStream implements MessagingService.
func (x *commanding) CommandStream(s messagingv1.MessagingService_CommandStreamServer) error {
	return x.commander.Serve(s)
}
