//go:build linux

package processes

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/beeline-mqtt/beeline/internal/cluster"
	"github.com/beeline-mqtt/beeline/internal/pki"
	"github.com/beeline-mqtt/beeline/test/process"
)

// Config says what a cluster looks like.
type Config struct {
	Binaries Binaries
	// Gateways and Sessions are how many there are: 3 and 1 when zero.
	Gateways, Sessions int
	// Etcds is how many members etcd has: 1 when zero. If it has more, there is no wire to it that could be cut.
	Etcds int
	// TTL is how long a silent process is waited for: 4 s when zero.
	TTL time.Duration
	// Limits are gateway.limits, Gateway further keys of gateway, both as flow YAML without braces.
	Limits, Gateway string
	// Router has one before the gateways.
	Router bool
}

// Cluster is a cluster of processes that ends with its test.
type Cluster struct {
	Config

	// Etcd is the first member of Etcds.
	Etcd     *Process
	Etcds    []*Process
	Sessions []*Session
	Gateways []*Gateway
	Router   *Router // nil: there is none
	// Client reaches etcd directly, Deps is what internal/cluster reads it with.
	Client *clientv3.Client
	Deps   cluster.Deps

	dir  string
	ca   *pki.CA
	etcd []string // host:port for clients, of each member

	mu    sync.Mutex         // guards the following
	parts map[[2]string]Wire // between gateways and session instances, by who dials and who is dialled
	known []*Process         // all of them, for those who do not run on the test's goroutine
}

// Session is one session instance.
type Session struct {
	*Process
	// Etcd is its wire to etcd. Others dial it through peers, which is what it advertises.
	Etcd *Proxy

	peers *Proxy
	admin string
}

// Gateway is one gateway.
type Gateway struct {
	*Process
	// MQTT is where clients connect.
	MQTT string
	// Etcd is its wire to etcd. Peers dial it through peers, which is what it advertises.
	Etcd *Proxy

	peers *Proxy
	admin string
}

// Router is one router.
type Router struct {
	*Process
	// MQTT is where clients connect, GRPC where services do, with what Operator has.
	MQTT, GRPC string
	Operator   pki.Files
	// Etcd is its wire to etcd.
	Etcd *Proxy

	admin string
}

// Start starts a cluster and returns when it takes clients everywhere.
func Start(t testing.TB, cfg Config) *Cluster {
	t.Helper()
	if cfg.Gateways == 0 {
		cfg.Gateways = 3
	}
	if cfg.Sessions == 0 {
		cfg.Sessions = 1
	}
	if cfg.TTL == 0 {
		cfg.TTL = 4 * time.Second
	}
	c := &Cluster{Config: cfg, dir: workDir(t), parts: map[[2]string]Wire{}}
	var err error
	if c.ca, err = pki.Open(filepath.Join(c.dir, "pki"), time.Now); err != nil {
		t.Fatalf("certificate authority: %v", err)
	}
	t.Cleanup(func() { c.end(t) })
	c.members(t, max(1, cfg.Etcds))
	if c.Client, err = cluster.Connect(cluster.Etcd{Endpoints: c.etcd}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Client.Close() })
	c.Deps = cluster.Deps{Client: c.Client, Keys: "default", Logger: slog.New(slog.DiscardHandler)}
	for i := range cfg.Sessions {
		c.Sessions = append(c.Sessions, c.session(t, i))
	}
	for i := range cfg.Gateways {
		c.Gateways = append(c.Gateways, c.gateway(t, i))
	}
	if cfg.Router {
		c.Router = c.router(t)
	}
	c.mu.Lock()
	for _, s := range c.Sessions {
		c.known = append(c.known, s.Process)
	}
	for _, g := range c.Gateways {
		c.known = append(c.known, g.Process)
	}
	if c.Router != nil {
		c.known = append(c.known, c.Router.Process)
	}
	c.mu.Unlock()
	c.Boot(t)
	return c
}

// AddGateway starts one more gateway. It need not be ready yet.
func (c *Cluster) AddGateway(t testing.TB) *Gateway {
	t.Helper()
	g := c.gateway(t, len(c.Gateways))
	c.Gateways = append(c.Gateways, g)
	c.mu.Lock()
	c.known = append(c.known, g.Process)
	c.mu.Unlock()
	g.Start(t)
	return g
}

