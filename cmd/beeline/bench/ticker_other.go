//go:build !linux

package bench

import (
	"os"
	"sync"
	"time"
)

// ticker ticks every so often, as exactly as the runtime does.
type ticker struct {
	t      *time.Ticker
	closed chan struct{}
	once   sync.Once
}

func newTicker(every time.Duration) (*ticker, error) {
	return &ticker{t: time.NewTicker(every), closed: make(chan struct{})}, nil
}

// wait returns after the next tick; at once when one is over since the last call; os.ErrClosed after close.
func (t *ticker) wait() error {
	select {
	case <-t.t.C:
		return nil
	case <-t.closed:
		return os.ErrClosed
	}
}

// close has wait return, also one that waits already.
func (t *ticker) close() {
	t.once.Do(func() {
		t.t.Stop()
		close(t.closed)
	})
}
