// Package nodetest runs the mains of services as processes, and holds what all of them promise about their
// configuration. It is imported by tests only.
package nodetest

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// asMain has the test binary be the program. The configuration does not read variables that begin like it.
const asMain = "BEELINE_TEST_AS_MAIN"

// Patience bounds every wait.
const Patience = 20 * time.Second

// Main is the TestMain of a program's tests: the test binary, started once more by Run or Start, is the program.
func Main(m *testing.M, program func()) {
	if os.Getenv(asMain) != "" {
		program()
		return
	}
	os.Exit(m.Run()) //nolint:forbidigo // it is a TestMain
}

// Call is how a program is called.
type Call struct {
	Env  []string // "NAME=value"; nothing else is in the environment
	Args []string
}

func (c Call) command(ctx context.Context, dir string) (*exec.Cmd, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, self, c.Args...)
	// The race detector would have every process sleep a second before it ends, and coverage wants a directory.
	cmd.Env = append([]string{asMain + "=1", "GORACE=atexit_sleep_ms=0", "GOCOVERDIR=" + dir}, c.Env...)
	return cmd, nil
}

// Result is what a program has left.
type Result struct {
	Stdout, Stderr string
	Code           int
}

// Run runs the program to its end.
func Run(t testing.TB, c Call) Result {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), Patience)
	defer cancel()
	cmd, err := c.command(ctx, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err = cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) || ctx.Err() != nil {
		t.Fatalf("run %v: %v, stderr:\n%s", c.Args, err, stderr.String())
	}
	return Result{stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()}
}

// Fails runs the program and expects one line of error with all the words in it, and the exit code 1.
func Fails(t testing.TB, c Call, words ...string) {
	t.Helper()
	r := Run(t, c)
	if r.Code != 1 || r.Stdout != "" {
		t.Errorf("exit code %d, want 1; printed %q", r.Code, r.Stdout)
	}
	for _, w := range words {
		if !strings.Contains(r.Stderr, w) {
			t.Errorf("no %q in\n%s", w, r.Stderr)
		}
	}
	if strings.Contains(r.Stderr, "goroutine ") || strings.Count(r.Stderr, "\n") > 1 {
		t.Errorf("want one line, got\n%s", r.Stderr)
	}
}

// Process is a running program.
type Process struct {
	// Admin is the URL of its admin server.
	Admin string

	t     testing.TB
	cmd   *exec.Cmd
	env   []string
	mu    sync.Mutex
	lines []string // of its log
	ended chan struct{}
}

// Start runs the program until the test ends, and returns when its admin server listens. Its log has to be JSON,
// which is the default.
func Start(t testing.TB, c Call) *Process {
	t.Helper()
	cmd, err := c.command(context.Background(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p := &Process{t: t, cmd: cmd, env: c.Env, ended: make(chan struct{})}
	listening := make(chan string, 1)
	go func() {
		defer close(p.ended)
		p.read(stderr, listening)
		_ = cmd.Wait()
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-p.ended
	})
	select {
	case address := <-listening:
		p.Admin = "http://" + address
	case <-p.ended:
		t.Fatalf("it has ended:\n%s", p.Log())
	case <-time.After(Patience):
		t.Fatalf("no admin server:\n%s", p.Log())
	}
	return p
}

func (p *Process) read(stderr io.Reader, listening chan<- string) {
	lines := bufio.NewScanner(stderr)
	for lines.Scan() {
		p.mu.Lock()
		p.lines = append(p.lines, lines.Text())
		p.mu.Unlock()
		var line struct{ Msg, Address string }
		if json.Unmarshal(lines.Bytes(), &line) == nil && line.Msg == "admin server listens" {
			listening <- line.Address
		}
	}
}

// Log is what the process has logged so far.
func (p *Process) Log() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return strings.Join(p.lines, "\n")
}

func (p *Process) get(path string) (status int, text string) {
	p.t.Helper()
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: Patience}
	r, err := client.Get(p.Admin + path)
	if err != nil {
		p.t.Fatalf("%v; log:\n%s", err, p.Log())
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	if err != nil {
		p.t.Fatal(err)
	}
	return r.StatusCode, string(b)
}

// AwaitReady waits until /readyz says that the process is ready.
func (p *Process) AwaitReady() { p.t.Helper(); p.await("/readyz", http.StatusOK, "") }

// AwaitNotReady waits until /readyz says that it is not, and has a text in its answer.
func (p *Process) AwaitNotReady(why string) {
	p.t.Helper()
	p.await("/readyz", http.StatusServiceUnavailable, why)
}

// AwaitMetric waits until /metrics has a line that says this.
func (p *Process) AwaitMetric(line string) {
	p.t.Helper()
	p.await("/metrics", http.StatusOK, "\n"+line+"\n")
}

func (p *Process) await(path string, want int, text string) {
	p.t.Helper()
	deadline := time.Now().Add(Patience)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		status, answer := p.get(path)
		if status == want && strings.Contains(answer, text) {
			return
		}
		if time.Now().After(deadline) {
			p.t.Fatalf("%s: %d %q, want %d %q; log:\n%s", path, status, answer, want, text, p.Log())
		}
		<-tick.C
	}
}

// Probe runs the program once more, as a health check does, in the same environment, to ask this process. It expects the
// exit code and the words on standard error.
func (p *Process) Probe(code int, probe string, words ...string) {
	p.t.Helper()
	address := strings.TrimPrefix(p.Admin, "http://")
	r := Run(p.t, Call{Env: p.env, Args: []string{probe, "--rpc.tls.insecure", "--admin.address", address}})
	if r.Code != code || r.Stdout != "" {
		p.t.Errorf("%s: exit code %d, want %d; printed %q, %q", probe, r.Code, code, r.Stdout, r.Stderr)
	}
	for _, w := range words {
		if !strings.Contains(r.Stderr, w) {
			p.t.Errorf("%s: no %q in %q", probe, w, r.Stderr)
		}
	}
}

// Terminate sends SIGTERM, waits for the end and returns the exit code.
func (p *Process) Terminate() int {
	p.t.Helper()
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		p.t.Fatal(err)
	}
	select {
	case <-p.ended:
	case <-time.After(Patience):
		p.t.Fatalf("it does not end; log:\n%s", p.Log())
	}
	return p.cmd.ProcessState.ExitCode()
}

// File writes a file for a program to read and returns its path.
func File(t testing.TB, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