// Boot starts whatever does not run, etcd first, and returns when all is ready.
func (c *Cluster) Boot(t testing.TB) {
	t.Helper()
	for _, e := range c.Etcds {
		if !e.Running() {
			e.Start(t)
		}
	}
	for _, s := range c.Sessions {
		if !s.Running() {
			s.Start(t)
		}
	}
	for _, g := range c.Gateways {
		if !g.Running() {
			g.Start(t)
		}
	}
	if c.Router != nil && !c.Router.Running() {
		c.Router.Start(t)
	}
	c.WaitReady(t)
}

// WaitReady waits until every session instance, every gateway and the router are ready.
func (c *Cluster) WaitReady(t testing.TB) {
	t.Helper()
	for _, s := range c.Sessions {
		s.WaitReady(t)
	}
	for _, g := range c.Gateways {
		g.WaitReady(t)
	}
	if c.Router != nil {
		c.Router.WaitReady(t)
	}
}

// workDir keeps logs and data: it goes with the test, unless BEELINE_TEST_LOGS names a place to keep them in.
func workDir(t testing.TB) string {
	t.Helper()
	keep := os.Getenv("BEELINE_TEST_LOGS")
	if keep == "" {
		return t.TempDir()
	}
	dir := filepath.Join(keep, fmt.Sprintf("%s-%d", strings.ReplaceAll(t.Name(), "/", "_"), time.Now().UnixMilli()))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	t.Logf("logs are kept in %s", dir)
	return dir
}

// All are all processes.
func (c *Cluster) All() []*Process {
	all := slices.Clone(c.Etcds)
	for _, s := range c.Sessions {
		all = append(all, s.Process)
	}
	for _, g := range c.Gateways {
		all = append(all, g.Process)
	}
	if c.Router != nil {
		all = append(all, c.Router.Process)
	}
	return all
}

// end kills everything and shows what a failed test is about.
func (c *Cluster) end(t testing.TB) {
	t.Helper()
	var wg sync.WaitGroup
	states := make([]string, len(c.All()))
	for i, p := range c.All() {
		states[i] = p.describe()
		wg.Go(p.Process.Kill)
	}
	wg.Wait()
	for _, p := range c.All() {
		if line := p.fault(); line != "" {
			t.Errorf("%s: %s", p.Name, line)
		}
	}
	if !t.Failed() {
		return
	}
	for i, p := range c.All() {
		t.Logf("the end of the log of %s (%s):\n%s", p.Name, states[i], p.Tail(60))
	}
}

func (c *Cluster) process(name, binary string, args ...string) *Process {
	return &Process{&process.Process{
		Name: name, Path: c.Binaries.path(binary), Args: args, LogFile: filepath.Join(c.dir, name+".log"),
	}}
}

// EtcdLeader returns the member of etcd that leads it.
func (c *Cluster) EtcdLeader(t testing.TB) *Process {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), Patience)
	defer cancel()
	for i, endpoint := range c.etcd {
		s, err := c.Client.Status(ctx, endpoint)
		if err != nil {
			t.Fatalf("status of %s: %v", c.Etcds[i].Name, err)
		}
		if s.Leader == s.Header.GetMemberId() {
			return c.Etcds[i]
		}
	}
	t.Fatal("etcd has no leader")
	return nil
}

// pids are the processes that dial each other. Before those are known there is none.
func (c *Cluster) pids() []int {
	c.mu.Lock()
	defer c.mu.Unlock()
	pids := make([]int, len(c.known))
	for i, p := range c.known {
		pids[i] = p.PID()
	}
	return pids
}

// Cut puts the wires between two gateways, whoever dials, into a state.
func (c *Cluster) Cut(i, j int, w Wire) {
	c.CutOneWay(i, j, w)
	c.CutOneWay(j, i, w)
}

// CutOneWay puts the connections that gateway i makes to gateway j into a state: those carry its messages to j,
// and j's receipts back.
func (c *Cluster) CutOneWay(i, j int, w Wire) {
	c.part(c.Gateways[i].Process, c.Gateways[j].Process, c.Gateways[j].peers, w)
}

// CutSession puts the wires between a gateway and a session instance, whoever dials, into a state.
func (c *Cluster) CutSession(gateway, session int, w Wire) {
	g, s := c.Gateways[gateway], c.Sessions[session]
	c.part(g.Process, s.Process, s.peers, w)
	c.part(s.Process, g.Process, g.peers, w)
}

