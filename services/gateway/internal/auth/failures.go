package auth

import (
	"net"
	"net/netip"
	"sync"
	"time"
)

// mostAddresses is how many addresses with failed attempts are remembered.
const mostAddresses = 1 << 16

// failures counts failed attempts by address: each address has so many, and gets them back evenly within a minute.
type failures struct {
	most int // 0: nothing is counted
	now  func() time.Time

	mu      sync.Mutex // guards the following
	counted map[netip.Addr]failed
}

// failed is what an address has used of its attempts, at a time.
type failed struct {
	used float64
	at   time.Time
}

func newFailures(most int, now func() time.Time) *failures {
	return &failures{most: most, now: now, counted: make(map[netip.Addr]failed)}
}

// left is what is used still.
func (f *failures) left(x failed) float64 {
	return max(0, x.used-f.now().Sub(x.at).Minutes()*float64(f.most))
}

// tooMany reports whether no attempt is left for an address.
func (f *failures) tooMany(from net.Addr) bool {
	address, ok := countedAs(from)
	if f.most == 0 || !ok {
		return false
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.left(f.counted[address])+1 > float64(f.most)
}

// count notes a failed attempt.
func (f *failures) count(from net.Addr) {
	address, ok := countedAs(from)
	if f.most == 0 || !ok {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	x, known := f.counted[address]
	if !known && len(f.counted) >= mostAddresses {
		f.makeRoom()
	}
	f.counted[address] = failed{used: f.left(x) + 1, at: f.now()}
}

// makeRoom forgets the addresses that have all their attempts again, and others if that is not much: it is not for each
// address that it looks at all. With f.mu held.
func (f *failures) makeRoom() {
	for address, x := range f.counted {
		if f.left(x) == 0 {
			delete(f.counted, address)
		}
	}
	for address := range f.counted {
		if len(f.counted) <= mostAddresses*7/8 {
			return
		}
		delete(f.counted, address)
	}
}

// countedAs is under what an address is counted: of IPv6 it is the network, which is one customer's. Others than those of IP
// are not counted.
func countedAs(from net.Addr) (netip.Addr, bool) {
	t, ok := from.(*net.TCPAddr)
	if !ok {
		return netip.Addr{}, false
	}
	address := t.AddrPort().Addr().Unmap().WithZone("")
	if address.Is6() {
		network, err := address.Prefix(64)
		return network.Addr(), err == nil
	}
	return address, address.IsValid()
}
