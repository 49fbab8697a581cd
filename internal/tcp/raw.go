//go:build !race

package tcp

import (
	"syscall"
	"unsafe"
)

// most is how many bytes one system call moves: it keeps its processor for as long as that takes.
const most = 32 << 10

func receive(fd uintptr, p []byte) (int, syscall.Errno) { return transfer(syscall.SYS_READ, fd, p) }
func send(fd uintptr, p []byte) (int, syscall.Errno)    { return transfer(syscall.SYS_WRITE, fd, p) }

// transfer reads or writes some of p, which is not empty.
func transfer(trap, fd uintptr, p []byte) (int, syscall.Errno) {
	for {
		n, _, errno := syscall.RawSyscall(trap, fd, uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(min(len(p), most)))
		switch errno {
		case 0:
			return int(n), 0
		case syscall.EINTR:
		default:
			return 0, errno
		}
	}
}
