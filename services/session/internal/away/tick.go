package away

import (
	"container/heap"
	"context"
	"time"
)

// longest is how long the clock is not looked at when nothing seems due: it may be set.
const longest = 30 * time.Second

// tick does what time brings.
func (k *Keeper) tick(ctx context.Context) {
	timer := time.NewTimer(longest)
	defer timer.Stop()
	for {
		k.mu.Lock()
		due := k.timers.take(now())
		wait := longest
		if len(k.timers) > 0 {
			wait = min(wait, time.Until(k.timers[0].at))
		}
		k.mu.Unlock()
		for _, d := range due {
			k.fell(d)
		}
		timer.Reset(max(wait, 0))
		select {
		case <-ctx.Done():
			return
		case <-k.wake:
		case <-timer.C:
		}
	}
}

// fell does what a timer stands for.
func (k *Keeper) fell(d timer) {
	switch {
	case d.s == nil:
		k.wills.begin()
	case d.of != nil:
		k.mu.Lock()
		defer k.mu.Unlock()
		switch {
		case d.s.settling != d.of, d.of.leaving:
		case d.of.hold != nil:
			k.metrics.unordered.Inc()
			k.letGo(d.s)
		case d.of.until.After(now()): // what it held back was let go before
		default:
			d.s.settling = nil
		}
	case d.ghost > 0:
		k.with(d.s.client, func(s *session) { k.work.push(func() { k.forgetOld(s, d.ghost) }) })
	default:
		k.with(d.s.client, k.lapse)
	}
}

// lapse does what is due for the record of an absent client.
func (k *Keeper) lapse(s *session) {
	k.mu.Lock()
	r, absent := s.rec, s.stored && s.rec.Holder == ""
	k.mu.Unlock()
	f := fateOf(r, now())
	if !absent || !f.over && !f.fire {
		// It is for another timer, if for any.
		k.release(s)
		return
	}
	k.settleFate(s, r, leaseOf(r), f, func(err error) {
		if err == nil && f.over {
			k.metrics.expired.Inc()
		}
		k.schedule(s)
		k.release(s)
	})
}

// schedule has lapse look at s when something is due.
func (k *Keeper) schedule(s *session) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if !s.stored || s.rec.Holder != "" {
		return
	}
	if at, due := dueAt(s.rec); due {
		k.add(timer{at: at, s: s})
	}
}

// after has a session let go or forget after a while. With mu held.
func (k *Keeper) after(d time.Duration, s *session, of *settling) {
	k.add(timer{at: now().Add(d), s: s, of: of})
}

// add sets a timer. With mu held.
func (k *Keeper) add(t timer) {
	heap.Push(&k.timers, t)
	if k.timers[0] == t {
		signal(k.wake)
	}
}
