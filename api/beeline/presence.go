package beeline

import (
	"context"
	"errors"
	"fmt"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	messagingv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/messaging/v1"
)

// ErrMissedEvents is that the events after a cursor are not kept any more: whoever watches has to look anew, as with
// [Client.Admin], and to watch without a cursor.
var ErrMissedEvents = errors.New("the events after the cursor are not kept any more")

// PresenceHandler gets events, in their order, and the point behind them. The first call comes at once and may have no events.
// What it returns ends the watch.
type PresenceHandler func(events []*messagingv1.PresenceEvent, cursor string) error

// PresenceOptions say whom to watch, and from when on.
type PresenceOptions struct {
	// ClientIDPrefix is how the ids of the clients begin; empty: all.
	ClientIDPrefix string
	// Cursor is the point after which events are wanted, as an earlier watch gave it; empty: from now on.
	Cursor string
}

// WatchPresence has handle see who connects and disconnects, until ctx is over, which is not an error. A stream that breaks is
// opened again behind the last event. If the events since then are not kept any more, it returns ErrMissedEvents; and it returns what
// handle returns, and what a router refuses with, unless it is UNAVAILABLE or RESOURCE_EXHAUSTED.
func (c *Client) WatchPresence(ctx context.Context, o PresenceOptions, handle PresenceHandler) error {
	var pause pauses
	for !over(ctx) {
		before := o.Cursor
		err := c.watch(ctx, &o, handle)
		var h *handlerError
		switch {
		case errors.As(err, &h):
			return h.error
		case over(ctx):
			return nil
		case status.Code(err) == codes.OutOfRange:
			return fmt.Errorf("%w: %w", ErrMissedEvents, err)
		case !passing(err) && status.Code(err) != codes.ResourceExhausted: // which is: handle was slow
			return fmt.Errorf("watch presence: %w", err)
		}
		if o.Cursor != before {
			pause.succeeded()
		}
		pause.wait(ctx)
	}
	return nil
}

// handlerError is what a handler returned.
type handlerError struct{ error }

// watch watches over one stream, and moves the cursor.
func (c *Client) watch(ctx context.Context, o *PresenceOptions, handle PresenceHandler) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s, err := c.messaging.WatchPresence(ctx, &messagingv1.WatchPresenceRequest{ClientIdPrefix: o.ClientIDPrefix, Cursor: o.Cursor})
	if err != nil {
		return err
	}
	for {
		r, err := s.Recv()
		if err != nil {
			return err
		}
		if err := handle(r.GetEvents(), r.GetCursor()); err != nil {
			return &handlerError{err}
		}
		o.Cursor = r.GetCursor()
	}
}
