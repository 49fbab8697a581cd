package bench

import (
	"context"
	"sync"
)

// atOnce bounds the connections that are being made at the same time, where that is not what is measured.
const atOnce = 64

// inParallel calls f with all numbers below n, some at a time, and returns when all calls have. The first error
// ends the context of the others, and keeps those that are not begun from it.
func inParallel(ctx context.Context, n int, f func(ctx context.Context, i int) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	slots := make(chan struct{}, atOnce)
	for i := range n {
		select {
		case slots <- struct{}{}:
		case <-ctx.Done():
		}
		if ctx.Err() != nil {
			break
		}
		wg.Go(func() {
			defer func() { <-slots }()
			if err := f(ctx, i); err != nil {
				cancel(err)
			}
		})
	}
	wg.Wait()
	return context.Cause(ctx)
}
