package bench

import "time"

// pace says when each of a stream of messages is due: so many at every tick, the first ones at the begin.
type pace struct {
	tick time.Duration
	each uint64
}

// newPace is that of so many messages a second, exact to a nanosecond a tick. Above 1/least messages a second several
// are due at once: their pacer need not wake up for each.
func newPace(rate int, least time.Duration) pace {
	each := max(uint64(rate)*uint64(least)/uint64(time.Second), 1)
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
