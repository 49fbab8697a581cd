package splice_test

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

	"github.com/beeline-mqtt/beeline/services/router/internal/splice"
)

// sendAll writes p and ends what c sends; readAll reads to the end.
func sendAll(t *testing.T, c net.Conn, p []byte) {
	t.Helper()
	if n, err := c.Write(p); n != len(p) || err != nil {
		t.Errorf("sent %d bytes of %d, %v", n, len(p), err)
	}
	if err := c.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
		t.Error(err)
	}
}

func TestBytesPassWholeAndBothWaysAtOnce(t *testing.T) {
	tls := secure(t)
	for _, tc := range []struct {
		name         string
		client, node func(*testing.T) link
		pipes        int
		spliced      bool
	}{
		{"TCP of the listeners", wrapped, wrapped, 2, true},
		{"TCP of package net", plain, plain, 2, true},
		{"TCP of both", wrapped, plain, 2, true},
		{"TCP with no pipe to be had", wrapped, wrapped, 0, false},
		{"TLS from the client", tls, wrapped, 2, false},
		{"TLS to the node", plain, tls, 2, false},
		{"TLS on both sides", tls, tls, 2, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			client, node := tc.client(t), tc.node(t)
			wait, _ := start(t, client, node, splice.Options{Pool: pool(t, tc.pipes)})
			exchange(t, client.far, node.far)
			up, down := random(5<<20+1), random(3<<20+7)
			var wg sync.WaitGroup
			wg.Go(func() { sendAll(t, client.far, up) })
			wg.Go(func() { sendAll(t, node.far, down) })
			expect := func(c net.Conn, want []byte) {
				got, err := io.ReadAll(c)
				if err != nil || !bytes.Equal(got, want) {
					t.Errorf("received %d bytes, %v; want %d", len(got), err, len(want))
				}
			}
			wg.Go(func() { expect(client.far, down) })
			wg.Go(func() { expect(node.far, up) })
			wg.Wait()

			r := wait()
			if r.ToNode != int64(len(up)+5) || r.ToClient != int64(len(down)+5) || r.Err != nil {
				t.Errorf("%+v", r)
			}
			if (r.Spliced > 0) != tc.spliced {
				t.Errorf("%d bytes of %d stayed in the kernel", r.Spliced, r.ToNode+r.ToClient)
			}
		})
	}
}

func TestFewBytesAreCopiedAndManyStayInTheKernel(t *testing.T) {
	const waiting, chunk = 64 << 10, 16 << 10
	for _, tc := range []struct {
		name    string
		sent    int
		spliced int64
	}{{"less than a buffer", chunk - 1, 0}, {"much", waiting, waiting - chunk}} {
		t.Run(tc.name, func(t *testing.T) {
			client, node := wrapped(t), wrapped(t)
			sent, got := random(tc.sent), make([]byte, tc.sent)
			if _, err := client.far.Write(sent); err != nil {
				t.Fatal(err)
			}
			awaitReadable(t, client.near, tc.sent)
			p := pool(t, 2)
			wait, _ := start(t, client, node, splice.Options{Pool: p})
			if _, err := io.ReadFull(node.far, got); err != nil || !bytes.Equal(got, sent) {
				t.Fatalf("of %d bytes: %v", tc.sent, err)
			}
			whenIdle(t, p)
			closeWrite(t, client.far)
			closeWrite(t, node.far)
			if r := wait(); r.ToNode != int64(tc.sent) || r.Spliced != tc.spliced {
				t.Errorf("%d bytes stayed in the kernel, want %d: %+v", r.Spliced, tc.spliced, r)
			}
		})
	}
}

