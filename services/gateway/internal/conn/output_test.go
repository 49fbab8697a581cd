package conn_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/beeline-mqtt/beeline/internal/tcp"
	"github.com/beeline-mqtt/beeline/services/gateway/internal/conn"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// rig is an Output with the other end of its socket.
type rig struct {
	mu     sync.Mutex
	out    *conn.Output
	near   net.Conn
	peer   net.Conn
	failed chan error
	told   func() // with every failure
	refill func()
}

func newRig(t *testing.T, timeout time.Duration, wrap func(net.Conn) net.Conn) *rig {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	dialled := make(chan net.Conn, 1)
	go func() {
		c, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			t.Error(err)
		}
		dialled <- c
	}()
	near, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{near: near, peer: <-dialled, failed: make(chan error, 1), told: func() {}, refill: func() {}}
	r.out = conn.NewOutput(wrap(near), &r.mu, timeout, func() { r.refill() }, func(err error) {
		r.told()
		r.failed <- err
	})
	t.Cleanup(func() {
		r.out.Close()
		r.out.Wait()
		r.peer.Close()
	})
	return r
}

func plain(c net.Conn) net.Conn { return tcp.Wrap(c) }

// named is a socket under another name, as behind a proxy.
type named struct{ *tcp.Conn }

func (n named) TCP() *tcp.Conn { return n.Conn }

// opaque hides that the socket is TCP, as TLS and WebSocket do.
func opaque(c net.Conn) net.Conn { return struct{ net.Conn }{c} }

func (r *rig) append(b ...byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.out.Append(append(r.out.Buffer(), b...))
}

func (r *rig) read(t *testing.T, n int) []byte {
	t.Helper()
	b := make([]byte, n)
	_ = r.peer.SetReadDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.ReadFull(r.peer, b); err != nil {
		t.Fatal(err)
	}
	return b
}

func everyKind(t *testing.T, f func(t *testing.T, wrap func(net.Conn) net.Conn)) {
	t.Run("plain", func(t *testing.T) { f(t, plain) })
	t.Run("named", func(t *testing.T) { f(t, func(c net.Conn) net.Conn { return named{tcp.Wrap(c).(*tcp.Conn)} }) })
	t.Run("opaque", func(t *testing.T) { f(t, opaque) })
}

func TestWhatIsAppendedGoesOutWithTheFlush(t *testing.T) {
	everyKind(t, func(t *testing.T, wrap func(net.Conn) net.Conn) {
		r := newRig(t, time.Second, wrap)
		r.append('a')
		r.append('b')
		r.out.Flush()
		r.append('c')
		r.out.Flush()
		if got := r.read(t, 3); string(got) != "abc" {
			t.Fatalf("read %q", got)
		}
	})
}

// numbers are the bytes of consecutive numbers, so that a gap or a swap shows.
func numbers(from, n int) []byte {
	var b []byte
	for i := range n {
		b = binary.BigEndian.AppendUint32(b, uint32(from+i))
	}
	return b
}

func TestFlushNeverWaitsForAPeerThatDoesNotReadAndNothingIsLost(t *testing.T) {
	everyKind(t, func(t *testing.T, wrap func(net.Conn) net.Conn) {
		r := newRig(t, time.Minute, wrap)
		const rounds, each = 200, 16 << 10 // 12.5 MiB: more than the socket's buffers take
		done := make(chan struct{})
		go func() {
			defer close(done)
			for i := range rounds {
				r.append(numbers(i*each, each)...)
				r.out.Flush()
			}
		}()
		select {
		case <-done:
		case <-time.After(10 * time.Second):
			t.Fatal("Flush waits for the peer")
		}
		if got := r.read(t, rounds*each*4); !bytes.Equal(got, numbers(0, rounds*each)) {
			t.Fatal("the bytes are not those that were appended, in order")
		}
	})
}

func TestConcurrentFlushesKeepTheOrderOfTheAppends(t *testing.T) {
	everyKind(t, func(t *testing.T, wrap func(net.Conn) net.Conn) {
		r := newRig(t, time.Minute, wrap)
		const goroutines, each = 8, 500
		next := 0
		var wg sync.WaitGroup
		for range goroutines {
			wg.Go(func() {
				for range each {
					r.mu.Lock()
					r.out.Append(append(r.out.Buffer(), numbers(next, 1)...))
					next++
					r.mu.Unlock()
					r.out.Flush()
				}
			})
		}
		got := r.read(t, goroutines*each*4)
		wg.Wait()
		if !bytes.Equal(got, numbers(0, goroutines*each)) {
			t.Fatal("out of order")
		}
	})
}

