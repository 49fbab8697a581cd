package claims

import (
	"slices"
	"time"
)

// Next is when Tick is due; false: nothing is.
func (q *Queue) Next() (time.Time, bool) {
	var at time.Time
	consider := func(t time.Time) {
		if at.IsZero() || t.Before(at) {
			at = t
		}
	}
	if len(q.recovering) > 0 {
		consider(q.recoverBy)
	}
	first := func(timers *[]timer, runs func(timer) bool) {
		for len(*timers) > 0 && !runs((*timers)[0]) {
			*timers = (*timers)[1:]
		}
		if len(*timers) > 0 {
			consider((*timers)[0].at)
		}
	}
	first(&q.evictBy, q.evicting)
	first(&q.recordAt, q.delayed)
	first(&q.awayAt, q.retrying)
	return at, !at.IsZero()
}

func (q *Queue) evicting(t timer) bool {
	c := q.clients[t.client]
	return c != nil && slices.ContainsFunc(c.evictions, func(e eviction) bool {
		return e.gateway == t.gateway && e.by.Equal(t.at)
	})
}

func (q *Queue) delayed(t timer) bool {
	c := q.clients[t.client]
	return c != nil && c.waiting != nil && c.waiting.notBefore.Equal(t.at)
}

func (q *Queue) retrying(t timer) bool {
	c := q.clients[t.client]
	return c != nil && c.awayAt.Equal(t.at)
}

// Tick does what is due.
func (q *Queue) Tick(now time.Time) {
	if len(q.recovering) > 0 && !now.Before(q.recoverBy) {
		clear(q.recovering)
		q.recovered(now)
	}
	for _, t := range due(&q.evictBy, now) {
		if c := q.clients[t.client]; c != nil {
			before := len(c.evictions)
			c.evictions = slices.DeleteFunc(c.evictions, func(e eviction) bool {
				return e.gateway == t.gateway && e.by.Equal(t.at)
			})
			q.counters.EvictTimeouts += before - len(c.evictions)
			q.advance(now, c)
		}
	}
	for _, timers := range []*[]timer{&q.recordAt, &q.awayAt} {
		for _, t := range due(timers, now) {
			if c := q.clients[t.client]; c != nil {
				q.advance(now, c)
			}
		}
	}
}

// due takes out the timers whose time has come.
func due(timers *[]timer, now time.Time) []timer {
	n := 0
	for n < len(*timers) && !now.Before((*timers)[n].at) {
		n++
	}
	fired := (*timers)[:n]
	*timers = (*timers)[n:]
	return fired
}
