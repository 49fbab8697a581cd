//go:build linux

// Package compose brings deploy/compose up on a Docker engine, and does to it what operators and faults do.
//
// BEELINE_TEST_COMPOSE is the command of compose. `make compose-test` sets it, makes the images and sees to an
// engine. The project has a name of its own and ports that the engine chooses: one that runs already is not touched.
package compose

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// These run one after the other on one project: bringing it up is most of the time.
func TestAClusterInContainers(t *testing.T) {
	compose := os.Getenv("BEELINE_TEST_COMPOSE")
	if compose == "" {
		t.Skip("BEELINE_TEST_COMPOSE is not set: run make compose-test, which needs a Docker engine")
	}
	p := newProject(t, compose)
	t.Cleanup(func() { p.sweep(t) })
	for _, step := range []struct {
		name string
		run  func(*testing.T)
	}{
		{"it is ready when up --wait returns", p.comesUp},
		{"containers can do no more than they need", p.isConfined},
		{"messages pass between all gateways", func(t *testing.T) { p.cross(t, three...) }},
		{"clients that know the router alone are spread", p.spreads},
		{"the router has TLS and WebSocket", p.hasAllDoors},
		{"gateways believe the router alone who a client is", p.believesTheRouterAlone},
		{"an operator sees where a client goes, and why", p.explains},
		{"clients follow their session", p.followsSessions},
		{"services and operators do with grpcurl what the documents say", p.doesWhatIsDocumented},
		{"bringing it up again changes nothing", p.comesUpAgain},
		{"a killed gateway leaves its clients to the others", p.outlivesAKilledGateway},
		{"a crashed gateway comes back by itself", p.restartsACrashedGateway},
		{"a fourth gateway gets its share", p.takesAFourth},
		{"clients return to where they were", p.returns},
		{"a rolling restart loses nothing", p.rolls},
		{"the active session instance may be restarted", p.restartsTheActiveSession},
		{"the logs have no errors", p.logsNoErrors},
		{"what is owed outlives the containers", p.keepsWhatIsOwed},
		{"nothing is left when it is down", p.comesDown},
	} {
		if !t.Run(step.name, step.run) {
			break
		}
	}
}

var (
	three    = []string{"gateway-1", "gateway-2", "gateway-3"}
	four     = append(slices.Clone(three), "gateway-4")
	services = append(slices.Clone(three), "session-1", "session-2", "etcd", "router")
	// front is what has to be up for clients of the router; compose starts what it needs.
	front = append(slices.Clone(three), "router")
)

// sweep removes what a failed test has left, and says what the containers had to say.
func (p *project) sweep(t *testing.T) {
	ctx := context.Background()
	if t.Failed() {
		logs, err := p.try(ctx, p.compose[0], append(slices.Clone(p.compose[1:]), "logs", "--no-color", "--tail", "100")...)
		t.Logf("logs: %v\n%s", err, logs)
	}
	if _, err := p.try(ctx, p.compose[0], append(slices.Clone(p.compose[1:]), "down", "--volumes", "--remove-orphans", "--timeout", "5")...); err != nil {
		t.Error(err)
	}
}

func (p *project) comesUp(t *testing.T) {
	began := time.Now()
	p.up(t, front...)
	t.Logf("ready after %v", time.Since(began).Round(100*time.Millisecond))
	for _, s := range services {
		if c := p.inspect(t, s); c.State.Health.Status != "healthy" {
			t.Errorf("%s is %s", s, c.State.Health.Status)
		}
	}
}

func (p *project) isConfined(t *testing.T) {
	for _, s := range append(slices.Clone(services), "certs") {
		c := p.inspect(t, s)
		if c.Config.User != "65532:65532" && s != "certs" {
			t.Errorf("%s runs as %q", s, c.Config.User)
		}
		h := c.HostConfig
		if !h.ReadonlyRootfs || !slices.Equal(h.CapDrop, []string{"ALL"}) || len(h.CapAdd) > 0 || !slices.Contains(h.SecurityOpt, "no-new-privileges:true") {
			t.Errorf("%s: %+v", s, h)
		}
		if h.Memory == 0 && s != "certs" {
			t.Errorf("%s may take all memory", s)
		}
		var names []string
		for _, m := range c.Mounts {
			if m.Name != "" { // else it is a file of the project
				names = append(names, strings.TrimPrefix(m.Name, p.name+"_"))
			}
			if m.RW && s != "certs" && m.Destination != "/data" {
				t.Errorf("%s may write %s", s, m.Destination)
			}
		}
		slices.Sort(names)
		want := []string{"pki-" + s}
		if s == "etcd" {
			want = []string{"etcd", "pki-etcd"}
		}
		if strings.HasPrefix(s, "session-") {
			want = append(want, "session") // one for both
		}
		if s == "router" {
			want = []string{"access", "pki-mqtt", "pki-router", "secret"}
		}
		if diff := cmp.Diff(want, names); s != "certs" && diff != "" {
			t.Errorf("volumes of %s (-want +got):\n%s", s, diff)
		}
	}
}

