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

// kernel is a direction between two sockets while there is much to read. It is what ReadFrom of package net does, but
// for the waiting: here nothing is waited for but room.
type kernel struct {
	d *direction

	pipe  pipe
	in    int   // bytes in the pipe
	ended bool  // there are no more to read, ever
	dry   bool  // there are no more to read now
	err   error // of the last call
}

// splice passes on what there is to read without having it in the process, and returns when there is no more. Without a
// pipe it does nothing.
func (d *direction) splice() (readErr, writeErr error) {
	lent, err := d.pair.opts.Pool.lend()
	if err != nil {
		return nil, nil // the caller copies
	}
	k := &kernel{d: d, pipe: lent}
	defer func() { d.pair.opts.Pool.takeBack(k.pipe, k.in == 0) }()
	from, err := d.from.tcp.SyscallConn()
	if err != nil {
		return err, nil
	}
	to, err := d.to.tcp.SyscallConn()
	if err != nil {
		return nil, err
	}
	fill, drain := k.fill, k.drain // one allocation each
	for {
		err := from.Read(fill)
		switch {
		case err != nil: // closed
			return err, nil
		case k.err != nil:
			return k.err, nil
		case k.ended:
			return io.EOF, nil
		case k.dry:
			return nil, nil
		}
		if err := errors.Join(to.Write(drain), k.err); err != nil {
			return nil, err
		}
	}
}

// fill reads what there is, and does not wait.
func (k *kernel) fill(fd uintptr) bool {
	n, err := move(int(fd), k.pipe.w, most)
	switch {
	// EINVAL: this socket knows nothing to do with a pipe.
	case err == syscall.EAGAIN, err == syscall.EINVAL: //nolint:errorlint // it is an Errno
		k.dry = true
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
