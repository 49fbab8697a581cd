package beeline

import (
	"context"
	"fmt"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	messagingv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/messaging/v1"
)

// Subscription says what is subscribed to.
type Subscription struct {
	// Filters are topic filters, at QoS 1; at least one.
	Filters []string
	// ConsumerGroup shares the messages with all subscriptions of the same group and filter. Empty: this one gets every message.
	ConsumerGroup string
	// DurableName keeps what is published while nobody is subscribed under it. Only one subscription at a time is under a
	// name: a second one ends the first with ABORTED. Empty: what is published while the stream is broken is missed.
	DurableName string
	// DurableExpiry is for how long it is kept without a subscriber; a day when 0. Rounded up to seconds.
	DurableExpiry time.Duration
	// MaxUnacknowledged is how many messages the router sends ahead; 100 when 0.
	MaxUnacknowledged int
	// WithRetained has retained messages come first.
	WithRetained bool
	// Concurrency is how many handlers run at once; 1 when 0: then messages are handled in their order.
	Concurrency int
	// OnOpen is called when the whole cluster routes to the subscription, each time that it is opened: resumed if it is durable
	// and was there before. Until it returns no message is handled.
	OnOpen func(resumed bool)
	// OnDropped, if it is not nil, is told how many messages of QoS 0 were dropped because the handlers were slow. Others never are.
	OnDropped func(messages uint64)
}

// Handler handles one message. When it returns nil the message is acknowledged. Its context is that of Subscribe, and ends with
// the stream by which the message came: after that an acknowledgement is not possible, and the message may come again.
type Handler func(ctx context.Context, m *messagingv1.ReceivedMessage) error

// open is the first request of a stream.
func (s *Subscription) open() *messagingv1.SubscribeRequest {
	o := &messagingv1.SubscribeRequest_Open{
		ConsumerGroup: s.ConsumerGroup, DurableName: s.DurableName, WithRetained: s.WithRetained,
		DurableExpirySeconds: uint32((s.DurableExpiry + time.Second - 1) / time.Second),
		MaxUnacknowledged:    uint32(s.MaxUnacknowledged),
	}
	for _, f := range s.Filters {
		o.Filters = append(o.Filters, &messagingv1.SubscribeRequest_Filter{Filter: f})
	}
	return &messagingv1.SubscribeRequest{Request: &messagingv1.SubscribeRequest_Open_{Open: o}}
}

// Subscribe has handle handle what clients publish, until ctx is over, which is not an error. Then it takes no more messages,
// waits for the handlers that run, acknowledges what they have done and returns nil. A stream that breaks is opened again: a
// durable subscription goes on where it was, and what was not acknowledged comes again.
//
// It returns what a handler returns before that: the message is not acknowledged, and comes again if the subscription is durable or has a
// consumer group. And it returns what a router refuses or ends the subscription with, unless it is UNAVAILABLE, or of a durable one
// RESOURCE_EXHAUSTED, which is that the handlers were slow: any other has missed something then.
func (c *Client) Subscribe(ctx context.Context, s Subscription, handle Handler) error {
	var pause pauses
	for !over(ctx) {
		x := &subscriber{Subscription: s, handle: handle}
		err := x.run(ctx, c.messaging)
		switch {
		case x.failure != nil:
			return x.failure
		case over(ctx):
			return nil
		case !passing(err) && !x.slow(err):
			return fmt.Errorf("subscribe: %w", err)
		}
		if x.opened {
			pause.succeeded()
		}
		pause.wait(ctx)
	}
	return nil
}

// slow reports whether a stream was ended because its handlers were slow, and nothing is missed if it is opened again.
func (x *subscriber) slow(err error) bool {
	return x.opened && x.DurableName != "" && status.Code(err) == codes.ResourceExhausted
}

type subscribeStream = grpc.BidiStreamingClient[messagingv1.SubscribeRequest, messagingv1.SubscribeResponse]

