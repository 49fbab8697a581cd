// Package publish brings the messages of services to a gateway, where they enter the cluster: on a stream of the caller's
// own (Open), or, for those who have one message and want its result, on a stream that all share (Desk).
//
// It knows the gateways from the fleet, and goes to one as long as that lives and is not drained.
package publish

import (
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	gatewayv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/gateway/v1"
	"github.com/beeline-mqtt/beeline/internal/cluster"
	"github.com/beeline-mqtt/beeline/services/router/internal/fleet"
)

// Why a message has no result.
var (
	// ErrNoGateway: no gateway takes it. It has not been published.
	ErrNoGateway = errors.New("no gateway can be reached; nothing was published")
	// ErrNotKnown: the gateway was lost before it answered.
	ErrNotKnown = errors.New("the gateway was lost before it answered; the outcome is not known")
	// ErrBusy: too much is under way. It has not been published.
	ErrBusy = errors.New("too many messages are under way; nothing was published")
)

const (
	// frameBytes and FrameMessages bound what goes to a gateway in one frame; one message may be larger.
	frameBytes    = 512 << 10
	FrameMessages = 1000
	// openTimeout bounds how long a gateway may take to take a stream.
	openTimeout = 3 * time.Second
)

// Gateways are what the fleet knows.
type Gateways interface {
	// Next returns the gateways one after the other, those first that are not draining.
	Next(but func(incarnation string) bool) (fleet.Gateway, error)
	// Gateway returns that with an incarnation, or an error.
	Gateway(incarnation string) (fleet.Gateway, error)
}

// Stream is a stream that a gateway has taken.
type Stream struct {
	grpc.BidiStreamingClient[gatewayv1.PublishRequest, gatewayv1.PublishResponse]

	// Gateway is its incarnation.
	Gateway string
}

// Open opens a stream, which lasts as long as ctx, to preferred if that is an active gateway, else to another one. The error
// is ErrNoGateway when none takes it.
func Open(ctx context.Context, g Gateways, preferred string) (Stream, error) {
	tried := make(map[string]bool)
	if to, err := g.Gateway(preferred); err == nil && to.State == cluster.Active {
		tried[to.ID] = true
		if s, err := open(ctx, to); err == nil {
			return s, nil
		}
	}
	for ctx.Err() == nil {
		to, err := g.Next(func(id string) bool { return tried[id] })
		if err != nil {
			return Stream{}, ErrNoGateway
		}
		tried[to.ID] = true
		if s, err := open(ctx, to); err == nil {
			return s, nil
		}
	}
	return Stream{}, ErrNoGateway
}

// open waits for the headers: without them nothing is sent, so that it can be sent to another gateway.
func open(ctx context.Context, to fleet.Gateway) (Stream, error) {
	ctx, cancel := context.WithCancel(ctx)
	late := time.AfterFunc(openTimeout, cancel)
	s, err := gatewayv1.NewPublishServiceClient(to.Conn).Publish(ctx)
	if err == nil {
		_, err = s.Header()
	}
	if err == nil && !late.Stop() {
		err = context.DeadlineExceeded
	}
	if err == nil && s.Context().Err() != nil {
		err = s.Context().Err()
	}
	if err != nil {
		cancel()
		return Stream{}, fmt.Errorf("publish at %s: %w", to.ID, err)
	}
	context.AfterFunc(s.Context(), cancel)
	return Stream{s, to.ID}, nil
}

// Frames calls send for parts of all that fit into a frame.
func Frames(all []*gatewayv1.Publication, send func([]*gatewayv1.Publication) error) error {
	for len(all) > 0 {
		n, bytes := 0, 0
		for n < len(all) && n < FrameMessages {
			if bytes += proto.Size(all[n]); n > 0 && bytes > frameBytes {
				break
			}
			n++
		}
		if err := send(all[:n]); err != nil {
			return err
		}
		all = all[n:]
	}
	return nil
}
