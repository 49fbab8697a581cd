//go:build race

package tcp

import (
	"errors"
	"syscall"
)

// For the race detector what is written to a socket comes before what is read from one. It learns of that from package
// syscall, not from raw system calls.

func receive(fd uintptr, p []byte) (int, syscall.Errno) { return again(syscall.Read, fd, p) }
func send(fd uintptr, p []byte) (int, syscall.Errno)    { return again(syscall.Write, fd, p) }

// again calls until it is not interrupted.
func again(call func(fd int, p []byte) (int, error), fd uintptr, p []byte) (int, syscall.Errno) {
	for {
		n, err := call(int(fd), p)
		var errno syscall.Errno
		errors.As(err, &errno)
		if errno != syscall.EINTR {
			return max(n, 0), errno
		}
	}
}
