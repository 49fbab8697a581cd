// Package gateway is the service that ends MQTT: it owns the sockets and live sessions of its clients and
// passes their messages to the other gateways. It keeps nothing that must survive it.
//
// A Gateway lives one incarnation after the other. An incarnation has a random id, one key in etcd, one mesh,
// one broker; when its lease is lost, all of it ends, its clients too, and the next begins from nothing. Only
// the listening sockets stay. Between incarnations clients are told to come back later.
package gateway

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"

	gatewayv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/gateway/v1"
	meshv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/mesh/v1"
	"github.com/beeline-mqtt/beeline/internal/cluster"
	"github.com/beeline-mqtt/beeline/internal/lifecycle"
	"github.com/beeline-mqtt/beeline/internal/listener"
	"github.com/beeline-mqtt/beeline/internal/mesh"
	"github.com/beeline-mqtt/beeline/internal/trace"
	"github.com/beeline-mqtt/beeline/services/gateway/internal/auth"
	"github.com/beeline-mqtt/beeline/services/gateway/internal/client"
)

// Deps are what a gateway works with.
type Deps struct {
	Etcd *clientv3.Client
	// Dial connects to the gRPC server of another process.
	Dial func(address string) (*grpc.ClientConn, error)
	// Authenticate and Authorize decide about clients; nil leaves it to Config.Auth, which refuses all of them, and permits all
	// that is asked, when it has no methods.
	Authenticate auth.Authenticate
	Authorize    auth.Authorize
	Metrics      prometheus.Registerer
	Logger       *slog.Logger
}

// AllowAnonymous lets every client in and permits everything. It is for laptops and closed networks.
func AllowAnonymous(d *Deps) {
	d.Authenticate, d.Authorize = auth.AllowAnonymous, auth.AllowAll
}

// Gateway is one gateway process, or one of several in a process.
type Gateway struct {
	cfg       Config
	deps      Deps
	listeners listener.Set
	metrics   metrics
	guard     *auth.Guard // nil: nobody has to be run
	door      mesh.Door
	life      atomic.Pointer[life]
	missing   atomic.Pointer[string] // why there is no life
	drainer   *drainer
	shown     atomic.Bool   // etcd shows that it drains
	turns     atomic.Uint64 // clients that were told where to go
	tap       *trace.Tap
	lost      *cluster.Incarnation // the last one, when it was lost; of the goroutine that lives
	closed    client.Deps          // for connections that come while there is no incarnation
	tunnels   tunnels
}

// New makes a gateway and binds its listeners. Nobody is accepted before Run.
func New(cfg Config, deps Deps) (*Gateway, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if err := cfg.Limits.Validate(); err != nil {
		return nil, fmt.Errorf("limits.%w", err)
	}
	if err := cfg.Drain.Validate(); err != nil {
		return nil, fmt.Errorf("drain.%w", err)
	}
	guard, err := newGuard(cfg.Auth, &deps)
	if err != nil {
		return nil, err
	}
	g := &Gateway{cfg: cfg, deps: deps, guard: guard, drainer: newDrainer(cfg.Drain), tap: trace.New()}
	if g.listeners, err = listener.ListenAll(cfg.Listeners, cfg.MaxConnections, deps.Logger); err != nil {
		return nil, err
	}
	g.metrics = newMetrics(deps.Metrics)
	g.tunnels.serve = g.serveTunnel
	for _, l := range g.listeners {
		l.OnRefusal(func(why listener.Refusal) { g.metrics.clients.Refused(string(why)) })
	}
	g.closed = client.Deps{
		Authenticate: deps.Authenticate, Authorize: deps.Authorize, Metrics: g.metrics.clients, Logger: deps.Logger,
		Serving:   func() bool { return true },
		Available: func() bool { return false },
	}
	return g, nil
}

// newGuard makes who decides about clients, as far as deps leave it to cfg; nil when that is nobody.
func newGuard(cfg AuthConfig, deps *Deps) (*auth.Guard, error) {
	if deps.Authenticate == nil && cfg.Enabled() {
		g, err := auth.New(cfg, auth.Deps{Logger: deps.Logger, Metrics: deps.Metrics, Now: time.Now})
		if err != nil {
			return nil, err
		}
		deps.Authenticate, deps.Authorize = g.Authenticate, g.Authorize
		return g, nil
	}
	if deps.Authenticate == nil {
		deps.Authenticate = auth.RefuseAll
	}
	if deps.Authorize == nil {
		deps.Authorize = auth.AllowAll
	}
	return nil, nil
}

