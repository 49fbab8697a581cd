package conformance

import (
	"net"
	"sync"
	"sync/atomic"

	"github.com/beeline-mqtt/beeline/test/rawmqtt"
)

// line is the network between one client and its gateway: it loses what is to come back, breaks, and leads to another
// gateway afterwards.
type line struct {
	s        *stage
	listener net.Listener
	deaf     atomic.Bool // what the gateway sends is lost
	greets   atomic.Bool // what it sends behind the CONNACK is
	wg       sync.WaitGroup

	mu    sync.Mutex
	to    string
	conns map[net.Conn]struct{} // nil when the line is closed
}

// line makes a line to the n-th gateway. It ends with the test.
func (s *stage) line(n int) *line {
	s.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		s.Fatal(err)
	}
	l := &line{s: s, listener: ln, to: s.address(n), conns: make(map[net.Conn]struct{})}
	l.wg.Go(l.accept)
	s.Cleanup(func() {
		_ = ln.Close()
		l.mu.Lock()
		for nc := range l.conns {
			_ = nc.Close()
		}
		l.conns = nil
		l.mu.Unlock()
		l.wg.Wait()
	})
	return l
}

func (l *line) address() string { return l.listener.Addr().String() }

// mute loses what the gateway sends from now on, until the line is cut.
func (l *line) mute() { l.deaf.Store(true) }

// greetOnly loses, of connections that begin from now on, what the gateway sends behind its CONNACK of MQTT 3.1.1, or no
// longer.
func (l *line) greetOnly(yes bool) { l.greets.Store(yes) }

// cut breaks the connection. The next one is to the n-th gateway.
func (l *line) cut(n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for nc := range l.conns {
		_ = nc.Close()
	}
	clear(l.conns)
	l.to = l.s.address(n)
	l.deaf.Store(false)
}

func (l *line) accept() {
	for {
		nc, err := l.listener.Accept()
		if err != nil {
			return
		}
		l.mu.Lock()
		far, err := net.DialTimeout("tcp", l.to, rawmqtt.Patience)
		if err != nil || l.conns == nil {
			_ = nc.Close()
			if err == nil {
				_ = far.Close()
			}
			l.mu.Unlock()
			continue
		}
		l.conns[nc], l.conns[far] = struct{}{}, struct{}{}
		l.mu.Unlock()
		l.wg.Go(func() { l.carry(nc, far, false) })
		l.wg.Go(func() { l.carry(far, nc, true) })
	}
}

// carry carries bytes from one end to the other, until one of them closes.
func (l *line) carry(from, to net.Conn, back bool) {
	defer to.Close()
	defer from.Close()
	var b [4096]byte
	left := len(b)
	if back && l.greets.Load() {
		left = 4
	}
	for {
		n, err := from.Read(b[:])
		if left < len(b) {
			n = min(n, left)
			left -= n
		}
		if lost := back && l.deaf.Load(); err == nil && !lost {
			_, err = to.Write(b[:n])
		}
		if err != nil {
			return
		}
	}
}
