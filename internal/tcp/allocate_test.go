//go:build !race

package tcp_test

import "testing"

// With the race detector other system calls are used, which do.
func TestReadingAndWritingDoNotAllocate(t *testing.T) {
	near, far := pair(t)
	p, q := make([]byte, 64), make([]byte, 64)
	if n := testing.AllocsPerRun(1000, func() {
		_, _ = near.Write(p)
		_, _ = near.TryWrite(p)
		_, _ = far.Read(q)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
