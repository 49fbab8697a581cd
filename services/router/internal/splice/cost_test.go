//go:build linux

package splice_test

import (
	"context"
	"io"
	"math/rand/v2"
	"os"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/beeline-mqtt/beeline/services/router/internal/splice"
)

func openFiles(t *testing.T) int {
	t.Helper()
	files, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(files)
}

// memory is what the heap and the stacks take.
func memory() int {
	runtime.GC()
	runtime.GC() // what pools have kept
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int(m.HeapAlloc + m.StackInuse)
}

// The figures of the package comment are from here: go test -run APairCosts -v.
func TestAPairCosts(t *testing.T) {
	const pairs = 1000
	for _, tc := range []struct {
		name   string
		client func(*testing.T) link
		most   int // bytes: with the race detector too, and too few if a buffer were held
	}{{"TCP", wrapped, 20 << 10}, {"TLS", secure(t), 34 << 10}} {
		t.Run(tc.name, func(t *testing.T) {
			const pipes = 4
			p := pool(t, pipes)
			var clients, nodes [pairs]link
			before := memory()
			for i := range pairs {
				clients[i], nodes[i] = tc.client(t), wrapped(t)
			}
			files := openFiles(t)

			ctx, cancel := context.WithCancel(t.Context())
			var joined sync.WaitGroup
			for i := range pairs {
				joined.Go(func() {
					splice.New(ctx, clients[i].near, nodes[i].near, splice.Options{Pool: p, Idle: time.Hour}).Join()
				})
			}
			for i := range pairs {
				exchange(t, clients[i].far, nodes[i].far)
			}
			whenIdle(t, p)
			each := (memory() - before) / pairs
			more := openFiles(t) - files
			t.Logf("per pair: %d bytes, those of the far ends included, and %d descriptors more than the sockets",
				each, more/pairs)
			if each > tc.most {
				t.Errorf("a pair takes %d bytes", each)
			}
			if more > 2*pipes {
				t.Errorf("%d descriptors more, want those of %d pipes", more, pipes)
			}
			cancel()
			joined.Wait()
		})
	}
}

// Whatever happens to pairs, nothing is left of them.
func TestNothingIsLeftOfManyPairs(t *testing.T) {
	tls := secure(t)
	p := splice.NewPool(8)
	before := openFiles(t)
	t.Run("pairs", func(t *testing.T) {
		for i := range 200 {
			rng := rand.New(rand.NewPCG(5, uint64(i)))
			client, node := []func(*testing.T) link{wrapped, plain, tls}[rng.IntN(3)](t), wrapped(t)
			wait, cancel := start(t, client, node, splice.Options{Pool: p, Idle: time.Minute})
			var wg sync.WaitGroup
			for _, c := range []link{client, node} {
				n, end := rng.IntN(1<<18), rng.IntN(4)
				wg.Go(func() {
					if _, err := c.far.Write(make([]byte, n)); err != nil {
						return // the other one has ended it
					}
					switch end {
					case 0:
						_ = c.far.Close()
					case 1:
						cancel()
					default:
						_ = c.far.(interface{ CloseWrite() error }).CloseWrite()
					}
				})
				wg.Go(func() { _, _ = io.Copy(io.Discard, c.far) })
			}
			if r := wait(); r.Ended == 0 {
				t.Errorf("%+v", r)
			}
			client.far.Close()
			node.far.Close()
			wg.Wait()
		}
	})
	if _, lent := p.Pipes(); lent != 0 {
		t.Errorf("%d pipes are lent", lent)
	}
	p.Close()
	if after := openFiles(t); after > before {
		t.Errorf("%d files are open, %d before", after, before)
	}
}
