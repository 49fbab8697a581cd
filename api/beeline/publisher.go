package beeline

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"

	"google.golang.org/protobuf/proto"

	messagingv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/messaging/v1"
)

// ErrUnknownOutcome is what a message ends with whose result was lost with a stream: it may have been published.
var ErrUnknownOutcome = errors.New("the stream has broken: it is not known whether the message was published")

// ErrPublisherClosed is what Publish returns after Close.
var ErrPublisherClosed = errors.New("the publisher is closed")

// PublishError is that the cluster has not taken a message.
type PublishError struct {
	// Code is the MQTT 5 reason code, 128 or more.
	Code uint32
	// Reason says why.
	Reason string
}

// Error implements error.
func (e *PublishError) Error() string {
	return fmt.Sprintf("not taken: %s (reason code %d)", e.Reason, e.Code)
}

// PublisherOptions bound a publisher. The zero value is a good one.
type PublisherOptions struct {
	// MaxInFlight is how many messages may be without a result before Publish waits; 10,000 when 0.
	MaxInFlight int
	// Resend has messages without a result published again when a stream has broken. Each is published at least once then,
	// perhaps twice, and a second copy may come after what was published later. Without it they end with ErrUnknownOutcome.
	Resend bool
}

const (
	defaultInFlight = 10_000
	// Bounds of one request: those of the contract, and a size well below what a router takes.
	requestMessages = 1000
	requestBytes    = 256 << 10
)

// Publisher publishes many messages, in their order, over a stream. It may be used by any number of goroutines. When the
// stream breaks it opens another one; messages that were not written yet go there.
type Publisher struct {
	service messagingv1.MessagingServiceClient
	resend  bool
	room    chan struct{} // has an element for each message without a result
	wake    chan struct{} // there may be something to write
	stop    context.CancelFunc
	ended   chan struct{}

	mu     sync.Mutex
	queue  []*Pending // not written
	sent   []*Pending // written to the present stream, in order
	closed bool
}

// Pending is a message on its way.
type Pending struct {
	message *messagingv1.Message
	size    int
	written bool
	done    chan struct{}
	matched bool
	err     error
}

// Done is closed when the result is there.
func (p *Pending) Done() <-chan struct{} { return p.done }

// Wait waits for the result: whether anybody matched, and if the message was not taken why not, which is a [*PublishError],
// [ErrUnknownOutcome] or what the stream was refused with. When ctx is over first its error is returned, and the message is
// still on its way.
func (p *Pending) Wait(ctx context.Context) (matched bool, err error) {
	select {
	case <-p.done:
		return p.matched, p.err
	default:
	}
	select {
	case <-p.done:
		return p.matched, p.err
	case <-ctx.Done():
		return false, ctx.Err()
	}
}

// Publisher returns a publisher. It has to be closed.
func (c *Client) Publisher(o PublisherOptions) *Publisher {
	if o.MaxInFlight <= 0 {
		o.MaxInFlight = defaultInFlight
	}
	ctx, stop := context.WithCancel(context.Background())
	p := &Publisher{
		service: c.messaging, resend: o.Resend,
		room: make(chan struct{}, o.MaxInFlight), wake: make(chan struct{}, 1), stop: stop, ended: make(chan struct{}),
	}
	go func() {
		defer close(p.ended)
		p.run(ctx)
	}()
	return p
}

// Publish hands a message over, which must not be changed before it has its result. While as many as MaxInFlight have none it
// waits, until ctx is over. Its error says that the message will not be published.
func (p *Publisher) Publish(ctx context.Context, m *messagingv1.Message) (*Pending, error) {
	if err := check(m); err != nil {
		return nil, err // here, because a router ends the whole stream for it
	}
	select {
	case p.room <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-p.ended:
		return nil, ErrPublisherClosed
	}
	x := &Pending{message: m, size: proto.Size(m), done: make(chan struct{})}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		<-p.room
		return nil, ErrPublisherClosed
	}
	p.queue = append(p.queue, x)
	wakeUp(p.wake)
	return x, nil
}

// check finds what no router takes.
func check(m *messagingv1.Message) error {
	t := m.GetTopic()
	if t == "" || len(t) > 65535 || strings.ContainsAny(t, "+#\x00") {
		return &PublishError{Code: 144, Reason: fmt.Sprintf("%.100q is not a topic name", t)}
	}
	if len(m.GetUserProperties()) > 100 {
		return &PublishError{Code: 151, Reason: "more than 100 user properties"}
	}
	return nil
}

func wakeUp(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default: // it has been told, and has not looked yet
	}
}

// Close takes no more messages, waits until all have their results and ends. When ctx is over first it ends at once: what has
// no result then has ErrUnknownOutcome, or ErrPublisherClosed if it was not even written, and Close returns the error of ctx.
func (p *Publisher) Close(ctx context.Context) error {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	wakeUp(p.wake)
	defer p.stop()
	select {
	case <-p.ended:
		return nil
	case <-ctx.Done():
		p.stop()
		<-p.ended
		return ctx.Err()
	}
}
