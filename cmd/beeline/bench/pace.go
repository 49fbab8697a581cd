package bench

import "time"

// leastTick bounds how often the pacer wakes up. At a higher rate several messages are due at once, each from
// another publisher.
const leastTick = 50 * time.Microsecond

// pace says when each of a stream of messages is due: so many at every tick, the first ones at the begin.
type pace struct {
	tick time.Duration
	each uint64
}

// newPace is that of so many messages a second, exact to a nanosecond a tick.
func newPace(rate int) pace {
	each := max(uint64(rate)*uint64(leastTick)/uint64(time.Second), 1)
	return pace{tick: time.Duration(each * uint64(time.Second) / uint64(rate)), each: each}
}

// due is when message n is due, since the begin.
func (p pace) due(n uint64) time.Duration {
	return time.Duration(n/p.each) * p.tick
}

// count is how many messages are due at a time since the begin.
func (p pace) count(at time.Duration) uint64 {
	if at < 0 {
		return 0
	}
	return (uint64(at/p.tick) + 1) * p.each
}
