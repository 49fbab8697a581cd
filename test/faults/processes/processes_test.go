//go:build linux

package processes

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/beeline-mqtt/beeline/test/process"
)

func TestMain(m *testing.M) {
	if address := os.Getenv("BEELINE_TEST_DIAL"); address != "" {
		dialAndEcho(address)
		return
	}
	goleak.VerifyTestMain(m)
}

// dialAndEcho is what this program does when a test runs it as another process.
func dialAndEcho(address string) {
	nc, err := net.Dial("tcp", address)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return
	}
	defer nc.Close()
	for in := bufio.NewScanner(nc); in.Scan(); {
		fmt.Fprintln(nc, in.Text())
	}
}

// echo is a server that repeats lines.
func echo(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ln.Close() })
	go func() {
		for {
			nc, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer nc.Close()
				for in := bufio.NewScanner(nc); in.Scan(); {
					fmt.Fprintln(nc, in.Text())
				}
			}()
		}
	}()
	return ln.Addr().String()
}

// talk sends a line and returns the answer, or the error that came instead within limit.
func talk(nc net.Conn, in *bufio.Reader, line string, limit time.Duration) (string, error) {
	_ = nc.SetDeadline(time.Now().Add(limit))
	if _, err := fmt.Fprintln(nc, line); err != nil {
		return "", err
	}
	answer, err := in.ReadString('\n')
	return strings.TrimSpace(answer), err
}

func TestAStalledWirePassesOnLaterAndARefusedOneNothing(t *testing.T) {
	x := NewProxy(t, echo(t), nil)
	nc, err := net.Dial("tcp", x.Address())
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	in := bufio.NewReader(nc)
	if got, err := talk(nc, in, "one", Patience); got != "one" || err != nil {
		t.Fatalf("an open wire answers %q, %v", got, err)
	}

	x.Set(Stalled)
	if got, err := talk(nc, in, "two", 50*time.Millisecond); err == nil {
		t.Fatalf("a stalled wire answers %q", got)
	}
	x.Set(Open)
	_ = nc.SetDeadline(time.Now().Add(Patience))
	if got, err := in.ReadString('\n'); got != "two\n" || err != nil {
		t.Fatalf("what was sent into a stalled wire comes back as %q, %v", got, err)
	}

	x.Set(Refused)
	if got, err := talk(nc, in, "three", Patience); err == nil {
		t.Errorf("a refused wire answers %q", got)
	}
	again, err := net.Dial("tcp", x.Address())
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if got, err := talk(again, bufio.NewReader(again), "four", Patience); err == nil {
		t.Errorf("a wire that was refused all the time answers %q", got)
	}
}

func TestDiallersAreToldApartByTheirProcess(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	var pids []int
	conns := map[int]net.Conn{}
	for range 3 {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), "BEELINE_TEST_DIAL="+ln.Addr().String())
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = cmd.Wait() })
		nc, err := ln.Accept()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = nc.Close() })
		pids = append(pids, cmd.Process.Pid)
		conns[cmd.Process.Pid] = nc
	}
	for pid, nc := range conns {
		if got, err := dialer(nc, pids); got != pid || err != nil {
			t.Errorf("dialler %d, %v, want %d", got, err, pid)
		}
		if got, err := dialer(nc, []int{os.Getpid()}); got != 0 || err != nil {
			t.Errorf("dialler %d, %v, want none", got, err)
		}
	}
}

func TestAProcessIsPausedContinuedAndEnded(t *testing.T) {
	log := filepath.Join(t.TempDir(), "log")
	p := &Process{&process.Process{
		Name: "shell", LogFile: log,
		Path: "/bin/sh", Args: []string{"-c", "trap 'echo asked; exit 3' TERM; echo up; while :; do sleep 0.01; done"},
	}}
	t.Cleanup(p.Process.Kill)
	if p.Running() || p.PID() != 0 {
		t.Error("it runs before it was started")
	}
	p.Start(t)
	Eventually(t, "it is up", func() bool { return strings.Contains(p.Log(), "up") })
	p.Pause(t)
	if !p.Paused() {
		t.Error("it goes on after Pause")
	}
	p.Continue(t)
	Eventually(t, "it goes on", func() bool { return !p.Paused() })
	if code, _ := p.Terminate(t, Patience); code != 3 {
		t.Errorf("exit code %d, want 3", code)
	}
	if p.Running() {
		t.Error("it runs after its end")
	}
	first := p.PID()
	p.Start(t)
	if p.PID() == first {
		t.Error("it was not started again")
	}
	p.Kill(t)
	if got := p.Tail(1); got != "asked" && got != "up" {
		t.Errorf("the end of the log is %q", got)
	}
}

func TestAFaultInTheLogIsFound(t *testing.T) {
	tests := []struct{ name, log, want string }{
		{"nothing", "level=INFO msg=up\n", ""},
		{"an error", "level=INFO msg=up\nlevel=ERROR msg=bad\n", "level=ERROR msg=bad"},
		{"a panic", "panic: runtime error\n\ngoroutine 1\n", "panic: runtime error"},
		{"a race", "==================\nWARNING: DATA RACE\n", "WARNING: DATA RACE"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := &Process{&process.Process{LogFile: filepath.Join(t.TempDir(), "log")}}
			if err := os.WriteFile(p.LogFile, []byte(tt.log), 0o600); err != nil {
				t.Fatal(err)
			}
			if got := p.fault(); got != tt.want {
				t.Errorf("found %q, want %q", got, tt.want)
			}
		})
	}
}
