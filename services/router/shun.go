package router

import (
	"sync"
	"time"
)

// shunFor is how long a node is passed by that has not accepted a connection. It is short: what has died leaves the
// registry, or fails its checks, a few seconds later, and until then one client in a second may try it, not every one.
const shunFor = time.Second

// shunned are nodes that have not accepted a connection a moment ago.
type shunned struct {
	mu    sync.Mutex
	until map[nodeKey]time.Time // guarded by mu; at most one for each node that there was
}

func newShunned() *shunned { return &shunned{until: make(map[nodeKey]time.Time)} }

// add notes that a node has not accepted a connection.
func (s *shunned) add(key nodeKey, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for k, until := range s.until {
		if now.After(until) {
			delete(s.until, k)
		}
	}
	s.until[key] = now.Add(shunFor)
}

// has reports whether a node is to be passed by if another one takes clients.
func (s *shunned) has(key nodeKey, now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return now.Before(s.until[key])
}
