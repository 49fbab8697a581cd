package away

import (
	"container/heap"
	"time"
)

// timer says that something may be due for a client: what its record says; or, if of is set, that it lets go what it
// has held back, or forgets what it has had; or, if ghost is, that nothing is on its way any more to the ghost of that
// epoch.
type timer struct {
	at    time.Time
	s     *session
	of    *settling
	ghost uint64
}

// timers are what time brings, the earliest first. A timer is not taken out when it does not count any more: whoever
// gets it looks at the session. The owner locks.
type timers []timer

var _ heap.Interface = (*timers)(nil)

// Len implements heap.Interface.
func (t timers) Len() int { return len(t) }

// Less implements heap.Interface.
func (t timers) Less(i, j int) bool { return t[i].at.Before(t[j].at) }

// Swap implements heap.Interface.
func (t timers) Swap(i, j int) { t[i], t[j] = t[j], t[i] }

// Push implements heap.Interface.
func (t *timers) Push(x any) {
	*t = append(*t, x.(timer)) //nolint:errcheck,forcetypeassert // nothing else is pushed
}

// Pop implements heap.Interface.
func (t *timers) Pop() any {
	last := len(*t) - 1
	x := (*t)[last]
	(*t)[last] = timer{}
	*t = (*t)[:last]
	return x
}

// take takes out what is due.
func (t *timers) take(now time.Time) []timer {
	var due []timer
	for len(*t) > 0 && !now.Before((*t)[0].at) {
		due = append(due, heap.Pop(t).(timer)) //nolint:errcheck,forcetypeassert // nothing else is in it
	}
	return due
}
