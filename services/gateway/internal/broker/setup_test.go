package broker

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/beeline-mqtt/beeline/internal/cluster"
	"github.com/beeline-mqtt/beeline/internal/journal"
	"github.com/beeline-mqtt/beeline/internal/mesh"
	"github.com/beeline-mqtt/beeline/internal/routes"
	"github.com/beeline-mqtt/beeline/internal/tcp"
	"github.com/beeline-mqtt/beeline/internal/trace"
	"github.com/beeline-mqtt/beeline/services/gateway/internal/auth"
	"github.com/beeline-mqtt/beeline/services/gateway/internal/client"
	"github.com/beeline-mqtt/beeline/services/gateway/internal/lease"
	"github.com/beeline-mqtt/beeline/test/rawmqtt"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	v3 = rawmqtt.V311
	v5 = rawmqtt.V5
)

var errTest = errors.New("by order of the test")

// registry is what etcd and the session service are to the gateways of a test: who holds whom. Gateways are added
// before anything happens.
type registry struct {
	gateways map[string]*gateway

	service  *service // nil where nobody has a durable session
	claiming sync.Map // a mutex for each durable client

	mu           sync.Mutex // guards the following
	epoch        uint64
	leases       map[string]cluster.Lease
	sessions     map[string]*kept
	lastSession  journal.SessionID
	retained     map[string]lease.Retained
	mostRetained int
	version      uint64
	written      int  // changes
	diskFull     bool // nothing is appended
	silent       bool // nobody is told to forget anything; set before anything happens
}

func leaseOf(holder string, epoch uint64) cluster.Lease {
	return cluster.Lease{Holder: holder, Epoch: epoch}
}

func (r *registry) lease(id string) (cluster.Lease, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	l, ok := r.leases[id]
	return l, ok
}

// gateway is a broker with a real mesh and real clients.
type gateway struct {
	*Broker
	t        testing.TB
	id       string
	registry *registry
	mesh     *mesh.Mesh
	metrics  *prometheus.Registry
	limits   client.Limits
	table    *routes.Table[*mesh.Link]
	rpc      string // address of the mesh
	mqtt     string // address for clients
	answers  *valve // in what the gateway answers to its peers
	revision int64
	clerk    clerk
	tap      *trace.Tap
	full     atomic.Bool // the store takes nothing that may wait
	failing  error       // what reads of the store answer, where set; guarded by registry.mu

	mu       sync.Mutex
	onClaim  func(ctx context.Context, id string) error // comes first, where set
	onRecord func(id string) error                      // comes when others can see the lease, where set
	onLookUp func(ids []string) error                   // comes first, where set
	valves   map[string]*valve                          // in what it sends to its peers, by address
	arrived  map[string]*client.Client                  // the newest that has begun to attach
	released []uint64
}

// options change a gateway before it is made.
type options struct {
	config    func(*Config)
	limits    func(*client.Limits)
	linkBytes int
	routeAck  time.Duration // how long announcements wait for the peers
	// durable: there is somebody who holds durable sessions.
	durable bool
}

// start makes gateways that know each other and have each other's routes.
func start(t testing.TB, n int, o options) []*gateway {
	t.Helper()
	r := &registry{
		gateways: make(map[string]*gateway), leases: make(map[string]cluster.Lease), sessions: make(map[string]*kept),
		retained: make(map[string]lease.Retained), mostRetained: 1000,
	}
	if o.durable {
		r.service = r.serve(t, int64(n+1))
	}
	gateways := make([]*gateway, n)
	for i := range gateways {
		gateways[i] = r.gateway(t, string(rune('a'+i)), int64(i+1), o)
	}
	introduce(t, gateways...)
	return gateways
}

