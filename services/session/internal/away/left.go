package away

import "time"

// left are the sessions that have left a gateway for somewhere else, by gateway. If it dies a short while later, its
// peers may have messages that were on their way to it for them. The Keeper's mu guards it.
type left map[string]*leavers

type leavers struct {
	at    map[*session]time.Time
	sweep int // when there are so many, those are forgotten that have left long ago
}

const (
	// leftFor is how long a session counts among those that have left: longer than any publisher waits.
	leftFor = time.Minute
	// leastSweep is how many of a gateway are remembered at least.
	leastSweep = 1024
)

// add notes that s has left a gateway.
func (l left) add(gateway string, s *session, now time.Time) {
	x := l[gateway]
	if x == nil {
		x = &leavers{at: map[*session]time.Time{}, sweep: leastSweep}
		l[gateway] = x
	}
	x.at[s] = now
	if len(x.at) < x.sweep {
		return
	}
	for s, at := range x.at {
		if now.Sub(at) > leftFor {
			delete(x.at, s)
		}
	}
	x.sweep = max(leastSweep, 2*len(x.at))
}

// take returns those that have left a gateway, and are stored still, and forgets them.
func (l left) take(gateway string, now time.Time) []*session {
	x := l[gateway]
	if x == nil {
		return nil
	}
	delete(l, gateway)
	var all []*session
	for s, at := range x.at {
		if s.stored && s.rec.Holder != gateway && now.Sub(at) <= leftFor {
			all = append(all, s)
		}
	}
	return all
}
