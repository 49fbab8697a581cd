package router

import (
	"context"
	"errors"
	"fmt"
	"io"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	gatewayv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/gateway/v1"
	messagev1 "github.com/beeline-mqtt/beeline/api/gen/beeline/message/v1"
	messagingv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/messaging/v1"
	"github.com/beeline-mqtt/beeline/internal/packet"
	"github.com/beeline-mqtt/beeline/services/router/internal/publish"
)

// publishWindow bounds the messages of one PublishStream whose results have not been sent.
const publishWindow = 16_384

// Publish implements MessagingService.
func (m *messaging) Publish(ctx context.Context, r *messagingv1.PublishRequest) (*messagingv1.PublishResponse, error) {
	if r.GetMessage() == nil {
		return nil, status.Error(codes.InvalidArgument, "message: must be given")
	}
	p := &gatewayv1.Publication{Message: new(messagev1.Message)}
	setMessage(p.GetMessage(), r.GetMessage(), r.GetMessage().GetTopic())
	result, err := m.desk.Publish(ctx, p)
	if err != nil {
		return nil, statusOf(err)
	}
	code := packet.Code(result.GetReasonCode())
	if code.Failure() {
		return nil, failureOf(code)
	}
	return &messagingv1.PublishResponse{Matched: code != packet.NoMatchingSubscribers}, nil
}

// publishStream is the caller's stream.
type publishStream = grpc.BidiStreamingServer[messagingv1.PublishStreamRequest, messagingv1.PublishStreamResponse]

// PublishStream implements MessagingService. Of its two goroutines this one sends results, so that it is the one that notices
// how the stream at the gateway ends.
func (m *messaging) PublishStream(s publishStream) error {
	ctx, leave, err := m.enter(s.Context())
	if err != nil {
		return err
	}
	defer leave()
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(context.Canceled)
	to, err := publish.Open(ctx, m.fleet, m.desk.Gateway())
	if err != nil {
		return statusOf(err)
	}
	results := publish.NewResults(publishWindow)
	m.running.Go(func() {
		if err := forward(ctx, s, to, results); err != nil {
			stop(err)
		}
	})
	return passOn(ctx, to, s, results)
}

// passOn sends the results of a gateway to the caller, in the order of its messages, until the gateway has given the last.
func passOn(ctx context.Context, from publish.Stream, to publishStream, results *publish.Results) error {
	var known []*gatewayv1.Result
	for {
		r, err := from.Recv()
		switch {
		case err != nil && ctx.Err() != nil:
			return statusOf(context.Cause(ctx))
		case errors.Is(err, io.EOF) && results.Outstanding() == 0:
			return nil
		case err != nil:
			return statusOf(publish.ErrNotKnown)
		}
		known = results.Put(known[:0], r.GetResults())
		if len(known) == 0 {
			continue
		}
		if err := to.Send(&messagingv1.PublishStreamResponse{Results: publishResults(known)}); err != nil {
			return fmt.Errorf("send results: %w", err)
		}
		results.Done(len(known))
	}
}

func publishResults(known []*gatewayv1.Result) []*messagingv1.PublishResult {
	block := make([]messagingv1.PublishResult, len(known))
	all := make([]*messagingv1.PublishResult, len(known))
	for i, x := range known {
		block[i].ReasonCode = x.GetReasonCode()
		if code := packet.Code(x.GetReasonCode()); code.Failure() {
			block[i].Reason = explain(code)
		}
		all[i] = &block[i]
	}
	return all
}

// forward sends what the caller publishes to a gateway, as long as there is room for the results.
func forward(ctx context.Context, from publishStream, to publish.Stream, results *publish.Results) error {
	for {
		r, err := from.Recv()
		switch {
		case errors.Is(err, io.EOF):
			return to.CloseSend()
		case err != nil:
			return err
		case len(r.GetMessages()) > publish.FrameMessages:
			return status.Errorf(codes.InvalidArgument, "messages: at most %d in one request", publish.FrameMessages)
		}
		for all := r.GetMessages(); len(all) > 0; {
			first, n, err := results.Take(ctx, len(all))
			if err != nil {
				return err
			}
			err = publish.Frames(publications(first, all[:n]), func(part []*gatewayv1.Publication) error {
				return to.Send(&gatewayv1.PublishRequest{Publications: part})
			})
			if errors.Is(err, io.EOF) {
				return nil // whoever receives knows why
			}
			if err != nil {
				return err
			}
			all = all[n:]
		}
	}
}

// publications are messages as they go to a gateway, in one block: there are many.
func publications(first uint64, messages []*messagingv1.Message) []*gatewayv1.Publication {
	block := make([]struct {
		p gatewayv1.Publication
		m messagev1.Message
	}, len(messages))
	all := make([]*gatewayv1.Publication, len(messages))
	for i, m := range messages {
		x := &block[i]
		setMessage(&x.m, m, m.GetTopic())
		x.p.RequestId, x.p.Message = first+uint64(i), &x.m
		all[i] = &x.p
	}
	return all
}
