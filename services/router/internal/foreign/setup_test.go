package foreign_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/beeline-mqtt/beeline/services/router/internal/foreign"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	key    = "4f33d24d7b8e448d"
	secret = "gwtbmFJZrnzUu8mPK1BxUkBA66PygETiDEegkf1q8dD"
)

// network is what a watch can reach: names, nodes and servers, all in memory. Its zero value has none of them.
type network struct {
	mu      sync.Mutex // guards the following
	names   map[string][]netip.Addr
	open    map[string]*inMemory // listeners by address
	hanging map[string]bool      // addresses that swallow everything
	dials   map[string]int
	at      int // dials under way
	most    int
}

func newNetwork() *network {
	return &network{
		names: map[string][]netip.Addr{}, open: map[string]*inMemory{}, hanging: map[string]bool{}, dials: map[string]int{},
	}
}

func (n *network) dial(ctx context.Context, _, address string) (net.Conn, error) {
	n.mu.Lock()
	n.dials[address]++
	n.at++
	n.most = max(n.most, n.at)
	l, hanging := n.open[address], n.hanging[address]
	n.mu.Unlock()
	defer func() {
		n.mu.Lock()
		n.at--
		n.mu.Unlock()
	}()
	switch {
	case hanging:
		<-ctx.Done()
		return nil, ctx.Err()
	case l == nil:
		return nil, &net.OpError{Op: "dial", Net: "tcp", Err: errors.New("connection refused")}
	}
	near, far := net.Pipe()
	if l.conns == nil {
		_ = far.Close()
		return near, nil
	}
	select {
	case l.conns <- far:
		return near, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// LookupNetIP implements foreign.Resolver.
func (n *network) LookupNetIP(_ context.Context, _, host string) ([]netip.Addr, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	addrs, ok := n.names[host]
	if !ok {
		return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
	}
	return addrs, nil
}

// name has a name resolve to addresses; without any, to nothing.
func (n *network) name(host string, addrs ...string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.names, host)
	for _, a := range addrs {
		n.names[host] = append(n.names[host], netip.MustParseAddr(a))
	}
}

// up has nodes accept connections.
func (n *network) up(addresses ...string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, a := range addresses {
		n.open[a] = &inMemory{}
		delete(n.hanging, a)
	}
}

func (n *network) down(addresses ...string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, a := range addresses {
		delete(n.open, a)
	}
}

func (n *network) hang(addresses ...string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, a := range addresses {
		n.hanging[a] = true
	}
}

func (n *network) count(address string) int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.dials[address]
}

// atOnce is the most connections that were being made at a time.
func (n *network) atOnce() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.most
}

// serve has an HTTP server at an address until the test ends.
func (n *network) serve(t *testing.T, address string, h http.Handler) {
	t.Helper()
	l := &inMemory{conns: make(chan net.Conn), ended: make(chan struct{})}
	n.mu.Lock()
	n.open[address] = l
	n.mu.Unlock()
	s := &http.Server{Handler: h, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)}
	var wg sync.WaitGroup
	wg.Go(func() { _ = s.Serve(l) })
	t.Cleanup(func() { _ = s.Close(); wg.Wait() })
}

// inMemory is a net.Listener of pipes.
type inMemory struct {
	conns chan net.Conn // nil: what connects is closed at once
	once  sync.Once
	ended chan struct{}
}

func (l *inMemory) Accept() (net.Conn, error) {
	select {
	case nc := <-l.conns:
		return nc, nil
	case <-l.ended:
		return nil, net.ErrClosed
	}
}

func (l *inMemory) Close() error   { l.once.Do(func() { close(l.ended) }); return nil }
func (l *inMemory) Addr() net.Addr { return &net.TCPAddr{} }

// emqx answers as the API's documentation does.
type emqx struct {
	api int

	mu    sync.Mutex // guards the following
	nodes []apiNode
	fault http.HandlerFunc // answers instead
	asked int
}

type apiNode struct {
	name, status string
	clients      int
}

func (e *emqx) set(nodes ...apiNode) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.nodes, e.fault = nodes, nil
}

func (e *emqx) fail(h http.HandlerFunc) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.fault = h
}

func (e *emqx) polls() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.asked
}

func (e *emqx) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	e.mu.Lock()
	e.asked++
	nodes, fault := e.nodes, e.fault
	e.mu.Unlock()
	if fault != nil {
		fault(w, r)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	if k, s, ok := r.BasicAuth(); !ok || k != key || s != secret {
		w.WriteHeader(http.StatusUnauthorized)
		_, _ = io.WriteString(w, `{"code":"BAD_API_KEY_OR_SECRET","message":"Check api_key/api_secret"}`)
		return
	}
	list := []map[string]any{}
	for _, n := range nodes {
		list = append(list, e.describe(n))
	}
	switch {
	case e.api == 5 && r.Method == http.MethodGet && r.URL.Path == "/api/v5/nodes":
		_ = json.NewEncoder(w).Encode(list)
	case e.api == 4 && r.Method == http.MethodGet && r.URL.Path == "/api/v4/nodes":
		_ = json.NewEncoder(w).Encode(map[string]any{"data": list, "code": 0})
	default:
		w.WriteHeader(http.StatusNotFound)
	}
}