func TestAPeerThatTakesNoByteFailsTheConnectionWithErrSlow(t *testing.T) {
	everyKind(t, func(t *testing.T, wrap func(net.Conn) net.Conn) {
		r := newRig(t, 100*time.Millisecond, wrap)
		r.append(make([]byte, 64<<20)...)
		r.out.Flush()
		select {
		case err := <-r.failed:
			if !errors.Is(err, conn.ErrSlow) {
				t.Fatalf("failed with %v", err)
			}
		case <-time.After(10 * time.Second):
			t.Fatal("nothing failed")
		}
		r.out.Wait()
	})
}

func TestAWriteThatMakesRoomAsksForMore(t *testing.T) {
	everyKind(t, func(t *testing.T, wrap func(net.Conn) net.Conn) {
		r := newRig(t, time.Second, wrap)
		left := 5
		r.refill = func() {
			r.mu.Lock()
			defer r.mu.Unlock()
			if left > 0 {
				left--
				r.out.Append(append(r.out.Buffer(), 'm'))
			}
		}
		r.append('f')
		r.out.Flush()
		if got := r.read(t, 6); string(got) != "fmmmmm" {
			t.Fatalf("read %q", got)
		}
	})
}

func TestCloseAfterWritesTheLastPacketEvenWithUnreadBytesFromThePeer(t *testing.T) {
	r := newRig(t, time.Second, plain)
	if _, err := r.peer.Write([]byte("nobody reads this")); err != nil {
		t.Fatal(err)
	}
	r.append('a')
	r.out.CloseAfter([]byte("last"), time.Second)
	r.out.Wait()
	r.append('x')
	r.out.Flush()
	_ = r.peer.SetReadDeadline(time.Now().Add(10 * time.Second))
	got, err := io.ReadAll(r.peer)
	if err != nil || string(got) != "alast" {
		t.Fatalf("read %q, %v", got, err)
	}
}

func TestCloseAfterDoesNotWaitLongerThanItsPatience(t *testing.T) {
	everyKind(t, func(t *testing.T, wrap func(net.Conn) net.Conn) {
		r := newRig(t, time.Hour, wrap)
		r.append(make([]byte, 64<<20)...)
		r.out.Flush() // stuck, for an hour
		begin := time.Now()
		r.out.CloseAfter(nil, 50*time.Millisecond)
		r.out.Wait()
		if d := time.Since(begin); d > 5*time.Second {
			t.Fatalf("took %v", d)
		}
		if err := <-r.failed; !errors.Is(err, conn.ErrSlow) {
			t.Fatalf("failed with %v", err)
		}
	})
}

// Whoever reads from the socket would otherwise see it closed before it knows why.
func TestAFailureIsToldBeforeTheSocketCloses(t *testing.T) {
	everyKind(t, func(t *testing.T, wrap func(net.Conn) net.Conn) {
		r := newRig(t, time.Millisecond, wrap)
		stillOpen := make(chan error, 1)
		r.told = func() { stillOpen <- r.near.SetReadDeadline(time.Time{}) }
		r.append(make([]byte, 64<<20)...)
		r.out.Flush() // stuck, until the time-out
		if err := <-stillOpen; err != nil {
			t.Fatalf("when it was told: %v", err)
		}
		r.out.Wait()
		if err := r.near.SetReadDeadline(time.Time{}); !errors.Is(err, net.ErrClosed) {
			t.Fatalf("afterwards: %v", err)
		}
	})
}

func TestAFailureIsToldOnce(t *testing.T) {
	r := newRig(t, time.Second, plain)
	r.peer.Close()
	deadline := time.Now().Add(10 * time.Second)
	for {
		r.append(make([]byte, 64<<10)...)
		r.out.Flush()
		select {
		case <-r.failed:
			r.append('x')
			r.out.Flush()
			r.out.CloseAfter([]byte("y"), time.Second)
			r.out.Wait()
			select {
			case err := <-r.failed:
				t.Fatalf("failed again: %v", err)
			default:
			}
			return
		default:
		}
		if time.Now().After(deadline) {
			t.Fatal("writing to a closed peer does not fail")
		}
	}
}

func BenchmarkAppendAndFlush(b *testing.B) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer ln.Close()
	go func() {
		c, err := net.Dial("tcp", ln.Addr().String())
		if err == nil {
			_, _ = io.Copy(io.Discard, c)
			c.Close()
		}
	}()
	near, err := ln.Accept()
	if err != nil {
		b.Fatal(err)
	}
	var mu sync.Mutex
	out := conn.NewOutput(tcp.Wrap(near), &mu, time.Minute, func() {}, func(err error) { b.Error(err) })
	packet := make([]byte, 90)
	b.ReportAllocs()
	b.SetBytes(int64(len(packet)))
	for b.Loop() {
		mu.Lock()
		out.Append(append(out.Buffer(), packet...))
		mu.Unlock()
		out.Flush()
	}
	out.CloseAfter(nil, time.Second)
	out.Wait()
	near.Close()
}
