// Package tcp has TCP connections that read and write without telling Go's scheduler.
//
// Package net makes its system calls as if each could block: the scheduler notes them, and wakes the thread that looks
// for those that do. The sockets behind it never block, and a call on one takes a few microseconds, so the noting costs
// more than it is good for. A broker makes few other system calls: here it is a sixth of its processor time.
package tcp

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"syscall"

	"github.com/beeline-mqtt/beeline/internal/buffers"
)

// Conn is a TCP connection. It may be used as a *net.TCPConn is, by any number of goroutines.
type Conn struct {
	*net.TCPConn

	raw   syscall.RawConn
	read  call
	write call
}

// Wrap returns nc as a *Conn if it is TCP, and else as it is. nc is not to be used any more.
func Wrap(nc net.Conn) net.Conn {
	t, ok := nc.(*net.TCPConn)
	if !ok {
		return nc
	}
	raw, err := t.SyscallConn()
	if err != nil {
		return nc
	}
	c := &Conn{TCPConn: t, raw: raw}
	c.read.run, c.read.runPooled, c.write.run = c.read.receive, c.read.receivePooled, c.write.send
	return c
}

// Of returns the connection that nc is, or is a name for: one that has a method TCP, which returns it.
func Of(nc net.Conn) (*Conn, bool) {
	switch c := nc.(type) {
	case *Conn:
		return c, true
	case interface{ TCP() *Conn }:
		t := c.TCP()
		return t, t != nil
	}
	return nil, false
}

// Read reads what is there, and waits if that is nothing.
func (c *Conn) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	r := &c.read
	r.mu.Lock()
	defer r.mu.Unlock()
	r.p, r.n, r.err = p, 0, nil
	err := c.raw.Read(r.run)
	r.p = nil
	switch {
	case err != nil:
		return 0, err // closed, or the deadline is over
	case r.err != nil:
		return 0, c.opError("read", r.err)
	case r.n == 0:
		return 0, io.EOF
	}
	return r.n, nil
}

// ReadPooled reads what is there into a buffer of the pool, and waits if that is nothing; while it waits it holds no
// buffer. The buffer is as long as what was read, and the caller's, to be put back; nil beside an error.
func (c *Conn) ReadPooled(pool *buffers.Pool) (*[]byte, error) {
	r := &c.read
	r.mu.Lock()
	r.pool, r.lent, r.err = pool, nil, nil
	err := c.raw.Read(r.runPooled)
	b, failed := r.lent, r.err
	r.pool, r.lent = nil, nil
	r.mu.Unlock()
	if err == nil && failed == nil && len(*b) > 0 {
		return b, nil
	}
	return nil, c.nothing(b, pool, err, failed)
}

// nothing says why there is nothing in a buffer, and puts it back. It is apart because whoever waits for bytes has what
// ReadPooled needs on the stack.
func (c *Conn) nothing(b *[]byte, pool *buffers.Pool, err, failed error) error {
	if b != nil {
		pool.Put(b)
	}
	switch {
	case err != nil:
		return err // closed, or the deadline is over
	case failed != nil:
		return c.opError("read", failed)
	}
	return io.EOF
}

// Write writes all of p, and waits for as long as that takes.
func (c *Conn) Write(p []byte) (int, error) { return c.doWrite(p, true) }

// TryWrite writes what the socket takes at once, which may be nothing, and does not wait. A write deadline that has
// passed is no error; when it has, nothing is written.
func (c *Conn) TryWrite(p []byte) (int, error) {
	n, err := c.doWrite(p, false)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		err = nil
	}
	return n, err
}

func (c *Conn) doWrite(p []byte, wait bool) (int, error) {
	w := &c.write
	w.mu.Lock()
	defer w.mu.Unlock()
	w.p, w.n, w.err, w.wait = p, 0, nil, wait
	err := c.raw.Write(w.run)
	w.p = nil
	if err == nil && w.err != nil {
		err = c.opError("write", w.err)
	}
	return w.n, err
}

func (c *Conn) opError(op string, err error) error {
	return &net.OpError{Op: op, Net: "tcp", Source: c.LocalAddr(), Addr: c.RemoteAddr(), Err: fmt.Errorf("%s: %w", op, err)}
}

// ReadFrom and WriteTo hide those of package net, which make their own system calls.

// ReadFrom implements io.ReaderFrom.
func (c *Conn) ReadFrom(r io.Reader) (int64, error) { return io.Copy(struct{ io.Writer }{c}, r) }

// WriteTo implements io.WriterTo.
func (c *Conn) WriteTo(w io.Writer) (int64, error) { return io.Copy(w, struct{ io.Reader }{c}) }

// call is one direction of a connection: the arguments and the results of what goes on in it.
type call struct {
	mu   sync.Mutex // held by the one whose call it is
	run  func(fd uintptr) (done bool)
	p    []byte
	n    int
	err  error
	wait bool

	runPooled func(fd uintptr) (done bool)
	pool      *buffers.Pool
	lent      *[]byte
}

// receive is called when there may be something to read, and says whether there was.
func (k *call) receive(fd uintptr) bool {
	n, errno := receive(fd, k.p)
	k.n = n
	return k.done(errno)
}

// receivePooled is receive with a buffer that is lent only while there is something to read.
func (k *call) receivePooled(fd uintptr) bool {
	b := k.pool.Get()
	n, errno := receive(fd, (*b)[:cap(*b)])
	if !k.done(errno) {
		k.pool.Put(b)
		return false
	}
	*b = (*b)[:n]
	k.lent = b
	return true
}

// send is called when there may be room, and says whether that is all.
func (k *call) send(fd uintptr) bool {
	for k.n < len(k.p) {
		n, errno := send(fd, k.p[k.n:])
		k.n += n
		if errno != 0 {
			return k.done(errno) || !k.wait
		}
	}
	return true
}

// done keeps what went wrong, and says whether anything but patience is needed.
func (k *call) done(errno syscall.Errno) bool {
	if errno == syscall.EAGAIN {
		return false
	}
	if errno != 0 {
		k.err = errno
	}
	return true
}

// Listener wraps what a listener accepts.
type Listener struct{ net.Listener }

// Accept implements net.Listener.
func (l Listener) Accept() (net.Conn, error) {
	nc, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return Wrap(nc), nil
}
