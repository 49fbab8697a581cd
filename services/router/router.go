// Package router is the one door for devices: it reads the CONNECT of a connection, decides to which cluster and node the
// client belongs, and passes the connection on there, byte by byte. It ends neither MQTT nor sessions, and keeps nothing
// that must survive it.
package router

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"

	"github.com/beeline-mqtt/beeline/internal/cluster"
	"github.com/beeline-mqtt/beeline/internal/lifecycle"
	"github.com/beeline-mqtt/beeline/internal/listener"
	"github.com/beeline-mqtt/beeline/services/router/internal/administration"
	"github.com/beeline-mqtt/beeline/services/router/internal/fleet"
	"github.com/beeline-mqtt/beeline/services/router/internal/gate"
	"github.com/beeline-mqtt/beeline/services/router/internal/rest"
	"github.com/beeline-mqtt/beeline/services/router/internal/splice"
)

// Deps are what a router works with.
type Deps struct {
	Etcd *clientv3.Client
	// Dial connects to the gRPC server of another process.
	Dial    func(address string) (*grpc.ClientConn, error)
	Metrics prometheus.Registerer
	Logger  *slog.Logger
}

// Router is one router process, or one of several in a process.
type Router struct {
	cfg       Config
	deps      Deps
	listeners listener.Set
	metrics   *metrics
	sources   *tally[netip.Addr]
	placer    *placer
	fleet     *fleet.Fleet

	subscribing *subscribing
	commanding  *commanding
	// administration is what operators call.
	administration *administration.Service
	gate           *gate.Gate
	rest           *rest.Server     // nil: there is none
	within         *grpc.ClientConn // from REST to the process's server
	messaging      *messaging
	pool           *splice.Pool
}

// New makes a router and binds its listeners. Nobody is accepted before Run.
func New(cfg Config, deps Deps) (*Router, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	r := &Router{cfg: cfg, deps: deps, metrics: newMetrics(deps.Metrics), sources: newTally[netip.Addr](cfg.SourceConnections), pool: splice.NewPool(pipes)}
	r.fleet = fleet.New(cluster.Deps{Client: deps.Etcd, Keys: cluster.Keys(cfg.Cluster), Logger: deps.Logger}, deps.Dial)
	r.messaging = newMessaging(r.fleet)
	var err error
	if r.placer, err = newPlacer(cfg, deps, r.metrics, r.fleet.See); err != nil {
		return nil, err
	}
	r.subscribing, r.commanding = newSubscribing(r), newCommanding(r)
	r.messaging.subscribing, r.messaging.commanding = r.subscribing, r.commanding
	r.placer.onClusters = func() { r.commanding.follow(r.placer) }
	r.administration = administration.New(administration.Deps{Fleet: r.fleet, LookUp: r.placer.own.directory.LookUp})
	if r.gate, err = gate.New(cfg.Access, gate.Deps{Logger: deps.Logger, Metrics: deps.Metrics, Now: time.Now}); err != nil {
		return nil, err
	}
	if cfg.REST.Address != "" {
		if r.rest, err = rest.Listen(context.Background(), cfg.REST, deps.Logger); err != nil {
			return nil, err
		}
	}
	if r.listeners, err = listener.ListenAll(cfg.Listeners, cfg.MaxConnections, deps.Logger); err != nil {
		if r.rest != nil {
			_ = r.rest.Close()
		}
		return nil, err
	}
	return r, nil
}

// Addr returns the address of a listener by its name, nil when there is none.
func (r *Router) Addr(name string) net.Addr { return r.listeners.Addr(name) }

// Ready says what keeps this router from taking devices to nodes; nil when nothing does.
func (r *Router) Ready() error { return r.placer.ready() }

// Run takes devices to nodes until ctx ends. It takes none before it knows the nodes.
func (r *Router) Run(ctx context.Context) error {
	defer r.pool.Close()
	defer r.administration.Close()
	return lifecycle.Run(ctx, stopGrace,
		lifecycle.Simple("fleet", r.fleet.Run),
		lifecycle.Simple("access", r.gate.Run),
		lifecycle.Simple("messaging", r.messaging.run),
		lifecycle.Simple("placement", r.placer.run),
		lifecycle.Simple("subscribe", r.subscribing.run),
		lifecycle.Simple("commands", r.commanding.commander.Run),
		lifecycle.Simple("rest", r.serveREST),
		lifecycle.Part{Name: "door", Run: func(ctx context.Context, started func()) error {
			started()
			return r.accept(ctx)
		}},
	)
}

// accept serves the listeners, and ends what is passed on with ctx.
func (r *Router) accept(ctx context.Context) error {
	if !r.placer.awaitReady(ctx) {
		return nil
	}
	if err := r.listeners.Serve(ctx, r.serve); err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	return nil
}
