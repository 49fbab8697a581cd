// Package clustertest gives tests a real etcd, which they may stop and start, and a way to wait for what they
// expect. It is imported by tests only.
package clustertest

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/beeline-mqtt/beeline/internal/cluster"
	"github.com/beeline-mqtt/beeline/internal/etcd"
)

// Etcd is one member on a port of 127.0.0.1, with leases of one second and more, and no flushes. Its methods
// belong to the test's goroutine.
type Etcd struct {
	t       testing.TB
	dir     string
	address string
	server  *etcd.Server
}

// StartEtcd runs a member until the test ends.
func StartEtcd(t testing.TB) *Etcd {
	t.Helper()
	e := &Etcd{t: t, dir: t.TempDir()}
	// A port below those that the system hands out: nobody takes it while the member is stopped.
	for range 20 {
		e.address = fmt.Sprintf("127.0.0.1:%d", 10_000+rand.N(20_000))
		if l, err := net.Listen("tcp", e.address); err == nil {
			_ = l.Close()
			break
		}
	}
	e.Start()
	t.Cleanup(e.Stop)
	return e
}

// Start runs the member again, on its old data and at its old address.
func (e *Etcd) Start() {
	e.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	s, err := etcd.Start(ctx, etcd.Config{Dir: e.dir, Address: e.address, Unsynced: true, Tick: 10 * time.Millisecond})
	if err != nil {
		e.t.Fatal(err)
	}
	e.server = s
}

// Forget makes the next Start begin without data.
func (e *Etcd) Forget() { e.dir = e.t.TempDir() }

// Stop ends the member; its data stays.
func (e *Etcd) Stop() { e.server.Close() }

// Address is the member's host:port.
func (e *Etcd) Address() string { return e.address }

// Client connects a new client, which is closed when the test ends.
func (e *Etcd) Client() *clientv3.Client {
	e.t.Helper()
	return Client(e.t, e.address)
}

// Client connects to the etcd at an address, until the test ends.
func Client(t testing.TB, address string) *clientv3.Client {
	t.Helper()
	c, err := cluster.Connect(cluster.Etcd{Endpoints: []string{address}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// patience bounds every wait; a busy machine may need much of it.
const patience = 30 * time.Second

// Wait asks until the answer is yes, and fails the test when that takes longer than half a minute.
func Wait(t testing.TB, what string, yes func() bool) {
	t.Helper()
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	again := time.NewTicker(time.Millisecond)
	defer again.Stop()
	for !yes() {
		select {
		case <-deadline.C:
			t.Fatalf("not within %v: %s", patience, what)
		case <-again.C:
		}
	}
}
