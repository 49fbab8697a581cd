// Package conn owns the writing half of one client's socket. It knows no MQTT.
//
// Whoever has something for a client appends it to the client's Output and flushes it. The first to flush
// writes on the spot, without blocking; those who come meanwhile only append, and what they appended goes out
// with the next write. When the socket takes no more, one goroutine takes over, blocks in its stead under a
// deadline, and ends when there is nothing left to write. So a burst is one system call, an idle connection
// has no goroutine and no buffer, and nobody but that goroutine ever waits for a slow client.
package conn

import (
	"errors"
	"net"
	"sync"
	"time"

	"github.com/beeline-mqtt/beeline/internal/buffers"
	"github.com/beeline-mqtt/beeline/internal/tcp"
)

// HighWater is how many bytes may wait in an Output before its filler should hold back, so that what the
// socket cannot take stays in the session's queue, where it is bounded and can be shed.
const HighWater = 32 << 10

// mostReplies is how many bytes of small packets may wait before Hold waits: they answer what the client sends,
// and one that does not read could otherwise fill the memory by sending. largePacket is what does not count.
const (
	mostReplies = 128 << 10
	largePacket = 16 << 10
)

// bufferSize is what a connection starts to gather with; keepSize is the largest buffer kept for reuse.
const (
	bufferSize = 4 << 10
	keepSize   = 128 << 10
)

// outputs serves all connections of the process: an idle one holds no buffer.
var outputs = buffers.New(bufferSize, keepSize) //nolint:gochecknoglobals // a pool holds no state that anyone could observe

// spotRounds is how often one caller goes on writing on the spot before it hands over to the goroutine:
// others may append as fast as it writes.
const spotRounds = 4

// ErrSlow is the cause of a connection that did not take HighWater bytes within the write time-out.
var ErrSlow = errors.New("client does not read")

// Output is the queue of bytes for one socket. Its lock is the owner's: Append and Len are called with it
// held, everything else without.
type Output struct {
	mu      *sync.Mutex
	nc      net.Conn
	spot    *tcp.Conn // nil when the socket cannot be written without blocking (TLS, WebSocket)
	timeout time.Duration
	refill  func()
	failed  func(error)
	allowed func() bool // nil: always

	buf     *[]byte // nil when empty
	large   int     // bytes of buf that are large packets
	writing bool    // somebody is writing, or the goroutine lives
	closing bool    // close when everything is written
	closed  bool
	idle    chan struct{} // closed when writing ends; nil unless somebody waits
	room    chan struct{} // closed when buf is taken; nil unless somebody waits
}

// NewOutput makes the output of nc. mu guards it together with whatever refill touches. refill is called,
// without mu, when a write has made room; it locks mu itself and appends what waits elsewhere. failed is
// called at most once, without mu and before the socket closes, when a write fails or times out. timeout bounds every blocking write.
func NewOutput(nc net.Conn, mu *sync.Mutex, timeout time.Duration, refill func(), failed func(error)) *Output {
	o := &Output{mu: mu, nc: nc, timeout: timeout, refill: refill, failed: failed}
	o.spot, _ = tcp.Of(nc)
	return o
}

// WriteWhile has what waits thrown away, instead of written, once allowed is false; only the last packet of
// CloseAfter is written then. So a process that was paused does not say what it had decided to say before. It is
// called before the first Flush; allowed is called with mu held.
func (o *Output) WriteWhile(allowed func() bool) { o.allowed = allowed }

// Len returns how many bytes wait that no write has taken yet.
func (o *Output) Len() int {
	if o.buf == nil {
		return 0
	}
	return len(*o.buf)
}

// Buffer returns the bytes that wait, to be appended to and given back with Append.
func (o *Output) Buffer() []byte {
	if o.buf == nil {
		o.buf = outputs.Get()
	}
	return *o.buf
}

// Append replaces the waiting bytes by b, which is Buffer with more at its end.
func (o *Output) Append(b []byte) {
	if o.closed || o.closing {
		return
	}
	if n := len(b) - len(*o.buf); n >= largePacket {
		o.large += n
	}
	*o.buf = b
}

// Hold returns when the client has read enough of what it caused, or never will. Whoever reads what it sends calls
// it before the next read, with nothing gathered that is still to be flushed. It waits no longer than the time-out
// of writes lets the writer wait; held is called, before and after, only if it waits at all.
func (o *Output) Hold(held func(bool)) {
	waited := false
	for {
		o.mu.Lock()
		if o.closed || o.closing || o.Len()-o.large <= mostReplies {
			o.mu.Unlock()
			break
		}
		if o.room == nil {
			o.room = make(chan struct{})
		}
		room := o.room
		o.mu.Unlock()
		if !waited {
			waited = true
			held(true)
		}
		<-room
	}
	if waited {
		held(false)
	}
}

// Flush writes what waits, as far as the socket takes it at once; the rest is the goroutine's.
func (o *Output) Flush() {
	o.mu.Lock()
	if o.writing || o.closed || o.Len() == 0 || o.discard() {
		o.mu.Unlock()
		return
	}
	o.writing = true
	if o.spot == nil {
		o.startDraining(nil, 0)
		o.mu.Unlock()
		return
	}
	for range spotRounds {
		b := o.take()
		o.mu.Unlock()
		n, err := o.spot.TryWrite(*b)
		if err != nil {
			o.fail(err)
			return
		}
		if n < len(*b) {
			o.mu.Lock()
			o.startDraining(b, n)
			o.mu.Unlock()
			return
		}
		outputs.Put(b)
		o.refill()
		o.mu.Lock()
		if o.finish() {
			return
		}
	}
	o.startDraining(nil, 0)
	o.mu.Unlock()
}