// cross has a subscriber on each gateway, and publishes on each: to a topic of all, and to each client.
func (p *project) cross(t *testing.T, gateways ...string) {
	t.Helper()
	topic := "all/" + strings.Map(func(r rune) rune {
		if r == '/' || r == '#' || r == '+' {
			return '-'
		}
		return r
	}, t.Name())
	subscribers := map[string]*subscriber{}
	want := map[string][]string{}
	for _, g := range gateways {
		subscribers[g] = p.sub(t, g, "at-"+g, topic)
	}
	for _, from := range gateways {
		p.pub(t, from, topic, "from "+from)
		for _, to := range gateways {
			direct := "p2p/at-" + to + "/note"
			p.pub(t, from, direct, "from "+from)
			want[to] = append(want[to], topic+" from "+from, direct+" from "+from)
		}
	}
	for g, s := range subscribers {
		got := slices.Sorted(slices.Values(s.awaitCount(len(want[g]))))
		if diff := cmp.Diff(slices.Sorted(slices.Values(want[g])), got); diff != "" {
			t.Errorf("at %s (-want +got):\n%s", g, diff)
		}
	}
}

// certificate is what a container has, as the engine hands it out: as a tar.
func (p *project) certificate(t *testing.T, c container) string {
	t.Helper()
	text := p.docker(t, "cp", c.ID+":/pki/tls.crt", "-")
	if !strings.Contains(text, "BEGIN CERTIFICATE") {
		t.Fatalf("no certificate in %q", text)
	}
	return text
}

func (p *project) comesUpAgain(t *testing.T) {
	before := map[string]string{}
	certificate := map[string]string{}
	secret := p.secret(t)
	for _, s := range services {
		c := p.inspect(t, s)
		before[s], certificate[s] = c.State.StartedAt, p.certificate(t, c)
	}
	p.up(t, front...)
	for _, s := range services {
		c := p.inspect(t, s)
		if got := c.State.StartedAt; got != before[s] {
			t.Errorf("%s was started at %s, and again at %s", s, before[s], got)
		}
		if p.certificate(t, c) != certificate[s] {
			t.Errorf("%s has a new certificate", s)
		}
	}
	if p.secret(t) != secret {
		t.Error("the routers have a new secret")
	}
	if c := p.inspect(t, "certs"); c.State.ExitCode != 0 {
		t.Errorf("certs ended with %d", c.State.ExitCode)
	}
}

func (p *project) outlivesAKilledGateway(t *testing.T) {
	ann, bob := p.sub(t, "gateway-2", "ann", "news"), p.sub(t, "gateway-3", "bob", "news")
	p.docker(t, "kill", p.inspect(t, "gateway-2").ID)
	<-ann.ended // her connection broke
	began := time.Now()
	p.pub(t, "gateway-1", "news", "one")
	if diff := cmp.Diff([]string{"news one"}, bob.awaitCount(1)); diff != "" {
		t.Errorf("a client of another gateway (-want +got):\n%s", diff)
	}
	t.Logf("a publish that the dead gateway had a subscriber for: %v", time.Since(began).Round(100*time.Millisecond))
	began = time.Now()
	ann = p.sub(t, "gateway-1", "ann", "news")
	t.Logf("its client is at another gateway after %v", time.Since(began).Round(100*time.Millisecond))
	p.pub(t, "gateway-3", "p2p/ann/note", "two")
	if diff := cmp.Diff([]string{"p2p/ann/note two"}, ann.awaitCount(1)); diff != "" {
		t.Errorf("its client, at another gateway (-want +got):\n%s", diff)
	}
	p.up(t, "gateway-2")
	p.cross(t, three...)
}

