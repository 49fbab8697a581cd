package gateway

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/beeline-mqtt/beeline/internal/cluster"
	"github.com/beeline-mqtt/beeline/internal/lifecycle"
	"github.com/beeline-mqtt/beeline/internal/mesh"
	"github.com/beeline-mqtt/beeline/internal/routes"
	"github.com/beeline-mqtt/beeline/internal/telemetry"
	"github.com/beeline-mqtt/beeline/services/gateway/internal/broker"
	"github.com/beeline-mqtt/beeline/services/gateway/internal/client"
	"github.com/beeline-mqtt/beeline/services/gateway/internal/lease"
	"github.com/beeline-mqtt/beeline/services/gateway/internal/publish"
)

// stopGrace bounds the orderly end of an incarnation.
const stopGrace = 15 * time.Second

// life is what one incarnation is made of, as far as connections need it.
type life struct {
	limits  *client.Limits
	deps    client.Deps
	publish publish.Deps
	tunnel  struct { // for the cluster's own services
		limits client.Limits
		deps   client.Deps
	}
	broker *broker.Broker
	peers  *peers

	taking chan struct{} // closed when it takes clients

	ctx   context.Context //nolint:containedctx // of the incarnation: its connections end with it
	end   context.CancelFunc
	mu    sync.Mutex
	over  bool
	conns sync.WaitGroup
}

// enter counts something that ends with the incarnation, unless that is over: conns.Done has to follow.
func (l *life) enter() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.over {
		l.conns.Add(1)
	}
	return !l.over
}

// serve handles a connection, unless the incarnation is over.
func (l *life) serve(nc net.Conn, listener string) bool {
	return l.serveWith(nc, listener, l.limits, &l.deps)
}

// serveTunnel handles a connection of one of the cluster's own services, unless the incarnation is over.
func (l *life) serveTunnel(nc net.Conn) bool {
	return l.serveWith(nc, tunnelListener, &l.tunnel.limits, &l.tunnel.deps)
}

func (l *life) serveWith(nc net.Conn, listener string, limits *client.Limits, deps *client.Deps) bool {
	if !l.enter() {
		return false
	}
	defer l.conns.Done()
	client.Serve(l.ctx, nc, listener, limits, deps)
	return true
}

// close ends all connections and returns when they are gone.
func (l *life) close() {
	l.mu.Lock()
	l.over = true
	l.mu.Unlock()
	l.end()
	l.conns.Wait()
}

// incarnate joins the cluster and lives until ctx ends or the lease is lost: everything starts in the order of
// the parts below and stops in reverse.
func (g *Gateway) incarnate(ctx context.Context, address string) error {
	g.notReady("joining the cluster")
	registered := telemetry.NewScope(g.deps.Metrics)
	defer registered.End()
	cd := cluster.Deps{Client: g.deps.Etcd, Keys: cluster.Keys(g.cfg.Cluster), Logger: g.deps.Logger, Metrics: registered}
	inc, err := cluster.Join(ctx, cd, cluster.IncarnationConfig{
		Kind: cluster.Gateway, Member: g.member(address), TTL: g.cfg.LeaseTTL,
	})
	if err != nil {
		return fmt.Errorf("join the cluster: %w", err)
	}
	g.metrics.incarnations.Inc()
	if g.lost != nil {
		// Its clients are gone; that it may still be alive in etcd would only make those who come back wait.
		g.lost.Leave(ctx)
		g.lost = nil
	}
	logger := g.deps.Logger.With(slog.String("incarnation", inc.ID()))
	g.tap.Lives(inc.ID())

	table := routes.NewTable[*mesh.Link]()
	peers := newPeers(inc.ID())
	directory := cluster.NewDirectory(cd, peers.alive)
	sessions := cluster.NewSessions(cd, g.deps.Dial)
	b := broker.New(broker.Config{
		Incarnation: inc.ID(), MaxClients: g.cfg.MaxClients, GroupMembers: g.cfg.GroupMembers, CachedLeases: g.cfg.CachedLeases,
		UnresolvedBytes: int(g.cfg.UnresolvedBytes), ReceiptTimeout: g.cfg.Limits.ReceiptTimeout,
		Linger: g.cfg.Limits.ReceiptTimeout, StoreAfter: g.cfg.Limits.StoreAfter,
	}, broker.Deps{
		Routes: table, LookUp: directory.LookUp, Keeper: activeOf(sessions), Metrics: g.metrics.broker, Logger: logger, Trace: g.tap,
	})
	keeper := lease.New(lease.Config{
		Incarnation: inc.ID(), OnEvict: b.Evict, OnForget: b.Forget, OnPublish: b.PublishFor,
		OnMembers: b.ChangeMembers, OnManaged: b.SetManaged, Holdings: b.Holdings, Ghosts: b.Ghosts,
	}, lease.Deps{Sessions: sessions, Metrics: registered, Logger: logger})
	m, err := mesh.New(mesh.Config{
		Incarnation: inc.ID(), Revision: inc.Revision(), LinkBytes: int(g.cfg.LinkBytes), RouteAckTimeout: g.cfg.RouteAckTimeout,
	}, mesh.Deps{
		Logger: logger, Metrics: registered, Routes: table, Accept: b.Accept, Dial: g.deps.Dial, Serving: inc.Serving, SendOn: b.SendOn,
		Trace: g.tap,
	})
	if err != nil {
		inc.Leave(ctx)
		return fmt.Errorf("make the mesh: %w", err)
	}
	b.Use(m, keeper, keeper)
	peers.set = m.SetPeers

	l := g.newLife(ctx, inc, b, keeper, logger)
	l.peers = peers
	err = lifecycle.Run(ctx, stopGrace,
		lifecycle.Simple("incarnation", func(ctx context.Context) error { return inc.Run(ctx, sessions.AllBlind) }),
		lifecycle.Simple("state", func(ctx context.Context) error { return g.showState(ctx, inc, l.taking) }),
		lifecycle.Simple("sessions", sessions.Run),
		lifecycle.Simple("directory", func(ctx context.Context) error {
			<-ctx.Done()
			directory.Close()
			return nil
		}),
		lifecycle.Simple("mesh", func(ctx context.Context) error {
			defer g.door.Open(m.Service())()
			return m.Run(ctx)
		}),
		lifecycle.Simple("members", func(ctx context.Context) error { return peers.watch(ctx, cd) }),
		lifecycle.Simple("leases", keeper.Run),
		lifecycle.Simple("broker", b.Run),
		lifecycle.Part{Name: "clients", Run: func(ctx context.Context, started func()) error {
			return g.takeClients(ctx, l, m, keeper, started)
		}},
	)
	if errors.Is(err, cluster.ErrLost) {
		g.lost = inc
	}
	return err
}

