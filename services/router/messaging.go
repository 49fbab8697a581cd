package router

import (
	"context"
	"errors"
	"sync"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	messagev1 "github.com/beeline-mqtt/beeline/api/gen/beeline/message/v1"
	messagingv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/messaging/v1"
	"github.com/beeline-mqtt/beeline/internal/packet"
	"github.com/beeline-mqtt/beeline/services/router/internal/fleet"
	"github.com/beeline-mqtt/beeline/services/router/internal/publish"
)

// messaging is the MessagingService: what publishes itself, and the rest of its parts.
type messaging struct {
	unserved
	*subscribing
	*commanding

	fleet *fleet.Fleet
	desk  *publish.Desk

	mu      sync.Mutex // guards over, and Add of running
	over    bool
	ending  chan struct{}
	running sync.WaitGroup // streams, and what they have started
}

// unserved refuses what no part serves.
type unserved struct {
	messagingv1.UnimplementedMessagingServiceServer
}

func newMessaging(f *fleet.Fleet) *messaging {
	return &messaging{fleet: f, desk: publish.NewDesk(f), ending: make(chan struct{})}
}

// run serves until ctx ends, and returns when no stream is left.
func (m *messaging) run(ctx context.Context) error {
	err := m.desk.Run(ctx)
	m.mu.Lock()
	m.over = true
	close(m.ending)
	m.mu.Unlock()
	m.running.Wait()
	return err
}

// errStopping ends the streams of a router that stops.
var errStopping = status.Error(codes.Unavailable, "the router is stopping; what has no result may have been published")

// enter counts a stream, whose context is the result's, and ends with it or when the router stops. leave has to follow.
func (m *messaging) enter(ctx context.Context) (_ context.Context, leave func(), err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.over {
		return nil, nil, errStopping
	}
	ctx, cancel := context.WithCancelCause(ctx)
	m.running.Add(1)
	m.running.Go(func() {
		select {
		case <-m.ending:
			cancel(errStopping)
		case <-ctx.Done():
		}
	})
	return ctx, func() {
		cancel(context.Canceled)
		m.running.Done()
	}, nil
}

// statusOf is the one mapping of why a message has no result.
func statusOf(err error) error {
	switch {
	case errors.Is(err, publish.ErrNoGateway), errors.Is(err, publish.ErrNotKnown):
		return status.Error(codes.Unavailable, err.Error())
	case errors.Is(err, publish.ErrBusy):
		return status.Error(codes.ResourceExhausted, err.Error())
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		code := codes.Canceled
		if errors.Is(err, context.DeadlineExceeded) {
			code = codes.DeadlineExceeded
		}
		return status.Error(code, "the call was over before the result was known; the message may have been published")
	}
	if _, ok := status.FromError(err); ok {
		return err
	}
	return status.Error(codes.Internal, err.Error())
}

// failureOf is the status for a reason code of 128 or more.
func failureOf(c packet.Code) error {
	code := codes.Unknown
	switch c {
	case packet.TopicNameInvalid, packet.MalformedPacket, packet.ProtocolError, packet.PayloadFormatInvalid:
		code = codes.InvalidArgument
	case packet.PacketTooLarge, packet.QuotaExceeded:
		code = codes.ResourceExhausted
	case packet.NotAuthorized:
		code = codes.PermissionDenied
	case packet.UnspecifiedError:
		return status.Error(codes.DeadlineExceeded, "a receiver's gateway did not answer in time; the message may get there all the same")
	case packet.ImplementationSpecificError:
		code = codes.Internal
	}
	return status.Error(code, explain(c))
}

// explain says why a message was not taken.
func explain(c packet.Code) string {
	switch c {
	case packet.TopicNameInvalid:
		return "topic: cannot be published to: it has a wildcard (+ or #), is too long or too deep, or is a malformed address (p2p/, user/, group/)"
	case packet.PacketTooLarge:
		return "the message is larger than the gateways take"
	case packet.QuotaExceeded:
		return "a bound is reached: a queue on the message's way is full, or too many topics have a retained message"
	case packet.MalformedPacket:
		return "a property has a form that MQTT does not allow: a wildcard in response_topic, or a zero byte in a text"
	case packet.UnspecifiedError:
		return "a receiver's gateway did not answer in time"
	}
	return c.String()
}

// setMessage makes of m what goes to a gateway.
func setMessage(to *messagev1.Message, m *messagingv1.Message, topic string) {
	to.Topic, to.Payload, to.Retain = topic, m.GetPayload(), m.GetRetain()
	to.Qos = m.GetQos()
	if to.GetQos() == messagev1.Qos_QOS_UNSPECIFIED {
		to.Qos = messagev1.Qos_QOS_AT_LEAST_ONCE
	}
	if m.MessageExpirySeconds != nil {
		ms := uint64(m.GetMessageExpirySeconds()) * 1000
		to.ExpiresInMs = &ms
	}
	to.PayloadFormat, to.ContentType, to.ResponseTopic = m.GetPayloadFormat(), m.GetContentType(), m.GetResponseTopic()
	to.CorrelationData, to.UserProperties = m.CorrelationData, m.GetUserProperties() //nolint:protogetter // absent is not empty
}
