package beeline

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	messagev1 "github.com/beeline-mqtt/beeline/api/gen/beeline/message/v1"
	messagingv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/messaging/v1"
)

func message(topic string) *messagingv1.Message {
	return &messagingv1.Message{Topic: topic, Payload: []byte("p")}
}

// numbered are messages with the topics m0, m1 and so on.
func numbered(from, to int) []*messagingv1.Message {
	var all []*messagingv1.Message
	for i := from; i < to; i++ {
		all = append(all, message(fmt.Sprintf("m%d", i)))
	}
	return all
}

// publishAll hands messages over.
func publishAll(t *testing.T, p *Publisher, all ...*messagingv1.Message) []*Pending {
	t.Helper()
	var pending []*Pending
	for _, m := range all {
		x, err := p.Publish(t.Context(), m)
		if err != nil {
			t.Fatal(err)
		}
		pending = append(pending, x)
	}
	return pending
}

// outcomes says in a word what became of messages.
func outcomes(t *testing.T, pending []*Pending) string {
	t.Helper()
	var all []string
	for _, x := range pending {
		matched, err := x.Wait(t.Context())
		var refused *PublishError
		switch {
		case errors.As(err, &refused):
			all = append(all, fmt.Sprint(refused.Code))
		case errors.Is(err, ErrUnknownOutcome):
			all = append(all, "unknown")
		case err != nil:
			all = append(all, "not")
		case matched:
			all = append(all, "matched")
		default:
			all = append(all, "nobody")
		}
	}
	return strings.Join(all, " ")
}

// taker takes messages in requests, gives the first of them the results, and then ends as end says. topics gets what came.
func taker(topics *[]string, messages int, end error, results ...uint32) func(publishServer) error {
	return func(s publishServer) error {
		for n := 0; n < messages; {
			r, err := s.Recv()
			if err != nil {
				return err
			}
			for _, m := range r.GetMessages() {
				*topics = append(*topics, m.GetTopic())
			}
			n += len(r.GetMessages())
		}
		for _, code := range results {
			if err := s.Send(&messagingv1.PublishStreamResponse{Results: []*messagingv1.PublishResult{{ReasonCode: code, Reason: "why"}}}); err != nil {
				return err
			}
		}
		if end == nil {
			_, err := s.Recv()
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		return end
	}
}

func TestEachMessageGetsItsResult(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, c := start(t)
		var topics []string
		f.publish <- taker(&topics, 4, nil, 0, 16, 135, 151)
		p := c.Publisher(PublisherOptions{})
		pending := publishAll(t, p, numbered(0, 4)...)
		if got := outcomes(t, pending); got != "matched nobody 135 151" {
			t.Errorf("results: %s", got)
		}
		if err := p.Close(t.Context()); err != nil {
			t.Errorf("close: %v", err)
		}
		if got := strings.Join(topics, " "); got != "m0 m1 m2 m3" {
			t.Errorf("came: %s", got)
		}
		if _, err := p.Publish(t.Context(), message("late")); !errors.Is(err, ErrPublisherClosed) {
			t.Errorf("after the end: %v", err)
		}
	})
}

func TestOfABrokenStreamTheRestIsUnknownAndTheNextOneGoesOn(t *testing.T) {
	broken := status.Error(codes.Unavailable, "by order of the test")
	for _, tt := range []struct {
		name         string
		resend       bool
		want, second string
	}{
		{"reported", false, "matched unknown unknown matched", "m3"},
		{"sent again", true, "matched matched matched matched", "m1 m2 m3"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f, c := start(t)
				var first, second []string
				f.publish <- taker(&first, 3, broken, 0)
				n := len(strings.Fields(tt.second))
				f.publish <- taker(&second, n, nil, slices.Repeat([]uint32{0}, n)...)
				p := c.Publisher(PublisherOptions{Resend: tt.resend})
				pending := publishAll(t, p, numbered(0, 3)...)
				synctest.Wait()
				pending = append(pending, publishAll(t, p, numbered(3, 4)...)...)
				if got := outcomes(t, pending); got != tt.want {
					t.Errorf("results: %s, want %s", got, tt.want)
				}
				if err := p.Close(t.Context()); err != nil {
					t.Error(err)
				}
				if got := strings.Join(second, " "); got != tt.second {
					t.Errorf("on the second stream: %s, want %s", got, tt.second)
				}
			})
		})
	}
}

