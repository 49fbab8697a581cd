package command

import (
	"context"
	"sync"
)

// turns are locks by key, of which only those exist that somebody has or waits for. The zero value is ready.
type turns[K comparable] struct {
	mu sync.Mutex
	m  map[K]*turn // guarded by mu
}

type turn struct {
	taken chan struct{}
	users int
}

// take waits for the turn of k, which is whoever's that has it until done is called. Its error is that of ctx.
func (t *turns[K]) take(ctx context.Context, k K) (done func(), err error) {
	t.mu.Lock()
	if t.m == nil {
		t.m = make(map[K]*turn)
	}
	x := t.m[k]
	if x == nil {
		x = &turn{taken: make(chan struct{}, 1)}
		t.m[k] = x
	}
	x.users++
	t.mu.Unlock()
	select {
	case x.taken <- struct{}{}:
		return func() {
			<-x.taken
			t.leave(k, x)
		}, nil
	case <-ctx.Done():
		t.leave(k, x)
		return nil, context.Cause(ctx)
	}
}

func (t *turns[K]) leave(k K, x *turn) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if x.users--; x.users == 0 {
		delete(t.m, k)
	}
}
