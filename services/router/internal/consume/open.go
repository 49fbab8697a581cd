package consume

import (
	"context"
	"slices"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	messagingv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/messaging/v1"
	"github.com/beeline-mqtt/beeline/internal/packet"
	"github.com/beeline-mqtt/beeline/services/router/internal/client"
)

// openTimeout bounds the way to a session that is subscribed.
const openTimeout = 15 * time.Second

// open opens a session that is subscribed to what is asked for and to nothing else, and says so.
func (x *stream) open(t terms) error {
	ctx, cancel := context.WithTimeout(x.grpc.Context(), openTimeout)
	defer cancel()
	c, err := x.connect(ctx, t)
	if err != nil {
		return err
	}
	resumed := c.Connack.SessionPresent
	shared, err := x.settle(ctx, c, t)
	for err == nil && shared {
		// What the session has got by shared subscriptions that are no more is for other members of their groups. They get it
		// when the session is left, and nothing has been acknowledged yet.
		c.Close()
		if c, err = x.connect(ctx, t); err != nil {
			return err
		}
		shared, err = x.settle(ctx, c, t)
	}
	if err == nil {
		x.mu.Lock()
		x.conn, x.opened = c.Conn, true
		x.mu.Unlock()
		opened := &messagingv1.SubscribeResponse_Opened{Resumed: resumed}
		err = x.grpc.Send(&messagingv1.SubscribeResponse{Response: &messagingv1.SubscribeResponse_Opened_{Opened: opened}})
	}
	if err != nil {
		c.Close()
	}
	return err
}

// connect opens a session, with a window for what comes.
func (x *stream) connect(ctx context.Context, t terms) (Session, error) {
	x.mu.Lock()
	x.window = newWindow(t.unacknowledged, t.asked)
	x.mu.Unlock()
	return x.deps.Connect(ctx, client.Config{Connect: t.connect(), OnPublish: x.onPublish})
}

// settle subscribes to what is asked for, and then, so that nothing is missed that both match, ends the subscriptions of
// earlier streams. It reports whether shared ones were among these. Its error is a status.
func (x *stream) settle(ctx context.Context, c Session, t terms) (shared bool, err error) {
	granted, err := c.Subscribe(ctx, t.filters)
	if err != nil {
		return false, failed(x.grpc.Context(), c.Conn, err)
	}
	if err := refusalOf(t.filters, granted); err != nil || !c.Connack.SessionPresent {
		return false, err
	}
	subscriptions, err := c.Subscriptions(ctx)
	if err != nil {
		return false, failed(x.grpc.Context(), c.Conn, err)
	}
	left, shared := t.leftovers(subscriptions)
	for some := range slices.Chunk(left, mostFilters) {
		ended, err := c.Unsubscribe(ctx, some)
		if err != nil {
			return false, failed(x.grpc.Context(), c.Conn, err)
		}
		if slices.ContainsFunc(ended, packet.Code.Failure) {
			return false, status.Error(codes.Unavailable, "the gateway does not end the subscriptions of earlier streams: open the stream again")
		}
	}
	return shared, nil
}

// refusalOf is the first filter that was refused.
func refusalOf(filters []packet.Filter, granted []packet.Code) error {
	for i, code := range granted {
		if !code.Failure() || i >= len(filters) {
			continue
		}
		c := codes.Unavailable
		switch code {
		case packet.TopicFilterInvalid:
			c = codes.InvalidArgument
		case packet.QuotaExceeded:
			c = codes.ResourceExhausted
		case packet.NotAuthorized:
			c = codes.PermissionDenied
		default:
		}
		return status.Errorf(c, "open.filters[%d]: the gateway says %s", i, code)
	}
	return nil
}
