// Package local runs a whole cluster in one process on one machine: an embedded etcd, a session service and any
// number of gateways, each with its own gRPC and admin servers on loopback, and mutual TLS between them by a
// certificate authority of its own. It is the same code as in separate processes, put together differently.
package local

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"google.golang.org/grpc"

	"github.com/beeline-mqtt/beeline/internal/etcd"
	"github.com/beeline-mqtt/beeline/internal/lifecycle"
	"github.com/beeline-mqtt/beeline/internal/mesh"
	"github.com/beeline-mqtt/beeline/internal/node"
	"github.com/beeline-mqtt/beeline/internal/pki"
	"github.com/beeline-mqtt/beeline/internal/rpc"
	"github.com/beeline-mqtt/beeline/internal/telemetry"
	"github.com/beeline-mqtt/beeline/services/gateway"
	"github.com/beeline-mqtt/beeline/services/session"
)

// Config says what the cluster looks like.
type Config struct {
	// Dir keeps etcd's data, the session service's and the certificates.
	Dir string
	// Gateways is how many there are at the start.
	Gateways int
	// FirstPort is the MQTT port of the first gateway, the others follow; 0 takes free ports.
	FirstPort int
	// Router is in front of the gateways; nil: none is.
	Router *RouterPorts
	// Unsynced leaves out etcd's flushes, for tests.
	Unsynced bool
	// Log gets the log lines of all services.
	Log      io.Writer
	LogLevel telemetry.LogConfig
	// Pprof has the admin servers serve profiles.
	Pprof bool
	// Gateway, when not nil, changes a gateway's configuration before it is made.
	Gateway func(i int, c *gateway.Config)
	// Session, when not nil, changes the session service's.
	Session func(c *session.Config)
	// Dial, when not nil, adds options to the connections of gateway i to its peers.
	Dial func(i int) []grpc.DialOption
}

// RouterPorts are where devices reach the router, and services its REST API; 0 takes a free one.
type RouterPorts struct{ MQTT, MQTTS, WebSocket, REST int }

// Cluster is a running cluster. Its methods are safe for concurrent use.
type Cluster struct {
	cfg  Config
	ca   *pki.CA
	etcd *etcd.Server

	mu       sync.Mutex
	sessions []*Process
	gateways []*Gateway
	router   *Router // nil: none
	made     int
	failed   chan error
	watching sync.WaitGroup // of etcd
}

// Process is one service of the cluster.
type Process struct {
	Node *node.Node
	stop context.CancelFunc
	done chan struct{}
	err  error
}

// Gateway is one gateway of the cluster.
type Gateway struct {
	*Process
	Service *gateway.Gateway
}

// Stop ends the service in order and waits for it.
func (p *Process) Stop() error {
	p.stop()
	<-p.done
	return p.err
}

// ErrNotReady says that a service did not become ready in time.
var ErrNotReady = errors.New("not ready in time")

// startTimeout bounds the start of one service.
const startTimeout = 60 * time.Second