// subscriber is a subscription while one stream lasts.
type subscriber struct {
	Subscription

	handle   Handler
	opened   bool
	messages chan *messagingv1.ReceivedMessage
	wake     chan struct{} // there may be something to acknowledge

	mu      sync.Mutex
	done    []uint64 // handled, to be acknowledged
	failure error    // what a handler returned
}

// partingTimeout is how long the end of a stream may take after the last acknowledgement.
const partingTimeout = 2 * time.Second

// run serves one stream until that or ctx ends. Nothing of it is left when it returns.
func (x *subscriber) run(ctx context.Context, service messagingv1.MessagingServiceClient) error {
	// The stream outlives ctx by as long as the handlers need: what they have done is acknowledged.
	streaming, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	handling, stop := context.WithCancel(ctx)
	defer stop()
	opening := context.AfterFunc(ctx, cancel)
	s, err := service.Subscribe(streaming)
	if err != nil {
		return err
	}
	if err := s.Send(x.open()); err != nil {
		_, err = s.Recv() // it says why
		return err
	}
	first, err := s.Recv()
	if err != nil {
		return err
	}
	if !opening() {
		return ctx.Err()
	}
	x.opened = true
	if x.OnOpen != nil {
		x.OnOpen(first.GetOpened().GetResumed())
	}
	x.messages, x.wake = make(chan *messagingv1.ReceivedMessage), make(chan struct{}, 1)
	received := make(chan error, 1)
	go func() {
		err := x.receive(handling, s)
		stop() // what came by this stream can be acknowledged no more
		received <- err
	}()
	var handlers, acknowledger sync.WaitGroup
	for range max(x.Concurrency, 1) {
		handlers.Go(func() { x.work(handling, stop) })
	}
	acknowledger.Go(func() { x.acknowledge(s) })
	handlers.Wait()
	close(x.wake)
	acknowledger.Wait()
	_ = s.CloseSend() // it never fails
	defer time.AfterFunc(partingTimeout, cancel).Stop()
	return <-received
}

// receive hands messages to the handlers until the stream ends. When handling is over it drops what comes.
func (x *subscriber) receive(handling context.Context, s subscribeStream) error {
	for {
		r, err := s.Recv()
		if err != nil {
			return err
		}
		if n := r.GetMessages().GetDropped(); n > 0 && x.OnDropped != nil {
			x.OnDropped(n)
		}
		for _, m := range r.GetMessages().GetMessages() {
			select {
			case x.messages <- m:
			case <-handling.Done():
			}
		}
	}
}

// work handles messages until there are no more.
func (x *subscriber) work(ctx context.Context, stop context.CancelFunc) {
	for {
		var m *messagingv1.ReceivedMessage
		select {
		case m = <-x.messages:
		case <-ctx.Done():
			return
		}
		err := x.handle(ctx, m)
		x.mu.Lock()
		switch {
		case err == nil:
			x.done = append(x.done, m.GetDeliveryId())
			wakeUp(x.wake)
		case x.failure == nil && !over(ctx): // later its error may be the end of ctx, whatever it looks like
			x.failure = err
		}
		x.mu.Unlock()
		if err != nil {
			stop()
			return
		}
	}
}

// mostAcknowledged is how many messages one request may acknowledge.
const mostAcknowledged = 10_000

// acknowledge acknowledges what has been handled until wake is closed and all is.
func (x *subscriber) acknowledge(s subscribeStream) {
	for more := true; more; {
		_, more = <-x.wake
		x.mu.Lock()
		ids := x.done
		x.done = nil
		x.mu.Unlock()
		for len(ids) > 0 {
			n := min(len(ids), mostAcknowledged)
			a := &messagingv1.SubscribeRequest_Acknowledge{DeliveryIds: ids[:n]}
			if s.Send(&messagingv1.SubscribeRequest{Request: &messagingv1.SubscribeRequest_Acknowledge_{Acknowledge: a}}) != nil {
				break // the stream is over, and its receiver knows
			}
			ids = ids[n:]
		}
	}
}
