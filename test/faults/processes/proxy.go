//go:build linux

package processes

import (
	"fmt"
	"io"
	"net"
	"sync"
	"testing"
)

// Wire is the state of the connections between two processes.
type Wire byte

// The states of a Wire.
const (
	// Open passes everything on.
	Open Wire = iota
	// Stalled passes nothing on and closes nothing, as a network does that loses all packets. What was sent
	// meanwhile arrives when it is open again.
	Stalled
	// Refused closes what there is, and whatever is opened.
	Refused
)

// Proxy passes TCP connections on to one address, as long as it is allowed to.
type Proxy struct {
	target string
	ln     net.Listener
	// dialers lists the processes whose connections are told apart; nil: all of them are process 0.
	dialers func() []int
	wg      sync.WaitGroup

	mu     sync.Mutex
	change *sync.Cond         // of what follows
	rule   func(pid int) Wire // guarded by mu
	pairs  map[*pair]struct{} // guarded by mu
	closed bool               // guarded by mu
}

// pair is a connection and the one that it is passed on to.
type pair struct {
	pid       int
	near, far net.Conn
	once      sync.Once
}

func (c *pair) close() {
	c.once.Do(func() {
		_ = c.near.Close()
		_ = c.far.Close()
	})
}

// NewProxy starts a proxy for target that ends with the test. dialers may be nil.
func NewProxy(t testing.TB, target string, dialers func() []int) *Proxy {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatalf("proxy for %s: %v", target, err)
	}
	x := &Proxy{target: target, ln: ln, dialers: dialers, rule: func(int) Wire { return Open }, pairs: map[*pair]struct{}{}}
	x.change = sync.NewCond(&x.mu)
	x.wg.Go(x.accept)
	t.Cleanup(x.close)
	return x
}

// Address is where the proxy listens.
func (x *Proxy) Address() string { return x.ln.Addr().String() }

// Set puts all connections into a state.
func (x *Proxy) Set(w Wire) { x.SetEach(func(int) Wire { return w }) }

// SetEach puts connections into states that depend on the process that has dialled them.
func (x *Proxy) SetEach(rule func(pid int) Wire) {
	x.mu.Lock()
	x.rule = rule
	var refused []*pair
	for c := range x.pairs {
		if rule(c.pid) == Refused {
			refused = append(refused, c)
		}
	}
	x.change.Broadcast()
	x.mu.Unlock()
	for _, c := range refused {
		c.close()
	}
}

func (x *Proxy) accept() {
	for {
		near, err := x.ln.Accept()
		if err != nil {
			return
		}
		x.wg.Go(func() { x.serve(near) })
	}
}

// serve passes one connection on. A stalled one is not even dialled.
func (x *Proxy) serve(near net.Conn) {
	defer near.Close()
	pid := 0
	if x.dialers != nil {
		var err error
		if pid, err = dialer(near, x.dialers()); err != nil || pid == 0 {
			return // it has gone again: whose connection it is has to be known before it may pass
		}
	}
	if !x.passable(pid) {
		return
	}
	far, err := net.Dial("tcp", x.target)
	if err != nil {
		return
	}
	c := &pair{pid: pid, near: near, far: far}
	defer c.close()
	x.mu.Lock()
	if x.closed || x.rule(pid) == Refused {
		x.mu.Unlock()
		return
	}
	x.pairs[c] = struct{}{}
	x.mu.Unlock()
	var wg sync.WaitGroup
	wg.Go(func() { x.pass(c, far, near) })
	wg.Go(func() { x.pass(c, near, far) })
	wg.Wait()
	x.mu.Lock()
	delete(x.pairs, c)
	x.mu.Unlock()
}

// pass copies one direction until it ends, and ends the other with it.
func (x *Proxy) pass(c *pair, to io.Writer, from io.Reader) {
	defer c.close()
	b := make([]byte, 32<<10)
	for {
		n, err := from.Read(b)
		// The end of a connection gets through a stalled wire no more than its bytes do.
		if !x.passable(c.pid) {
			return
		}
		if n > 0 {
			if _, err := to.Write(b[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// passable waits while the wire is stalled and says whether it is open then.
func (x *Proxy) passable(pid int) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	for !x.closed && x.rule(pid) == Stalled {
		x.change.Wait()
	}
	return !x.closed && x.rule(pid) == Open
}

func (x *Proxy) close() {
	_ = x.ln.Close()
	x.mu.Lock()
	x.closed = true
	pairs := make([]*pair, 0, len(x.pairs))
	for c := range x.pairs {
		pairs = append(pairs, c)
	}
	x.change.Broadcast()
	x.mu.Unlock()
	for _, c := range pairs {
		c.close()
	}
	x.wg.Wait()
}

// String says where the proxy leads.
func (x *Proxy) String() string { return fmt.Sprintf("%s -> %s", x.Address(), x.target) }