// Records of all lengths about those of the buffers, one at a time: what has come is passed on though nothing follows.
func TestNothingWaitsForMore(t *testing.T) {
	tls := secure(t)
	for _, tc := range []struct {
		name   string
		client func(*testing.T) link
		ws     bool
	}{{"TCP", wrapped, false}, {"TLS", tls, false}, {"WebSocket", webSocket, true}} {
		t.Run(tc.name, func(t *testing.T) {
			client, node := tc.client(t), plain(t)
			wait, cancel := start(t, client, node, splice.Options{Pool: pool(t, 2)})
			for _, n := range []int{1, 511, 512, 513, 1024, 16384, 16384 + 512, 16384 + 513, 3 * 16384, 1} {
				sent, got := random(n), make([]byte, n)
				go func() { _, _ = client.far.Write(sent) }()
				_ = node.far.SetReadDeadline(time.Now().Add(patience))
				if _, err := io.ReadFull(node.far, got); err != nil || !bytes.Equal(got, sent) {
					t.Fatalf("of %d bytes: %v", n, err)
				}
			}
			exchange(t, node.far, client.far)
			cancel()
			wait()
		})
	}
}

func TestAHalfThatIsClosedLeavesTheOtherOpen(t *testing.T) {
	tls := secure(t)
	for _, tc := range []struct {
		name         string
		client, node func(*testing.T) link
	}{{"TCP", wrapped, plain}, {"TLS from the client", tls, wrapped}, {"TLS to the node", plain, tls}} {
		for _, first := range []struct {
			name string
			why  splice.Ended
		}{{"the client first", splice.ClientClosed}, {"the node first", splice.NodeClosed}} {
			t.Run(tc.name+", "+first.name, func(t *testing.T) {
				client, node := tc.client(t), tc.node(t)
				wait, _ := start(t, client, node, splice.Options{Pool: pool(t, 2)})
				a, b := client.far, node.far
				if first.why == splice.NodeClosed {
					a, b = b, a
				}
				exchange(t, a, b)
				closeWrite(t, a)
				if n, err := b.Read(make([]byte, 1)); n != 0 || !errors.Is(err, io.EOF) {
					t.Fatalf("read %d bytes, %v", n, err)
				}
				sent := random(1 << 20)
				go sendAll(t, b, sent)
				if got, err := io.ReadAll(a); err != nil || !bytes.Equal(got, sent) {
					t.Errorf("received %d bytes, %v", len(got), err)
				}
				if r := wait(); r.Ended != first.why || r.Err != nil {
					t.Errorf("%+v", r)
				}
			})
		}
	}
}

func TestTheEndOfAWebSocketIsSaidBothWays(t *testing.T) {
	t.Run("the client's", func(t *testing.T) {
		client, node := webSocket(t), wrapped(t)
		wait, _ := start(t, client, node, splice.Options{Pool: pool(t, 2)})
		exchange(t, client.far, node.far)
		go client.far.Close() // it waits for the answer
		expectClosed(t, node.far)
		closeWrite(t, node.far)
		if r := wait(); r.Ended != splice.ClientClosed {
			t.Errorf("%+v", r)
		}
	})
	t.Run("the node's", func(t *testing.T) {
		client, node := webSocket(t), wrapped(t)
		wait, _ := start(t, client, node, splice.Options{Pool: pool(t, 2)})
		exchange(t, client.far, node.far)
		closeWrite(t, node.far)
		expectClosed(t, client.far)
		expectClosed(t, node.far)
		if r := wait(); r.Ended != splice.NodeClosed || r.Err != nil {
			t.Errorf("%+v", r)
		}
	})
}

func TestTLSThatEndsWithoutAGoodbyeIsNoError(t *testing.T) {
	client, node := secure(t)(t), wrapped(t)
	wait, _ := start(t, client, node, splice.Options{Pool: pool(t, 2)})
	exchange(t, client.far, node.far)
	client.far.(interface{ NetConn() net.Conn }).NetConn().Close()
	expectClosed(t, node.far)
	node.far.Close()
	if r := wait(); r.Ended != splice.ClientClosed || r.Err != nil {
		t.Errorf("%+v", r)
	}
}

func TestAResetEndsBoth(t *testing.T) {
	for _, tc := range []struct {
		name string
		node bool
		want splice.Ended
	}{{"of the client", false, splice.ClientFailed}, {"of the node", true, splice.NodeFailed}} {
		t.Run(tc.name, func(t *testing.T) {
			for name, pipes := range map[string]int{"spliced": 2, "copied": 0} {
				client, node := wrapped(t), wrapped(t)
				wait, _ := start(t, client, node, splice.Options{Pool: pool(t, pipes)})
				exchange(t, client.far, node.far)
				a, b := client.far, node.far
				if tc.node {
					a, b = b, a
				}
				_ = a.(*net.TCPConn).SetLinger(0)
				a.Close()
				expectClosed(t, b)
				if r := wait(); r.Ended != tc.want || !errors.Is(r.Err, syscall.ECONNRESET) {
					t.Errorf("%s: %+v", name, r)
				}
			}
		})
	}
}

