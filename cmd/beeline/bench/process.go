package bench

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"syscall"
	"time"
)

// Process is one whose CPU time and memory are reported.
type Process struct {
	Name string
	PID  int
}

// usage is what a process has used at one time.
type usage struct {
	cpu time.Duration // user and system
	rss int64         // bytes
}

// clockTick is the unit of times in /proc: USER_HZ, which is 100 everywhere.
const clockTick = 10 * time.Millisecond

func (p Process) usage() (usage, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.PID))
	if err != nil {
		return usage{}, fmt.Errorf("process %s: %w", p.Name, err)
	}
	statm, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", p.PID))
	if err != nil {
		return usage{}, fmt.Errorf("process %s: %w", p.Name, err)
	}
	u, err := parseUsage(stat, statm, os.Getpagesize())
	if err != nil {
		return usage{}, fmt.Errorf("process %s: %w", p.Name, err)
	}
	return u, nil
}

// parseUsage reads /proc/PID/stat and /proc/PID/statm, described in proc(5).
func parseUsage(stat, statm []byte, page int) (usage, error) {
	// The name of the command, in parentheses, may hold anything.
	fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
	sizes := bytes.Fields(statm)
	if len(fields) < 13 || len(sizes) < 2 {
		return usage{}, fmt.Errorf("unknown form of /proc: %q, %q", stat, statm)
	}
	var n [3]int64
	for i, field := range [][]byte{fields[11], fields[12], sizes[1]} {
		var err error
		if n[i], err = strconv.ParseInt(string(field), 10, 64); err != nil {
			return usage{}, fmt.Errorf("read /proc: %w", err)
		}
	}
	return usage{cpu: time.Duration(n[0]+n[1]) * clockTick, rss: n[2] * int64(page)}, nil
}

// account are the processes that a run watches, and what they had used at one time.
type account struct {
	at     time.Time
	of     []usage
	myself time.Duration
}

func takeAccount(processes []Process) (account, error) {
	a := account{of: make([]usage, len(processes))}
	for i, p := range processes {
		var err error
		if a.of[i], err = p.usage(); err != nil {
			return a, err
		}
	}
	var ru syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &ru); err != nil {
		return a, fmt.Errorf("resource usage: %w", err)
	}
	a.myself = time.Duration(ru.Utime.Nano() + ru.Stime.Nano())
	a.at = time.Now()
	return a, nil
}
