package rpc

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/reflection"

	"github.com/beeline-mqtt/beeline/internal/lifecycle"
	"github.com/beeline-mqtt/beeline/internal/tcp"
)

// ServerDeps are what a server reports to.
type ServerDeps struct {
	Logger  *slog.Logger
	Metrics prometheus.Registerer
	// Public makes it a server for others than services, too: a caller may have no certificate, and the server's guard decides
	// about each call.
	Public bool
}

// Server is a gRPC server with the health and reflection services.
type Server struct {
	server *grpc.Server
	health *health.Server
	logger *slog.Logger
	guard  *guard
	within *within
	cfg    Config
}

var _ grpc.ServiceRegistrar = (*Server)(nil)

// NewServer makes a server. Services are registered before its part runs. opts come after the server's own, so
// they win where only one can.
func NewServer(cfg Config, deps ServerDeps, opts ...grpc.ServerOption) (*Server, error) {
	creds, err := cfg.TLS.credentials(deps.Public)
	if err != nil {
		return nil, fmt.Errorf("make gRPC server: %w", err)
	}
	watch, err := newObserver(deps)
	if err != nil {
		return nil, fmt.Errorf("make gRPC server: %w", err)
	}
	if deps.Public {
		watch.guard = new(guard)
	}
	own := []grpc.ServerOption{
		grpc.Creds(withinCredentials{TransportCredentials: creds, trusted: cfg.TLS.Insecure}),
		grpc.ConnectionTimeout(handshakeTimeout),
		grpc.StaticStreamWindowSize(window),
		grpc.StaticConnWindowSize(window),
		grpc.MaxRecvMsgSize(int(cfg.MaxMessageSize)),
		grpc.MaxSendMsgSize(int(cfg.MaxMessageSize)),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: pingAfter, Timeout: pingTimeout}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: pingMin, PermitWithoutStream: true}),
		grpc.WaitForHandlers(true),
		grpc.ChainUnaryInterceptor(watch.unary()...),
		grpc.ChainStreamInterceptor(watch.stream()...),
	}
	s := &Server{
		server: grpc.NewServer(append(own, opts...)...),
		health: health.NewServer(),
		logger: deps.Logger,
		guard:  watch.guard,
		within: newWithin(),
		cfg:    cfg,
	}
	healthv1.RegisterHealthServer(s.server, s.health)
	reflection.Register(s.server)
	return s, nil
}

// RegisterService registers a service; see grpc.ServiceRegistrar.
func (s *Server) RegisterService(desc *grpc.ServiceDesc, impl any) {
	s.server.RegisterService(desc, impl)
}

// Part serves on l, which it closes. When it is told to stop, the health service says NOT_SERVING, no call is
// accepted any more, and calls under way may end within the grace; then they are cut off. Streams that live as
// long as their clients are to be ended by parts that stop before this one, or they take all of the grace.
func (s *Server) Part(l net.Listener) lifecycle.Part {
	return lifecycle.Part{Name: "rpc server", Run: func(ctx context.Context, started func()) error {
		if s.cfg.TLS.Insecure {
			s.logger.WarnContext(ctx, "services talk without TLS: whoever reaches the port is trusted", slog.String("address", l.Addr().String()))
		}
		served := make(chan error, 2)
		go func() { served <- s.server.Serve(tcp.Listener{Listener: l}) }()
		go func() { served <- s.server.Serve(s.within) }()
		started()
		var failed error
		left := cap(served)
		select {
		case failed = <-served:
			left--
		case <-ctx.Done():
		}
		s.health.Shutdown()
		s.stop()
		for range left {
			if err := <-served; err != nil && !errors.Is(err, grpc.ErrServerStopped) {
				failed = errors.Join(failed, err)
			}
		}
		if failed != nil {
			return fmt.Errorf("serve: %w", failed)
		}
		return nil
	}}
}

func (s *Server) stop() {
	graceful := make(chan struct{})
	go func() {
		defer close(graceful)
		s.server.GracefulStop()
	}()
	grace := time.NewTimer(s.cfg.StopGrace)
	defer grace.Stop()
	select {
	case <-graceful:
	case <-grace.C:
		s.server.Stop()
		<-graceful
	}
}
