package bench

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"
)

func TestEveryNumberHasItsCall(t *testing.T) {
	for _, rate := range []int{0, 100_000} {
		turns, end, err := newTurns(rate, 3)
		if err != nil {
			t.Fatal(err)
		}
		var calls [100]atomic.Int32
		var now, most atomic.Int32
		err = forEach(t.Context(), len(calls), turns, func(_ context.Context, i int) error {
			if n := now.Add(1); n > most.Load() {
				most.Store(n)
			}
			calls[i].Add(1)
			now.Add(-1)
			return nil
		})
		end()
		if err != nil || rate == 0 && most.Load() > 3 {
			t.Errorf("%v, %d at a time", err, most.Load())
		}
		for i := range calls {
			if calls[i].Load() != 1 {
				t.Errorf("%d calls of %d", calls[i].Load(), i)
			}
		}
	}
}

func TestTheFirstErrorEndsTheRest(t *testing.T) {
	for _, rate := range []int{0, 1000} {
		turns, end, err := newTurns(rate, 3)
		if err != nil {
			t.Fatal(err)
		}
		var calls atomic.Int32
		err = forEach(t.Context(), 1_000_000, turns, func(ctx context.Context, i int) error {
			calls.Add(1)
			if i == 5 {
				return errBroken
			}
			if i > 5 {
				<-ctx.Done()
				return errors.New("another")
			}
			return nil
		})
		end()
		if !errors.Is(err, errBroken) || calls.Load() > 1000 {
			t.Errorf("%v after %d calls", err, calls.Load())
		}
	}
}

func TestAContextThatEndsEndsIt(t *testing.T) {
	for _, rate := range []int{0, 1000} {
		turns, end, err := newTurns(rate, 1)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		err = forEach(ctx, 1_000_000, turns, func(ctx context.Context, _ int) error {
			cancel()
			<-ctx.Done()
			return nil
		})
		end()
		if !errors.Is(err, context.Canceled) {
			t.Errorf("rate %d: %v", rate, err)
		}
	}
}

func TestARateIsKept(t *testing.T) {
	turns, end, err := newTurns(500, 1)
	if err != nil {
		t.Fatal(err)
	}
	defer end()
	begin := time.Now()
	if err := forEach(t.Context(), 51, turns, func(context.Context, int) error { return nil }); err != nil {
		t.Fatal(err)
	}
	if passed := time.Since(begin); passed < 100*time.Millisecond {
		t.Errorf("51 at 500/s in %v", passed)
	}
}
