package bench

import (
	"context"
	"sync"
	"time"
)

// atOnce bounds the connections that are being made at the same time, where that is not what is measured.
const atOnce = 64

// turns say when the next of several things may begin.
type turns interface {
	wait(ctx context.Context, i int) error // until thing i may begin, or the context ends
	done()                                 // one of them has ended
}

// forEach calls f with all numbers below n, each in a goroutine, and returns when all calls have. The first error
// ends the context of the others, and keeps those that are not begun from it.
func forEach(ctx context.Context, n int, t turns, f func(ctx context.Context, i int) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	for i := range n {
		if err := t.wait(ctx, i); err != nil {
			cancel(err)
		}
		if ctx.Err() != nil {
			break
		}
		wg.Go(func() {
			defer t.done()
			if err := f(ctx, i); err != nil {
				cancel(err)
			}
		})
	}
	wg.Wait()
	return context.Cause(ctx)
}

// slots let as many things go on at once as the channel has room for.
type slots chan struct{}

func (s slots) wait(ctx context.Context, _ int) error {
	select {
	case s <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (s slots) done() { <-s }

// schedule lets things begin at a pace, however many go on at once.
type schedule struct {
	pace pace
	tick *ticker
	from time.Time
}

func newSchedule(rate int) (*schedule, error) {
	tick, err := newTicker()
	if err != nil {
		return nil, err
	}
	s := &schedule{pace: newPace(rate, time.Millisecond), tick: tick, from: time.Now()}
	return s, tick.start(s.pace.tick)
}

func (s *schedule) wait(ctx context.Context, i int) error {
	for s.pace.due(uint64(i)) > time.Since(s.from) {
		if err := s.tick.wait(); err != nil {
			return err
		}
	}
	return context.Cause(ctx)
}

func (s *schedule) done() {}

// newTurns has so many things begin in a second; with rate 0 so many go on at once. Call end when all are done.
func newTurns(rate, parallel int) (t turns, end func(), err error) {
	if rate == 0 {
		return make(slots, parallel), func() {}, nil
	}
	s, err := newSchedule(rate)
	if err != nil {
		return nil, nil, err
	}
	return s, s.tick.close, nil
}
