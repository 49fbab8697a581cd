package splice_test

import (
	"net"
	"syscall"
	"testing"
	"time"

	"github.com/beeline-mqtt/beeline/services/router/internal/splice"
)

// awaitReadable waits until so many bytes can be read from c.
func awaitReadable(t *testing.T, c net.Conn, n int) {
	t.Helper()
	raw, err := c.(syscall.Conn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	p := make([]byte, n)
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(time.Millisecond) {
		got := 0
		_ = raw.Control(func(fd uintptr) { got, _, _ = syscall.Recvfrom(int(fd), p, syscall.MSG_PEEK|syscall.MSG_DONTWAIT) })
		if got == n {
			return
		}
	}
	t.Fatalf("%d bytes do not arrive", n)
}

// whenIdle waits until no pipe is lent; a direction gives its own back only after the byte has arrived.
func whenIdle(t *testing.T, p *splice.Pool) (open int) {
	t.Helper()
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(time.Millisecond) {
		if open, lent := p.Pipes(); lent == 0 {
			return open
		}
	}
	t.Fatal("a pair holds a pipe though nothing passes")
	return 0
}

func TestPipesAreLentOnlyWhileBytesPass(t *testing.T) {
	p := pool(t, 100)
	for range 20 {
		client, node := wrapped(t), wrapped(t)
		start(t, client, node, splice.Options{Pool: p})
		for range 3 {
			pour(t, client.far, node.far)
		}
		if open := whenIdle(t, p); open > 2 {
			t.Fatalf("%d pipes are open", open)
		}
	}
}

func TestWhenPipesRunOutBytesAreCopiedUntilOneIsFree(t *testing.T) {
	p := pool(t, 1)
	giveBack, err := p.Borrow()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Borrow(); err == nil {
		t.Fatal("more pipes are lent than there may be")
	}
	client, node := wrapped(t), wrapped(t)
	wait, _ := start(t, client, node, splice.Options{Pool: p})
	pour(t, client.far, node.far)
	if open, lent := p.Pipes(); open != 1 || lent != 1 {
		t.Fatalf("%d pipes are open, %d lent", open, lent)
	}
	giveBack()
	pour(t, client.far, node.far)
	whenIdle(t, p)
	closeWrite(t, client.far)
	closeWrite(t, node.far)
	if r := wait(); r.Spliced == 0 || r.Spliced > r.ToNode/2 {
		t.Errorf("%d bytes of %d stayed in the kernel, want some, and none of the first half", r.Spliced, r.ToNode)
	}
}

func TestAClosedPoolHasNoPipes(t *testing.T) {
	p := pool(t, 10)
	client, node := wrapped(t), wrapped(t)
	wait, _ := start(t, client, node, splice.Options{Pool: p})
	pour(t, client.far, node.far)
	if open := whenIdle(t, p); open == 0 {
		t.Fatal("no pipe was used")
	}
	giveBack, err := p.Borrow()
	if err != nil {
		t.Fatal(err)
	}
	p.Close()
	if open, lent := p.Pipes(); open != 1 || lent != 1 {
		t.Errorf("%d pipes are open, %d lent; want the one that is in use", open, lent)
	}
	giveBack()
	pour(t, client.far, node.far) // copied
	if open, lent := p.Pipes(); open != 0 || lent != 0 {
		t.Errorf("%d pipes are open, %d lent by a closed pool", open, lent)
	}
	closeWrite(t, client.far)
	closeWrite(t, node.far)
	if r := wait(); r.Err != nil {
		t.Errorf("%+v", r)
	}
}
