//go:build linux

package process

import (
	"net"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// shell is a process that runs a script.
func shell(t *testing.T, script string) *Process {
	t.Helper()
	p := &Process{Name: "shell", Path: "/bin/sh", Args: []string{"-c", script}, LogFile: filepath.Join(t.TempDir(), "log")}
	t.Cleanup(p.Kill)
	return p
}

// eventually waits for what another process does.
func eventually(t *testing.T, what string, f func() bool) {
	t.Helper()
	timeout := time.NewTimer(time.Minute)
	defer timeout.Stop()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !f() {
		select {
		case <-tick.C:
		case <-timeout.C:
			t.Fatalf("not within a minute: %s", what)
		}
	}
}

func TestAProcessThatIsAskedToStopSaysHowItEnded(t *testing.T) {
	p := shell(t, "trap 'exit 3' TERM; echo up; while :; do sleep 0.01; done")
	if p.Running() || p.PID() != 0 {
		t.Error("it runs before it was started")
	}
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it is up", func() bool { return strings.Contains(p.Log(), "up") })
	if code, err := p.Stop(time.Minute); code != 3 || err != nil {
		t.Errorf("Stop = %d, %v, want 3", code, err)
	}
	if p.Running() {
		t.Error("it runs after its end")
	}
	if err := p.Signal(syscall.SIGTERM); err == nil {
		t.Error("a process that has ended took a signal")
	}
}

func TestAProcessThatDoesNotStopIsKilledWithWhatItHasStarted(t *testing.T) {
	p := shell(t, "trap '' TERM; sleep 600 & echo child $!; wait; while :; do sleep 1; done")
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	group := p.PID()
	eventually(t, "it has a child", func() bool { return strings.Contains(p.Log(), "child ") })
	if _, err := p.Stop(time.Millisecond); err == nil {
		t.Error("a process that does not listen is said to have stopped")
	}
	// The kernel takes the child away in its own time: it belongs to init now.
	eventually(t, "its child is gone", func() bool { return syscall.Kill(-group, 0) != nil })
	p.Kill() // does nothing
}

func TestAProgramThatIsNotThereIsAnError(t *testing.T) {
	p := shell(t, "")
	p.Path = filepath.Join(t.TempDir(), "absent")
	if err := p.Start(); err == nil || p.Running() {
		t.Errorf("Start = %v, running %v", err, p.Running())
	}
}

func TestTheEndOfTheLogIsItsLastLines(t *testing.T) {
	p := shell(t, "echo a; echo b >&2; echo c")
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	<-p.Done()
	if got := p.Tail(2); got != "b\nc" {
		t.Errorf("Tail(2) = %q", got)
	}
	if got := p.Tail(9); got != "a\nb\nc" {
		t.Errorf("Tail(9) = %q", got)
	}
}

func TestAddressesAreFreeAndGivenOutOnce(t *testing.T) {
	given := map[string]bool{}
	for range 100 {
		a, err := Address()
		if err != nil {
			t.Fatal(err)
		}
		if given[a] {
			t.Fatalf("%s was given out twice", a)
		}
		given[a] = true
		ln, err := net.Listen("tcp", a)
		if err != nil {
			t.Fatal(err)
		}
		_ = ln.Close()
	}
}
