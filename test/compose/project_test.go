//go:build linux

package compose

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// patience bounds every wait. Containers of a busy machine take their time.
const patience = time.Minute

// project is the compose project under a name of its own, on ports that the engine chooses.
type project struct {
	name    string
	compose []string // the command
	env     []string
	beeline string            // the program, for publishers and subscribers on the host
	was     map[string]string // where the regulars of the router were
}

func newProject(t *testing.T, compose string) *project {
	t.Helper()
	beeline, err := filepath.Abs("../../bin/beeline")
	if err != nil {
		t.Fatal(err)
	}
	p := &project{name: fmt.Sprintf("beeline-test-%d", os.Getpid()), beeline: beeline}
	p.compose = append(strings.Fields(compose), "--progress", "quiet", "--project-name", p.name,
		"--file", "../../deploy/compose/compose.yaml", "--file", "../../deploy/compose/direct.yaml", "--profile", "four")
	p.env = append(os.Environ(), "ETCD_IMAGE=beeline/etcd:dev", "SESSION_1_ADMIN=0", "SESSION_2_ADMIN=0")
	for i := 1; i <= 4; i++ {
		p.env = append(p.env, fmt.Sprintf("GATEWAY_%d_MQTT=0", i), fmt.Sprintf("GATEWAY_%d_ADMIN=0", i))
	}
	for _, port := range []string{"MQTT", "WS", "MQTTS", "GRPC", "REST", "ADMIN"} {
		p.env = append(p.env, "ROUTER_"+port+"=0")
	}
	p.ownNetwork(t)
	return p
}

// ownNetwork keeps the project out of the network of one that runs already.
func (p *project) ownNetwork(t *testing.T) {
	t.Helper()
	own := fmt.Sprintf("10.214.%d", os.Getpid()%256)
	text, err := os.ReadFile("../../deploy/compose/gateway.yaml")
	if err != nil {
		t.Fatal(err)
	}
	trusted := strings.ReplaceAll(string(text), "[10.213.83.250]", "["+own+".250]")
	if trusted == string(text) {
		t.Fatalf("the router is not trusted in\n%s", text)
	}
	file := filepath.Join(t.TempDir(), "gateway.yaml")
	if err := os.WriteFile(file, []byte(trusted), 0o644); err != nil { //nolint:gosec // the gateways run as somebody else
		t.Fatal(err)
	}
	p.env = append(p.env, "NETWORK="+own, "GATEWAY_CONFIG="+file)
}

// try runs a command and returns what it has printed. The error has what it has complained about.
func (p *project) try(ctx context.Context, name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = p.env
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%s %s: %w\n%s%s", name, strings.Join(args, " "), err, stdout.String(), stderr.String())
	}
	return strings.TrimSpace(stdout.String()), nil
}

// run is try for what has to succeed.
func (p *project) run(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := p.try(t.Context(), name, args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func (p *project) do(t *testing.T, args ...string) string {
	t.Helper()
	return p.run(t, p.compose[0], append(p.compose[1:len(p.compose):len(p.compose)], args...)...)
}

func (p *project) docker(t *testing.T, args ...string) string {
	t.Helper()
	return p.run(t, "docker", args...)
}

// up starts services, and what they need, and returns when all of them are ready.
func (p *project) up(t *testing.T, services ...string) {
	t.Helper()
	p.do(t, append([]string{"up", "--detach", "--no-build", "--wait", "--wait-timeout", "90"}, services...)...)
}

// container is what the engine knows about a container.
type container struct {
	ID     string `json:"Id"`
	Config struct{ User string }
	State  struct {
		Pid       int
		StartedAt string
		ExitCode  int
		Health    struct{ Status string }
	}
	RestartCount int
	HostConfig   struct {
		ReadonlyRootfs bool
		CapDrop        []string
		CapAdd         []string
		SecurityOpt    []string
		Memory         int64
	}
	Mounts []struct {
		Name, Destination string
		RW                bool
	}
}

func (p *project) inspect(t *testing.T, service string) container {
	t.Helper()
	id := p.do(t, "ps", "--all", "--quiet", service)
	var cs []container
	if err := json.Unmarshal([]byte(p.docker(t, "inspect", id)), &cs); err != nil || len(cs) != 1 {
		t.Fatalf("inspect %s: %d containers, %v", service, len(cs), err)
	}
	return cs[0]
}

// await asks until the answer is yes.
func await(t *testing.T, what string, yes func() bool) {
	t.Helper()
	deadline := time.After(patience)
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for !yes() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("waited in vain: %s", what)
		}
	}
}

