package broker

import (
	"context"
	"sync"
	"time"

	"github.com/beeline-mqtt/beeline/internal/cluster"
	"github.com/beeline-mqtt/beeline/services/gateway/internal/lease"
)

// Claim implements Leases as the session service would: the record first, then the eviction, then the answer.
func (g *gateway) Claim(ctx context.Context, claim lease.Request, granted func(lease.Grant)) error {
	id := claim.ClientID
	g.mu.Lock()
	first, recorded := g.onClaim, g.onRecord
	g.mu.Unlock()
	if first != nil {
		if err := first(ctx, id); err != nil {
			return err
		}
	}
	r := g.registry
	if r.service != nil {
		m, _ := r.claiming.LoadOrStore(id, new(sync.Mutex))
		m.(*sync.Mutex).Lock()
		defer m.(*sync.Mutex).Unlock()
		r.evictHolder(id, g.id)
	}
	r.mu.Lock()
	r.epoch++
	epoch, former := r.epoch, r.leases[id]
	r.leases[id] = cluster.Lease{Holder: g.id, Epoch: epoch}
	session := r.open(claim, g.id, epoch)
	r.mu.Unlock()
	if other := r.gateways[former.Holder]; other != nil && other != g {
		gone := make(chan struct{})
		other.Evict(id, epoch, sync.OnceFunc(func() { close(gone) }))
		<-gone
	}
	if recorded != nil {
		if err := recorded(id); err != nil {
			g.Release(id, epoch, lease.Ending{})
			return err
		}
	}
	granted(lease.Grant{Epoch: epoch, Session: session})
	return nil
}

// Release implements Leases.
func (g *gateway) Release(id string, epoch uint64, e lease.Ending) {
	g.mu.Lock()
	g.released = append(g.released, epoch)
	g.mu.Unlock()
	r := g.registry
	r.mu.Lock()
	if r.leases[id].Epoch == epoch {
		delete(r.leases, id)
	}
	away := r.away(id, epoch, e) && !r.silent
	r.mu.Unlock()
	if away {
		r.service.enter(id)
	}
}

// Settled implements Leases.
func (g *gateway) Settled(id string, epoch uint64) {
	r := g.registry
	if r.silent {
		return
	}
	for _, other := range r.gateways {
		if other != g {
			other.Forget(id, epoch)
		}
	}
	time.AfterFunc(time.Second, func() { r.service.leave(id, epoch) })
}

func (g *gateway) lookUp(_ context.Context, ids []string) (map[string]cluster.Lease, error) {
	g.mu.Lock()
	first := g.onLookUp
	g.mu.Unlock()
	if first != nil {
		if err := first(ids); err != nil {
			return nil, err
		}
	}
	found := make(map[string]cluster.Lease)
	for _, id := range ids {
		if l, ok := g.registry.lease(id); ok {
			found[id] = l
		}
	}
	return found, nil
}