// newLife is what connections and streams of an incarnation share. It ends with its close.
func (g *Gateway) newLife(ctx context.Context, inc *cluster.Incarnation, b *broker.Broker, k *lease.Keeper, logger *slog.Logger) *life {
	l := &life{limits: &g.cfg.Limits, broker: b, taking: make(chan struct{}), deps: client.Deps{
		Broker: b, Journal: b, Authenticate: g.deps.Authenticate, Authorize: g.deps.Authorize,
		Serving: inc.Serving, Available: k.Available, Draining: g.refusing,
		Incarnation: inc.ID(), NextSequence: counter(), Metrics: g.metrics.clients, Logger: logger, Trace: g.tap,
	}}
	l.publish = publish.Deps{
		Broker: b, Limits: &g.cfg.Limits, Incarnation: inc.ID(), NextSequence: l.deps.NextSequence, Serving: inc.Serving,
		Metrics: g.metrics.publish,
	}
	l.tunnel.limits, l.tunnel.deps = tunnelLimits(g.cfg.Limits), tunnelDeps(l.deps)
	l.ctx, l.end = context.WithCancel(context.WithoutCancel(ctx))
	return l
}

// member is what others see of an incarnation.
func (g *Gateway) member(address string) cluster.Member {
	mqtt, proxy := g.forRouters(address)
	state, _ := g.drainer.state()
	if state == cluster.Active {
		state = cluster.Joining
	}
	return cluster.Member{
		Address: address, MQTT: mqtt, Proxy: proxy, Public: g.cfg.PublicAddress,
		Zone: g.cfg.Zone, Weight: g.cfg.Weight, State: state,
	}
}

// takeClients opens the gateway to clients once it has the routes of all older peers, and ends them at the end.
// The others see that it does when the session service answers it, too.
func (g *Gateway) takeClients(ctx context.Context, l *life, m *mesh.Mesh, k *lease.Keeper, started func()) error {
	defer l.close()
	g.notReady("waiting for the routes of the other gateways")
	started()
	if err := m.WaitSynced(ctx); err != nil {
		return err
	}
	g.life.Store(l)
	select {
	case <-k.Attached():
		close(l.taking)
	case <-ctx.Done():
	}
	<-ctx.Done()
	g.notReady("incarnation is ending")
	g.life.CompareAndSwap(l, nil)
	return nil
}

// activeOf tells which session instance is the active one; empty: none is known.
func activeOf(s *cluster.Sessions) func() string {
	return func() string {
		m, _, _ := s.Active()
		return m.ID
	}
}

// counter numbers the messages of one incarnation.
func counter() func() uint64 {
	var n atomic.Uint64
	return func() uint64 { return n.Add(1) }
}
