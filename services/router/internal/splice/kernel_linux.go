package splice

import (
	"errors"
	"fmt"
	"io"
	"syscall"
)

const (
	// most is how many bytes one system call moves: what a pipe holds unless somebody enlarges it.
	most = 64 << 10
	// spliceNonblock is SPLICE_F_NONBLOCK: the pipe is not waited for.
	spliceNonblock = 2
)

func openPipe() (pipe, error) {
	var p [2]int
	if err := syscall.Pipe2(p[:], syscall.O_CLOEXEC|syscall.O_NONBLOCK); err != nil {
		return pipe{}, fmt.Errorf("open a pipe: %w", err)
	}
	return pipe{r: p[0], w: p[1]}, nil
}

func (p pipe) close() {
	_ = syscall.Close(p.r)
	_ = syscall.Close(p.w)
}

// kernel is a direction between two sockets. It is what ReadFrom of package net does, but for the waiting: here no pipe
// is held while there is nothing to read.
type kernel struct {
	d *direction

	pipe  pipe
	lent  bool
	in    int   // bytes in the pipe
	ended bool  // there are no more to read
	err   error // of the last call
}

// splice passes bytes without having them in the process; by copying when there is no pipe.
func (d *direction) splice() (readErr, writeErr error) {
	from, err := d.from.tcp.SyscallConn()
	if err != nil {
		return err, nil
	}
	to, err := d.to.tcp.SyscallConn()
	if err != nil {
		return nil, err
	}
	k := &kernel{d: d}
	defer k.giveBack()
	fill, drain := k.fill, k.drain // one allocation each
	for {
		k.err = nil
		err := from.Read(fill)
		switch {
		case err != nil: // closed
			return err, nil
		case k.ended:
			return io.EOF, nil
		case k.err != nil && !k.lent: // no pipe, or none that this socket knows what to do with
			if readErr, writeErr := d.copyOnce(); readErr != nil || writeErr != nil {
				return readErr, writeErr
			}
			continue
		case k.err != nil:
			return k.err, nil
		}
		if err := errors.Join(to.Write(drain), k.err); err != nil {
			return nil, err
		}
	}
}

// fill is called when there may be something to read, and says whether there was. When there was not, the pipe goes
// back.
func (k *kernel) fill(fd uintptr) bool {
	if !k.lent {
		if k.pipe, k.err = k.d.pair.opts.Pool.lend(); k.err != nil {
			return true
		}
		k.lent = true
	}
	n, err := move(int(fd), k.pipe.w, most)
	switch {
	case err == syscall.EAGAIN: //nolint:errorlint // it is an Errno
		k.giveBack()
		return false
	case err == syscall.EINVAL: //nolint:errorlint // it is an Errno
		k.giveBack()
		k.err = err
	case err != nil:
		k.err = err
	default:
		k.in, k.ended = n, n == 0
	}
	return true
}

// drain is called when there may be room, and says whether the pipe is empty.
func (k *kernel) drain(fd uintptr) bool {
	for k.in > 0 {
		n, err := move(k.pipe.r, int(fd), k.in)
		if err != nil {
			if err == syscall.EAGAIN { //nolint:errorlint // it is an Errno
				return false
			}
			k.err = err
			return true
		}
		if n == 0 {
			k.err = io.ErrShortWrite
			return true
		}
		k.in -= n
		k.d.count(n)
		k.d.spliced += int64(n)
	}
	return true
}

func (k *kernel) giveBack() {
	if k.lent {
		k.d.pair.opts.Pool.takeBack(k.pipe, k.in == 0)
		k.lent = false
	}
}

// move is splice(2) between a socket and a pipe. It returns 0 at the end of what there is, and EAGAIN when there is
// nothing yet, or no room.
func move(from, to, n int) (int, error) {
	for {
		moved, err := syscall.Splice(from, nil, to, nil, n, spliceNonblock)
		if err != syscall.EINTR {
			return int(moved), err
		}
	}
}