// Start starts everything and returns when all gateways take clients.
func Start(ctx context.Context, cfg Config) (*Cluster, error) {
	c := &Cluster{cfg: cfg, failed: make(chan error, 1)}
	var err error
	if c.ca, err = pki.Open(filepath.Join(cfg.Dir, "pki"), time.Now); err != nil {
		return nil, fmt.Errorf("certificate authority: %w", err)
	}
	c.etcd, err = etcd.Start(ctx, etcd.Config{Dir: filepath.Join(cfg.Dir, "etcd"), Unsynced: cfg.Unsynced})
	if err != nil {
		return nil, fmt.Errorf("etcd: %w", err)
	}
	c.watching.Go(func() {
		if err, ended := <-c.etcd.Err(); ended {
			c.fail(fmt.Errorf("etcd: %w", err))
		}
	})
	if err := c.startAll(ctx); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

// fail tells of a part of the cluster that has ended by itself.
func (c *Cluster) fail(err error) {
	select {
	case c.failed <- err:
	default: // one failure is enough to know
	}
}

func (c *Cluster) startAll(ctx context.Context) error {
	if _, err := c.AddSession(ctx); err != nil {
		return err
	}
	for range c.cfg.Gateways {
		if _, err := c.AddGateway(ctx); err != nil {
			return err
		}
	}
	if c.cfg.Router == nil {
		return nil
	}
	r, err := c.startRouter(ctx, *c.cfg.Router)
	c.mu.Lock()
	c.router = r
	c.mu.Unlock()
	return err
}

// Close stops everything, the router and the gateways first.
func (c *Cluster) Close() error {
	c.mu.Lock()
	gateways, sessions, front := c.gateways, c.sessions, c.router
	c.gateways, c.sessions, c.router = nil, nil, nil
	c.mu.Unlock()
	var err error
	if front != nil {
		err = front.Stop()
	}
	errs := make([]error, len(gateways))
	var wg sync.WaitGroup
	for i, g := range gateways {
		wg.Go(func() { errs[i] = g.Stop() })
	}
	wg.Wait()
	err = errors.Join(err, errors.Join(errs...))
	for _, s := range sessions {
		err = errors.Join(err, s.Stop())
	}
	c.etcd.Close()
	c.watching.Wait()
	return err
}

// Failed gets the error of a service that ended by itself.
func (c *Cluster) Failed() <-chan error { return c.failed }

// Gateways returns the gateways in the order in which they were added.
func (c *Cluster) Gateways() []*Gateway {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]*Gateway(nil), c.gateways...)
}

// Sessions returns the session services.
func (c *Cluster) Sessions() []*Process {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]*Process(nil), c.sessions...)
}

// Etcd is host:port of etcd.
func (c *Cluster) Etcd() string { return c.etcd.Address() }

// CAFile is the certificate authority of everything in the cluster, the MQTT listeners included.
func (c *Cluster) CAFile() string { return filepath.Join(c.cfg.Dir, "pki", "ca.crt") }

// CA issues further certificates.
func (c *Cluster) CA() *pki.CA { return c.ca }

// Store is the configuration of the session services in a directory, of which all have the same store: one that takes
// another's place takes over what that one has stored.
func Store(dir string) session.Config {
	c := session.DefaultConfig()
	c.Data = filepath.Join(dir, "session")
	return c
}

// AddSession starts a session service and waits until it is ready: active, or a standby if there is one already.
func (c *Cluster) AddSession(ctx context.Context) (*Process, error) {
	n, err := c.node(ctx, "session", node.Options{Server: mesh.ServerOptions(), Dial: mesh.DialOptions()})
	if err != nil {
		return nil, err
	}
	cfg := Store(c.cfg.Dir)
	cfg.Address = n.Address()
	if c.cfg.Session != nil {
		c.cfg.Session(&cfg)
	}
	s, err := session.New(cfg, session.Deps{Etcd: n.Etcd, Logger: n.Logger, Metrics: n.Metrics, Dial: n.Dialer.Dial})
	if err != nil {
		return nil, errors.Join(err, n.Close())
	}
	s.Register(n.Server)
	n.Readiness.Add("session", s.Ready)
	n.Handle("POST "+session.BackupPath, s.BackupHandler())
	p := c.run(n, "session", s.Run)
	alone := len(c.Sessions()) == 0
	if err := c.waitReady(ctx, p, func() bool { return s.Active() || !alone }); err != nil {
		return nil, errors.Join(fmt.Errorf("session: %w", err), p.Stop())
	}
	c.mu.Lock()
	c.sessions = append(c.sessions, p)
	c.mu.Unlock()
	return p, nil
}

// AddGateway starts a gateway and waits until it takes clients.
func (c *Cluster) AddGateway(ctx context.Context) (*Gateway, error) {
	c.mu.Lock()
	i := c.made
	c.made++
	c.mu.Unlock()
	opts := node.Options{Server: mesh.ServerOptions(), Dial: mesh.DialOptions()}
	if c.cfg.Dial != nil {
		opts.Dial = append(opts.Dial, c.cfg.Dial(i)...)
	}
	n, err := c.node(ctx, "gateway", opts)
	if err != nil {
		return nil, err
	}
	g, err := c.gateway(n, i)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("gateway %d: %w", i+1, err), n.Close())
	}
	g.Register(n.Server)
	n.Readiness.Add("gateway", g.Ready)
	p := c.run(n, "gateway", func(ctx context.Context) error { return g.Run(ctx, n.Address()) })
	if err := c.waitReady(ctx, p, func() bool { return true }); err != nil {
		return nil, errors.Join(fmt.Errorf("gateway %d: %w", i+1, err), p.Stop())
	}
	added := &Gateway{Process: p, Service: g}
	c.mu.Lock()
	c.gateways = append(c.gateways, added)
	c.mu.Unlock()
	return added, nil
}

