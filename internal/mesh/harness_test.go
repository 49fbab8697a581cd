package mesh

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/beeline-mqtt/beeline/internal/message"
	"github.com/beeline-mqtt/beeline/internal/routes"
	"github.com/beeline-mqtt/beeline/internal/turn"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m)
}

// patience is how long a test waits for what must happen; it is a failure when it passes.
const patience = 30 * time.Second

// node is one process in a test: a mesh with its server on loopback.
type node struct {
	*Mesh
	id      string
	address string
	table   *routes.Table[*Link]
	serving atomic.Bool

	server *grpc.Server
	cancel context.CancelFunc
	ended  chan error
}

// nodeOptions are what a test changes about a node.
type nodeOptions struct {
	revision int64
	config   func(*Config)
	accept   func(peer string) Inbound
	dialer   func(ctx context.Context, address string) (net.Conn, error)
	sendOn   func(to *Link, client string, done func())
	unstart  bool // Run is left to the test
}

func startNode(t testing.TB, id string, o nodeOptions) *node {
	t.Helper()
	n := &node{id: id, table: routes.NewTable[*Link](), ended: make(chan error, 1)}
	n.serving.Store(true)
	cfg := Config{
		Incarnation: id, Revision: o.revision,
		ReconnectMin: time.Millisecond, ReconnectMax: 4 * time.Millisecond,
	}
	if o.config != nil {
		o.config(&cfg)
	}
	if o.accept == nil {
		o.accept = func(string) Inbound { return &taker{} }
	}
	dial := append(DialOptions(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if o.dialer != nil {
		dial = append(dial, grpc.WithContextDialer(o.dialer))
	}
	m, err := New(cfg, Deps{
		Logger:  slog.New(slog.DiscardHandler),
		Metrics: prometheus.NewRegistry(),
		Routes:  n.table,
		Accept:  o.accept,
		Dial: func(address string) (*grpc.ClientConn, error) {
			return grpc.NewClient("passthrough:///"+address, dial...)
		},
		Serving: n.serving.Load,
		SendOn:  o.sendOn,
	})
	if err != nil {
		t.Fatal(err)
	}
	n.Mesh = m
	n.server = grpc.NewServer(ServerOptions()...)
	m.Register(n.server)
	n.serve(t)
	if !o.unstart {
		n.run()
		t.Cleanup(func() { n.close(t) })
	}
	return n
}

// serve runs the node's server until the test ends.
func (n *node) serve(t testing.TB) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	n.address = listener.Addr().String()
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = n.server.Serve(listener)
	}()
	t.Cleanup(func() {
		n.server.Stop()
		<-served
	})
}

func (n *node) run() {
	ctx, cancel := context.WithCancel(context.Background())
	n.cancel = cancel
	go func() { n.ended <- n.Run(ctx) }()
}

// close ends the mesh and waits for it. It may be called twice.
func (n *node) close(t testing.TB) {
	t.Helper()
	n.cancel()
	select {
	case err := <-n.ended:
		if err != nil {
			t.Errorf("Run of %s: %v", n.id, err)
		}
		n.ended <- nil
	case <-time.After(patience):
		t.Errorf("Run of %s does not end", n.id)
	}
}

func (n *node) peer() Peer {
	return Peer{ID: n.id, Address: n.address, Revision: n.cfg.Revision}
}

// link returns n's link to another node.
func (n *node) link(t testing.TB, to string) *Link {
	t.Helper()
	for _, l := range n.living() {
		if l.peer.ID == to {
			return l
		}
	}
	t.Fatalf("%s has no link to %s", n.id, to)
	return nil
}

// introduce makes the nodes know each other.
func introduce(nodes ...*node) {
	for _, n := range nodes {
		var peers []Peer
		for _, p := range nodes {
			if p != n {
				peers = append(peers, p.peer())
			}
		}
		n.SetPeers(peers)
	}
}

// synced waits until the nodes have each other's routes. It needs revisions that differ.
func synced(t testing.TB, nodes ...*node) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for _, n := range nodes {
		if err := n.WaitSynced(ctx); err != nil {
			t.Fatalf("%s: %v", n.id, err)
		}
	}
}

// taker is an Inbound that takes everything down.
type taker struct {
	answer func(d Delivery, later Later) Receipt // nil: Queued

	mu      sync.Mutex
	got     []string
	flushes int
	closed  bool
	changed chan struct{}
}

func (k *taker) Deliver(d Delivery, later Later) Receipt {
	r := Receipt{Outcome: Queued}
	if k.answer != nil {
		r = k.answer(d, later)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.closed {
		panic("Deliver after Close")
	}
	k.got = append(k.got, d.Message.Topic)
	return r
}

func (k *taker) Flush() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.flushes++
	if k.changed != nil {
		close(k.changed)
		k.changed = nil
	}
}

func (k *taker) Close() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.closed = true
}

// wait returns what was taken once there are n deliveries.
func (k *taker) wait(t testing.TB, n int) []string {
	t.Helper()
	timeout := time.After(patience)
	for {
		k.mu.Lock()
		got, changed := k.got, make(chan struct{})
		if k.changed == nil {
			k.changed = changed
		} else {
			changed = k.changed
		}
		k.mu.Unlock()
		if len(got) >= n {
			return got
		}
		select {
		case <-changed:
		case <-timeout:
			t.Fatalf("%d deliveries, want %d", len(got), n)
		}
	}
}

// waiters counts settlements.
type waiters struct {
	mu    sync.Mutex
	seen  map[string][]Receipt
	order []string
	all   chan struct{}
	want  int
}

func newWaiters(want int) *waiters {
	return &waiters{seen: make(map[string][]Receipt), all: make(chan struct{}), want: want}
}

func (w *waiters) Settled(_ *Link, d Delivery, r Receipt, _ *turn.Turn) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.seen[d.Message.Topic] = append(w.seen[d.Message.Topic], r)
	w.order = append(w.order, d.Message.Topic)
	if len(w.order) == w.want {
		close(w.all)
	}
}

func (w *waiters) wait(t testing.TB) {
	t.Helper()
	select {
	case <-w.all:
	case <-time.After(patience):
		w.mu.Lock()
		defer w.mu.Unlock()
		t.Fatalf("%d settlements, want %d", len(w.order), w.want)
	}
}

// once fails the test when a delivery was settled twice or not with the outcome.
func (w *waiters) once(t testing.TB, want Outcome) {
	t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	for topic, rs := range w.seen {
		if len(rs) != 1 || rs[0].Outcome != want {
			t.Errorf("%s settled as %v, want once %v", topic, rs, want)
		}
	}
}

func publish(topic string, qos byte) Delivery {
	return Delivery{Message: &message.Message{
		ID: message.ID{Origin: "a", Seq: 1}, Publisher: "publisher", Topic: topic, Payload: []byte("payload"), QoS: qos,
	}}
}

// lasting is publish for durable sessions.
func lasting(topic string, qos byte) Delivery {
	d := publish(topic, qos)
	d.Durable = true
	return d
}

func numbered(n int) string { return fmt.Sprintf("t/%06d", n) }

// eventually waits for a condition that nothing announces.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("never: %s", what)
		}
		time.Sleep(time.Millisecond)
	}
}