func introduce(t testing.TB, gateways ...*gateway) {
	t.Helper()
	var all []mesh.Peer
	for _, g := range gateways {
		g.knows(gateways...)
		all = append(all, mesh.Peer{ID: g.id, Address: g.rpc, Revision: g.revision})
	}
	if s := gateways[0].registry.service; s != nil {
		s.mesh.SetPeers(all)
		if err := s.mesh.WaitSynced(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	for _, g := range gateways {
		if err := g.mesh.WaitSynced(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}

// knows gives g's mesh its view of the gateways that live.
func (g *gateway) knows(gateways ...*gateway) {
	var peers []mesh.Peer
	for _, p := range gateways {
		if p != g {
			peers = append(peers, mesh.Peer{ID: p.id, Address: p.rpc, Revision: p.revision})
		}
	}
	if s := g.registry.service; s != nil {
		peers = append(peers, mesh.Peer{ID: "s", Address: s.rpc, Revision: s.revision, Quiet: true})
	}
	g.mesh.SetPeers(peers)
}

func (r *registry) gateway(t testing.TB, id string, revision int64, o options) *gateway {
	t.Helper()
	g := &gateway{
		t: t, id: id, registry: r, revision: revision, metrics: prometheus.NewRegistry(), limits: client.DefaultLimits(),
		table: routes.NewTable[*mesh.Link](), answers: new(valve), valves: make(map[string]*valve), arrived: make(map[string]*client.Client),
		clerk: clerk{wake: make(chan struct{}, 1)}, tap: trace.New(),
	}
	g.limits.Patience = 200 * time.Millisecond
	if o.limits != nil {
		o.limits(&g.limits)
	}
	cfg := Config{
		Incarnation: id, MaxClients: 1000, GroupMembers: 1000, CachedLeases: 1000, UnresolvedBytes: 1 << 20,
		ReceiptTimeout: g.limits.ReceiptTimeout, Linger: time.Second, StoreAfter: g.limits.StoreAfter,
	}
	if o.config != nil {
		o.config(&cfg)
	}
	logger := discard()
	deps := Deps{Routes: g.table, LookUp: g.lookUp, Metrics: NewMetrics(g.metrics), Logger: logger, Trace: g.tap}
	if r.service != nil {
		deps.Keeper = func() string { return "s" }
	}
	g.Broker = New(cfg, deps)
	var err error
	g.mesh, err = mesh.New(mesh.Config{
		Incarnation: id, Revision: revision, ReconnectMin: time.Millisecond, LinkBytes: o.linkBytes, RouteAckTimeout: o.routeAck,
	}, mesh.Deps{
		Logger: logger, Metrics: g.metrics, Routes: g.table, Accept: g.Accept, Dial: g.dial,
		Serving: func() bool { return true }, SendOn: g.SendOn, Trace: g.tap,
	})
	if err != nil {
		t.Fatal(err)
	}
	g.Use(g.mesh, g, store{g})
	r.gateways[id] = g
	g.run(logger)
	return g
}

// run runs everything until the test ends: clients end first, then the broker, then the mesh.
func (g *gateway) run(logger *slog.Logger) {
	g.t.Helper()
	server := grpc.NewServer(mesh.ServerOptions()...)
	g.mesh.Register(server)
	var serving sync.WaitGroup
	g.rpc = listen(g.t, &serving, func(l net.Listener) { _ = server.Serve(answering{l, g.answers}) })
	g.atEnd(server.Stop, &serving)
	meshing, stopMesh := context.WithCancel(context.Background())
	serving.Go(func() { _ = g.mesh.Run(meshing) })
	g.t.Cleanup(func() {
		g.answers.open()
		for _, v := range g.valves {
			v.open()
		}
		stopMesh()
	})

	var brokering sync.WaitGroup
	ctx, stop := context.WithCancel(context.Background())
	brokering.Go(func() { g.clerk.run(ctx) })
	brokering.Go(func() { _ = g.Run(ctx) })
	g.atEnd(stop, &brokering)

	var clients sync.WaitGroup
	conns, end := context.WithCancel(context.Background())
	var seq atomic.Uint64
	deps := client.Deps{
		Broker: observed{g}, Journal: g.Broker, Authenticate: auth.AllowAnonymous, Authorize: auth.AllowAll,
		Serving: func() bool { return true }, Available: func() bool { return true },
		Incarnation: g.id, NextSequence: func() uint64 { return seq.Add(1) },
		Metrics: client.NewMetrics(g.metrics), Logger: logger,
	}
	g.mqtt = listen(g.t, &clients, func(l net.Listener) {
		context.AfterFunc(conns, func() { _ = l.Close() })
		for {
			nc, err := l.Accept()
			if err != nil {
				return
			}
			clients.Go(func() { client.Serve(conns, tcp.Wrap(nc), "tcp", &g.limits, &deps) })
		}
	})
	g.atEnd(end, &clients)
}

// atEnd has stop called and its goroutines waited for at the end of the test.
func (g *gateway) atEnd(stop func(), wg *sync.WaitGroup) {
	g.t.Cleanup(func() {
		stop()
		wg.Wait()
	})
}

// listen serves on a port of its own and returns its address.
func listen(t testing.TB, wg *sync.WaitGroup, serve func(net.Listener)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	wg.Go(func() { serve(l) })
	return l.Addr().String()
}

// observed is the broker, and tells the test who comes.
type observed struct{ *gateway }

func (o observed) Attach(ctx context.Context, c *client.Client) error {
	o.mu.Lock()
	o.arrived[c.ID] = c
	o.mu.Unlock()
	return o.Broker.Attach(ctx, c)
}

// claims has f decide on the claims from now on; lookUps on look-ups.
func (g *gateway) claims(f func(ctx context.Context, id string) error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.onClaim = f
}

// records has f called, from now on, between the record of a lease and the answer to its claim.
func (g *gateway) records(f func(id string) error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.onRecord = f
}

func (g *gateway) lookUps(f func(ids []string) error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.onLookUp = f
}

// client returns the newest connection of an id that has come to Attach.
func (g *gateway) client(id string) *client.Client {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.arrived[id]
}

func (g *gateway) dial(address string) (*grpc.ClientConn, error) {
	opts := append(mesh.DialOptions(), grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) {
			nc, err := new(net.Dialer).DialContext(ctx, "tcp", address)
			if err != nil {
				return nil, err
			}
			return valved{nc, g.valveAt(address)}, nil
		}))
	return grpc.NewClient("passthrough:///"+address, opts...)
}

func discard() *slog.Logger { return slog.New(slog.DiscardHandler) }

func dialPlain(address string) (*grpc.ClientConn, error) {
	return grpc.NewClient("passthrough:///"+address, append(mesh.DialOptions(), grpc.WithTransportCredentials(insecure.NewCredentials()))...)
}

func (g *gateway) connect(version byte, id string, opts ...rawmqtt.Option) *rawmqtt.Client {
	g.t.Helper()
	return rawmqtt.Connect(g.t, g.mqtt, version, id, opts...)
}

// metric is the value of a counter or gauge, summed over the labels that are not given.
func (g *gateway) metric(name string, labels ...string) float64 {
	g.t.Helper()
	families, err := g.metrics.Gather()
	if err != nil {
		g.t.Fatal(err)
	}
	var sum float64
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.GetMetric() {
			have := make(map[string]bool)
			for _, l := range m.GetLabel() {
				have[l.GetName()+"="+l.GetValue()] = true
			}
			all := true
			for _, want := range labels {
				all = all && have[want]
			}
			if all {
				sum += m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
	}
	return sum
}

// valve lets bytes through, or keeps them until it is opened again.
type valve struct {
	mu     sync.Mutex
	closed chan struct{} // nil: open
}

// to is the valve in what g sends to p.
func (g *gateway) to(p *gateway) *valve { return g.valveAt(p.rpc) }

func (g *gateway) valveAt(address string) *valve {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.valves[address] == nil {
		g.valves[address] = new(valve)
	}
	return g.valves[address]
}

func (v *valve) shut() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.closed = make(chan struct{})
}

func (v *valve) open() {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.closed != nil {
		close(v.closed)
		v.closed = nil
	}
}

// answering is a listener with a valve in its connections.
type answering struct {
	net.Listener
	v *valve
}

func (l answering) Accept() (net.Conn, error) {
	nc, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return valved{nc, l.v}, nil
}

type valved struct {
	net.Conn
	v *valve
}

func (c valved) Write(b []byte) (int, error) {
	c.v.mu.Lock()
	closed := c.v.closed
	c.v.mu.Unlock()
	if closed != nil {
		<-closed
	}
	return c.Conn.Write(b)
}

// eventually waits for something that nothing announces.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(rawmqtt.Patience)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("never: %s", what)
		}
		<-tick.C
	}
}

// receive takes one element within the patience of a test.
func receive[T any](t testing.TB, ch <-chan T, what string) T {
	t.Helper()
	select {
	case x := <-ch:
		return x
	case <-time.After(rawmqtt.Patience):
		t.Fatalf("no sign of %s", what)
		panic("unreachable")
	}
}

// send publishes without waiting for the acknowledgement, and returns the packet identifier.
func send(c *rawmqtt.Client, topic, payload string, qos byte) uint16 {
	pk := rawmqtt.PublishPacket(topic, payload, qos)
	if qos > 0 {
		pk.PacketID = c.ID()
	}
	c.Send(pk)
	return pk.PacketID
}

// handled returns when the gateway has handled what c has sent, expecting no acknowledgement of it.
func handled(c *rawmqtt.Client) { c.ExpectNothing() }

func receiveMaximum(n uint16) rawmqtt.Option {
	return func(p *packets.Packet) { p.Properties.ReceiveMaximum = n }
}
