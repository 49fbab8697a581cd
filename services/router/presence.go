package router

import (
	"context"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	messagingv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/messaging/v1"
	sessionv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/session/v1"
)

var errSessionChanged = status.Error(codes.Unavailable, "the session service has changed hands; try again at the cursor")

// WatchPresence implements MessagingService: the active session instance sees who connects and disconnects, and its events
// pass through here.
func (m *messaging) WatchPresence(
	r *messagingv1.WatchPresenceRequest, g grpc.ServerStreamingServer[messagingv1.WatchPresenceResponse],
) error {
	session, conn, err := m.fleet.AwaitSession(g.Context())
	if err != nil {
		return status.Error(codes.Unavailable, err.Error())
	}
	ctx, cancel := context.WithCancelCause(g.Context())
	var waiting sync.WaitGroup
	defer waiting.Wait()
	defer cancel(nil)
	waiting.Go(func() {
		m.fleet.AwaitOther(ctx, session.ID)
		cancel(errSessionChanged)
	})
	events, err := sessionv1.NewSessionServiceClient(conn).WatchPresence(ctx, &sessionv1.WatchPresenceRequest{
		ClientIdPrefix: r.GetClientIdPrefix(), Cursor: r.GetCursor(),
	})
	if err != nil {
		return unwatched(g.Context(), err)
	}
	for {
		page, err := events.Recv()
		if err != nil {
			return unwatched(g.Context(), err)
		}
		if err := g.Send(&messagingv1.WatchPresenceResponse{Events: page.GetEvents(), Cursor: page.GetCursor()}); err != nil {
			return err
		}
	}
}

// unwatched is what a watcher is told of what has ended its events. Whatever has become of a session instance, the next one
// says whether it can go on at the cursor.
func unwatched(watcher context.Context, err error) error {
	if err := watcher.Err(); err != nil {
		return status.FromContextError(err).Err()
	}
	switch code := status.Code(err); code {
	case codes.OutOfRange, codes.InvalidArgument, codes.ResourceExhausted:
		return status.Error(code, status.Convert(err).Message())
	default:
		return errSessionChanged
	}
}
