package session

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/beeline-mqtt/beeline/internal/cluster"
	"github.com/beeline-mqtt/beeline/internal/mesh"
	"github.com/beeline-mqtt/beeline/internal/routes"
	"github.com/beeline-mqtt/beeline/internal/telemetry"
	"github.com/beeline-mqtt/beeline/internal/trace"
	"github.com/beeline-mqtt/beeline/services/session/internal/away"
)

// life is what an incarnation has beside its term: it is a peer of the gateways in the mesh, as a standby, too, because
// they wait for the routes of all that are older than they.
type life struct {
	session *Session
	id      string
	metrics *telemetry.Scope
	mesh    *mesh.Mesh
	// routes are those of the gateways.
	routes *routes.Table[*mesh.Link]
	// holder has what the mesh brings; nil while there is no term.
	holder atomic.Pointer[away.Keeper]
}

func newLife(s *Session, i *cluster.Incarnation) (*life, error) {
	l := &life{session: s, id: i.ID(), metrics: telemetry.NewScope(s.deps.Metrics), routes: routes.NewTable[*mesh.Link]()}
	var err error
	l.mesh, err = mesh.New(mesh.Config{Incarnation: i.ID(), Revision: i.Revision()}, mesh.Deps{
		Logger: s.deps.Logger, Metrics: l.metrics, Routes: l.routes, Accept: l.accept,
		Dial: s.deps.Dial, Serving: i.Serving, Trace: s.tap,
	})
	if err != nil {
		l.metrics.End()
		return nil, fmt.Errorf("make the mesh: %w", err)
	}
	return l, nil
}

// run is a peer in the mesh for as long as f takes.
func (l *life) run(f func()) {
	ctx, stop := context.WithCancel(context.Background())
	defer l.metrics.End()
	var wg sync.WaitGroup
	defer wg.Wait()
	defer stop()
	defer l.session.door.Open(l.mesh.Service())()
	wg.Go(func() { _ = l.mesh.Run(ctx) })
	wg.Go(func() {
		_ = cluster.WatchMembers(ctx, l.session.cluster, cluster.Gateway, func(v cluster.View) {
			peers := make([]mesh.Peer, len(v.Members))
			for i, m := range v.Members {
				peers[i] = mesh.Peer{ID: m.ID, Address: m.Address, Revision: m.Revision}
			}
			l.mesh.SetPeers(peers)
		})
	})
	f()
}

// accept is the mesh's Deps.Accept.
func (l *life) accept(peer string) mesh.Inbound { return inbound{life: l, peer: peer} }

// inbound hands what a peer sends to whoever holds the absent clients' sessions, if this is the active instance.
type inbound struct {
	life *life
	peer string
}

// Deliver implements mesh.Inbound.
func (i inbound) Deliver(d mesh.Delivery, later mesh.Later) mesh.Receipt {
	if tap := i.life.session.tap; tap.On() {
		tap.Step(trace.Arrived, d.Message, i.peer, "")
	}
	k := i.life.holder.Load()
	if k == nil {
		return nobody(d)
	}
	return k.Deliver(i.peer, d, later.Settle)
}

// Flush implements mesh.Inbound.
func (inbound) Flush() {}

// Close implements mesh.Inbound.
func (inbound) Close() {}

// nobody is the answer of an instance that is not active, or not yet, or not any more. It must not say that a client has
// no session. What was matched by routes of a term that is over gets no receipt: it is for the successor.
func nobody(d mesh.Delivery) mesh.Receipt {
	if d.Target.Kind == mesh.TargetClient {
		return mesh.Receipt{Outcome: mesh.NotHolder, ClientID: d.Target.ClientID, Epoch: max(d.Target.Epoch, 1)}
	}
	return mesh.Receipt{Outcome: mesh.Accepted}
}
