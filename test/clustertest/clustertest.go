// Package clustertest runs a whole cluster, the real one, in the process of a test: embedded etcd, a session
// service, gateways, gRPC with mutual TLS between them. It adds to cmd/beeline/local what tests want: ends with
// the test, logs into it, cuts links, reads counters.
package clustertest

import (
	"context"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/beeline-mqtt/beeline/cmd/beeline/local"
	"github.com/beeline-mqtt/beeline/internal/telemetry"
)

// Patience bounds every wait of a test.
const Patience = 20 * time.Second

// Cluster is a cluster that ends with its test.
type Cluster struct {
	*local.Cluster
	wires *wires
}

// Start starts a cluster of n gateways. change, which may be nil, changes its configuration first.
func Start(t testing.TB, n int, change func(*local.Config)) *Cluster {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	c, err := open(ctx, t.TempDir(), n, logWriter{t}, change)
	if err != nil {
		t.Fatalf("start cluster: %v", err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Errorf("stop cluster: %v", err)
		}
	})
	return c
}

// Open starts a cluster of n gateways that several tests share: it lives until Close, in dir, and logs to log.
func Open(ctx context.Context, dir string, n int, log io.Writer) (*Cluster, error) {
	return open(ctx, dir, n, log, nil)
}

func open(ctx context.Context, dir string, n int, log io.Writer, change func(*local.Config)) (*Cluster, error) {
	c := &Cluster{wires: newWires()}
	level := telemetry.DefaultLogConfig()
	level.Format = "text"
	cfg := local.Config{
		Dir: dir, Gateways: n, Unsynced: true, LogLevel: level, Log: log,
		Dial: func(i int) []grpc.DialOption { return []grpc.DialOption{grpc.WithContextDialer(c.wires.dialer(i))} },
	}
	if change != nil {
		change(&cfg)
	}
	var err error
	if c.Cluster, err = local.Start(ctx, cfg); err != nil {
		return nil, fmt.Errorf("start cluster: %w", err)
	}
	return c, nil
}

// Close mends what is cut and stops everything. A cluster made with Start is closed at the end of its test.
func (c *Cluster) Close() error {
	c.wires.mend()
	return c.Cluster.Close()
}

// MQTT is host:port of a gateway's plain listener.
func (c *Cluster) MQTT(i int) string { return c.Gateways()[i].Service.Addr("mqtt").String() }

// MQTTS is host:port of a gateway's TLS listener.
func (c *Cluster) MQTTS(i int) string { return c.Gateways()[i].Service.Addr("mqtts").String() }

// WebSocket is the URL of a gateway's WebSocket listener.
func (c *Cluster) WebSocket(i int) string {
	return "ws://" + c.Gateways()[i].Service.Addr("ws").String() + "/mqtt"
}

// Operate connects to the router's gRPC server as an operator. The cluster has to have a router.
func (c *Cluster) Operate(t testing.TB) *grpc.ClientConn {
	t.Helper()
	tls, err := c.Router().Operator.Mutual()
	if err != nil {
		t.Fatalf("certificate of the operator: %v", err)
	}
	conn, err := grpc.NewClient("passthrough:///"+c.Router().Node.Address(), grpc.WithTransportCredentials(credentials.NewTLS(tls)))
	if err != nil {
		t.Fatalf("dial the router: %v", err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// Metric sums the values of a metric of gateway i over the label pairs given as "name=value".
func (c *Cluster) Metric(t testing.TB, i int, name string, labels ...string) float64 {
	t.Helper()
	families, err := c.Gateways()[i].Node.Metrics.Gather()
	if err != nil {
		t.Fatalf("gather metrics: %v", err)
	}
	var sum float64
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.GetMetric() {
			if matches(m, labels) {
				sum += m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
	}
	return sum
}

func matches(m *dto.Metric, labels []string) bool {
	for _, want := range labels {
		name, value, _ := strings.Cut(want, "=")
		found := false
		for _, l := range m.GetLabel() {
			found = found || l.GetName() == name && l.GetValue() == value
		}
		if !found {
			return false
		}
	}
	return true
}

// Eventually waits until f is true.
func Eventually(t testing.TB, what string, f func() bool) {
	t.Helper()
	deadline := time.Now().Add(Patience)
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !f() {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", Patience, what)
		}
		<-tick.C
	}
}

// logWriter writes log lines into the log of the test while it runs.
type logWriter struct{ t testing.TB }

func (w logWriter) Write(b []byte) (int, error) {
	if testing.Verbose() {
		w.t.Log(strings.TrimRight(string(b), "\n"))
	}
	return len(b), nil
}

// CutLinks breaks all connections that gateway i has dialled, and returns how many there were; they may be made
// again at once.
func (c *Cluster) CutLinks(i int) int { return c.wires.cut(i) }

// Isolate breaks the connections between gateways that i has dialled, and keeps it from dialling, until Mend.
func (c *Cluster) Isolate(i int) { c.wires.block(i) }

// Mend ends every Isolate.
func (c *Cluster) Mend() { c.wires.mend() }

// wires are the connections that gateways have dialled.
type wires struct {
	mu      sync.Mutex
	conns   map[int]map[net.Conn]struct{}
	blocked map[int]chan struct{}
}

func newWires() *wires {
	return &wires{conns: make(map[int]map[net.Conn]struct{}), blocked: make(map[int]chan struct{})}
}

func (w *wires) dialer(i int) func(context.Context, string) (net.Conn, error) {
	return func(ctx context.Context, address string) (net.Conn, error) {
		w.mu.Lock()
		blocked := w.blocked[i]
		w.mu.Unlock()
		if blocked != nil {
			select {
			case <-blocked:
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		}
		nc, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
		if err != nil {
			return nil, err
		}
		wire := &wire{Conn: nc, wires: w, owner: i}
		w.mu.Lock()
		defer w.mu.Unlock()
		if w.conns[i] == nil {
			w.conns[i] = make(map[net.Conn]struct{})
		}
		w.conns[i][wire] = struct{}{}
		return wire, nil
	}
}

func (w *wires) cut(i int) int {
	w.mu.Lock()
	conns := w.conns[i]
	w.conns[i] = nil
	w.mu.Unlock()
	for nc := range conns {
		_ = nc.Close()
	}
	return len(conns)
}

func (w *wires) block(i int) {
	w.mu.Lock()
	if w.blocked[i] == nil {
		w.blocked[i] = make(chan struct{})
	}
	w.mu.Unlock()
	w.cut(i)
}

func (w *wires) mend() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for i, ch := range w.blocked {
		close(ch)
		delete(w.blocked, i)
	}
}

type wire struct {
	net.Conn
	wires *wires
	owner int
}

func (c *wire) Close() error {
	c.wires.mu.Lock()
	delete(c.wires.conns[c.owner], net.Conn(c))
	c.wires.mu.Unlock()
	return c.Conn.Close()
}