func TestARefusedStreamFailsWhatItWasToTakeAndIsNotTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, c := start(t)
		var topics []string
		f.publish <- taker(&topics, 1, status.Error(codes.PermissionDenied, "no"))
		p := c.Publisher(PublisherOptions{Resend: true})
		pending := publishAll(t, p, message("a"))
		_, err := pending[0].Wait(t.Context())
		if !errors.Is(err, ErrUnknownOutcome) || status.Code(err) != codes.PermissionDenied {
			t.Errorf("error %v", err)
		}
		if err := p.Close(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

func TestPublishWaitsWhileTooManyAreInFlight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, c := start(t)
		f.publish <- func(s publishServer) error {
			<-s.Context().Done()
			return nil
		}
		p := c.Publisher(PublisherOptions{MaxInFlight: 2})
		pending := publishAll(t, p, numbered(0, 2)...)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if _, err := p.Publish(ctx, message("m2")); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a third: %v", err)
		}
		ctx, cancel = context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := p.Close(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("close without results: %v", err)
		}
		if got := outcomes(t, pending); got != "unknown unknown" {
			t.Errorf("results: %s", got)
		}
	})
}

func TestWhatWasNeverWrittenIsKnownNotToBePublished(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, c := start(t)
		for range cap(f.publish) {
			f.publish <- func(publishServer) error { return status.Error(codes.Unavailable, "by order of the test") }
		}
		p := c.Publisher(PublisherOptions{})
		synctest.Wait()
		p.mu.Lock()
		p.queue = append(p.queue, &Pending{message: message("a"), done: make(chan struct{})}) // not woken
		x := p.queue[0]
		p.room <- struct{}{}
		p.mu.Unlock()
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		p.stop()
		if err := p.Close(ctx); err != nil && !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		if _, err := x.Wait(t.Context()); !errors.Is(err, ErrPublisherClosed) || errors.Is(err, ErrUnknownOutcome) {
			t.Errorf("error %v", err)
		}
	})
}

func TestWhatNoRouterTakesIsRefusedAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, c := start(t)
		p := c.Publisher(PublisherOptions{})
		many := message("a")
		many.UserProperties = make([]*messagev1.UserProperty, 101)
		for _, m := range []*messagingv1.Message{message(""), message("a/#"), message("+"), message("a\x00"), message(strings.Repeat("a", 65536)), many} {
			var refused *PublishError
			if _, err := p.Publish(t.Context(), m); !errors.As(err, &refused) || refused.Code < 128 {
				t.Errorf("%.20q: %v", m.GetTopic(), err)
			}
		}
		if err := p.Close(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

func TestARequestIsBoundedInMessagesAndBytes(t *testing.T) {
	p := &Publisher{}
	add := func(n, size int) {
		for range n {
			p.queue = append(p.queue, &Pending{message: message("a"), size: size})
		}
	}
	add(1001, 1)
	add(1, requestBytes+1)
	add(3, requestBytes/2)
	var got []int
	for {
		batch, _ := p.take()
		if len(batch) == 0 {
			break
		}
		got = append(got, len(batch))
	}
	if want := []int{1000, 1, 1, 2, 1}; !slices.Equal(got, want) {
		t.Errorf("requests of %v messages, want %v", got, want)
	}
}

func TestTooManyResultsAreAnError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, c := start(t)
		var topics []string
		f.publish <- taker(&topics, 1, nil, 0, 0)
		p := c.Publisher(PublisherOptions{})
		if got := outcomes(t, publishAll(t, p, message("a"))); got != "matched" {
			t.Errorf("result: %s", got)
		}
		if err := p.Close(t.Context()); err != nil {
			t.Error(err)
		}
	})
}
