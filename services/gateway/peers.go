package gateway

import (
	"context"
	"errors"
	"sync"

	"github.com/beeline-mqtt/beeline/internal/cluster"
	"github.com/beeline-mqtt/beeline/internal/mesh"
)

// peers are the processes that a gateway has links to: the other gateways, and the session instances, the active one
// of which holds the durable sessions of clients that are away.
type peers struct {
	self string
	set  func([]mesh.Peer)

	mu    sync.Mutex // held over set: views are passed on in the order in which they came
	views map[cluster.Kind]cluster.View
}

func newPeers(self string) *peers {
	return &peers{self: self, views: make(map[cluster.Kind]cluster.View)}
}

// watch follows both kinds until ctx ends.
func (p *peers) watch(ctx context.Context, d cluster.Deps) error {
	var wg sync.WaitGroup
	var errs [2]error
	for i, kind := range [...]cluster.Kind{cluster.Gateway, cluster.Session} {
		wg.Go(func() {
			errs[i] = cluster.WatchMembers(ctx, d, kind, func(v cluster.View) { p.see(kind, v) })
		})
	}
	wg.Wait()
	return errors.Join(errs[:]...)
}

// see takes a view of one kind. Nothing is passed on before both are known: a peer that is missing counts as dead.
func (p *peers) see(kind cluster.Kind, v cluster.View) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.views[kind] = v
	if len(p.views) < 2 {
		return
	}
	var all []mesh.Peer
	for kind, view := range p.views {
		for _, m := range view.Members {
			if m.ID != p.self {
				quiet := kind == cluster.Session
				all = append(all, mesh.Peer{ID: m.ID, Address: m.Address, Revision: m.Revision, Quiet: quiet})
			}
		}
	}
	p.set(all)
}

// others returns the other gateways that take clients, as far as etcd has shown them.
func (p *peers) others() []cluster.Member {
	p.mu.Lock()
	defer p.mu.Unlock()
	var all []cluster.Member
	for _, m := range p.views[cluster.Gateway].Members {
		if m.ID != p.self && m.State == cluster.Active {
			all = append(all, m)
		}
	}
	return all
}

// alive reports whether a gateway is alive for certain.
func (p *peers) alive(id string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	_, ok := p.views[cluster.Gateway].Find(id)
	return ok
}
