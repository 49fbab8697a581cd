//go:build linux

package compose

import (
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/beeline-mqtt/beeline/test/rawmqtt"
)

// address is where a service is reached on the host.
func (p *project) address(t *testing.T, service, port string) string {
	t.Helper()
	return p.do(t, "port", service, port)
}

// copied is the path of a copy of a file or directory of a container.
func (p *project) copied(t *testing.T, service, path string) string {
	t.Helper()
	to := filepath.Join(t.TempDir(), filepath.Base(path))
	p.do(t, "cp", service+":"+path, to)
	return to
}

// secret is that of the routers, as the engine hands it out: as a tar.
func (p *project) secret(t *testing.T) string {
	t.Helper()
	return p.docker(t, "cp", p.inspect(t, "router").ID+":/secret/router", "-")
}

// explained is where the router would take a client, and why.
type explained struct{ cluster, node, address, reason string }

func explainedBy(t *testing.T, text string) explained {
	t.Helper()
	lines := strings.Split(strings.ReplaceAll(text, "\r\n", "\n"), "\n")
	if len(lines) != 4 || !strings.HasPrefix(lines[0], "cluster ") || !strings.HasPrefix(lines[1], "node    ") || !strings.HasPrefix(lines[2], "address ") {
		t.Fatalf("not an explanation:\n%s", text)
	}
	return explained{lines[0][8:], lines[1][8:], lines[2][8:], lines[3]}
}

// cli runs beeline with the operator's certificate, in a container of its own.
func (p *project) cli(t *testing.T, args ...string) string {
	t.Helper()
	return p.do(t, append([]string{"run", "--rm", "--no-TTY", "cli"}, args...)...)
}

func (p *project) explain(t *testing.T, id string) explained {
	t.Helper()
	return explainedBy(t, p.cli(t, "placement", "explain", "--client-id", id))
}

// explainer explains from the host, with copies of the operator's files: many times in the time of one container.
func (p *project) explainer(t *testing.T) func(id string) explained {
	t.Helper()
	files, router := p.copied(t, "certs", "/pki/operator"), p.address(t, "router", "7946")
	return func(id string) explained {
		t.Helper()
		return explainedBy(t, p.run(t, p.beeline, "placement", "explain", "--client-id", id, "--router", router,
			"--cert-file", filepath.Join(files, "tls.crt"), "--key-file", filepath.Join(files, "tls.key"), "--ca-file", filepath.Join(files, "ca.crt")))
	}
}

// regulars are clients that come through the router twice: before there is a fourth gateway, and when there is one.
const regulars = 60

// come connects the regulars through the router and returns where each is.
func (p *project) come(t *testing.T) (all []*rawmqtt.Client, at map[string]string) {
	t.Helper()
	router, explain := p.address(t, "router", "1883"), p.explainer(t)
	at = make(map[string]string)
	for i := range regulars {
		id := fmt.Sprintf("regular-%d", i)
		all = append(all, rawmqtt.Connect(t, router, []byte{rawmqtt.V311, rawmqtt.V5}[i%2], id))
		e := explain(id)
		if !strings.Contains(e.reason, "session is held there") {
			t.Errorf("%s, which is connected: %s", id, e.reason)
		}
		at[id] = e.node
	}
	return all, at
}

// clients is how many clients a gateway says that it has.
func (p *project) clients(t *testing.T, gateway string) int {
	t.Helper()
	n, err := strconv.Atoi(p.metric(t, gateway, "beeline_gateway_clients"))
	if err != nil {
		t.Errorf("%s: %v", gateway, err)
	}
	return n
}

func (p *project) spreads(t *testing.T) {
	for _, g := range three {
		await(t, "nobody is at "+g, func() bool { return p.clients(t, g) == 0 })
	}
	all, at := p.come(t)
	counts := map[string]int{}
	for _, node := range at {
		counts[node]++
	}
	t.Logf("%d clients: %v", regulars, counts)
	for _, g := range three {
		if n, has := counts[g+":1883"], p.clients(t, g); n < regulars/10 || has != n {
			t.Errorf("%s should have %d clients and has %d", g, n, has)
		}
	}
	for _, c := range all {
		c.Disconnect()
	}
	p.was = at
}

// Nobody is moved for a new gateway; it gets its share of those who are new.
func (p *project) returns(t *testing.T) {
	all, at := p.come(t)
	if diff := cmp.Diff(p.was, at); diff != "" {
		t.Errorf("where they were, and are (-want +got):\n%s", diff)
	}
	explain, newcomers := p.explainer(t), 0
	for i := 0; newcomers == 0; i++ {
		if i == regulars {
			t.Fatalf("of %d new clients nobody would go to gateway-4", i)
		}
		if explain(fmt.Sprintf("newcomer-%d", i)).node == "gateway-4:1883" {
			newcomers++
		}
	}
	for _, c := range all {
		c.Disconnect()
	}
}

