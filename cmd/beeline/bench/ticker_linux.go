package bench

import (
	"fmt"
	"os"
	"syscall"
	"time"
	"unsafe"
)

// ticker ticks every so often, to some microseconds: the runtime's own timers are late by up to a millisecond in a
// process that has nothing else to do. Waiting blocks a thread on purpose: with one that is in a system call the
// runtime does not go to sleep between two messages, and need not be woken up.
type ticker struct {
	f   *os.File
	buf [8]byte
}

func newTicker() (*ticker, error) {
	const monotonic = 1
	fd, _, errno := syscall.Syscall(syscall.SYS_TIMERFD_CREATE, monotonic, syscall.O_CLOEXEC, 0)
	if errno != 0 {
		return nil, fmt.Errorf("create a timer: %w", errno)
	}
	return &ticker{f: os.NewFile(fd, "timer")}, nil
}

// start has the ticks begin: the first is over when every is.
func (t *ticker) start(every time.Duration) error {
	ts := syscall.NsecToTimespec(int64(every))
	spec := [2]syscall.Timespec{ts, ts} // the interval, and how long it is to the first
	_, _, errno := syscall.Syscall6(syscall.SYS_TIMERFD_SETTIME, t.f.Fd(), 0, uintptr(unsafe.Pointer(&spec)), 0, 0, 0)
	if errno != 0 {
		return fmt.Errorf("set a timer: %w", errno)
	}
	return nil
}

// wait returns after the next tick; at once when one is over since the last call.
func (t *ticker) wait() error {
	if _, err := t.f.Read(t.buf[:]); err != nil {
		return fmt.Errorf("wait for a timer: %w", err)
	}
	return nil
}

// close is for when nobody waits.
func (t *ticker) close() { _ = t.f.Close() }
