// Package etcd runs one member of etcd inside this process, for a cluster on one machine and for tests. It
// owns the configuration of that member and its end; what is kept in it belongs to internal/cluster, which
// reaches it like any other etcd, over its client address.
//
// A Server is closed once by its owner; Close may be called again and does nothing then.
package etcd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"
	"google.golang.org/grpc"
)

// Config says where the member keeps its data and where it listens. Dir is required.
type Config struct {
	// Dir keeps the data. A member that is started again on it goes on with what it had.
	Dir string
	// Address is host:port for clients, plain text: loopback only. Empty means a free port of 127.0.0.1.
	Address string
	// Unsynced leaves out the flush of every write. What a crash of the machine loses then may have been
	// acknowledged.
	Unsynced bool
	// Tick is the heartbeat; an election takes ten. Zero means 100 ms. Leases live at least 15 ticks, in whole
	// seconds.
	Tick time.Duration
	// Logger gets etcd's errors; nil: they are not logged.
	Logger *slog.Logger
}

// Server is a running member.
type Server struct {
	etcd    *embed.Etcd
	close   sync.Once
	closing atomic.Bool

	mu   sync.Mutex
	grpc []*grpc.Server // guarded by mu: etcd adds them on goroutines of its own
}

// Start runs the member and returns when it serves. The context bounds the start only.
func Start(ctx context.Context, c Config) (*Server, error) {
	if c.Address == "" {
		c.Address = "127.0.0.1:0"
	}
	host, _, err := net.SplitHostPort(c.Address)
	if err != nil {
		return nil, fmt.Errorf("read etcd address: %w", err)
	}
	if ip := net.ParseIP(host); host != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return nil, fmt.Errorf("etcd address %s is not on loopback, and this etcd has no access control", c.Address)
	}
	s := &Server{}
	e, err := embed.StartEtcd(s.config(c))
	if err != nil {
		return nil, fmt.Errorf("start etcd in %s: %w", c.Dir, err)
	}
	s.etcd = e
	select {
	case <-e.Server.ReadyNotify():
		return s, nil
	case err := <-e.Err():
		s.Close()
		return nil, fmt.Errorf("start etcd in %s: %w", c.Dir, err)
	case <-ctx.Done():
		s.Close()
		return nil, fmt.Errorf("start etcd in %s: %w", c.Dir, context.Cause(ctx))
	}
}

func (s *Server) config(c Config) *embed.Config {
	cfg := embed.NewConfig()
	cfg.Dir = c.Dir
	cfg.ZapLoggerBuilder = embed.NewZapLoggerBuilder(zap.New(slogCore{logger: c.Logger, closing: &s.closing}))
	cfg.UnsafeNoFsync = c.Unsynced
	if c.Tick > 0 {
		cfg.TickMs = uint(c.Tick.Milliseconds())
		cfg.ElectionMs = 10 * cfg.TickMs
	}
	cfg.EnableGRPCGateway = false
	cfg.AutoCompactionMode = embed.CompactorModePeriodic
	cfg.AutoCompactionRetention = "10m"
	client, peer := url.URL{Scheme: "http", Host: c.Address}, url.URL{Scheme: "http", Host: "127.0.0.1:0"}
	cfg.ListenClientUrls, cfg.AdvertiseClientUrls = []url.URL{client}, []url.URL{client}
	cfg.ListenPeerUrls, cfg.AdvertisePeerUrls = []url.URL{peer}, []url.URL{peer}
	cfg.InitialCluster = cfg.InitialClusterFromName(cfg.Name)
	cfg.ServiceRegister = func(g *grpc.Server) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.grpc = append(s.grpc, g)
	}
	return cfg
}

// Address is host:port for clients.
func (s *Server) Address() string { return s.etcd.Clients[0].Addr().String() }

// Err receives the error that ends the member by itself.
func (s *Server) Err() <-chan error { return s.etcd.Err() }

// Close stops the member and waits for its end.
func (s *Server) Close() {
	s.close.Do(func() {
		s.closing.Store(true)
		// etcd itself would wait seconds for its clients' watches to end.
		s.mu.Lock()
		serving := s.grpc
		s.mu.Unlock()
		for _, g := range serving {
			g.Stop()
		}
		s.etcd.Close()
	})
}

// Run closes the member when the context is done and returns nil then; or the error that ended it before.
func (s *Server) Run(ctx context.Context) error {
	defer s.Close()
	select {
	case <-ctx.Done():
		return nil
	case err, ok := <-s.etcd.Err():
		if !ok {
			return errors.New("etcd ended")
		}
		return fmt.Errorf("run etcd: %w", err)
	}
}