func TestTheContextClosesBothAtOnce(t *testing.T) {
	tls := secure(t)
	for _, tc := range []struct {
		name         string
		client, node func(*testing.T) link
	}{{"TCP", wrapped, wrapped}, {"TLS", tls, tls}, {"WebSocket", webSocket, wrapped}, {"a pipe", piped, wrapped}} {
		t.Run(tc.name, func(t *testing.T) {
			client, node := tc.client(t), tc.node(t)
			wait, cancel := start(t, client, node, splice.Options{Pool: pool(t, 2)})
			exchange(t, client.far, node.far)
			cancel()
			expectClosed(t, client.far)
			expectClosed(t, node.far)
			if r := wait(); r.Ended != splice.Cancelled || r.Err == nil {
				t.Errorf("%+v", r)
			}
		})
	}
	t.Run("also while the peer does not read", func(t *testing.T) {
		for _, client := range []link{wrapped(t), tls(t)} {
			node := wrapped(t)
			wait, cancel := start(t, client, node, splice.Options{Pool: pool(t, 2)})
			fill(t, node.far)
			cancel()
			if r := wait(); r.Ended != splice.Cancelled {
				t.Errorf("%+v", r)
			}
		}
	})
}

// fill writes to c, which is TCP, until nothing more is taken, and returns how much was.
func fill(t *testing.T, c net.Conn) (sent int) {
	t.Helper()
	const unbounded = 256 << 20
	for p := make([]byte, 1<<20); sent < unbounded; {
		_ = c.SetWriteDeadline(time.Now().Add(200 * time.Millisecond))
		n, err := c.Write(p)
		sent += n
		switch {
		case err == nil || errors.Is(err, os.ErrDeadlineExceeded) && n > 0:
		case errors.Is(err, os.ErrDeadlineExceeded):
			return sent
		default:
			t.Fatal(err)
		}
	}
	t.Fatalf("%d bytes are on their way to somebody who does not read", sent)
	return 0
}

func TestWhoeverDoesNotReadIsNotReadFor(t *testing.T) {
	tls := secure(t)
	for _, tc := range []struct {
		name   string
		client func(*testing.T) link
		pipes  int
	}{{"spliced", wrapped, 2}, {"copied", wrapped, 0}, {"TLS", tls, 2}} {
		t.Run(tc.name, func(t *testing.T) {
			client, node := tc.client(t), wrapped(t)
			p := pool(t, tc.pipes)
			wait, _ := start(t, client, node, splice.Options{Pool: p})
			sent := fill(t, node.far) // which fails if a queue takes it all
			if _, lent := p.Pipes(); lent > 1 {
				t.Errorf("%d pipes hold what is not taken", lent)
			}
			closeWrite(t, node.far)
			if n, err := io.Copy(io.Discard, client.far); n != int64(sent) || err != nil {
				t.Errorf("received %d bytes of %d, %v", n, sent, err)
			}
			client.far.Close()
			if r := wait(); r.Ended != splice.NodeClosed || r.ToClient != int64(sent) {
				t.Errorf("%+v", r)
			}
		})
	}
}

func TestDeadlinesFromBeforeDoNotCount(t *testing.T) {
	client, node := wrapped(t), wrapped(t)
	past := time.Now().Add(-time.Second)
	if err := errors.Join(client.near.SetDeadline(past), node.near.SetDeadline(past)); err != nil {
		t.Fatal(err)
	}
	start(t, client, node, splice.Options{Pool: pool(t, 2)})
	exchange(t, client.far, node.far)
}

func TestEveryReasonHasAWord(t *testing.T) {
	seen := map[string]bool{splice.Ended(0).String(): true}
	for e := splice.ClientClosed; e <= splice.Cancelled; e++ {
		if seen[e.String()] {
			t.Errorf("%d is %q", e, e)
		}
		seen[e.String()] = true
	}
}
