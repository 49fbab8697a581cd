package clustertest

import (
	"io"
	"net"
	"sync"
	"testing"
)

// Wire is a TCP connection to somewhere that can be cut, or made deaf: everything arrives there and no answer
// comes back.
type Wire struct {
	listener net.Listener
	target   string
	wg       sync.WaitGroup

	mu    sync.Mutex // guards the following
	cut   bool
	deaf  bool
	conns map[net.Conn]struct{}
}

// NewWire leads to the target address until the test ends.
func NewWire(t testing.TB, target string) *Wire {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w := &Wire{listener: l, target: target, conns: map[net.Conn]struct{}{}}
	w.wg.Go(w.accept)
	t.Cleanup(func() {
		_ = l.Close()
		w.Cut()
		w.wg.Wait()
	})
	return w
}

// Address is where the wire begins.
func (w *Wire) Address() string { return w.listener.Addr().String() }

// Cut breaks all connections and makes no new ones until Mend.
func (w *Wire) Cut() { w.set(true, false) }

// Deafen keeps all answers back until Mend.
func (w *Wire) Deafen() { w.set(false, true) }

// Mend lets everything through again, on new connections.
func (w *Wire) Mend() {
	w.set(true, false)
	w.set(false, false)
}

func (w *Wire) set(cut, deaf bool) {
	w.mu.Lock()
	w.cut, w.deaf = cut, deaf
	var conns []net.Conn
	if cut {
		for c := range w.conns {
			conns = append(conns, c)
		}
		clear(w.conns)
	}
	w.mu.Unlock()
	for _, c := range conns {
		_ = c.Close()
	}
}

func (w *Wire) accept() {
	for {
		near, err := w.listener.Accept()
		if err != nil {
			return
		}
		far, err := net.Dial("tcp", w.target)
		if err != nil {
			_ = near.Close()
			continue
		}
		w.mu.Lock()
		if w.cut {
			_ = near.Close()
			_ = far.Close()
		} else {
			w.conns[near], w.conns[far] = struct{}{}, struct{}{}
			w.wg.Go(func() { w.pipe(far, near, func() bool { return false }) })
			w.wg.Go(func() { w.pipe(near, far, w.isDeaf) })
		}
		w.mu.Unlock()
	}
}

func (w *Wire) isDeaf() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.deaf
}

func (w *Wire) pipe(to io.WriteCloser, from io.ReadCloser, drop func() bool) {
	defer to.Close()
	defer from.Close()
	b := make([]byte, 32<<10)
	for {
		n, err := from.Read(b)
		if n > 0 && !drop() {
			if _, err := to.Write(b[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}
