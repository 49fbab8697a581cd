package client_test

import (
	"bytes"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// A client that sends what has to be answered and reads no answer is not read either after a while: its answers
// must not fill the memory. It is not silent meanwhile, and goes on when it reads.
func TestAClientThatReadsNoAnswersIsNotReadItself(t *testing.T) {
	inTime(t, func(t *testing.T, version byte) {
		r := quiet(t)
		c := r.pipe(version)
		c.Hello("a", keepAlive(10))
		attached := r.broker.client("a")
		const chunk, chunks = 2 << 10, 1 << 10
		var sent atomic.Int64
		written := make(chan struct{})
		go func() {
			defer close(written)
			b := bytes.Repeat([]byte{0xC0, 0}, chunk/2)
			for range chunks {
				if _, err := c.Conn().Write(b); err != nil {
					return
				}
				sent.Add(chunk)
			}
		}()
		synctest.Wait()
		if n := sent.Load(); n > 512<<10 {
			t.Errorf("%d bytes of PINGREQ were taken without an answer being read", n)
		}
		attached.Sweep(time.Now().Add(time.Hour), false)
		for got := 0; got < chunk*chunks; {
			b := make([]byte, 64<<10)
			n, err := c.Conn().Read(b)
			if err != nil {
				t.Fatalf("after %d bytes: %v", got, err)
			}
			got += n
		}
		<-written
		c.Close()
		<-r.served
	})
}
