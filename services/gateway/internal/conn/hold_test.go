package conn_test

import (
	"net"
	"runtime"
	"testing"
	"time"
)

// hold calls Hold and returns channels that tell whether it waits and that it has returned.
func (r *rig) hold() (waits, over chan struct{}) {
	waits, over = make(chan struct{}), make(chan struct{})
	go func() {
		r.out.Hold(func(held bool) {
			if held {
				close(waits)
			}
		})
		close(over)
	}()
	return waits, over
}

func await(t *testing.T, ch <-chan struct{}, what string) {
	t.Helper()
	select {
	case <-ch:
	case <-time.After(10 * time.Second):
		t.Fatalf("never: %s", what)
	}
}

// answer appends small packets, more than a client may leave unread.
func (r *rig) answer() {
	for range 200 {
		r.append(make([]byte, 1000)...)
	}
}

// stalled is more than sockets take.
const stalled = 16 << 20

// stall makes the writer wait: it has taken everything, and the socket takes no more.
func (r *rig) stall(t *testing.T) {
	t.Helper()
	r.append(make([]byte, stalled)...)
	r.out.Flush()
	deadline := time.Now().Add(10 * time.Second)
	for left := true; left; {
		if time.Now().After(deadline) {
			t.Fatal("nobody writes")
		}
		runtime.Gosched()
		r.mu.Lock()
		left = r.out.Len() > 0
		r.mu.Unlock()
	}
}

func TestHoldWaitsUntilTheClientReads(t *testing.T) {
	everyKind(t, func(t *testing.T, wrap func(net.Conn) net.Conn) {
		r := newRig(t, time.Minute, wrap)
		r.stall(t)
		r.answer()
		waits, over := r.hold()
		await(t, waits, "Hold waits")
		select {
		case <-over:
			t.Fatal("Hold has returned")
		default:
		}
		r.read(t, stalled)
		await(t, over, "Hold returns")
		r.read(t, 200*1000)
	})
}

func TestHoldReturnsWhenTheConnectionEnds(t *testing.T) {
	for name, end := range map[string]func(*rig){
		"closed":       func(r *rig) { r.out.Close() },
		"closed after": func(r *rig) { r.out.CloseAfter([]byte("bye"), 10*time.Millisecond) },
		"by its peer":  func(r *rig) { r.peer.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, time.Minute, plain)
			r.stall(t)
			r.answer()
			waits, over := r.hold()
			await(t, waits, "Hold waits")
			end(r)
			await(t, over, "Hold returns")
		})
	}
}

func TestHoldReturnsWhenTheClientDoesNotReadInTime(t *testing.T) {
	r := newRig(t, 50*time.Millisecond, plain)
	r.stall(t)
	r.answer()
	_, over := r.hold()
	await(t, over, "Hold returns")
	<-r.failed
}

func TestHoldDoesNotWaitForLargePacketsNorForFewSmallOnes(t *testing.T) {
	r := newRig(t, time.Minute, plain)
	r.stall(t)
	r.append(make([]byte, 1<<20)...)
	r.append(make([]byte, 1000)...)
	r.out.Hold(func(bool) { t.Error("it has waited") })
}
