package gateway

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	meshv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/mesh/v1"
	sessionv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/session/v1"
	"github.com/beeline-mqtt/beeline/internal/cluster"
	"github.com/beeline-mqtt/beeline/internal/cluster/clustertest"
	"github.com/beeline-mqtt/beeline/internal/mesh"
	"github.com/beeline-mqtt/beeline/internal/routes"
	"github.com/beeline-mqtt/beeline/test/rawmqtt"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	v3 = rawmqtt.V311
	v5 = rawmqtt.V5
)

var keys = cluster.Keys("test")

// process is a gateway as a process has it: with a gRPC server, and running.
type process struct {
	*Gateway
	t       testing.TB
	metrics *prometheus.Registry
	etcd    *clientv3.Client
	grpc    string       // address of the gRPC server
	stop    func() error // ends it in order; once
}

// testConfig is a gateway on a free port.
func testConfig() Config {
	c := DefaultConfig()
	c.Cluster = "test"
	c.Listeners = []Listener{{Name: "mqtt", Address: "127.0.0.1:0"}}
	c.Limits.Patience = 100 * time.Millisecond
	return c
}

func testDeps(t testing.TB, etcd *clientv3.Client) (Deps, *prometheus.Registry) {
	t.Helper()
	metrics := prometheus.NewRegistry()
	d := Deps{Etcd: etcd, Metrics: metrics, Logger: slog.New(slog.DiscardHandler), Dial: dial}
	AllowAnonymous(&d)
	return d, metrics
}

func dial(address string) (*grpc.ClientConn, error) {
	return grpc.NewClient("passthrough:///"+address, append(mesh.DialOptions(), grpc.WithTransportCredentials(insecure.NewCredentials()))...)
}

// start runs a gateway until the test ends.
func start(t testing.TB, etcdAddress string, c Config, changes ...func(*Deps)) *process {
	t.Helper()
	p := &process{t: t, etcd: clustertest.Client(t, etcdAddress)}
	var deps Deps
	deps, p.metrics = testDeps(t, p.etcd)
	for _, change := range changes {
		change(&deps)
	}
	var err error
	if p.Gateway, err = New(c, deps); err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer(mesh.ServerOptions()...)
	p.Register(server)
	p.grpc = serve(t, server)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- p.Run(ctx, p.grpc) }()
	p.stop = sync.OnceValue(func() error {
		cancel()
		select {
		case err := <-ended:
			return err
		case <-time.After(2 * rawmqtt.Patience):
			return errors.New("it does not end")
		}
	})
	t.Cleanup(func() {
		if err := p.stop(); err != nil {
			t.Errorf("Run = %v", err)
		}
	})
	return p
}

// serve runs a gRPC server until the test ends and returns its address.
func serve(t testing.TB, s *grpc.Server) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = s.Serve(l)
	}()
	t.Cleanup(func() {
		s.Stop()
		<-served
	})
	return l.Addr().String()
}

func (p *process) address() string { return p.Addr("mqtt").String() }

func (p *process) connect(version byte, id string) *rawmqtt.Client {
	p.t.Helper()
	return rawmqtt.Connect(p.t, p.address(), version, id)
}

// awaitReady waits until the gateway says that it is ready; awaitReason until it says why not.
func (p *process) awaitReady() { p.t.Helper(); p.awaitReason("") }

func (p *process) awaitReason(want string) {
	p.t.Helper()
	var err error
	clustertest.Wait(p.t, "the gateway says "+want, func() bool {
		err = p.Ready()
		return err == nil && want == "" || err != nil && err.Error() == want
	})
}

// incarnation returns the id of the only gateway in etcd, and its etcd lease; "" when there is none.
func (p *process) incarnation() (id string, lease clientv3.LeaseID) {
	p.t.Helper()
	r, err := p.etcd.Get(p.t.Context(), keys.Members(cluster.Gateway), clientv3.WithPrefix())
	if err != nil {
		p.t.Fatal(err)
	}
	if len(r.Kvs) == 0 {
		return "", 0
	}
	return string(r.Kvs[0].Key)[len(keys.Members(cluster.Gateway)):], clientv3.LeaseID(r.Kvs[0].Lease)
}

// refused expects that no client is taken: 0x88, which is 3 in 3.1.1.
func (p *process) refused() {
	p.t.Helper()
	for version, want := range map[byte]byte{v3: 3, v5: 0x88} {
		c := rawmqtt.Dial(p.t, p.address(), version)
		if ack := c.Hello("refused"); ack.ReasonCode != want {
			p.t.Errorf("MQTT %d: CONNACK %#x, want %#x", version, ack.ReasonCode, want)
		}
		c.ExpectClosed()
	}
}

