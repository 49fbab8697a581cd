package splice

import (
	"errors"
	"fmt"
	"io"
	"time"
)

// waiting is the length of what a direction waits with that cannot wait without: longer than most MQTT packets.
const waiting = 512

// direction passes bytes from one side to the other. Its fields are its goroutine's.
type direction struct {
	pair            *Pair
	from, to        *side
	passed, spliced int64
}

// run passes bytes until there are no more, and tells the pair.
func (d *direction) run() { d.over(d.move()) }

// over tells the pair why there are no more.
func (d *direction) over(readErr, writeErr error) {
	switch {
	case writeErr != nil:
		d.pair.end(d.to.failed, fmt.Errorf("write to the %s: %w", d.to.name, writeErr))
	case errors.Is(readErr, io.EOF):
		d.pair.closeWrite(d.from, d.to)
	default:
		d.pair.end(d.from.failed, fmt.Errorf("read from the %s: %w", d.from.name, readErr))
	}
}

// move returns one error when bytes cannot be passed any more; io.EOF, wrapped or not, when there are none.
func (d *direction) move() (readErr, writeErr error) {
	if d.from.tcp == nil {
		return d.copy()
	}
	for readErr == nil && writeErr == nil {
		var n int
		n, readErr, writeErr = d.copyOnce()
		if n == chunk && d.to.tcp != nil && readErr == nil && writeErr == nil {
			readErr, writeErr = d.splice()
		}
	}
	return readErr, writeErr
}

// count is called for n bytes that have passed.
func (d *direction) count(n int) {
	if n > 0 {
		d.passed += int64(n)
		d.pair.last.Store(int64(time.Since(d.pair.begun)))
	}
}

// copyOnce waits for bytes of a TCP connection without a buffer, and passes on the n bytes that have come, a chunk at most.
func (d *direction) copyOnce() (n int, readErr, writeErr error) {
	buffers := d.pair.opts.Pool.buffers
	b, err := d.from.tcp.ReadPooled(buffers)
	if err != nil {
		return 0, err, nil
	}
	n, err = len(*b), d.write(*b)
	buffers.Put(b)
	return n, nil, err
}

// copy passes bytes of a connection that only a Read can wait for. One that fills what it was given is followed by one
// with a buffer of the pool: there is more, most likely.
func (d *direction) copy() (readErr, writeErr error) {
	small := make([]byte, waiting)
	for {
		n, readErr, writeErr := d.pass(small)
		for n >= len(small) && readErr == nil && writeErr == nil {
			b := d.pair.opts.Pool.buffers.Get()
			n, readErr, writeErr = d.pass((*b)[:cap(*b)])
			d.pair.opts.Pool.buffers.Put(b)
		}
		if readErr != nil || writeErr != nil {
			return readErr, writeErr
		}
	}
}

// pass reads into p once, and passes on the n bytes that have come, also those beside an error.
func (d *direction) pass(p []byte) (n int, readErr, writeErr error) {
	n, readErr = d.from.conn.Read(p)
	if n > 0 {
		writeErr = d.write(p[:n])
	}
	return n, readErr, writeErr
}

func (d *direction) write(p []byte) error {
	n, err := d.to.conn.Write(p)
	d.count(n)
	return err
}
