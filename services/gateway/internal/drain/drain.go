// Package drain decides when a gateway that is being drained tells each of its clients to go, and where to. It knows
// no MQTT and no etcd: who the clients are and what they are told is the caller's. It starts no goroutine.
package drain

import (
	"context"
	"errors"
	"iter"
	"math"
	"time"

	"github.com/beeline-mqtt/beeline/internal/config"
)

// ErrNowhere says that no other gateway takes clients: those who are left stay where they are.
var ErrNowhere = errors.New("no other gateway takes clients")

// Config sets the pace.
type Config struct {
	// Rate is how many clients are told to go in a second, as long as they are all told within Timeout so.
	Rate int `koanf:"rate" help:"clients moved away in a second, more if the time would not be enough"`
	// Timeout bounds the whole of it, Grace included. 0: a gateway that stops moves nobody, and one that is drained all
	// at once.
	Timeout time.Duration `koanf:"timeout" help:"how long moving all clients away may take; 0s: they are not moved, and all told at the end"`
	// Grace is how long routers and load balancers have to look elsewhere before anybody is told to go or refused.
	Grace time.Duration `koanf:"grace" help:"how long clients are still taken, for those who send them here to notice"`
}

// DefaultConfig moves a thousand clients a second.
func DefaultConfig() Config {
	return Config{Rate: 1000, Timeout: 30 * time.Second, Grace: time.Second}
}

// Validate reports the first setting that cannot work, by its key.
func (c Config) Validate() error {
	switch {
	case c.Rate < 1:
		return config.Invalid("rate", "must be positive")
	case c.Timeout < 0:
		return config.Invalid("timeout", "must not be negative")
	case c.Grace < 0 || c.Timeout > 0 && c.Grace >= c.Timeout:
		return config.Invalid("grace", "must not be negative, and shorter than timeout")
	}
	return nil
}

// pace is a number of clients that are to be told within some time.
type pace struct {
	rate float64 // a second
	time time.Duration
}

// paceOf keeps the rate if it is enough for n clients within the time, else it raises it.
func paceOf(rate, n int, within time.Duration) pace {
	return pace{rate: max(float64(rate), float64(n)/within.Seconds()), time: within}
}

// due is how many are to have been told after some time: all of them when the time is over.
func (p pace) due(after time.Duration) int {
	if after >= p.time {
		return math.MaxInt
	}
	return int(p.rate * after.Seconds())
}

// Crowd is who is to go.
type Crowd[C any] struct {
	// Left is how many are here.
	Left func() int
	// All yields them, each time anew; those that have been told and are not gone yet may be among them.
	All func() iter.Seq[C]
	// Tell tells one to go, and reports whether that one had not been told before.
	Tell func(C) bool
	// Somewhere reports whether there is another gateway for them.
	Somewhere func() bool
}

// step is how often some are told: often enough that they are not many at once.
const step = 20 * time.Millisecond

// Wait lets the grace pass, unless nobody is here for whom it would be. It returns when ctx ends, with its error.
func Wait[C any](ctx context.Context, c Config, crowd Crowd[C]) error {
	return until(ctx, c.Grace, func(time.Duration) (bool, error) { return crowd.Left() == 0, nil })
}

// Move tells all to go at the rate of c, and returns when they are gone, at the latest when the time of c is over; all
// have been told then. Grace has passed. It returns ErrNowhere as soon as there is nowhere to go, and the error of ctx
// when that ends.
func Move[C any](ctx context.Context, c Config, crowd Crowd[C]) error {
	p := paceOf(c.Rate, crowd.Left(), c.Timeout-c.Grace)
	told := 0
	next, stop := iter.Pull(crowd.All())
	defer func() { stop() }()
	tell := func(most int) {
		for again := true; told < most; {
			one, ok := next()
			switch {
			case ok:
				if crowd.Tell(one) {
					told++
				}
				continue
			case !again:
				return
			}
			// Some may have come while the others were told.
			again = false
			stop()
			next, stop = iter.Pull(crowd.All())
		}
	}
	return until(ctx, p.time, func(after time.Duration) (bool, error) {
		switch {
		case crowd.Left() == 0:
			return true, nil
		case !crowd.Somewhere():
			return false, ErrNowhere
		}
		tell(p.due(after))
		return false, nil
	})
}

// until calls f now, every step, and when the time is over, unless it says that it is done.
func until(ctx context.Context, limit time.Duration, f func(after time.Duration) (done bool, err error)) error {
	began := time.Now()
	tick := time.NewTicker(step)
	defer tick.Stop()
	for {
		after := time.Since(began)
		if done, err := f(after); done || err != nil || after >= limit {
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick.C:
		}
	}
}
