//go:build linux

// Package processes runs a cluster as it runs in earnest: etcd, session instances, gateways and a router as processes of
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
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/beeline-mqtt/beeline/test/process"
)

// Patience bounds every wait for a process.
const Patience = 60 * time.Second

// Process is one program, whether it runs or not. What goes wrong with it fails the test.
type Process struct{ *process.Process }

// Start starts the program, which does not run.
func (p *Process) Start(t testing.TB) {
	t.Helper()
	if err := p.Process.Start(); err != nil {
		t.Fatal(err)
	}
}

// Kill ends the process without a word to it, and returns when it is gone.
func (p *Process) Kill(t testing.TB) {
	t.Helper()
	if !p.Running() {
		t.Fatalf("%s does not run and cannot be killed", p.Name)
	}
	p.Process.Kill()
}

// Terminate asks the process to end. It returns how it ended and how long that took; not within limit fails the
// test.
func (p *Process) Terminate(t testing.TB, limit time.Duration) (code int, took time.Duration) {
	t.Helper()
	begin := time.Now()
	code, err := p.Stop(limit)
	if err != nil {
		t.Fatal(err)
	}
	return code, time.Since(begin)
}

// Pause stops the process where it is. When Pause returns, it does nothing any more.
func (p *Process) Pause(t testing.TB) {
	t.Helper()
	p.signal(t, syscall.SIGSTOP)
	Eventually(t, p.Name+" is paused", p.Paused)
}

// Continue ends a pause.
func (p *Process) Continue(t testing.TB) {
	t.Helper()
	p.signal(t, syscall.SIGCONT)
}

func (p *Process) signal(t testing.TB, s syscall.Signal) {
	t.Helper()
	if err := p.Signal(s); err != nil {
		t.Fatal(err)
	}
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