func (c *Cluster) gateway(n *node.Node, i int) (*gateway.Gateway, error) {
	tls, err := c.ca.Issue(pki.Request{Name: "mqtt"})
	if err != nil {
		return nil, fmt.Errorf("MQTT certificate: %w", err)
	}
	port := 0
	if c.cfg.FirstPort > 0 {
		port = c.cfg.FirstPort + i
	}
	cfg := gateway.DefaultConfig()
	cfg.Drain.Timeout = 0 // one process: all gateways end together
	cfg.Listeners = []gateway.Listener{
		{Name: "mqtt", Address: net.JoinHostPort("127.0.0.1", strconv.Itoa(port))},
		{Name: "mqtts", Address: "127.0.0.1:0", CertFile: tls.Cert, KeyFile: tls.Key},
		{Name: "ws", Address: "127.0.0.1:0", WebSocket: true},
	}
	if c.cfg.Router != nil {
		cfg.Listeners = append(cfg.Listeners, gateway.Listener{Name: "router", Address: "127.0.0.1:0", ProxyFrom: []string{"loopback"}})
	}
	if c.cfg.Gateway != nil {
		c.cfg.Gateway(i, &cfg)
	}
	deps := gateway.Deps{
		Etcd: n.Etcd, Dial: n.Dialer.Dial, Metrics: n.Metrics, Logger: n.Logger,
	}
	if !cfg.Auth.Enabled() {
		gateway.AllowAnonymous(&deps)
	}
	return gateway.New(cfg, deps)
}

// node makes what a service stands on, with a certificate for its role.
func (c *Cluster) node(ctx context.Context, role string, opts node.Options) (*node.Node, error) {
	cert, err := c.ca.Issue(pki.Request{Name: role, Role: role})
	if err != nil {
		return nil, fmt.Errorf("certificate of %s: %w", role, err)
	}
	cfg := node.DefaultConfig()
	cfg.Log = c.cfg.LogLevel
	cfg.Admin = telemetry.AdminConfig{Address: "127.0.0.1:0", Pprof: c.cfg.Pprof}
	cfg.Listen = "127.0.0.1:0"
	cfg.RPC.TLS = rpc.TLSConfig{CertFile: cert.Cert, KeyFile: cert.Key, CAFile: cert.CA}
	cfg.Etcd.Endpoints = []string{c.etcd.Address()}
	log := c.cfg.Log
	if log == nil {
		log = os.Stderr
	}
	return node.New(ctx, cfg, role, log, opts)
}

// run has a service run until it is stopped.
func (c *Cluster) run(n *node.Node, name string, f func(context.Context) error) *Process {
	ctx, stop := context.WithCancel(context.Background())
	p := &Process{Node: n, stop: stop, done: make(chan struct{})}
	go func() {
		defer close(p.done)
		p.err = n.Run(ctx, lifecycle.Simple(name, f))
		if ctx.Err() == nil {
			c.fail(fmt.Errorf("%s ended: %w", name, p.err))
		}
	}()
	return p
}

// waitReady returns when nothing keeps the process from being ready, and its service is what it is to be.
func (c *Cluster) waitReady(ctx context.Context, p *Process, is func() bool) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for {
		reasons := p.Node.Readiness.NotReady()
		if len(reasons) == 0 && is() {
			return nil
		}
		select {
		case <-tick.C:
		case <-p.done:
			return fmt.Errorf("%w: it ended: %w", ErrNotReady, p.err)
		case <-ctx.Done():
			return fmt.Errorf("%w: %v", ErrNotReady, reasons)
		}
	}
}
