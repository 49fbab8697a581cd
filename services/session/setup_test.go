package session_test

import (
	"context"
	"log/slog"
	"net"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	sessionv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/session/v1"
	"github.com/beeline-mqtt/beeline/internal/cluster"
	"github.com/beeline-mqtt/beeline/internal/cluster/clustertest"
	"github.com/beeline-mqtt/beeline/internal/mesh"
	"github.com/beeline-mqtt/beeline/services/session"
)

// patience bounds the waits of tests.
const patience = 30 * time.Second

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func bg(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func dial(address string) (*grpc.ClientConn, error) {
	return grpc.NewClient("passthrough:///"+address,
		append(mesh.DialOptions(), grpc.WithTransportCredentials(insecure.NewCredentials()))...)
}

func deps(c *clientv3.Client) cluster.Deps {
	return cluster.Deps{Client: c, Keys: "test", Logger: slog.New(slog.DiscardHandler)}
}

// instance is a session instance that runs until the test ends, or is stopped.
type instance struct {
	*session.Session
	address string
	conn    *grpc.ClientConn
	metrics *prometheus.Registry
	stop    func()
}

func start(t testing.TB, etcd *clientv3.Client, change func(*session.Config)) *instance {
	t.Helper()
	return startPrepared(t, etcd, change, func(*session.Session) {})
}

// dataOf is the directory that all instances of a test share.
func dataOf(t testing.TB) string {
	t.Helper()
	return filepath.Join(filepath.Dir(t.TempDir()), "data")
}

func startPrepared(
	t testing.TB, etcd *clientv3.Client, change func(*session.Config), prepare func(*session.Session),
) *instance {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := session.DefaultConfig()
	c.Cluster, c.Address, c.Data = "test", l.Addr().String(), dataOf(t)
	// On a machine that has much to do, nobody is to be taken for dead or silent who is not.
	c.EvictTimeout, c.BlindAfter = time.Minute, time.Second
	if change != nil {
		change(&c)
	}
	i := &instance{address: l.Addr().String(), metrics: prometheus.NewRegistry()}
	i.Session, err = session.New(c, session.Deps{
		Etcd: etcd, Logger: slog.New(slog.DiscardHandler), Metrics: i.metrics, Dial: dial,
	})
	if err != nil {
		t.Fatal(err)
	}
	prepare(i.Session)
	server := grpc.NewServer(append(mesh.ServerOptions(), grpc.WaitForHandlers(true))...)
	i.Register(server)
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { _ = server.Serve(l) })
	// Streams that Run has ended have the time to tell why.
	wg.Go(func() { _ = i.Run(ctx); server.GracefulStop() })
	i.stop = func() { cancel(); wg.Wait() }
	t.Cleanup(i.stop)
	if i.conn, err = dial(i.address); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = i.conn.Close() })
	return i
}

func (i *instance) waitActive(t testing.TB) {
	t.Helper()
	clustertest.Wait(t, "the instance is active", i.Active)
}

// metric is the sum over all labels.
func (i *instance) metric(t testing.TB, name string) float64 {
	t.Helper()
	families, err := i.metrics.Gather()
	if err != nil {
		t.Fatal(err)
	}
	sum := 0.0
	for _, f := range families {
		if f.GetName() == name {
			for _, m := range f.GetMetric() {
				sum += m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
			}
		}
	}
	return sum
}

// alive joins as a gateway.
func alive(t testing.TB, etcd *clientv3.Client) (id string, die func()) {
	t.Helper()
	inc, err := cluster.Join(bg(t), deps(etcd), cluster.IncarnationConfig{Member: cluster.Member{Address: "127.0.0.1:1"}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); _ = inc.Run(ctx, nil) }()
	die = func() { cancel(); <-done }
	t.Cleanup(die)
	return inc.ID(), die
}

// attached is one stream of a gateway; all its methods belong to the test's goroutine.
type attached struct {
	t      testing.TB
	id     string
	rpc    sessionv1.SessionService_AttachClient
	cancel func()
	frames chan *sessionv1.AttachResponse
	err    error // when frames is closed
	last   uint64
	passed []*sessionv1.AttachResponse // by await
}