func (p *process) metric(name string) (value float64, found bool) {
	p.t.Helper()
	families, err := p.metrics.Gather()
	if err != nil {
		p.t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == name {
			for _, m := range f.GetMetric() {
				value += m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
			return value, true
		}
	}
	return 0, false
}

// sessions is the session service as far as one gateway needs it: everybody gets what he claims.
type sessions struct {
	sessionv1.UnimplementedSessionServiceServer

	epoch atomic.Uint64
}

// startSessions runs an active session instance until stop is called, or the test ends.
func startSessions(t testing.TB, etcdAddress string) (stop func()) {
	t.Helper()
	s := new(sessions)
	server := grpc.NewServer(mesh.ServerOptions()...)
	sessionv1.RegisterSessionServiceServer(server, s)
	door := new(mesh.Door)
	meshv1.RegisterMeshServiceServer(server, door)
	address := serve(t, server)
	deps := cluster.Deps{Client: clustertest.Client(t, etcdAddress), Keys: keys, Logger: slog.New(slog.DiscardHandler)}
	i, err := cluster.Join(t.Context(), deps, cluster.IncarnationConfig{
		Kind: cluster.Session, Member: cluster.Member{Address: address},
	})
	if err != nil {
		t.Fatal(err)
	}
	m, err := mesh.New(mesh.Config{Incarnation: i.ID(), Revision: i.Revision(), ReconnectMin: time.Millisecond}, mesh.Deps{
		Logger: deps.Logger, Metrics: prometheus.NewRegistry(), Routes: routes.NewTable[*mesh.Link](), Dial: dial, Serving: i.Serving,
		Accept: func(string) mesh.Inbound { return nobodysDesk{} },
	})
	if err != nil {
		t.Fatal(err)
	}
	door.Open(m.Service())
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { _ = m.Run(ctx) })
	wg.Go(func() {
		_ = cluster.WatchMembers(ctx, deps, cluster.Gateway, func(v cluster.View) { m.SetPeers(membersOf(v)) })
	})
	wg.Go(func() {
		_ = cluster.Lead(ctx, i, func(ctx context.Context, _ cluster.Term) { <-ctx.Done() })
	})
	wg.Go(func() { _ = i.Run(ctx, nil) })
	stop = sync.OnceFunc(func() {
		server.Stop()
		cancel()
		wg.Wait()
	})
	t.Cleanup(stop)
	return stop
}

func membersOf(v cluster.View) []mesh.Peer {
	var all []mesh.Peer
	for _, m := range v.Members {
		all = append(all, mesh.Peer{ID: m.ID, Address: m.Address, Revision: m.Revision})
	}
	return all
}

// nobodysDesk is the receiving end of an instance that has nobody's session.
type nobodysDesk struct{}

func (nobodysDesk) Deliver(d mesh.Delivery, _ mesh.Later) mesh.Receipt {
	if d.Target.Kind == mesh.TargetClient {
		return mesh.Receipt{Outcome: mesh.NotHolder, ClientID: d.Target.ClientID}
	}
	return mesh.Receipt{Outcome: mesh.Queued}
}

func (nobodysDesk) Flush() {}
func (nobodysDesk) Close() {}

func (s *sessions) Attach(stream sessionv1.SessionService_AttachServer) error {
	for {
		r, err := stream.Recv()
		if err != nil {
			return err
		}
		var a *sessionv1.AttachResponse
		switch f := r.GetFrame().(type) {
		case *sessionv1.AttachRequest_Hello:
			a = &sessionv1.AttachResponse{Frame: &sessionv1.AttachResponse_Welcome{Welcome: &sessionv1.Welcome{Incarnation: "s"}}}
		case *sessionv1.AttachRequest_Claim:
			a = &sessionv1.AttachResponse{Frame: &sessionv1.AttachResponse_Claimed{
				Claimed: &sessionv1.Claimed{RequestId: f.Claim.GetRequestId(), Epoch: s.epoch.Add(1)},
			}}
		case *sessionv1.AttachRequest_Release:
			a = &sessionv1.AttachResponse{Frame: &sessionv1.AttachResponse_Released{
				Released: &sessionv1.Released{RequestId: f.Release.GetRequestId()},
			}}
		default:
			continue
		}
		if err := stream.Send(a); err != nil {
			return err
		}
	}
}