// describe has the fields of the documentation's examples.
func (e *emqx) describe(n apiNode) map[string]any {
	if e.api == 4 {
		return map[string]any{
			"version": "develop", "uptime": "7 seconds", "process_used": 315, "process_available": 2097152,
			"otp_release": "R21/10.3.5", "node_status": n.status, "node": n.name, "memory_used": "96.75M",
			"memory_total": "118.27M", "max_fds": 10240, "load5": "2.60", "load15": "2.65", "load1": "2.31",
			"connections": n.clients,
		}
	}
	if n.status != "running" {
		return map[string]any{"node": n.name, "node_status": n.status}
	}
	return map[string]any{
		"node": n.name, "node_status": n.status, "connections": n.clients + 7, "live_connections": n.clients,
		"edition": "Opensource", "role": "core", "version": "5.8.6", "uptime": 5120000, "otp_release": "26.2.5.2-1/14.2.5.2",
		"load1": 0.15, "load5": 0.2, "load15": 0.19, "max_fds": 1048576, "memory_total": 2061496320, "memory_used": 1023410176,
		"process_available": 2097152, "process_used": 562, "sys_path": "/opt/emqx", "log_path": "log.file.enable is false",
	}
}

// views are what a watch has shown.
type views struct {
	t       *testing.T
	mu      sync.Mutex // guards the following
	all     []foreign.View
	arrived chan struct{}
}

func (v *views) on(view foreign.View) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.all = append(v.all, view)
	select {
	case v.arrived <- struct{}{}:
	default:
	}
}

func (v *views) count() int {
	v.mu.Lock()
	defer v.mu.Unlock()
	return len(v.all)
}

func (v *views) last() foreign.View {
	v.t.Helper()
	v.mu.Lock()
	defer v.mu.Unlock()
	if len(v.all) == 0 {
		v.t.Fatal("nothing has been shown")
	}
	return v.all[len(v.all)-1]
}

// await waits, outside of bubbles, for a view.
func (v *views) await(what string, ok func(foreign.View) bool) {
	v.t.Helper()
	late := time.After(20 * time.Second)
	for {
		if v.count() > 0 && ok(v.last()) {
			return
		}
		select {
		case <-v.arrived:
		case <-late:
			v.t.Fatalf("no view in which %s; there are %d views, the last %+v", what, v.count(), v.all)
		}
	}
}

// expect compares the nodes of the last view, as "id address", with " -" behind if it is not active.
func (v *views) expect(want ...string) {
	v.t.Helper()
	var got []string
	for _, n := range v.last().Nodes {
		s := n.ID + " " + n.Address
		if !n.Active {
			s += " -"
		}
		got = append(got, s)
	}
	if !slices.Equal(got, want) {
		v.t.Errorf("nodes are\n\t%s\nwant\n\t%s", strings.Join(got, "\n\t"), strings.Join(want, "\n\t"))
	}
}

// expectErr wants the last view's error to hold a text; "" means that there is none.
func (v *views) expectErr(want string) {
	v.t.Helper()
	err := v.last().Err
	if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
		v.t.Errorf("the error is %v, want %q in it", err, want)
	}
}

// watch runs Watch until the test ends.
func watch(t *testing.T, d foreign.Definition, deps foreign.Deps) *views {
	t.Helper()
	v := &views{t: t, arrived: make(chan struct{}, 1)}
	if deps.Logger == nil {
		deps.Logger = slog.New(slog.DiscardHandler)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- foreign.Watch(ctx, d, deps, v.on) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Watch returns %v", err)
		}
	})
	return v
}

// deps are those of a bubble: exact intervals, and n for everything beyond.
func (n *network) deps() foreign.Deps {
	return foreign.Deps{Dial: n.dial, Resolver: n, Jitter: func(d time.Duration) time.Duration { return d }}
}

// pass lets time pass in a bubble, and what is due then happen.
func pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func onEMQX(urls ...string) foreign.Definition {
	return foreign.Definition{Name: "plant", Kind: foreign.KindEMQX, EMQX: &foreign.EMQX{URLs: urls, Key: key, Secret: secret}}
}

func onStatic(addresses ...string) foreign.Definition {
	s := &foreign.Static{}
	for _, a := range addresses {
		s.Nodes = append(s.Nodes, foreign.StaticNode{Address: a})
	}
	return foreign.Definition{Name: "plant", Kind: foreign.KindStatic, Static: s}
}
