package telemetry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/beeline-mqtt/beeline/internal/config"
	"github.com/beeline-mqtt/beeline/internal/lifecycle"
)

const (
	// headerTimeout is how long a client may take over the head of a request.
	headerTimeout = 5 * time.Second
	// stopTimeout is how long requests under way may take when the server stops.
	stopTimeout = 2 * time.Second
)

// AdminConfig configures the admin HTTP server.
type AdminConfig struct {
	// Address is host:port; empty means no admin server.
	Address string `koanf:"address" help:"host:port of the admin HTTP server; empty for none"`
	// Pprof enables /debug/pprof, which shows what is in memory to whoever reaches the address.
	Pprof bool `koanf:"pprof" help:"serve /debug/pprof"`
}

// Validate checks the address.
func (c AdminConfig) Validate() error {
	if c.Address == "" {
		return nil
	}
	if _, _, err := net.SplitHostPort(c.Address); err != nil {
		return config.Invalid("address", "is not host:port: %w", err)
	}
	return nil
}

// AdminDeps are what the admin server shows.
type AdminDeps struct {
	Logger    *slog.Logger
	Metrics   prometheus.Gatherer
	Readiness *lifecycle.Readiness
}

// Admin is the admin HTTP server:
//
//	/healthz       200 while the process runs
//	/readyz        200, or 503 with a line for each condition that is not met
//	/metrics       in the format of Prometheus
//	/debug/pprof/  profiles, when enabled
type Admin struct {
	cfg  AdminConfig
	deps AdminDeps
	addr atomic.Pointer[string]
	more map[string]http.Handler
}

// NewAdmin makes the server. Nothing listens before its part runs.
func NewAdmin(cfg AdminConfig, deps AdminDeps) *Admin {
	return &Admin{cfg: cfg, deps: deps, more: map[string]http.Handler{}}
}

// Handle adds a handler for a pattern of http.ServeMux, before the part runs. Web pages of other origins cannot call it.
func (a *Admin) Handle(pattern string, h http.Handler) {
	a.more[pattern] = http.NewCrossOriginProtection().Handler(h)
}

// Addr is the address on which the server listens; empty before its part has started and when there is none.
func (a *Admin) Addr() string {
	if addr := a.addr.Load(); addr != nil {
		return *addr
	}
	return ""
}

// Part runs the server. It has started when the address is bound. As the first part of a process it answers
// until all others have stopped.
func (a *Admin) Part() lifecycle.Part {
	return lifecycle.Part{Name: "admin server", Run: a.run}
}

func (a *Admin) run(ctx context.Context, started func()) error {
	if a.cfg.Address == "" {
		started()
		<-ctx.Done()
		return nil
	}
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", a.cfg.Address)
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	addr := listener.Addr().String()
	a.addr.Store(&addr)
	server := &http.Server{
		Handler:           a.handler(),
		ReadHeaderTimeout: headerTimeout,
		ErrorLog:          slog.NewLogLogger(a.deps.Logger.Handler(), slog.LevelDebug),
	}
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(listener) }()
	a.deps.Logger.InfoContext(ctx, "admin server listens", slog.String("address", addr))
	started()
	select {
	case err := <-failed:
		return fmt.Errorf("serve: %w", err)
	case <-ctx.Done():
	}
	stopCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
	defer cancel()
	if err = server.Shutdown(stopCtx); err != nil {
		err = server.Close() // a profile under way is no reason to wait
	}
	if ended := <-failed; !errors.Is(ended, http.ErrServerClosed) {
		err = errors.Join(err, ended)
	}
	return err
}

func (a *Admin) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { answer(w, http.StatusOK, "ok\n") })
	mux.HandleFunc("GET /readyz", a.readyz)
	mux.Handle("GET /metrics", promhttp.HandlerFor(a.deps.Metrics, promhttp.HandlerOpts{
		ErrorLog: slog.NewLogLogger(a.deps.Logger.Handler(), slog.LevelError),
	}))
	for pattern, h := range a.more {
		mux.Handle(pattern, h)
	}
	if a.cfg.Pprof {
		mux.HandleFunc("GET /debug/pprof/", pprof.Index)
		mux.HandleFunc("GET /debug/pprof/cmdline", pprof.Cmdline)
		mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
		mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
		mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	}
	return mux
}

func (a *Admin) readyz(w http.ResponseWriter, _ *http.Request) {
	reasons := a.deps.Readiness.NotReady()
	if len(reasons) == 0 {
		answer(w, http.StatusOK, "ready\n")
		return
	}
	text := "not ready\n"
	for _, r := range reasons {
		text += r.String() + "\n"
	}
	answer(w, http.StatusServiceUnavailable, text)
}

func answer(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	// Who asked may be gone; there is nobody to tell.
	_, _ = io.WriteString(w, text)
}
