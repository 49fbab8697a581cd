package router

import (
	"bufio"
	"context"
	"io"
	"log/slog"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/pires/go-proxyproto"
	"github.com/prometheus/client_golang/prometheus"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/beeline-mqtt/beeline/internal/cluster"
	"github.com/beeline-mqtt/beeline/internal/cluster/clustertest"
	"github.com/beeline-mqtt/beeline/services/router/internal/connect"
	"github.com/beeline-mqtt/beeline/test/rawmqtt"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	v31  = byte(3)
	v311 = rawmqtt.V311
	v5   = rawmqtt.V5
)

// rig is a router that runs.
type rig struct {
	*Router
	t       *testing.T
	etcd    *clientv3.Client
	metrics *prometheus.Registry
}

// start runs a router until the test ends, and waits until it is ready.
func start(t *testing.T, etcd *clientv3.Client, changes ...func(*Config)) *rig {
	t.Helper()
	c := DefaultConfig()
	c.Cluster, c.Secret = "test", "0123456789abcdef0123456789abcdef"
	c.Listeners = []Listener{{Name: "mqtt", Address: "127.0.0.1:0"}}
	for _, change := range changes {
		change(&c)
	}
	r := &rig{t: t, etcd: etcd, metrics: prometheus.NewRegistry()}
	var err error
	r.Router, err = New(c, Deps{Etcd: etcd, Dial: dialGateway, Metrics: r.metrics, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		if err := r.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() { stop(); running.Wait() })
	clustertest.Wait(t, "the router is ready", func() bool { return r.Ready() == nil })
	return r
}

func dialGateway(address string) (*grpc.ClientConn, error) {
	return grpc.NewClient("passthrough:///"+address, grpc.WithTransportCredentials(insecure.NewCredentials()))
}

func (r *rig) address() string { return r.Addr("mqtt").String() }

// node is a broker of the kind that accepts everybody and sends back whatever comes behind the CONNECT.
type node struct {
	t       *testing.T
	l       net.Listener
	answer  []byte // instead of a CONNACK that says yes, where set
	proxy   bool   // it takes PROXY headers
	headers chan *proxyproto.Header
	arrived chan connect.Packet
	serving sync.WaitGroup
	die     func()
}

func startNode(t *testing.T, answer []byte, changes ...func(*node)) *node {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	n := &node{t: t, l: l, answer: answer, headers: make(chan *proxyproto.Header, 100), arrived: make(chan connect.Packet, 10_000), die: func() {}}
	for _, change := range changes {
		change(n)
	}
	n.serving.Go(func() {
		for {
			nc, err := l.Accept()
			if err != nil {
				return
			}
			n.serving.Go(func() { n.serve(nc) })
		}
	})
	t.Cleanup(n.stop)
	return n
}

func (n *node) address() string { return n.l.Addr().String() }

func (n *node) stop() {
	_ = n.l.Close()
	n.die()
	n.serving.Wait()
}

func (n *node) serve(nc net.Conn) {
	defer nc.Close()
	if n.proxy {
		h, err := proxyproto.Read(bufio.NewReaderSize(oneByOne{nc}, 16))
		if err != nil {
			n.t.Error(err)
			return
		}
		n.headers <- h
	}
	p, err := connect.Read(nc, 1<<16)
	if err != nil {
		return
	}
	n.arrived <- p
	answer := n.answer
	if answer == nil {
		if answer = []byte{0x20, 2, 0, 0}; p.Level == connect.Level5 {
			answer = []byte{0x20, 3, 0, 0, 0}
		}
	}
	if _, err := nc.Write(answer); err != nil {
		return
	}
	_, _ = io.Copy(nc, nc)
}

// oneByOne reads no byte more than it is asked for, whoever buffers.
type oneByOne struct{ r io.Reader }

func (o oneByOne) Read(p []byte) (int, error) { return o.r.Read(p[:1]) }

// join makes the node a gateway of the cluster, as the registry has it.
func (n *node) join(etcd *clientv3.Client, state cluster.State) *cluster.Incarnation {
	n.t.Helper()
	d := cluster.Deps{Client: etcd, Keys: "test", Logger: slog.New(slog.DiscardHandler)}
	i, err := cluster.Join(n.t.Context(), d, cluster.IncarnationConfig{
		Member: cluster.Member{Address: "127.0.0.1:1", MQTT: n.address(), Proxy: n.proxy, Weight: 1, State: state}, TTL: 10 * time.Second,
	})
	if err != nil {
		n.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); _ = i.Run(ctx, nil) }()
	n.die = sync.OnceFunc(func() { cancel(); <-done })
	n.t.Cleanup(n.die)
	return i
}

// nodes makes some gateways, and waits until the router knows them.
func (r *rig) nodes(count int) []*node {
	r.t.Helper()
	var all []*node
	for range count {
		n := startNode(r.t, nil)
		n.join(r.etcd, cluster.Active)
		all = append(all, n)
	}
	r.knows(count)
	return all
}

func (r *rig) knows(count int) {
	r.t.Helper()
	clustertest.Wait(r.t, "the router knows the gateways", func() bool {
		return len(r.placer.own.nodes()) == count
	})
}

// at is which of the nodes has got the next client.
func at(t *testing.T, nodes []*node, id string) int {
	t.Helper()
	where := -1
	clustertest.Wait(t, "a node has "+id, func() bool {
		for i, n := range nodes {
			select {
			case p := <-n.arrived:
				if p.ClientID != id {
					t.Fatalf("node %d got %q, want %q", i, p.ClientID, id)
				}
				where = i
				return true
			default:
			}
		}
		return false
	})
	return where
}

// metric is the sum over all labels but those given as name=value.
func (r *rig) metric(name string, labels ...string) (sum float64) {
	r.t.Helper()
	families, err := r.metrics.Gather()
	if err != nil {
		r.t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.GetMetric() {
			matches := 0
			for _, l := range m.GetLabel() {
				for _, want := range labels {
					if l.GetName()+"="+l.GetValue() == want {
						matches++
					}
				}
			}
			if matches == len(labels) {
				sum += m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
	}
	return sum
}
