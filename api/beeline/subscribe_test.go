package beeline

import (
	"context"
	"errors"
	"io"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	messagingv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/messaging/v1"
)

// opened takes the first request and answers it.
func opened(s subscribeServer, resumed bool) (*messagingv1.SubscribeRequest_Open, error) {
	r, err := s.Recv()
	if err != nil {
		return nil, err
	}
	o := &messagingv1.SubscribeResponse_Opened{Resumed: resumed}
	return r.GetOpen(), s.Send(&messagingv1.SubscribeResponse{Response: &messagingv1.SubscribeResponse_Opened_{Opened: o}})
}

func deliver(s subscribeServer, ids ...uint64) error {
	all := &messagingv1.SubscribeResponse_Messages{Dropped: 1}
	for _, id := range ids {
		all.Messages = append(all.Messages, &messagingv1.ReceivedMessage{DeliveryId: id, Message: message("a")})
	}
	return s.Send(&messagingv1.SubscribeResponse{Response: &messagingv1.SubscribeResponse_Messages_{Messages: all}})
}

// acknowledged collects what is acknowledged until n are, or the caller ends its half if n is 0.
func acknowledged(s subscribeServer, n int) (ids []uint64, err error) {
	for n == 0 || len(ids) < n {
		r, err := s.Recv()
		if errors.Is(err, io.EOF) {
			return ids, nil
		}
		if err != nil {
			return ids, err
		}
		ids = append(ids, r.GetAcknowledge().GetDeliveryIds()...)
	}
	return ids, nil
}

func TestWhatIsHandledIsAcknowledgedAndABrokenStreamIsOpenedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, c := start(t)
		ctx, cancel := context.WithCancel(t.Context())
		var open *messagingv1.SubscribeRequest_Open
		var first, second []uint64
		f.subscribe <- func(s subscribeServer) (err error) {
			if open, err = opened(s, false); err == nil {
				err = deliver(s, 1, 2)
			}
			if err == nil {
				first, err = acknowledged(s, 2)
			}
			return errors.Join(err, status.Error(codes.Unavailable, "by order of the test"))
		}
		f.subscribe <- func(subscribeServer) error { return status.Error(codes.Unavailable, "not yet") }
		f.subscribe <- func(s subscribeServer) error {
			_, err := opened(s, true)
			if err == nil {
				err = deliver(s, 1)
			}
			if err == nil {
				second, err = acknowledged(s, 0)
			}
			return err
		}
		var resumed []bool
		handled, dropped := 0, uint64(0)
		err := c.Subscribe(ctx, Subscription{
			Filters: []string{"a/#", "b"}, ConsumerGroup: "g", DurableName: "d", DurableExpiry: 1500 * time.Millisecond,
			MaxUnacknowledged: 7, WithRetained: true, OnOpen: func(r bool) { resumed = append(resumed, r) },
			OnDropped: func(n uint64) { dropped += n },
		}, func(context.Context, *messagingv1.ReceivedMessage) error {
			if handled++; handled == 3 {
				cancel() // in the middle: it is acknowledged all the same
			}
			return nil
		})
		if err != nil {
			t.Errorf("subscribe: %v", err)
		}
		if !slices.Equal(first, []uint64{1, 2}) || !slices.Equal(second, []uint64{1}) || !slices.Equal(resumed, []bool{false, true}) {
			t.Errorf("acknowledged %v and %v, resumed %v", first, second, resumed)
		}
		if dropped != 2 {
			t.Errorf("%d messages were dropped", dropped)
		}
		if len(open.GetFilters()) != 2 || open.GetConsumerGroup() != "g" || open.GetDurableName() != "d" || open.GetDurableExpirySeconds() != 2 ||
			open.GetMaxUnacknowledged() != 7 || !open.GetWithRetained() {
			t.Errorf("opened with %v", open)
		}
	})
}

func TestAHandlersErrorEndsTheSubscriptionWithoutItsAcknowledgement(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, c := start(t)
		var ids []uint64
		f.subscribe <- func(s subscribeServer) error {
			_, err := opened(s, false)
			if err == nil {
				err = deliver(s, 1, 2, 3)
			}
			if err == nil {
				ids, err = acknowledged(s, 0)
			}
			return err
		}
		bad := errors.New("by order of the test")
		err := c.Subscribe(t.Context(), Subscription{Filters: []string{"a"}}, func(_ context.Context, m *messagingv1.ReceivedMessage) error {
			if m.GetDeliveryId() == 2 {
				return bad
			}
			return nil
		})
		if !errors.Is(err, bad) {
			t.Errorf("subscribe: %v", err)
		}
		if !slices.Equal(ids, []uint64{1}) {
			t.Errorf("acknowledged: %v", ids)
		}
	})
}

func TestHandlersRunAtOnceAndEndWithTheirStream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, c := start(t)
		ctx, cancel := context.WithCancel(t.Context())
		broken := make(chan struct{})
		f.subscribe <- func(s subscribeServer) error {
			_, err := opened(s, false)
			if err == nil {
				err = deliver(s, 1, 2, 3)
			}
			<-broken
			return errors.Join(err, status.Error(codes.Unavailable, "by order of the test"))
		}
		f.subscribe <- func(s subscribeServer) error {
			cancel()
			<-s.Context().Done()
			return nil
		}
		var mu sync.Mutex
		running := 0
		go func() {
			synctest.Wait()
			mu.Lock()
			defer mu.Unlock()
			if running != 3 {
				t.Errorf("%d handlers run at once", running)
			}
			close(broken)
		}()
		err := c.Subscribe(ctx, Subscription{Filters: []string{"a"}, Concurrency: 3}, func(ctx context.Context, _ *messagingv1.ReceivedMessage) error {
			mu.Lock()
			running++
			mu.Unlock()
			<-ctx.Done()
			return ctx.Err()
		})
		if err != nil {
			t.Errorf("subscribe: %v", err)
		}
	})
}

func TestWhoWasSlowGoesOnIfNothingIsMissed(t *testing.T) {
	for _, name := range []string{"", "d"} {
		synctest.Test(t, func(t *testing.T) {
			f, c := start(t)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			slow := status.Error(codes.ResourceExhausted, "slow")
			f.subscribe <- func(s subscribeServer) error {
				_, err := opened(s, false)
				return errors.Join(err, slow)
			}
			f.subscribe <- func(s subscribeServer) error {
				cancel()
				return slow
			}
			err := c.Subscribe(ctx, Subscription{Filters: []string{"a"}, DurableName: name}, nil)
			if again := ctx.Err() != nil; again != (name != "") || again != (err == nil) {
				t.Errorf("durable name %q: opened again: %v, %v", name, again, err)
			}
		})
	}
}

func TestARefusedSubscriptionIsReturned(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, c := start(t)
		f.subscribe <- func(subscribeServer) error { return status.Error(codes.Aborted, "another one") }
		if err := c.Subscribe(t.Context(), Subscription{Filters: []string{"a"}}, nil); status.Code(err) != codes.Aborted {
			t.Errorf("subscribe: %v", err)
		}
	})
}
