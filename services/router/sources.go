package router

import (
	"net"
	"net/netip"
	"sync"
)

// sources counts the connections from each source address.
type sources struct {
	most int // 0: any number

	mu   sync.Mutex
	open map[netip.Addr]int // guarded by mu
}

func newSources(most int) *sources { return &sources{most: most, open: make(map[netip.Addr]int)} }

// enter counts a connection from an address until leave is called, or reports that there are too many. Addresses that are
// not IP are not counted.
func (s *sources) enter(from net.Addr) (leave func(), ok bool) {
	t, isTCP := from.(*net.TCPAddr)
	if s.most == 0 || !isTCP {
		return func() {}, true
	}
	at := t.AddrPort().Addr().Unmap()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.open[at] >= s.most {
		return nil, false
	}
	s.open[at]++
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.open[at]--; s.open[at] == 0 {
			delete(s.open, at)
		}
	}, true
}
