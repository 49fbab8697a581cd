package splice_test

import (
	"context"
	"io"
	"net"
	"sync"
	"testing"

	"github.com/beeline-mqtt/beeline/internal/tcp"
	"github.com/beeline-mqtt/beeline/services/router/internal/splice"
)

// dialled is one connection of TCP: both ends.
func dialled(b *testing.B) (far, near net.Conn) {
	b.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	if far, err = net.Dial("tcp", l.Addr().String()); err != nil {
		b.Fatal(err)
	}
	if near, err = l.Accept(); err != nil {
		b.Fatal(err)
	}
	return far, tcp.Wrap(near)
}

// BenchmarkPass is a message from a client to its node, one at a time: the system calls of both ends are in it.
func BenchmarkPass(b *testing.B) {
	for name, size := range map[string]int{"64B": 64, "1MiB": 1 << 20} {
		b.Run(name, func(b *testing.B) {
			client, nearClient := dialled(b)
			node, nearNode := dialled(b)
			p := splice.NewPool(2)
			defer p.Close()
			ctx, cancel := context.WithCancel(b.Context())
			var joined, sending sync.WaitGroup
			joined.Go(func() { splice.New(ctx, nearClient, nearNode, splice.Options{Pool: p}).Join() })
			defer joined.Wait()
			defer cancel()
			turn := make(chan struct{})
			sending.Go(func() {
				message := make([]byte, size)
				for range turn {
					if _, err := client.Write(message); err != nil {
						b.Error(err)
					}
				}
			})
			defer sending.Wait()
			defer close(turn)
			got := make([]byte, size)
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for b.Loop() {
				turn <- struct{}{}
				if _, err := io.ReadFull(node, got); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