// attach opens a stream and shows what the gateway holds.
func attach(t testing.TB, conn *grpc.ClientConn, id string, holdings ...*sessionv1.Holding) *attached {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	rpc, err := sessionv1.NewSessionServiceClient(conn).Attach(ctx, grpc.WaitForReady(true))
	if err != nil {
		t.Fatal(err)
	}
	a := &attached{t: t, id: id, rpc: rpc, frames: make(chan *sessionv1.AttachResponse, 100_000)}
	done := make(chan struct{})
	a.cancel = func() { cancel(); <-done }
	t.Cleanup(a.cancel)
	go func() {
		defer close(done)
		defer close(a.frames)
		for {
			r, err := rpc.Recv()
			if err != nil {
				a.err = err
				return
			}
			a.frames <- r
		}
	}()
	a.send(&sessionv1.AttachRequest{Frame: &sessionv1.AttachRequest_Hello{Hello: &sessionv1.Hello{Incarnation: id}}})
	a.send(&sessionv1.AttachRequest{Frame: &sessionv1.AttachRequest_Holdings{
		Holdings: &sessionv1.Holdings{Holdings: holdings, Last: true},
	}})
	return a
}

func (a *attached) send(r *sessionv1.AttachRequest) {
	// An error is seen by the receiving side.
	_ = a.rpc.Send(r)
}

// next is the next frame that is not about what a gateway may have missed of groups, as all have that show holdings and
// no version.
func (a *attached) next() *sessionv1.AttachResponse {
	a.t.Helper()
	for {
		if f := a.any(); f.GetManagedClients() == nil {
			return f
		}
	}
}

func (a *attached) any() *sessionv1.AttachResponse {
	a.t.Helper()
	select {
	case f, ok := <-a.frames:
		if !ok {
			a.t.Fatalf("the stream has ended: %v", a.err)
		}
		return f
	case <-time.After(patience):
		a.t.Fatal("nothing comes")
	}
	return nil
}

func (a *attached) welcome() *attached {
	a.t.Helper()
	if f := a.next(); f.GetWelcome() == nil {
		a.t.Fatalf("got %v, want a welcome", f)
	}
	return a
}

func (a *attached) end() error {
	a.t.Helper()
	for {
		select {
		case _, ok := <-a.frames:
			if !ok {
				return a.err
			}
		case <-time.After(patience):
			a.t.Fatal("the stream does not end")
		}
	}
}

func (a *attached) claim(client string) uint64 {
	a.last++
	a.send(&sessionv1.AttachRequest{Frame: &sessionv1.AttachRequest_Claim{
		Claim: &sessionv1.Claim{RequestId: a.last, ClientId: client},
	}})
	return a.last
}

func (a *attached) release(client string, epoch uint64) uint64 {
	a.last++
	a.send(&sessionv1.AttachRequest{Frame: &sessionv1.AttachRequest_Release{
		Release: &sessionv1.Release{RequestId: a.last, ClientId: client, Epoch: epoch},
	}})
	return a.last
}

func (a *attached) evicted(client string, epoch uint64) {
	a.send(&sessionv1.AttachRequest{Frame: &sessionv1.AttachRequest_Evicted{
		Evicted: &sessionv1.Evicted{ClientId: client, Epoch: epoch},
	}})
}

// answerEvictions goes on until the stream ends. Nobody else uses it then.
func (a *attached) answerEvictions() {
	for f := range a.frames {
		if e := f.GetEvict(); e != nil {
			a.evicted(e.GetClientId(), e.GetEpoch())
		}
	}
}

func (a *attached) wantClaimed(id uint64, former string) uint64 {
	a.t.Helper()
	f := a.next().GetClaimed()
	if f.GetRequestId() != id || f.GetFormerHolder() != former || f.GetEpoch() == 0 {
		a.t.Fatalf("got %v, want claim %d granted, former holder %q", f, id, former)
	}
	return f.GetEpoch()
}

func (a *attached) wantRefused(id uint64, why sessionv1.Refusal) {
	a.t.Helper()
	if f := a.next().GetRefused(); f.GetRequestId() != id || f.GetReason() != why {
		a.t.Fatalf("got %v, want %d refused: %v", f, id, why)
	}
}

func (a *attached) wantReleased(id uint64) {
	a.t.Helper()
	if f := a.next().GetReleased(); f.GetRequestId() != id {
		a.t.Fatalf("got %v, want %d released", f, id)
	}
}

func (a *attached) wantEvict(client string) uint64 {
	a.t.Helper()
	f := a.next().GetEvict()
	if f.GetClientId() != client {
		a.t.Fatalf("got %v, want %s evicted", f, client)
	}
	return f.GetEpoch()
}
