// Package drain decides when a gateway that moves its clients away tells how many of them to go, and when it takes
// clients again. It knows no MQTT, no etcd and no clock: who the clients are, what they are told and what time it is,
// is the caller's. It is pure, and starts no goroutine.
//
//	          Begin             grace          all told, or gone         settle
//	Serving ---------> Grace ----------> Moving -----------> Settling ----------> Serving
//	   ^                                   |                                (Then: Resume)
//	   |             Resume                v
//	   +-------------------------------- Drained   (Then: Stay, End)
package drain

import (
	"math"
	"time"

	"github.com/beeline-mqtt/beeline/internal/config"
)

// Config sets the pace.
type Config struct {
	// Rate is how many clients are told to go in a second, as long as they are all told within Timeout so.
	Rate int `koanf:"rate" help:"clients moved away in a second, more if the time would not be enough"`
	// Timeout bounds the whole of it, Grace included. 0: a gateway that stops moves nobody; one that is drained by
	// command has DefaultConfig's time.
	Timeout time.Duration `koanf:"timeout" help:"how long moving all clients away may take; 0s: a gateway that stops moves nobody, all are told at the end"`
	// Grace is how long routers and load balancers have to look elsewhere before anybody is told to go or refused.
	Grace time.Duration `koanf:"grace" help:"how long clients are still taken, for those who send them here to notice"`
	// Settle is how long a gateway that has shed some of its clients is still shown as draining: those who come back to
	// a router meanwhile are taken elsewhere.
	Settle time.Duration `koanf:"settle" help:"how long routers send nobody here after a rebalance, for those who were moved to come back elsewhere"`
}

// DefaultConfig moves a thousand clients a second.
func DefaultConfig() Config {
	return Config{Rate: 1000, Timeout: 30 * time.Second, Grace: time.Second, Settle: 10 * time.Second}
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
	case c.Settle < 0:
		return config.Invalid("settle", "must not be negative")
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
	if within <= 0 {
		return pace{}
	}
	return pace{rate: max(float64(rate), float64(n)/within.Seconds()), time: within}
}

// due is how many are to have been told after some time: all of them when the time is over.
func (p pace) due(after time.Duration) int {
	if after >= p.time {
		return math.MaxInt
	}
	return int(p.rate * after.Seconds())
}