// What an operator kills stays down until it is started again; what ends by itself does not.
func (p *project) restartsACrashedGateway(t *testing.T) {
	before := p.inspect(t, "gateway-3")
	exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", before.State.Pid))
	if err != nil || filepath.Base(exe) != "gateway" {
		t.Skipf("the process of the container cannot be reached from here (%v, %q): the engine is elsewhere", err, exe)
	}
	if err := syscall.Kill(before.State.Pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	await(t, "gateway-3 is started again and ready", func() bool {
		c := p.inspect(t, "gateway-3")
		return c.RestartCount == before.RestartCount+1 && c.State.Health.Status == "healthy"
	})
	p.cross(t, three...)
}

func (p *project) takesAFourth(t *testing.T) {
	p.up(t, "gateway-4")
	for _, g := range four {
		await(t, g+" sees three others, and two session instances", func() bool { return p.metric(t, g, "beeline_mesh_peers") == "5" })
	}
	p.cross(t, four...)
}

func (p *project) restartsTheActiveSession(t *testing.T) {
	active, standby := "session-1", "session-2"
	if p.metric(t, standby, "beeline_session_active") == "1" {
		active, standby = standby, active
	}
	ann := p.sub(t, "gateway-1", "ann", "news")
	p.leave(t, "gateway-2", "absent", "owed")
	p.pub(t, "gateway-1", "owed", "before")
	p.do(t, "stop", active)
	p.pub(t, "gateway-1", "p2p/ann/note", "connected")
	ann.awaitCount(1)
	p.do(t, "start", active)
	await(t, standby+" is active", func() bool { return p.metric(t, standby, "beeline_session_active") == "1" })
	await(t, active+" is ready", func() bool { return p.inspect(t, active).State.Health.Status == "healthy" })
	if got := p.metric(t, active, "beeline_session_active"); got != "0" {
		t.Errorf("beeline_session_active of %s is %q", active, got)
	}
	p.pub(t, "gateway-1", "owed", "after")
	if diff := cmp.Diff([]string{"owed before", "owed after"}, p.fetch(t, "gateway-3", "absent", 2)); diff != "" {
		t.Errorf("a client that was away (-want +got):\n%s", diff)
	}
	p.cross(t, four...)
	if lines, _ := ann.got(); len(lines) != 1 {
		t.Errorf("a client that was connected all the while got %q", lines)
	}
}

func (p *project) logsNoErrors(t *testing.T) {
	for line := range strings.Lines(p.do(t, "logs", "--no-color")) {
		for _, bad := range []string{`"level":"ERROR"`, `"level":"error"`, `"level":"fatal"`, "panic:"} {
			if strings.Contains(line, bad) {
				t.Error(strings.TrimSpace(line))
			}
		}
	}
}

// The volumes stay when the project is brought down without a word about them.
func (p *project) keepsWhatIsOwed(t *testing.T) {
	p.leave(t, "gateway-1", "traveller", "mail/#")
	p.pub(t, "gateway-2", "mail/1", "one")
	p.pub(t, "gateway-3", "mail/2", "two", "--qos", "2")
	p.pub(t, "gateway-2", "state", "kept", "--retain")
	p.pub(t, "router", "news", "hello", "--id", "regular")
	was, secret := p.explain(t, "regular"), p.secret(t)
	p.do(t, "down")
	began := time.Now()
	p.up(t, append(slices.Clone(front), "gateway-4")...) // which the regular may be at
	t.Logf("ready again after %v", time.Since(began).Round(100*time.Millisecond))
	if diff := cmp.Diff([]string{"mail/1 one", "mail/2 two"}, p.fetch(t, "gateway-3", "traveller", 2)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"state kept"}, p.sub(t, "gateway-1", "reader", "state").awaitCount(1)); diff != "" {
		t.Errorf("retained (-want +got):\n%s", diff)
	}
	if is := p.explain(t, "regular"); is != was || !strings.Contains(is.reason, "was there before") || p.secret(t) != secret {
		t.Errorf("a client of the router would go to %+v, now to %+v", was, is)
	}
}

func (p *project) comesDown(t *testing.T) {
	began := time.Now()
	p.do(t, "down", "--volumes")
	t.Logf("down after %v", time.Since(began).Round(100*time.Millisecond))
	label := "label=com.docker.compose.project=" + p.name
	for _, list := range [][]string{
		{"container", "ls", "--all", "--quiet"}, {"network", "ls", "--quiet"}, {"volume", "ls", "--quiet"},
	} {
		if left := p.docker(t, append(list, "--filter", label)...); left != "" {
			t.Errorf("%s left: %s", list[0], left)
		}
	}
}
