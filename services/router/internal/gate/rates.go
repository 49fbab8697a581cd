package gate

import (
	"context"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/beeline-mqtt/beeline/services/router/internal/access"
)

// mostCallers is of how many callers it is kept how much they have asked for.
const mostCallers = 10_000

// rates is how much each caller has asked for.
type rates struct {
	cfg Rates
	now func() time.Time

	mu      sync.Mutex
	callers map[caller]*pace // guarded by mu
}

type caller struct {
	name string
	role access.Role
}

// pace is what one caller may do; nil: anything.
type pace struct{ calls, messages *rate.Limiter }

func newRates(cfg Rates, now func() time.Time) *rates {
	return &rates{cfg: cfg, now: now, callers: map[caller]*pace{}}
}

func (r *rates) of(p access.Principal) *pace {
	c := caller{p.Name, p.Role}
	r.mu.Lock()
	defer r.mu.Unlock()
	x := r.callers[c]
	if x == nil {
		if len(r.callers) >= mostCallers {
			r.forget()
		}
		limit := r.cfg.of(p.Role)
		// A whole second's worth at once; a request of a stream has up to mostMessages.
		x = &pace{calls: limiter(limit.Calls, limit.Calls), messages: limiter(limit.Messages, max(limit.Messages, mostMessages))}
		r.callers[c] = x
	}
	return x
}

func limiter(perSecond, burst int) *rate.Limiter {
	if perSecond == 0 {
		return nil
	}
	return rate.NewLimiter(rate.Limit(perSecond), burst)
}

// forget drops those who have been idle for long enough to be as good as new; all, if nobody has. It needs mu held.
func (r *rates) forget() {
	now := r.now()
	idle := func(l *rate.Limiter) bool { return l == nil || l.TokensAt(now) >= float64(l.Burst()) }
	for c, x := range r.callers {
		if idle(x.calls) && idle(x.messages) {
			delete(r.callers, c)
		}
	}
	if len(r.callers) >= mostCallers {
		clear(r.callers)
	}
}

// call counts a call, or refuses it and says when to try again.
func (r *rates) call(p access.Principal) error {
	l := r.of(p).calls
	if l == nil {
		return nil
	}
	now := r.now()
	reserved := l.ReserveN(now, 1)
	if wait := reserved.DelayFrom(now); wait > 0 {
		reserved.CancelAt(now)
		return tooFast("calls", wait)
	}
	return nil
}

// messages counts messages of a stream, and waits until there may be so many.
func (r *rates) messages(ctx context.Context, p access.Principal, n int) error {
	l := r.of(p).messages
	if l == nil || l.WaitN(ctx, n) == nil {
		return nil
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	return tooFast("messages", time.Second)
}