// Register adds the gateway's gRPC services to the process's server.
func (g *Gateway) Register(s grpc.ServiceRegistrar) {
	meshv1.RegisterMeshServiceServer(s, &g.door)
	gatewayv1.RegisterDrainServiceServer(s, &drainService{gateway: g})
	gatewayv1.RegisterTunnelServiceServer(s, &g.tunnels)
	gatewayv1.RegisterInspectServiceServer(s, &inspector{gateway: g})
	trace.Register(s, g.tap)
	gatewayv1.RegisterPublishServiceServer(s, &publisher{gateway: g})
}

// Addr returns the address of a listener by its name, nil when there is none.
func (g *Gateway) Addr(name string) net.Addr { return g.listeners.Addr(name) }

// forRouters is where routers reach the gateway, whose gRPC server has an address, and whether it takes PROXY headers there:
// the first listener that speaks plain MQTT over TCP and takes them, or else the first one. Empty: there is none.
func (g *Gateway) forRouters(address string) (mqtt string, proxy bool) {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return g.cfg.RouterAddress, false
	}
	for i, l := range g.listeners {
		_, port, err := net.SplitHostPort(l.Addr().String())
		if err != nil || l.TLS() || l.WebSocket() {
			continue
		}
		takes := len(g.cfg.Listeners[i].ProxyFrom) > 0
		if mqtt == "" || takes && !proxy {
			mqtt, proxy = net.JoinHostPort(host, port), takes
		}
	}
	return cmp.Or(g.cfg.RouterAddress, mqtt), proxy
}

// Ready says what keeps this gateway from taking new clients; nil when nothing does.
func (g *Gateway) Ready() error {
	l := g.life.Load()
	switch {
	case l == nil && g.missing.Load() == nil:
		return errors.New("not started")
	case l == nil:
		return errors.New(*g.missing.Load())
	case g.drainer.draining():
		return errors.New("draining")
	case !l.deps.Available():
		return errors.New("the session service cannot be reached")
	}
	return nil
}

func (g *Gateway) notReady(why string) { g.missing.Store(&why) }

// Run accepts clients and lives incarnation after incarnation until ctx ends. address is where other processes
// reach this one's gRPC server. On the way out it is drained, which takes Config.Drain.Timeout at most, the clients that
// are left are told, leases given up and peers bidden goodbye.
func (g *Gateway) Run(ctx context.Context, address string) error {
	defer g.tap.Close()
	accepting, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	var serving sync.WaitGroup
	serving.Go(func() { g.moveClients(accepting) })
	if g.guard != nil {
		serving.Go(func() { g.guard.Run(accepting) })
	}
	serving.Go(func() {
		defer stop()
		select {
		case <-ctx.Done():
			g.leave(accepting)
		case <-accepting.Done():
		}
	})
	var listenErr error
	serving.Go(func() {
		defer stop()
		listenErr = g.listeners.Serve(accepting, g.serve)
	})
	err := g.live(accepting, address)
	stop()
	serving.Wait()
	return errors.Join(listenErr, err)
}

// incarnationPause is how long a gateway waits before it tries to join again after it could not.
const incarnationPause = 500 * time.Millisecond

// live runs incarnations until ctx ends.
func (g *Gateway) live(ctx context.Context, address string) error {
	for ctx.Err() == nil {
		err := g.incarnate(ctx, address)
		switch {
		case ctx.Err() != nil:
			return err
		case err != nil:
			g.deps.Logger.WarnContext(ctx, "incarnation ended; a new one begins", slog.Any("error", err))
		}
		lifecycle.Pause(ctx, incarnationPause)
	}
	return nil
}

// serve handles one connection in the incarnation that is in force.
func (g *Gateway) serve(ctx context.Context, nc net.Conn, name string) {
	if l := g.life.Load(); l != nil && l.serve(nc, name) {
		return
	}
	client.Serve(ctx, nc, name, &g.cfg.Limits, &g.closed)
}
