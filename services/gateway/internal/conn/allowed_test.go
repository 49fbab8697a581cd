package conn_test

import (
	"io"
	"net"
	"sync/atomic"
	"testing"
	"time"
)

func TestOnceItIsNotAllowedNothingIsWrittenButTheLastPacket(t *testing.T) {
	everyKind(t, func(t *testing.T, wrap func(net.Conn) net.Conn) {
		r := newRig(t, time.Second, wrap)
		var allowed atomic.Bool
		allowed.Store(true)
		r.out.WriteWhile(allowed.Load)
		r.append('a')
		r.out.Flush()
		if got := r.read(t, 1); string(got) != "a" {
			t.Fatalf("read %q", got)
		}
		r.append('b')
		allowed.Store(false)
		r.out.Flush()
		r.append('c')
		r.out.CloseAfter([]byte("last"), time.Second)
		r.out.Wait()
		_ = r.peer.SetReadDeadline(time.Now().Add(10 * time.Second))
		got, err := io.ReadAll(r.peer)
		if err != nil || string(got) != "last" {
			t.Fatalf("read %q, %v", got, err)
		}
	})
}

func TestAPacketThatIsHalfWrittenWhenItIsNotAllowedAnyMoreIsFinished(t *testing.T) {
	everyKind(t, func(t *testing.T, wrap func(net.Conn) net.Conn) {
		r := newRig(t, time.Minute, wrap)
		var allowed atomic.Bool
		allowed.Store(true)
		r.out.WriteWhile(allowed.Load)
		const large = 64 << 20 // more than the sockets take
		r.append(make([]byte, large)...)
		r.out.Flush()
		r.read(t, 1)
		r.append('b')
		allowed.Store(false)
		r.out.Flush()
		r.out.CloseAfter([]byte("last"), time.Minute)
		_ = r.peer.SetReadDeadline(time.Now().Add(time.Minute))
		got, err := io.ReadAll(r.peer)
		if err != nil || len(got) != large-1+4 || string(got[large-1:]) != "last" {
			t.Fatalf("read %d bytes, %v", len(got), err)
		}
	})
}
