package cluster

import (
	"sync/atomic"
	"time"
)

// tenure is until when an incarnation may act. It can be prolonged while it lasts; once somebody has seen that it
// is over, or ended it, it is over for good.
type tenure struct {
	// base gives until its meaning; both are on the monotonic clock.
	base  time.Time
	until atomic.Int64 // nanoseconds since base; 0 = over
}

func newTenure(until time.Time) *tenure {
	t := &tenure{base: time.Now()}
	if d := until.Sub(t.base); d > 0 {
		t.until.Store(int64(d))
	}
	return t
}

// lasts looks at the clock.
func (t *tenure) lasts() bool {
	for {
		until := t.until.Load()
		if until == 0 {
			return false
		}
		if int64(time.Since(t.base)) < until {
			return true
		}
		if t.until.CompareAndSwap(until, 0) {
			return false
		}
	}
}

// prolong makes it last until then, if that is later than now known and it is not over: false when it is.
func (t *tenure) prolong(until time.Time) bool {
	next := int64(until.Sub(t.base))
	for {
		if !t.lasts() {
			return false
		}
		old := t.until.Load()
		if old == 0 {
			return false
		}
		if next <= old || t.until.CompareAndSwap(old, next) {
			return true
		}
	}
}

func (t *tenure) end() { t.until.Store(0) }

// remaining is how long it lasts from now if nothing is done; not positive when it is over.
func (t *tenure) remaining() time.Duration {
	return time.Duration(t.until.Load()) - time.Since(t.base)
}
