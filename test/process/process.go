//go:build linux

// Package process runs programs as processes of their own, for tests of faults and for measurements: it starts,
// signals and ends them, keeps what they say, and finds ports for them. It does not know what they do.
//
// A process does not outlive the one that started it, whatever becomes of that. Linux alone has what this needs.
//
// Methods may be called from any goroutine, Start from one at a time.
package process

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Process is one program, whether it runs or not. It may be started again when it has ended.
type Process struct {
	// Name is what failures call it.
	Name string
	// Path and Args are the program.
	Path string
	Args []string
	// Env is added to the environment that we have.
	Env []string
	// LogFile gets all that it ever says, on standard output and error.
	LogFile string

	mu   sync.Mutex // guards the following
	cmd  *exec.Cmd  // nil before the first start
	done chan struct{}
}

// Start starts the program, which does not run.
func (p *Process) Start() error {
	log, err := os.OpenFile(p.LogFile, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("start %s: %w", p.Name, err)
	}
	defer func() { _ = log.Close() }() // the program has its own
	cmd := exec.Command(p.Path, p.Args...)
	cmd.Env = append(os.Environ(), p.Env...)
	cmd.Stdout, cmd.Stderr = log, log
	// Should we be killed, nobody would clean up. A group of its own keeps the Ctrl-C for us from it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", p.Name, err)
	}
	done := make(chan struct{})
	p.mu.Lock()
	p.cmd, p.done = cmd, done
	p.mu.Unlock()
	go func() {
		_ = cmd.Wait() // how it ended is in cmd.ProcessState
		close(done)
	}()
	return nil
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

// Done is closed when the present run has ended. It is nil before the first.
func (p *Process) Done() <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.done
}

// Running reports whether the program runs, paused or not.
func (p *Process) Running() bool {
	done := p.Done()
	if done == nil {
		return false
	}
	select {
	case <-done:
		return false
	default:
		return true
	}
}

// ExitCode is how the last run ended, -1 when a signal ended it. It may be asked when Done is closed.
func (p *Process) ExitCode() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.cmd.ProcessState.ExitCode()
}

// Signal sends a signal to the process, which runs.
func (p *Process) Signal(s syscall.Signal) error {
	if !p.Running() {
		return fmt.Errorf("%v to %s: it does not run", s, p.Name)
	}
	if err := syscall.Kill(p.PID(), s); err != nil {
		return fmt.Errorf("%v to %s: %w", s, p.Name, err)
	}
	return nil
}

// Kill ends the process, and what it may have started, without a word to it, and returns when it is gone. One
// that does not run is left alone.
func (p *Process) Kill() {
	if p.Running() {
		_ = syscall.Kill(-p.PID(), syscall.SIGKILL)
		<-p.Done()
	}
}

// Stop asks the process to end, and returns how it ended. One that has not ended within limit is killed, which is
// an error.
func (p *Process) Stop(limit time.Duration) (code int, err error) {
	if err := p.Signal(syscall.SIGTERM); err != nil {
		return 0, err
	}
	timeout := time.NewTimer(limit)
	defer timeout.Stop()
	select {
	case <-p.Done():
		return p.ExitCode(), nil
	case <-timeout.C:
		p.Kill()
		return 0, fmt.Errorf("%s has not ended within %v", p.Name, limit)
	}
}

// Paused reports whether the kernel has stopped all threads of the process.
func (p *Process) Paused() bool {
	tasks, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", p.PID()))
	if err != nil {
		return false
	}
	for _, task := range tasks {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%s/stat", p.PID(), task.Name()))
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		// pid (name) state ...
		_, rest, found := bytes.Cut(stat, []byte(") "))
		if err != nil || !found || len(rest) == 0 || rest[0] != 'T' {
			return false
		}
	}
	return true
}

// Log returns everything that the program has said.
func (p *Process) Log() string {
	b, err := os.ReadFile(p.LogFile)
	if err != nil {
		return err.Error()
	}
	return string(b)
}

// Tail returns the last lines of its log.
func (p *Process) Tail(lines int) string {
	all := strings.Split(strings.TrimRight(p.Log(), "\n"), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}
