package beeline

import (
	"context"
	"errors"
	"fmt"
	"io"

	"google.golang.org/grpc"

	messagingv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/messaging/v1"
)

type publishStream = grpc.BidiStreamingClient[messagingv1.PublishStreamRequest, messagingv1.PublishStreamResponse]

// run publishes over one stream after the other until the publisher is closed and all have their results, or ctx is over.
func (p *Publisher) run(ctx context.Context) {
	var pause pauses
	for p.wanted(ctx) {
		progress, err := p.stream(ctx)
		if progress {
			pause.succeeded()
		}
		p.broken(ctx, err)
		if p.left() {
			pause.wait(ctx) // wanted looks at ctx
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	p.fail(&p.queue, ErrPublisherClosed)
}

// wanted waits for something to publish. It is false when there is nothing to come.
func (p *Publisher) wanted(ctx context.Context) bool {
	for ctx.Err() == nil {
		p.mu.Lock()
		some, closed := len(p.queue) > 0, p.closed
		p.mu.Unlock()
		if some || closed {
			return some
		}
		select {
		case <-p.wake:
		case <-ctx.Done():
		}
	}
	return false
}

func (p *Publisher) left() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.queue) > 0
}

// stream publishes over one stream until that ends, and returns why and whether there was a result. nil: all is done.
func (p *Publisher) stream(ctx context.Context) (progress bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	s, err := p.service.PublishStream(ctx)
	if err != nil {
		cancel()
		return false, err
	}
	written := make(chan struct{})
	go func() {
		defer close(written)
		p.write(ctx, s)
	}()
	defer func() {
		cancel()
		<-written
	}()
	for {
		r, err := s.Recv()
		if err != nil {
			if errors.Is(err, io.EOF) && !p.unanswered() {
				return progress, nil
			}
			return progress, err
		}
		progress = true
		if err := p.settle(r.GetResults()); err != nil {
			return progress, err
		}
	}
}

func (p *Publisher) unanswered() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.sent) > 0
}

// write writes what comes to a stream, until that or the publisher ends.
func (p *Publisher) write(ctx context.Context, s publishStream) {
	for {
		batch, closed := p.take()
		switch {
		case len(batch) > 0:
			if err := s.Send(&messagingv1.PublishStreamRequest{Messages: batch}); err != nil {
				return // Recv says why
			}
			continue
		case closed:
			_ = s.CloseSend() // it never fails
			return
		}
		select {
		case <-p.wake:
		case <-ctx.Done():
			return
		}
	}
}

// take makes what is next in the queue sent: whatever happens now, it may have been published.
func (p *Publisher) take() (batch []*messagingv1.Message, closed bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	size, n := 0, 0
	for n < min(len(p.queue), requestMessages) && (n == 0 || size+p.queue[n].size <= requestBytes) {
		size += p.queue[n].size
		batch = append(batch, p.queue[n].message)
		n++
	}
	for _, x := range p.queue[:n] {
		x.written = true
	}
	p.sent = append(p.sent, p.queue[:n]...)
	clear(p.queue[:n])
	p.queue = p.queue[n:]
	return batch, p.closed
}

// settle gives the oldest messages their results.
func (p *Publisher) settle(results []*messagingv1.PublishResult) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(results) > len(p.sent) {
		return fmt.Errorf("%d results for %d messages: this is no router", len(results), len(p.sent))
	}
	for i, r := range results {
		x := p.sent[i]
		p.sent[i] = nil
		if code := r.GetReasonCode(); code >= 128 {
			x.err = &PublishError{Code: code, Reason: r.GetReason()}
		} else {
			x.matched = code == 0
		}
		p.end(x)
	}
	p.sent = p.sent[len(results):]
	return nil
}

// broken decides what becomes of the messages of a stream that has ended with err.
func (p *Publisher) broken(ctx context.Context, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case err == nil:
	case p.resend && passing(err) && ctx.Err() == nil:
		p.queue = append(p.sent, p.queue...)
		p.sent = nil
	default:
		p.fail(&p.sent, err)
	}
	if err != nil && !passing(err) && ctx.Err() == nil {
		p.fail(&p.queue, err) // another stream would be refused likewise
	}
}

// fail ends all messages of a list. Of those that have been written it is not known whether they were published. p.mu is held.
func (p *Publisher) fail(list *[]*Pending, err error) {
	for _, x := range *list {
		x.err = fmt.Errorf("not published: %w", err)
		if x.written {
			x.err = fmt.Errorf("%w: %w", ErrUnknownOutcome, err)
		}
		p.end(x)
	}
	*list = nil
}

func (p *Publisher) end(x *Pending) {
	x.message = nil
	close(x.done)
	<-p.room
}
