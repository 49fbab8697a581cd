package splice_test

import (
	"io"
	"testing"
	"time"

	"github.com/beeline-mqtt/beeline/services/router/internal/splice"
)

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
			exchange(t, client.far, node.far)
		}
		if open := whenIdle(t, p); open > 2 {
			t.Fatalf("%d pipes are open", open)
		}
	}
}

func TestWhenPipesRunOutBytesAreCopiedUntilOneIsFree(t *testing.T) {
	p := pool(t, 1)
	client, node := wrapped(t), wrapped(t)
	waitFull, _ := start(t, client, node, splice.Options{Pool: p})
	sent := fill(t, node.far) // holds the pipe

	client2, node2 := wrapped(t), wrapped(t)
	wait, _ := start(t, client2, node2, splice.Options{Pool: p})
	exchange(t, client2.far, node2.far)
	if open, lent := p.Pipes(); open != 1 || lent != 1 {
		t.Fatalf("%d pipes are open, %d lent", open, lent)
	}

	closeWrite(t, node.far)
	if n, err := io.Copy(io.Discard, client.far); n != int64(sent) || err != nil {
		t.Fatalf("received %d bytes of %d, %v", n, sent, err)
	}
	client.far.Close()
	waitFull()
	exchange(t, client2.far, node2.far) // without a pipe still: it waits as it did
	whenIdle(t, p)
	exchange(t, client2.far, node2.far)
	closeWrite(t, client2.far)
	closeWrite(t, node2.far)
	if r := wait(); r.Spliced == 0 || r.Spliced == r.ToNode+r.ToClient {
		t.Errorf("%d bytes of %d stayed in the kernel, want some", r.Spliced, r.ToNode+r.ToClient)
	}
}

func TestAClosedPoolHasNoPipes(t *testing.T) {
	p := pool(t, 10)
	client, node := wrapped(t), wrapped(t)
	wait, _ := start(t, client, node, splice.Options{Pool: p})
	exchange(t, client.far, node.far)
	if open := whenIdle(t, p); open == 0 {
		t.Fatal("no pipe was used")
	}
	stalled, other := wrapped(t), wrapped(t)
	_, cancel := start(t, stalled, other, splice.Options{Pool: p})
	fill(t, other.far)
	p.Close()
	if open, lent := p.Pipes(); open != 1 || lent != 1 {
		t.Errorf("%d pipes are open, %d lent; want the one that is in use", open, lent)
	}
	cancel()
	exchange(t, client.far, node.far) // copied
	whenIdle(t, p)
	closeWrite(t, client.far)
	closeWrite(t, node.far)
	if r := wait(); r.Err != nil {
		t.Errorf("%+v", r)
	}
}
