package tcp_test

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/nettest"

	"github.com/beeline-mqtt/beeline/internal/buffers"
	"github.com/beeline-mqtt/beeline/internal/tcp"
)

func pair(t testing.TB) (near, far *tcp.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	dialled := make(chan net.Conn, 1)
	go func() {
		c, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Error(err)
		}
		dialled <- c
	}()
	accepted, err := tcp.Listener{Listener: l}.Accept()
	if err != nil {
		t.Fatal(err)
	}
	near, far = accepted.(*tcp.Conn), tcp.Wrap(<-dialled).(*tcp.Conn)
	t.Cleanup(func() { near.Close(); far.Close() })
	return near, far
}

// The standard library's extension has a suite for whatever says that it is a net.Conn: deadlines that were, are and
// will be, closing while somebody waits, races, and more.
func TestItIsAConnection(t *testing.T) {
	nettest.TestConn(t, func() (c1, c2 net.Conn, stop func(), err error) {
		near, far := pair(t)
		return near, far, func() { near.Close(); far.Close() }, nil
	})
}

func TestMoreThanASocketTakesArrivesWhole(t *testing.T) {
	near, far := pair(t)
	sent := bytes.Repeat([]byte("beeline "), 1<<20)
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() {
		if n, err := near.Write(sent); n != len(sent) || err != nil {
			t.Errorf("wrote %d, %v", n, err)
		}
		near.CloseWrite()
	})
	got, err := io.ReadAll(far)
	if err != nil || !bytes.Equal(got, sent) {
		t.Errorf("read %d bytes of %d, %v", len(got), len(sent), err)
	}
}

func TestCopyingGoesThroughTheConnection(t *testing.T) {
	near, far := pair(t)
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() {
		if n, err := near.ReadFrom(bytes.NewReader(make([]byte, 100_000))); n != 100_000 || err != nil {
			t.Errorf("sent %d, %v", n, err)
		}
		near.CloseWrite()
	})
	var got bytes.Buffer
	if n, err := far.WriteTo(&got); n != 100_000 || err != nil {
		t.Errorf("received %d, %v", n, err)
	}
}

func TestTryWriteDoesNotWait(t *testing.T) {
	near, far := pair(t)
	sent := bytes.Repeat([]byte("x"), 64<<20)
	n, err := near.TryWrite(sent)
	if n == 0 || n == len(sent) || err != nil {
		t.Fatalf("wrote %d of %d, %v", n, len(sent), err)
	}
	if m, err := near.TryWrite(sent); m != 0 || err != nil {
		t.Fatalf("a full socket took %d, %v", m, err)
	}
	got := make([]byte, n)
	if _, err := io.ReadFull(far, got); err != nil || !bytes.Equal(got, sent[:n]) {
		t.Fatalf("what was written does not arrive: %v", err)
	}
}

func TestTryWriteIgnoresADeadlineThatHasPassed(t *testing.T) {
	near, _ := pair(t)
	if err := near.SetWriteDeadline(time.Now().Add(-time.Second)); err != nil {
		t.Fatal(err)
	}
	if n, err := near.TryWrite([]byte("x")); n != 0 || err != nil {
		t.Errorf("wrote %d, %v", n, err)
	}
	if _, err := near.Write([]byte("x")); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("Write: %v", err)
	}
}

func TestWhoeverWaitsHoldsNoBuffer(t *testing.T) {
	near, far := pair(t)
	pool := buffers.New(100, 100)
	type result struct {
		text string
		err  error
	}
	read := make(chan result)
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() {
		for {
			b, err := near.ReadPooled(pool)
			if err != nil {
				read <- result{"", err}
				return
			}
			read <- result{string(*b), nil}
			pool.Put(b)
		}
	})
	for _, text := range []string{"one", "two", "three"} {
		if _, err := far.Write([]byte(text)); err != nil {
			t.Fatal(err)
		}
		if r := <-read; r.text != text || r.err != nil {
			t.Fatalf("read %q, %v", r.text, r.err)
		}
	}
	far.Close()
	if r := <-read; !errors.Is(r.err, io.EOF) {
		t.Errorf("at the end: %v", r.err)
	}
}

func TestReadPooledEndsWithTheDeadlineAndTheConnection(t *testing.T) {
	near, far := pair(t)
	pool := buffers.New(100, 100)
	if err := near.SetReadDeadline(time.Now().Add(-time.Second)); err != nil {
		t.Fatal(err)
	}
	if b, err := near.ReadPooled(pool); b != nil || !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("after the deadline: %v, %v", b, err)
	}
	if err := errors.Join(near.SetReadDeadline(time.Time{}), far.SetLinger(0), far.Close()); err != nil {
		t.Fatal(err)
	}
	if b, err := near.ReadPooled(pool); b != nil || !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("after a reset: %v, %v", b, err)
	}
	near.Close()
	if b, err := near.ReadPooled(pool); b != nil || !errors.Is(err, net.ErrClosed) {
		t.Errorf("after Close: %v, %v", b, err)
	}
}

func TestErrorsSayWhatWentWrong(t *testing.T) {
	near, far := pair(t)
	if err := far.SetLinger(0); err != nil { // so that closing resets
		t.Fatal(err)
	}
	far.Close()
	if _, err := near.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("Read: %v", err)
	}
	if _, err := near.TryWrite([]byte("x")); !errors.Is(err, syscall.EPIPE) {
		t.Errorf("TryWrite: %v", err)
	}
	near.Close()
	for name, f := range map[string]func([]byte) (int, error){"Read": near.Read, "Write": near.Write, "TryWrite": near.TryWrite} {
		if _, err := f([]byte("x")); !errors.Is(err, net.ErrClosed) {
			t.Errorf("%s on a closed connection: %v", name, err)
		}
	}
}

func TestWhatIsNotTCPStaysAsItIs(t *testing.T) {
	a, b := net.Pipe()
	defer b.Close()
	if tcp.Wrap(a) != a {
		t.Error("a pipe was wrapped")
	}
}

// named is a connection under another name.
type named struct {
	net.Conn

	tcp *tcp.Conn
}

func (n named) TCP() *tcp.Conn { return n.tcp }

func TestAConnectionIsFoundUnderItsNames(t *testing.T) {
	near, _ := pair(t)
	pipe, other := net.Pipe()
	defer pipe.Close()
	defer other.Close()
	for _, tc := range []struct {
		name string
		nc   net.Conn
		want *tcp.Conn
	}{
		{"itself", near, near},
		{"another name", named{near, near}, near},
		{"a name for none", named{pipe, nil}, nil},
		{"a pipe", pipe, nil},
		{"hidden", struct{ net.Conn }{near}, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got, ok := tcp.Of(tc.nc); got != tc.want || ok != (tc.want != nil) {
				t.Errorf("%p, %v; want %p", got, ok, tc.want)
			}
		})
	}
}

func BenchmarkPingPong(b *testing.B) {
	run := func(b *testing.B, near, far net.Conn) {
		var wg sync.WaitGroup
		defer wg.Wait()
		defer near.Close()
		wg.Go(func() { _, _ = io.CopyBuffer(struct{ io.Writer }{far}, struct{ io.Reader }{far}, make([]byte, 64)) })
		p := make([]byte, 64)
		b.ReportAllocs()
		for b.Loop() {
			_, _ = near.Write(p)
			_, _ = io.ReadFull(near, p)
		}
	}
	b.Run("beeline", func(b *testing.B) {
		near, far := pair(b)
		run(b, near, far)
	})
	b.Run("net", func(b *testing.B) {
		near, far := pair(b)
		run(b, near.TCPConn, far.TCPConn)
	})
}
