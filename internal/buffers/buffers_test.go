package buffers_test

import (
	"testing"

	"github.com/beeline-mqtt/beeline/internal/buffers"
)

func TestBuffersAreEmptyAndLargeEnough(t *testing.T) {
	p := buffers.New(100, 1000)
	for range 100 {
		b := p.Get()
		if len(*b) != 0 || cap(*b) < 100 || cap(*b) > 1000 {
			t.Fatalf("length %d, capacity %d", len(*b), cap(*b))
		}
		*b = append(*b, "something"...)
		p.Put(b)
	}
}

func TestBuffersThatHaveGrownOrShrunkAreNotTakenBack(t *testing.T) {
	p := buffers.New(100, 1000)
	for _, size := range []int{99, 1001} {
		b := make([]byte, 0, size)
		p.Put(&b)
		for range 10 {
			if got := p.Get(); got == &b {
				t.Errorf("one of %d bytes is lent", size)
			}
		}
	}
}

func BenchmarkGetAndPut(b *testing.B) {
	p := buffers.New(4096, 4096)
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			p.Put(p.Get())
		}
	})
}
