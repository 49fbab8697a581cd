package claims

import "time"

// flaps counts how often clients are replaced, over a sliding window: the count of the window before, in the part
// that still overlaps, and that of the present one.
type flaps struct {
	limit   int
	window  time.Duration
	tracked int
	of      map[string]*flap
	// cleared is when clients that have calmed down were last forgotten.
	cleared time.Time
}

type flap struct {
	start       time.Time
	now, before int
}

// hot says whether a client was replaced more than limit times within the window.
func (f *flaps) hot(now time.Time, id string) bool {
	c := f.of[id]
	if c == nil {
		return false
	}
	c.roll(now, f.window)
	left := f.window - now.Sub(c.start)
	return c.now+int(int64(c.before)*int64(left)/int64(f.window)) > f.limit
}

// replaced counts. A client beyond the bound of tracked ones is not watched.
func (f *flaps) replaced(now time.Time, id string) {
	if now.Sub(f.cleared) >= f.window {
		f.cleared = now
		for id, c := range f.of {
			c.roll(now, f.window)
			if c.now == 0 && c.before == 0 {
				delete(f.of, id)
			}
		}
	}
	c := f.of[id]
	if c == nil {
		if len(f.of) >= f.tracked {
			return
		}
		c = &flap{start: now}
		f.of[id] = c
	}
	c.roll(now, f.window)
	c.now++
}

func (c *flap) roll(now time.Time, window time.Duration) {
	switch passed := now.Sub(c.start); {
	case passed < window:
	case passed < 2*window:
		c.start, c.before, c.now = c.start.Add(window), c.now, 0
	default:
		c.start, c.before, c.now = now, 0, 0
	}
}
