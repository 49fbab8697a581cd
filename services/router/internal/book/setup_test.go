package book

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/goleak"

	"github.com/beeline-mqtt/beeline/internal/cluster/clustertest"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m,
		// etcd leaves these behind when it is closed.
		goleak.IgnoreTopFunction("go.etcd.io/etcd/server/v3/etcdserver/api/v3rpc.monitorLeader.func1"),
		goleak.IgnoreAnyFunction("gopkg.in/natefinch/lumberjack%2ev2.(*Logger).millRun"),
	)
}

func bg(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// clock is the time of a test; it stands unless it is moved.
type clock struct{ nanos atomic.Int64 }

func newClock() *clock {
	c := new(clock)
	c.nanos.Store(time.Date(2030, 5, 17, 12, 0, 0, 0, time.UTC).UnixNano())
	return c
}

func (c *clock) now() time.Time          { return time.Unix(0, c.nanos.Load()) }
func (c *clock) advance(d time.Duration) { c.nanos.Add(int64(d)) }

func testDeps(client *clientv3.Client) Deps {
	return Deps{Client: client, Keys: "test", Logger: slog.New(slog.DiscardHandler)}
}

// patient is a Config whose reads take as long as a busy machine needs.
func patient() Config {
	c := DefaultConfig()
	c.ReadTimeout = 20 * time.Second
	return c
}

// running is a Book that runs until it is stopped or the test ends.
type running struct {
	*Book
	stop func()
}

func start(t testing.TB, b *Book) *running {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := b.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	r := &running{Book: b, stop: func() { cancel(); wg.Wait() }}
	t.Cleanup(r.stop)
	return r
}

// open runs a Book of its own on an etcd, and waits until it is ready.
func open(t testing.TB, e *clustertest.Etcd, c Config) *running {
	t.Helper()
	r := start(t, Open(c, testDeps(e.Client())))
	r.wantReady(t)
	return r
}

func (r *running) wantReady(t testing.TB) {
	t.Helper()
	select {
	case <-r.Ready():
	case <-bg(t).Done():
		t.Fatal("is not ready")
	}
}

// written waits until nothing waits to be written any more, and so many have been written in all.
func (r *running) written(t testing.TB, n int) {
	t.Helper()
	clustertest.Wait(t, "nodes are recorded", func() bool {
		return valueOf(r.metrics.written) == float64(n) && r.nodes.queue.len() == 0
	})
}

func (r *running) wantRecorded(t testing.TB, name, key, want string) {
	t.Helper()
	if got, ok := r.Recorded(bg(t), name, key); got != want || ok != (want != "") {
		t.Errorf("%s/%s is recorded at %q, %v; want %q", name, key, got, ok, want)
	}
}

// valueOf is that of a counter or gauge.
func valueOf(of prometheus.Metric) float64 {
	var m dto.Metric
	if err := of.Write(&m); err != nil {
		panic(err)
	}
	return m.GetCounter().GetValue() + m.GetGauge().GetValue()
}

func count(c *prometheus.CounterVec, label string) int {
	return int(valueOf(c.WithLabelValues(label)))
}

// all reads what etcd has under a prefix.
func all(t testing.TB, c *clientv3.Client, prefix string) *clientv3.GetResponse {
	t.Helper()
	r, err := c.Get(bg(t), prefix, clientv3.WithPrefix())
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func put(t testing.TB, c *clientv3.Client, key, value string) {
	t.Helper()
	if _, err := c.Put(bg(t), key, value); err != nil {
		t.Fatal(err)
	}
}
