//go:build !linux

package bench

import "time"

// ticker ticks every so often, as exactly as the runtime does.
type ticker struct{ t *time.Ticker }

func newTicker() (*ticker, error) { return &ticker{}, nil }

// start has the ticks begin: the first is over when every is.
func (t *ticker) start(every time.Duration) error {
	t.t = time.NewTicker(every)
	return nil
}

// wait returns after the next tick; at once when one is over since the last call.
func (t *ticker) wait() error {
	<-t.t.C
	return nil
}

// close is for when nobody waits.
func (t *ticker) close() {
	if t.t != nil {
		t.t.Stop()
	}
}