// part puts the connections that one process makes to another, which is behind a proxy, into a state.
func (c *Cluster) part(from, to *Process, x *Proxy, w Wire) {
	c.mu.Lock()
	c.parts[[2]string{from.Name, to.Name}] = w
	c.mu.Unlock()
	x.SetEach(func(pid int) Wire {
		c.mu.Lock()
		defer c.mu.Unlock()
		for _, p := range c.known {
			if p.PID() == pid {
				return c.parts[[2]string{p.Name, to.Name}]
			}
		}
		return Open
	})
}

// Mend opens all wires.
func (c *Cluster) Mend() {
	c.mu.Lock()
	clear(c.parts)
	c.mu.Unlock()
	for _, g := range c.Gateways {
		g.Etcd.Set(Open)
		g.peers.Set(Open)
	}
	for _, s := range c.Sessions {
		s.Etcd.Set(Open)
		s.peers.Set(Open)
	}
	if c.Router != nil {
		c.Router.Etcd.Set(Open)
	}
}

// Member returns the incarnation under which a gateway lives, as etcd knows it.
func (c *Cluster) Member(t testing.TB, i int) (cluster.Member, bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), Patience)
	defer cancel()
	var found cluster.Member
	_ = cluster.WatchMembers(ctx, c.Deps, cluster.Gateway, func(v cluster.View) {
		for _, m := range v.Members {
			if m.Address == c.Gateways[i].peers.Address() {
				found = m // the youngest, should there be two
			}
		}
		cancel()
	})
	return found, found.ID != ""
}

// ActiveSession returns the index of the session instance that etcd knows as the active one, -1 when there is
// none.
func (c *Cluster) ActiveSession(t testing.TB) int {
	t.Helper()
	for i, s := range c.Sessions {
		if s.Running() && s.Metric(t, "beeline_session_active") == 1 {
			return i
		}
	}
	return -1
}

// Metric is like Gateway.Metric.
func (s *Session) Metric(t testing.TB, name string) float64 { return metric(t, s.admin, name) }

// Metric returns the value of a metric without labels; 0 when the gateway does not have it or does not answer.
func (g *Gateway) Metric(t testing.TB, name string) float64 { return metric(t, g.admin, name) }

// Metric is like Gateway.Metric.
func (r *Router) Metric(t testing.TB, name string) float64 { return metric(t, r.admin, name) }

func metric(t testing.TB, admin, name string) float64 {
	t.Helper()
	_, text := get(t, "http://"+admin+"/metrics")
	for line := range strings.Lines(text) {
		if key, value, ok := strings.Cut(strings.TrimSpace(line), " "); ok && key == name {
			v, err := strconv.ParseFloat(value, 64)
			if err != nil {
				t.Fatalf("metric %s: %v", name, err)
			}
			return v
		}
	}
	return 0
}

// Address is where its peers reach the gateway, by which etcd knows it, too.
func (g *Gateway) Address() string { return g.peers.Address() }

// Ready says what the readiness of a process is: nil, or what it says or why it cannot be asked.
func (g *Gateway) Ready(t testing.TB) error { return ready(t, g.admin) }

// Ready is like Gateway.Ready.
func (s *Session) Ready(t testing.TB) error { return ready(t, s.admin) }

// WaitReady waits until the gateway takes clients.
func (g *Gateway) WaitReady(t testing.TB) { waitReady(t, g.Process, g.admin) }

// WaitReady waits until the instance is active or can become so.
func (s *Session) WaitReady(t testing.TB) { waitReady(t, s.Process, s.admin) }

// WaitReady waits until the router takes clients to gateways.
func (r *Router) WaitReady(t testing.TB) { waitReady(t, r.Process, r.admin) }

func waitReady(t testing.TB, p *Process, admin string) {
	t.Helper()
	deadline := time.Now().Add(Patience)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		err := ready(t, admin)
		switch {
		case err == nil:
			return
		case !p.Running():
			t.Fatalf("%s has ended before it was ready", p.Name)
		case time.Now().After(deadline):
			t.Fatalf("%s is not ready within %v: %v", p.Name, Patience, err)
		}
		<-tick.C
	}
}

func ready(t testing.TB, admin string) error {
	t.Helper()
	status, text := get(t, "http://"+admin+"/readyz")
	if status != http.StatusOK {
		return fmt.Errorf("status %d: %s", status, strings.TrimSpace(text))
	}
	return nil
}

// get returns status 0 and the error when there is no answer.
func get(t testing.TB, url string) (status int, text string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), time.Second)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	r.Close = true
	answer, err := http.DefaultTransport.RoundTrip(r)
	if err != nil {
		return 0, err.Error()
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		return 0, err.Error()
	}
	return answer.StatusCode, string(body)
}
