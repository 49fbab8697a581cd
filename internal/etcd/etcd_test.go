package etcd

import (
	"context"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
)

func start(t *testing.T, c Config) *Server {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	s, err := Start(ctx, c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

func client(t *testing.T, s *Server) *clientv3.Client {
	t.Helper()
	c, err := clientv3.New(clientv3.Config{Endpoints: []string{s.Address()}, Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func TestAMemberStartedAgainOnItsDataGoesOnWithWhatItHad(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	dir := t.TempDir()
	s := start(t, Config{Dir: dir, Unsynced: true, Tick: 10 * time.Millisecond})
	if _, err := client(t, s).Put(ctx, "k", "v"); err != nil {
		t.Fatal(err)
	}
	address := s.Address()
	s.Close()
	s.Close()

	again := start(t, Config{Dir: dir, Address: address, Unsynced: true, Tick: 10 * time.Millisecond})
	if again.Address() != address {
		t.Fatalf("serves at %s, want %s", again.Address(), address)
	}
	r, err := client(t, again).Get(ctx, "k")
	if err != nil || len(r.Kvs) != 1 || string(r.Kvs[0].Value) != "v" {
		t.Fatalf("got %v, %v; want v", r, err)
	}
}

func TestCloseDoesNotWaitForWatches(t *testing.T) {
	s := start(t, Config{Dir: t.TempDir(), Unsynced: true, Tick: 10 * time.Millisecond})
	w := client(t, s).Watch(t.Context(), "k", clientv3.WithCreatedNotify())
	<-w
	closed := make(chan struct{})
	go func() { s.Close(); close(closed) }()
	select {
	case <-closed:
	case <-time.After(4 * time.Second):
		t.Fatal("Close waits for a watch")
	}
}

func TestOnlyLoopbackIsListenedOn(t *testing.T) {
	for _, address := range []string{"0.0.0.0:0", ":2379", "example.org:2379", "nonsense"} {
		if s, err := Start(t.Context(), Config{Dir: t.TempDir(), Address: address}); err == nil {
			s.Close()
			t.Errorf("%s: started", address)
		}
	}
}

func TestRunEndsWithItsContext(t *testing.T) {
	s := start(t, Config{Dir: t.TempDir(), Unsynced: true, Tick: 10 * time.Millisecond})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Run(ctx); err != nil {
		t.Fatal(err)
	}
}

func TestErrorsOfEtcdReachTheLogger(t *testing.T) {
	var out strings.Builder
	var closing atomic.Bool
	l := zap.New(slogCore{logger: slog.New(slog.NewTextHandler(&out, nil)), closing: &closing}).With(zap.String("member", "m"))
	l.Info("chatter")
	l.Error("disk is slow", zap.Int("left", 0))
	l.DPanic("disk is full")
	closing.Store(true)
	l.Error("listener closed")
	got := out.String()
	for _, want := range []string{"WARN", "disk is slow", "member:m", "left:0", "ERROR", "disk is full"} {
		if !strings.Contains(got, want) {
			t.Errorf("%q is not logged: %s", want, got)
		}
	}
	if strings.Contains(got, "chatter") || strings.Contains(got, "listener closed") {
		t.Errorf("logged too much: %s", got)
	}
}
