package router

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/beeline-mqtt/beeline/internal/cluster"
)

// lookUpTimeout bounds the question who holds a client. Without an answer the client goes where it would go if nobody
// did, which the gateway there makes good: it takes the session over.
const lookUpTimeout = 500 * time.Millisecond

// lookUpPause has the clients that come within it looked up together: a request to etcd costs more than what it asks.
const lookUpPause = 4 * time.Millisecond

// own is the routers' own cluster: its gateways, kept current by watching the registry, and who holds whom.
type own struct {
	deps      cluster.Deps
	directory *cluster.Directory
	see       func(cluster.View)
	view      atomic.Pointer[cluster.View] // nil before the first
}

func newOwn(d cluster.Deps, see func(cluster.View)) *own {
	o := &own{deps: d, see: see}
	o.directory = cluster.NewDirectory(d, o.lives)
	o.directory.Pause = lookUpPause
	return o
}

// run keeps the view current until ctx ends. on is called after each change.
func (o *own) run(ctx context.Context, on func()) error {
	defer o.directory.Close()
	return cluster.WatchMembers(ctx, o.deps, cluster.Gateway, func(v cluster.View) {
		o.view.Store(&v)
		o.see(v)
		on()
	})
}

// lives reports whether a gateway's incarnation is alive for certain.
func (o *own) lives(incarnation string) bool {
	v := o.view.Load()
	if v == nil {
		return false
	}
	_, ok := v.Find(incarnation)
	return ok
}

// nodes are the gateways that have an address for routers. A gateway's name is that address: it outlives incarnations, so
// that a client comes back to the same machine after its gateway was started anew.
func (o *own) nodes() (nodes []cluster.Member) {
	v := o.view.Load()
	if v == nil {
		return nil
	}
	for _, m := range v.Members {
		if m.MQTT != "" {
			nodes = append(nodes, m)
		}
	}
	return nodes
}

// holder is the address of the gateway that holds a client now; empty when nobody does.
func (o *own) holder(ctx context.Context, clientID string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, lookUpTimeout)
	defer cancel()
	leases, err := o.directory.LookUp(ctx, []string{clientID})
	if err != nil {
		return "", fmt.Errorf("look up who holds the client: %w", err)
	}
	v := o.view.Load()
	l, held := leases[clientID]
	if !held || v == nil {
		return "", nil
	}
	m, _ := v.Find(l.Holder)
	return m.MQTT, nil
}
