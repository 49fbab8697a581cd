//go:build linux

// Package processes runs a cluster as it runs in earnest: etcd, session instances and gateways as processes of
// their own, built from their own mains, with YAML files and mutual TLS, on loopback. It kills, pauses and
// restarts them, and cuts the wires between them. It knows no MQTT: what a fault does to clients is for the
// tests to see.
//
// Everything ends with the test, whatever becomes of it: processes die with the process that started them. A
// test that fails shows the end of each process's log. Linux alone has what this needs.
//
// Start, Restart and the like belong to the goroutine of the test; the rest may be called from any.
package processes

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// Patience bounds every wait for a process.
const Patience = 60 * time.Second

// Process is one program, whether it runs or not.
type Process struct {
	// Name is what logs and failures call it.
	Name string

	path string
	args []string
	log  string // path of the file with all that it has ever said

	mu   sync.Mutex // guards the following
	cmd  *exec.Cmd  // nil before the first start
	done chan struct{}
}

// Start starts the program, which does not run.
func (p *Process) Start(t testing.TB) {
	t.Helper()
	log, err := os.OpenFile(p.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatalf("start %s: %v", p.Name, err)
	}
	defer func() { _ = log.Close() }() // the program has its own
	cmd := exec.Command(p.path, p.args...)
	cmd.Stdout, cmd.Stderr = log, log
	// Should the test be killed, nobody would clean up.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatalf("start %s: %v", p.Name, err)
	}
	done := make(chan struct{})
	p.mu.Lock()
	p.cmd, p.done = cmd, done
	p.mu.Unlock()
	go func() {
		_ = cmd.Wait() // how it ended is in cmd.ProcessState
		close(done)
	}()
}

// PID is the process id of the present or last run, 0 before the first.
func (p *Process) PID() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cmd == nil {
		return 0
	}
	return p.cmd.Process.Pid
}

// Done is closed when the present run has ended.
func (p *Process) Done() <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.done
}

// Running reports whether the program runs, paused or not.
func (p *Process) Running() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cmd == nil {
		return false
	}
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// Kill ends the process without a word to it, and returns when it is gone.
func (p *Process) Kill(t testing.TB) {
	t.Helper()
	p.signal(t, syscall.SIGKILL)
	p.wait(t, Patience)
}

// Terminate asks the process to end. It returns how it ended and how long that took; not within limit fails the
// test.
func (p *Process) Terminate(t testing.TB, limit time.Duration) (code int, took time.Duration) {
	t.Helper()
	begin := time.Now()
	p.signal(t, syscall.SIGTERM)
	p.wait(t, limit)
	return p.cmd.ProcessState.ExitCode(), time.Since(begin)
}

// Pause stops the process where it is. When Pause returns, it does nothing any more.
func (p *Process) Pause(t testing.TB) {
	t.Helper()
	p.signal(t, syscall.SIGSTOP)
	Eventually(t, p.Name+" is paused", func() bool { return p.state() == 'T' })
}

// Continue ends a pause.
func (p *Process) Continue(t testing.TB) {
	t.Helper()
	p.signal(t, syscall.SIGCONT)
}

func (p *Process) signal(t testing.TB, s syscall.Signal) {
	t.Helper()
	if err := syscall.Kill(p.PID(), s); err != nil {
		t.Fatalf("%v to %s: %v", s, p.Name, err)
	}
}

func (p *Process) wait(t testing.TB, limit time.Duration) {
	t.Helper()
	timeout := time.NewTimer(limit)
	defer timeout.Stop()
	select {
	case <-p.Done():
	case <-timeout.C:
		t.Fatalf("%s has not ended within %v", p.Name, limit)
	}
}

// state is how the kernel calls what all threads of the process do, 0 when it cannot be read: 'T' is paused.
func (p *Process) state() byte {
	tasks, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", p.PID()))
	if err != nil {
		return 0
	}
	for _, task := range tasks {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%s/stat", p.PID(), task.Name()))
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		// pid (name) state ...
		_, rest, found := bytes.Cut(stat, []byte(") "))
		if err != nil || !found || len(rest) == 0 {
			return 0
		}
		if rest[0] != 'T' {
			return rest[0]
		}
	}
	return 'T'
}

// kill is Kill for the end of a test.
func (p *Process) kill() {
	if p.Running() {
		_ = syscall.Kill(p.PID(), syscall.SIGKILL)
		<-p.Done()
	}
}

// Log returns everything that the program has said.
func (p *Process) Log() string {
	b, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	return string(b)
}

// tail returns the last lines of its log.
func (p *Process) tail(lines int) string {
	all := strings.Split(strings.TrimRight(p.Log(), "\n"), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

// fault returns the first line of the log that says that the program itself is wrong, "" when there is none.
func (p *Process) fault() string {
	for line := range strings.Lines(p.Log()) {
		for _, sign := range []string{"panic", "fatal error:", "WARNING: DATA RACE", "level=ERROR"} {
			if strings.Contains(line, sign) {
				return strings.TrimSpace(line)
			}
		}
	}
	return ""
}

// describe says how the process is doing, for failures.
func (p *Process) describe() string {
	if !p.Running() {
		return "not running"
	}
	return "process " + strconv.Itoa(p.PID())
}

// Eventually waits until f is true.
func Eventually(t testing.TB, what string, f func() bool) {
	t.Helper()
	deadline := time.Now().Add(Patience)
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !f() {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", Patience, what)
		}
		<-tick.C
	}
}
