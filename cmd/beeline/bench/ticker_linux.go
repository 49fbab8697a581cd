package bench

import (
	"fmt"
	"os"
	"syscall"
	"time"
	"unsafe"
)

// ticker ticks every so often, to some microseconds: the runtime's own timers are late by up to a millisecond in a
// process that has nothing else to do.
type ticker struct {
	f   *os.File
	buf [8]byte
}

func newTicker(every time.Duration) (*ticker, error) {
	const monotonic = 1
	fd, _, errno := syscall.Syscall(syscall.SYS_TIMERFD_CREATE, monotonic, syscall.O_NONBLOCK|syscall.O_CLOEXEC, 0)
	if errno != 0 {
		return nil, fmt.Errorf("create a timer: %w", errno)
	}
	f := os.NewFile(fd, "timer")
	t := syscall.NsecToTimespec(int64(every))
	spec := [2]syscall.Timespec{t, t} // the interval, and how long it is to the first
	_, _, errno = syscall.Syscall6(syscall.SYS_TIMERFD_SETTIME, fd, 0, uintptr(unsafe.Pointer(&spec)), 0, 0, 0)
	if errno != 0 {
		_ = f.Close()
		return nil, fmt.Errorf("set a timer: %w", errno)
	}
	return &ticker{f: f}, nil
}

// wait returns after the next tick; at once when one is over since the last call; os.ErrClosed after close.
func (t *ticker) wait() error {
	_, err := t.f.Read(t.buf[:])
	return err
}

// close has wait return, also one that waits already.
func (t *ticker) close() { _ = t.f.Close() }
