package router

import (
	"net"
	"net/netip"
	"sync"
	"testing"
)

func TestWhatIsOpenIsCountedByItsKey(t *testing.T) {
	n := newTally[nodeKey](0)
	// One name would be the other's, if the parts were only put together.
	a, b := nodeKey{"x/y", "z"}, nodeKey{"x", "y/z"}
	var leaves []func()
	for range 3 {
		leave, ok := n.enter(a)
		if !ok {
			t.Fatal("refused, without a bound")
		}
		leaves = append(leaves, leave)
	}
	if n.of(a) != 3 || n.of(b) != 0 {
		t.Errorf("%d and %d are open, want 3 and 0", n.of(a), n.of(b))
	}
	for _, leave := range leaves {
		leave()
	}
	if n.of(a) != 0 || len(n.open) != 0 {
		t.Errorf("%d are open, of %d keys, though all have left", n.of(a), len(n.open))
	}
}

func TestWhatIsOpenOfOneKeyIsBounded(t *testing.T) {
	n := newTally[string](2)
	first, ok1 := n.enter("a")
	_, ok2 := n.enter("a")
	if !ok1 || !ok2 {
		t.Fatal("two are refused")
	}
	if _, ok := n.enter("a"); ok || n.of("a") != 2 {
		t.Errorf("a third is let in, or counted: %d", n.of("a"))
	}
	if _, ok := n.enter("b"); !ok {
		t.Error("another key is refused")
	}
	first()
	if _, ok := n.enter("a"); !ok {
		t.Error("refused though one has left")
	}
}

func TestCountingIsSafeForAll(t *testing.T) {
	n := newTally[int](0)
	var wg sync.WaitGroup
	for i := range 100 {
		wg.Go(func() {
			for range 100 {
				leave, _ := n.enter(i % 3)
				n.of(i % 3)
				leave()
			}
		})
	}
	wg.Wait()
	if len(n.open) > 0 {
		t.Errorf("left: %v", n.open)
	}
}

func TestConnectionsAreCountedByTheAddressOfTheirSource(t *testing.T) {
	at := func(ip string) net.Addr { return &net.TCPAddr{IP: net.ParseIP(ip), Port: 1} }
	for _, tc := range []struct {
		name  string
		most  int
		from  []net.Addr
		let   []bool
		count int // of sources
	}{
		{"one address, however it is written", 2, []net.Addr{at("10.0.0.1"), at("::ffff:10.0.0.1"), at("10.0.0.1")}, []bool{true, true, false}, 1},
		{"two addresses", 1, []net.Addr{at("10.0.0.1"), at("10.0.0.2"), at("10.0.0.1")}, []bool{true, true, false}, 2},
		{"without a bound nobody is counted", 0, []net.Addr{at("10.0.0.1"), at("10.0.0.1")}, []bool{true, true}, 0},
		{"without an IP address nobody is", 1, []net.Addr{&net.UnixAddr{}, &net.UnixAddr{}}, []bool{true, true}, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := &Router{cfg: Config{SourceConnections: tc.most}, sources: newTally[netip.Addr](tc.most)}
			for i, from := range tc.from {
				leave, ok := r.enter(from)
				if ok != tc.let[i] {
					t.Errorf("number %d, from %v: %v", i, from, ok)
				}
				if ok {
					defer leave()
				}
			}
			if len(r.sources.open) != tc.count {
				t.Errorf("%d sources are counted, want %d", len(r.sources.open), tc.count)
			}
		})
	}
}