// Close closes the socket at once. What waits is thrown away.
func (o *Output) Close() {
	o.mu.Lock()
	o.close()
	o.mu.Unlock()
}

// CloseAfter writes last after everything that waits and closes the writing half then, or after patience,
// whichever is first. It does not wait for that; Wait does.
func (o *Output) CloseAfter(last []byte, patience time.Duration) {
	o.mu.Lock()
	if o.closed || o.closing {
		o.mu.Unlock()
		return
	}
	o.discard()
	b := append(o.Buffer(), last...)
	*o.buf = b
	o.closing = true
	o.letGo()
	o.timeout = patience
	_ = o.nc.SetWriteDeadline(time.Now().Add(patience))
	if !o.writing {
		o.writing = true
		o.startDraining(nil, 0)
	}
	o.mu.Unlock()
}

// Wait returns when nobody is writing any more. After Close or CloseAfter nobody begins again.
func (o *Output) Wait() {
	o.mu.Lock()
	if !o.writing {
		o.mu.Unlock()
		return
	}
	if o.idle == nil {
		o.idle = make(chan struct{})
	}
	idle := o.idle
	o.mu.Unlock()
	<-idle
}

// stopWriting ends the writer's turn. With mu held.
func (o *Output) stopWriting() {
	o.writing = false
	if o.idle != nil {
		close(o.idle)
		o.idle = nil
	}
}

// take hands the waiting bytes to the writer.
func (o *Output) take() *[]byte {
	b := o.buf
	o.buf, o.large = nil, 0
	o.letGo()
	return b
}

// letGo wakes who waits in Hold. With mu held.
func (o *Output) letGo() {
	if o.room != nil {
		close(o.room)
		o.room = nil
	}
}

// discard throws away what waits if it may not be written any more, and reports that. With mu held.
func (o *Output) discard() bool {
	if o.closing || o.allowed == nil || o.allowed() {
		return false
	}
	if o.buf != nil {
		outputs.Put(o.take())
	}
	return true
}

// finish ends the writer's work when nothing is left to write, and reports whether it has. It is called with mu
// held and releases it when it returns true.
func (o *Output) finish() bool {
	if o.Len() > 0 && !o.closed && !o.discard() {
		return false
	}
	if o.buf != nil {
		outputs.Put(o.take())
	}
	if o.closing && !o.closed {
		o.closed = true
		// It may write, and so wait; nobody else writes before stopWriting.
		o.mu.Unlock()
		o.closeWrite()
		o.mu.Lock()
	}
	o.stopWriting()
	o.mu.Unlock()
	return true
}

// startDraining starts the goroutine that may block. With mu held and writing set.
func (o *Output) startDraining(b *[]byte, written int) {
	go o.drain(b, written)
}

func (o *Output) drain(b *[]byte, written int) {
	for {
		if b != nil {
			if err := o.write((*b)[written:]); err != nil {
				o.fail(err)
				return
			}
			outputs.Put(b)
			o.refill()
		}
		o.mu.Lock()
		if o.finish() {
			return
		}
		b, written = o.take(), 0
		o.mu.Unlock()
	}
}

// write blocks until everything is written, or a part of it was not taken in time: a slow client that makes
// progress is served, however large the packet.
func (o *Output) write(b []byte) error {
	for len(b) > 0 {
		part := b[:min(len(b), HighWater)]
		b = b[len(part):]
		o.mu.Lock()
		if !o.closing {
			_ = o.nc.SetWriteDeadline(time.Now().Add(o.timeout))
		}
		o.mu.Unlock()
		if _, err := o.nc.Write(part); err != nil {
			var ne net.Error
			if errors.As(err, &ne) && ne.Timeout() {
				return ErrSlow
			}
			return err
		}
	}
	return nil
}

// fail ends the output for err. The owner is told before the socket closes: who reads from it would otherwise see
// that first, and take it for the cause.
func (o *Output) fail(err error) {
	o.mu.Lock()
	first := o.end()
	o.mu.Unlock()
	if first {
		o.failed(err)
		_ = o.nc.Close()
	}
	o.mu.Lock()
	o.stopWriting()
	o.mu.Unlock()
}

func (o *Output) close() {
	if o.end() {
		_ = o.nc.Close()
	}
}

// end has nothing written any more, and reports whether it was the first to. With mu held.
func (o *Output) end() bool {
	if o.closed {
		return false
	}
	o.closed = true
	o.buf, o.large = nil, 0
	o.letGo()
	return true
}

// closeWrite ends the writing half, so that what was written still reaches a peer whose own bytes we have not
// read: closing both at once would reset the connection and may destroy the last packet on its way.
func (o *Output) closeWrite() {
	if h, ok := o.nc.(interface{ CloseWrite() error }); ok && h.CloseWrite() == nil {
		return
	}
	_ = o.nc.Close()
}
