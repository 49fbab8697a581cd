package cluster_test

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/beeline-mqtt/beeline/internal/cluster"
	"github.com/beeline-mqtt/beeline/internal/cluster/clustertest"
)

// patience bounds the waits of tests.
const patience = 30 * time.Second

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m,
		// etcd leaves these behind when it is closed.
		goleak.IgnoreTopFunction("go.etcd.io/etcd/server/v3/etcdserver/api/v3rpc.monitorLeader.func1"),
		goleak.IgnoreAnyFunction("gopkg.in/natefinch/lumberjack%2ev2.(*Logger).millRun"),
	)
}

func deps(e *clustertest.Etcd) cluster.Deps {
	return cluster.Deps{Client: e.Client(), Keys: "test", Logger: slog.New(slog.DiscardHandler)}
}

func bg(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// member is an incarnation that runs until the test ends, unless it is lost before or stopped.
type member struct {
	*cluster.Incarnation
	stop func()
	// lost is closed when Run has returned; err is its result then.
	lost chan struct{}
	err  error
}

func join(t testing.TB, d cluster.Deps, c cluster.IncarnationConfig, w cluster.Witness) *member {
	t.Helper()
	if c.Member.Address == "" {
		c.Member.Address = "127.0.0.1:1"
	}
	inc, err := cluster.Join(bg(t), d, c)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	m := &member{Incarnation: inc, lost: make(chan struct{})}
	m.stop = func() { cancel(); <-m.lost }
	go func() {
		defer close(m.lost)
		m.err = inc.Run(ctx, w)
	}()
	t.Cleanup(m.stop)
	return m
}

func (m *member) over() bool {
	select {
	case <-m.lost:
		return true
	default:
		return false
	}
}

// lastServed waits until it does not serve any more, and returns when it was last asked and did: however late the
// machine asks, it did serve then.
func (m *member) lastServed(t *testing.T) time.Time {
	t.Helper()
	var last time.Time
	clustertest.Wait(t, "it stops serving", func() bool {
		asked := time.Now()
		if !m.Serving() {
			return true
		}
		last = asked
		return false
	})
	return last
}

func (m *member) wantLost(t *testing.T) {
	t.Helper()
	select {
	case <-m.lost:
	case <-time.After(patience):
		t.Fatal("the incarnation goes on")
	}
	if !errors.Is(m.err, cluster.ErrLost) {
		t.Fatalf("ended with %v, want ErrLost", m.err)
	}
	if m.Serving() {
		t.Fatal("serves although it is lost")
	}
}

// run runs f until the test ends.
func run(t testing.TB, f func(ctx context.Context) error) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := f(ctx); err != nil {
			t.Error(err)
		}
	})
	stop = func() { cancel(); wg.Wait() }
	t.Cleanup(stop)
	return stop
}

// latest keeps the last value that it was given.
type latest[T any] struct {
	mu    sync.Mutex
	value T
	sets  int
}

func (l *latest[T]) set(v T) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.value = v
	l.sets++
}

func (l *latest[T]) get() T {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.value
}

func (l *latest[T]) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.sets
}

// active joins as a session instance that is the active one, and runs a recorder for it.
func active(t testing.TB, d cluster.Deps, c cluster.RecorderConfig) (*member, *cluster.Recorder) {
	t.Helper()
	m := join(t, d, cluster.IncarnationConfig{Kind: cluster.Session}, nil)
	recorders := make(chan *cluster.Recorder, 1)
	run(t, func(ctx context.Context) error {
		return cluster.Lead(ctx, m.Incarnation, func(ctx context.Context, term cluster.Term) {
			r := cluster.NewRecorder(m.Incarnation, term, c)
			recorders <- r
			_ = r.Run(ctx)
		})
	})
	select {
	case r := <-recorders:
		return m, r
	case <-time.After(patience):
		t.Fatal("does not become active")
		return nil, nil
	}
}

func claim(r *cluster.Recorder, client, holder string) cluster.Claimed {
	c := make(chan cluster.Claimed, 1)
	r.Claim(client, holder, func(got cluster.Claimed) { c <- got })
	return <-c
}

func release(r *cluster.Recorder, client, holder string, epoch uint64) cluster.Claimed {
	c := make(chan cluster.Claimed, 1)
	r.Release(client, holder, epoch, func(got cluster.Claimed) { c <- got })
	return <-c
}
