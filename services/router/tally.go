package router

import "sync"

// tally counts what is open, by key.
type tally[K comparable] struct {
	most int // of one key; 0: any number

	mu   sync.Mutex
	open map[K]int // guarded by mu
}

func newTally[K comparable](most int) *tally[K] { return &tally[K]{most: most, open: make(map[K]int)} }

// of is how many are open of a key.
func (t *tally[K]) of(key K) int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.open[key]
}

// enter counts one until leave is called, once, or reports that there are too many of its key.
func (t *tally[K]) enter(key K) (leave func(), ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.most > 0 && t.open[key] >= t.most {
		return nil, false
	}
	t.open[key]++
	return func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		if t.open[key]--; t.open[key] == 0 {
			delete(t.open, key)
		}
	}, true
}
