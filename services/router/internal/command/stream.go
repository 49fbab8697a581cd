package command

import (
	"context"
	"errors"
	"io"
	"sync"

	"google.golang.org/grpc/status"

	messagingv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/messaging/v1"
)

// mostInStream is how many commands of one stream are under way before no more are read.
const mostInStream = 10_000

// Stream is the caller's stream.
type Stream = messagingv1.MessagingService_CommandStreamServer

// Serve serves a stream of commands until the caller has ended its half and all are answered, or it breaks: then those that
// wait are given up. Its error is a status.
func (c *Commander) Serve(s Stream) error {
	ctx, cancel := context.WithCancel(s.Context())
	x := &stream{grpc: s, ends: make(chan *messagingv1.CommandStreamResponse)}
	answering := make(chan struct{})
	go func() {
		defer close(answering)
		x.answer(cancel)
	}()
	err := x.take(ctx, c)
	if err != nil {
		cancel()
	}
	x.waiting.Wait()
	cancel()
	close(x.ends)
	<-answering
	if err == nil {
		err = x.broken
	}
	return err
}

type stream struct {
	grpc    Stream
	ends    chan *messagingv1.CommandStreamResponse
	waiting sync.WaitGroup
	broken  error // of the goroutine that answers
}

// take takes commands until the caller has ended its half.
func (x *stream) take(ctx context.Context, c *Commander) error {
	room := make(chan struct{}, mostInStream)
	for {
		r, err := x.grpc.Recv()
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		}
		select {
		case room <- struct{}{}:
		case <-ctx.Done():
			return status.FromContextError(ctx.Err()).Err()
		}
		x.waiting.Go(func() {
			answer, err := c.Do(ctx, r.GetCommand())
			<-room
			x.ends <- endOf(r.GetRequestId(), answer, err)
		})
	}
}

// answer sends what has ended. When that fails it gives the others up.
func (x *stream) answer(giveUp func()) {
	for r := range x.ends {
		if x.broken != nil {
			continue
		}
		if x.broken = x.grpc.Send(r); x.broken != nil {
			giveUp()
		}
	}
}

func endOf(id uint64, answer *messagingv1.CommandResponse, err error) *messagingv1.CommandStreamResponse {
	r := &messagingv1.CommandStreamResponse{RequestId: id}
	if err == nil {
		r.End = &messagingv1.CommandStreamResponse_Answer{Answer: answer}
		return r
	}
	s := status.Convert(err)
	f := &messagingv1.CommandFailure{Code: uint32(s.Code()), Message: s.Message()}
	for _, d := range s.Details() {
		if receipt, ok := d.(*messagingv1.Receipt); ok {
			f.Receipt = receipt
		}
	}
	r.End = &messagingv1.CommandStreamResponse_Failure{Failure: f}
	return r
}
