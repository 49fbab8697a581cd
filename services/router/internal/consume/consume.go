// Package consume serves the streams of MessagingService.Subscribe: each is one MQTT session of the router's at a gateway,
// over a tunnel, so that acknowledgement, consumer groups and durable subscriptions are those of MQTT.
//
// A stream has one goroutine that reads the session, one that reads what the caller acknowledges, and the call's own, which
// sends. What waits between them is bounded by its window.
package consume

import (
	"context"
	"crypto/rand"
	"errors"
	"io"
	"strings"
	"sync"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	messagingv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/messaging/v1"
	"github.com/beeline-mqtt/beeline/internal/message"
	"github.com/beeline-mqtt/beeline/internal/packet"
	"github.com/beeline-mqtt/beeline/services/router/internal/client"
)

const (
	defaultUnacknowledged = 100
	mostUnacknowledged    = 10_000
	defaultExpiry         = 86_400
	mostFilters           = 100
)

// Stream is the caller's stream.
type Stream = messagingv1.MessagingService_SubscribeServer

// Deps are what streams work with.
type Deps struct {
	// Connect opens a session at some gateway. Its error is a status.
	Connect func(context.Context, client.Config) (Session, error)
	// Caller names whoever has made a call: durable names are its own.
	Caller func(context.Context) string
	// Stopping is closed when the router ends.
	Stopping <-chan struct{}
	Metrics  *Metrics
}

// Session is an MQTT session at a gateway.
type Session struct {
	*client.Conn

	// Subscriptions asks the gateway what the session is subscribed to.
	Subscriptions func(context.Context) ([]string, error)
}

// Serve serves one stream until it ends. Its error is a status.
func Serve(s Stream, d Deps) error {
	first, err := s.Recv()
	if err != nil {
		return err
	}
	o := first.GetOpen()
	if o == nil {
		return status.Error(codes.InvalidArgument, "request: the first one must be open")
	}
	t, err := termsOf(o, d.Caller(s.Context()))
	if err != nil {
		return status.Error(codes.InvalidArgument, err.Error())
	}
	x := &stream{grpc: s, deps: d, wake: make(chan struct{}, 1), room: make(chan struct{}, 1)}
	if err := x.open(t); err != nil {
		return err
	}
	defer x.conn.Close()
	d.Metrics.open.Inc()
	defer d.Metrics.open.Dec()
	ended := make(chan error, 1)
	go func() { ended <- x.receive() }() // ends with the call, which nothing else ends while it waits
	return x.send(ended)
}

// stream is a stream that is served.
type stream struct {
	grpc Stream
	deps Deps
	conn *client.Conn
	wake chan struct{} // there may be something to send
	room chan struct{} // there may be room to receive

	mu     sync.Mutex
	window *window // guarded by mu
	// opened: nothing is awaited of the gateway any more but messages; guarded by mu.
	opened bool
}

// onPublish takes a message of the session. While too much waits it does not return, unless the gateway's answers are awaited,
// which come behind what it had kept: then the Receive Maximum is the only bound.
func (x *stream) onPublish(c *client.Conn, p packet.Publish) {
	x.mu.Lock()
	taken := x.window.receive(p)
	full := x.opened && x.window.full()
	x.mu.Unlock()
	x.deps.Metrics.received(taken)
	wakeUp(x.wake)
	for full {
		select {
		case <-x.room:
		case <-c.Done():
			return
		case <-x.grpc.Context().Done():
			return
		}
		x.mu.Lock()
		full = x.window.full()
		x.mu.Unlock()
	}
}

func wakeUp(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default: // it has been told, and has not looked yet
	}
}

// receive takes acknowledgements until the caller ends its half.
func (x *stream) receive() error {
	for {
		r, err := x.grpc.Recv()
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		case r.GetAcknowledge() == nil:
			return status.Error(codes.InvalidArgument, "request: only the first one may be open")
		}
		x.mu.Lock()
		due, err := x.window.acknowledge(r.GetAcknowledge().GetDeliveryIds())
		if err == nil {
			x.conn.Acknowledge(due...) // under mu: in their order
		}
		x.mu.Unlock()
		if err != nil {
			return status.Errorf(codes.InvalidArgument, "acknowledge.delivery_ids: %v", err)
		}
		wakeUp(x.wake)
	}
}

// send sends what there is until the stream ends, and returns why.
func (x *stream) send(ended <-chan error) error {
	for {
		x.mu.Lock()
		m, due := x.window.next()
		if len(due) > 0 {
			x.conn.Acknowledge(due...) // under mu: in their order
		}
		x.mu.Unlock()
		if m != nil {
			x.deps.Metrics.discarded.Add(float64(m.GetDiscarded()))
			wakeUp(x.room)
			if err := x.grpc.Send(&messagingv1.SubscribeResponse{Response: &messagingv1.SubscribeResponse_Messages_{Messages: m}}); err != nil {
				return err
			}
			continue
		}
		select {
		case <-x.wake:
		case err := <-ended:
			return err
		case <-x.conn.Done():
			return failed(x.grpc.Context(), x.conn, x.conn.Err())
		case <-x.deps.Stopping:
			return status.Error(codes.Unavailable, "the router is stopping: open the stream again")
		case <-x.grpc.Context().Done():
			return status.FromContextError(x.grpc.Context().Err()).Err()
		}
	}
}

// failed is the status for what went wrong with a session.
func failed(ctx context.Context, c *client.Conn, err error) error {
	if ctx.Err() != nil {
		return status.FromContextError(ctx.Err()).Err()
	}
	var d *client.DisconnectedError
	switch {
	case errors.As(c.Err(), &d) && d.Code == packet.SessionTakenOver:
		return status.Error(codes.Aborted, "another stream was opened under the same durable name")
	case errors.As(c.Err(), &d) && d.Code == packet.QuotaExceeded:
		return status.Error(codes.ResourceExhausted, "the stream was too slow for too long")
	default:
		return status.Errorf(codes.Unavailable, "the gateway of the stream has ended it: open it again: %v", err)
	}
}

// publisherOf is a publisher as callers see it: services have no name.
func publisherOf(clientID string) string {
	if strings.HasPrefix(clientID, message.ServicePrefix) {
		return ""
	}
	return clientID
}

// transientID is the client id of a stream that nobody comes back to.
func transientID() string { return message.ServicePrefix + "stream-" + rand.Text() }