// metric is the value of a metric without labels of a service, as it is written; "" when the service does not answer.
func (p *project) metric(t *testing.T, service, name string) string {
	t.Helper()
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 5 * time.Second}
	resp, err := client.Get("http://" + p.do(t, "port", service, "9090") + "/metrics")
	if err != nil {
		return ""
	}
	defer resp.Body.Close()
	lines := bufio.NewScanner(resp.Body)
	for lines.Scan() {
		if value, ok := strings.CutPrefix(lines.Text(), name+" "); ok {
			return value
		}
	}
	return ""
}

// mqtt is the URL of a gateway on the host.
func (p *project) mqtt(t *testing.T, gateway string) string {
	t.Helper()
	return "mqtt://" + p.do(t, "port", gateway, "1883")
}

// pub publishes at QoS 1, unless more flags say otherwise.
func (p *project) pub(t *testing.T, gateway, topic, message string, more ...string) {
	t.Helper()
	p.run(t, p.beeline, append([]string{
		"pub", "--url", p.mqtt(t, gateway), "--topic", topic, "--message", message, "--qos", "1",
	}, more...)...)
}

// subscriber is a beeline sub that runs until the test ends.
type subscriber struct {
	t       *testing.T
	id      string
	process *os.Process
	ended   chan struct{}
	mu      sync.Mutex // guards the following
	lines   []string
	change  chan struct{}
}

// stop ends it in order. It may have ended.
func (s *subscriber) stop() {
	_ = s.process.Signal(syscall.SIGTERM)
	<-s.ended
}

// sub subscribes a client to a filter at QoS 1, and returns when the subscription is in force.
func (p *project) sub(t *testing.T, gateway, id, filter string) *subscriber {
	t.Helper()
	s, err := p.trySub(t, gateway, id, filter)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// leave has a client subscribe to a filter and go; its session stays.
func (p *project) leave(t *testing.T, gateway, id, filter string) {
	t.Helper()
	s, err := p.trySub(t, gateway, id, filter, "--clean=false")
	if err != nil {
		t.Fatal(err)
	}
	s.stop()
}

// fetch has a client come back to its session and take n messages. It returns what came.
func (p *project) fetch(t *testing.T, gateway, id string, n int) []string {
	t.Helper()
	out := p.run(t, p.beeline, "sub", "--url", p.mqtt(t, gateway), "--id", id, "--clean=false",
		"--count", strconv.Itoa(n), "--timeout", patience.String())
	return strings.Split(out, "\n")
}

func (p *project) trySub(t *testing.T, gateway, id, filter string, more ...string) (*subscriber, error) {
	t.Helper()
	cmd := exec.Command(p.beeline, append([]string{
		"sub", "--url", p.mqtt(t, gateway), "--id", id, "--topic", filter, "--qos", "1",
	}, more...)...)
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	stderr, err := cmd.StderrPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	s := &subscriber{t: t, id: id, process: cmd.Process, ended: make(chan struct{}), change: make(chan struct{})}
	said := make(chan string, 1)
	complaints := make(chan struct{})
	go func() {
		defer close(complaints)
		lines := bufio.NewReader(stderr)
		first, _ := lines.ReadString('\n')
		said <- strings.TrimSpace(first)
		_, _ = io.Copy(io.Discard, lines)
	}()
	go func() {
		defer close(s.ended)
		s.read(stdout)
		<-complaints
		_ = cmd.Wait()
	}()
	t.Cleanup(s.stop)
	if first := <-said; first != "ready" {
		return nil, fmt.Errorf("%s at %s: %q", id, gateway, first)
	}
	return s, nil
}

func (s *subscriber) read(stdout io.Reader) {
	lines := bufio.NewScanner(stdout)
	for lines.Scan() {
		s.mu.Lock()
		s.lines = append(s.lines, lines.Text())
		close(s.change)
		s.change = make(chan struct{})
		s.mu.Unlock()
	}
}

func (s *subscriber) got() ([]string, <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.lines, s.change
}

// awaitCount returns what has come, when it is n messages.
func (s *subscriber) awaitCount(n int) []string {
	s.t.Helper()
	deadline := time.After(patience)
	for {
		lines, change := s.got()
		if len(lines) >= n {
			return lines
		}
		select {
		case <-change:
		case <-s.ended:
			s.t.Fatalf("%s has ended with %d of %d messages", s.id, len(lines), n)
		case <-deadline:
			s.t.Fatalf("%s has %d of %d messages: %q", s.id, len(lines), n, lines)
		}
	}
}