func (p *project) hasAllDoors(t *testing.T) {
	ca := p.copied(t, "router", "/mqtt/ca.crt")
	doors := map[string][]string{
		"mqtt":  {"--url", "mqtt://" + p.address(t, "router", "1883")},
		"ws":    {"--url", "ws://" + p.address(t, "router", "8083")},
		"mqtts": {"--url", "mqtts://" + p.address(t, "router", "8883"), "--ca-file", ca},
	}
	for name, door := range doors {
		s, err := p.trySub(t, "router", "at-"+name, "doors", door...)
		if err != nil {
			t.Fatal(err)
		}
		for from, other := range doors {
			p.pub(t, "router", "p2p/at-"+name+"/note", "from "+from, other...)
		}
		if got := s.awaitCount(len(doors)); len(got) != len(doors) {
			t.Errorf("at %s: %q", name, got)
		}
	}
}

// The clients that the router takes to gateways prove that they believe it: what begins with a header is no MQTT else.
func (p *project) believesTheRouterAlone(t *testing.T) {
	c := rawmqtt.Dial(t, p.address(t, "gateway-1", "1883"), rawmqtt.V311)
	const header = "\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c" + "\xc0\x00\x02\x01" + "\xc0\x00\x02\x02" + "\x12\x67" + "\x07\x5b" // PROXY v2, TCP over IPv4
	hello := rawmqtt.ConnectPacket(rawmqtt.V311, "somebody-else")
	hello.ProtocolVersion = rawmqtt.V311
	c.SendRaw(append([]byte(header), rawmqtt.Bytes(t, hello)...))
	c.ExpectClosed()
}

func (p *project) explains(t *testing.T) {
	e := explainedBy(t, p.cli(t, "placement", "explain", "--client-id", "x", "--username", "y"))
	t.Logf("%+v", e)
	if e.cluster != "default" || !strings.HasPrefix(e.node, "gateway-") || e.address != e.node || !strings.Contains(e.reason, "by the hash of the client") {
		t.Errorf("explained: %+v", e)
	}
	c := rawmqtt.Connect(t, p.address(t, "router", "1883"), rawmqtt.V5, "x")
	if got := p.explain(t, "x"); got.node != e.node || !strings.Contains(got.reason, "session is held there") {
		t.Errorf("it would go to %+v, and went to %+v", e, got)
	}
	c.Disconnect()

	p.cli(t, "cluster", "add", "old", "--static", "192.0.2.1:1883")
	p.cli(t, "placement", "assign", "--cluster", "old", "--prefix", "meter-")
	if got := p.cli(t, "placement", "list"); !strings.Contains(got, `"meter-" -> old`) {
		t.Errorf("assignments: %q", got)
	}
	if got := p.cli(t, "cluster", "list"); !strings.Contains(got, "192.0.2.1:1883") || !strings.Contains(got, "gateway-3:1883") {
		t.Errorf("clusters:\n%s", got)
	}
	p.cli(t, "placement", "unassign", "--prefix", "meter-")
	p.cli(t, "cluster", "remove", "old")
}

func (p *project) followsSessions(t *testing.T) {
	explain := p.explainer(t)
	for _, g := range three { // one of which at most is where the hash has it
		p.sub(t, g, "mover", "news") // away from the one before
		if e := explain("mover"); e.node != g+":1883" || !strings.Contains(e.reason, "session is held there") {
			t.Errorf("at %s: %+v", g, e)
		}
	}
	p.leave(t, "router", "sleeper", "mail/#")
	p.pub(t, "router", "mail/1", "one")
	p.pub(t, "gateway-2", "p2p/sleeper/note", "two", "--qos", "2")
	p.pub(t, "router", "mail/3", "three", "--qos", "2")
	began := time.Now()
	if diff := cmp.Diff([]string{"mail/1 one", "p2p/sleeper/note two", "mail/3 three"}, p.fetch(t, "router", "sleeper", 3)); diff != "" {
		t.Errorf("what came while it was away (-want +got):\n%s", diff)
	}
	t.Logf("back, and served, after %v", time.Since(began).Round(time.Millisecond))
}

// Every gateway is restarted, one after the other, while clients of the router talk.
func (p *project) rolls(t *testing.T) {
	p.leave(t, "router", "rolled", "mail/#")
	l := p.load(t, p.address(t, "router", "1883"), 16)
	for _, g := range four {
		began := time.Now()
		p.do(t, "restart", g)
		took := time.Since(began)
		p.up(t, g)
		t.Logf("%s: stopped and started after %v, ready after %v", g, took.Round(time.Millisecond), time.Since(began).Round(time.Millisecond))
		p.pub(t, "router", "mail/"+g, "restarted")
	}
	for _, g := range four {
		t.Logf("%s has %d clients", g, p.clients(t, g))
	}
	l.finish()
	want := []string{"mail/gateway-1 restarted", "mail/gateway-2 restarted", "mail/gateway-3 restarted", "mail/gateway-4 restarted"}
	if diff := cmp.Diff(want, p.fetch(t, "router", "rolled", 4)); diff != "" {
		t.Errorf("a client that was away (-want +got):\n%s", diff)
	}
}
