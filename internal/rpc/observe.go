package rpc

import (
	"context"
	"fmt"
	"log/slog"
	"runtime/debug"

	grpcprom "github.com/grpc-ecosystem/go-grpc-middleware/providers/prometheus"
	"github.com/grpc-ecosystem/go-grpc-middleware/v2/interceptors"
	"github.com/grpc-ecosystem/go-grpc-middleware/v2/interceptors/logging"
	"github.com/grpc-ecosystem/go-grpc-middleware/v2/interceptors/recovery"
	"github.com/grpc-ecosystem/go-grpc-middleware/v2/interceptors/selector"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// observer makes the interceptors of a server. Recovery is the innermost: a panic counts and is logged as the
// Internal error that the peer gets. The guard of a public server stands before it: what it refuses counts and is logged.
type observer struct {
	guard   *guard // nil: the server is not public
	logger  *slog.Logger
	metrics *grpcprom.ServerMetrics
	panics  prometheus.Counter
}

func newObserver(deps ServerDeps) (*observer, error) {
	o := &observer{
		logger: deps.Logger,
		metrics: grpcprom.NewServerMetrics(
			grpcprom.WithServerCounterOptions(grpcprom.WithNamespace("beeline")),
			grpcprom.WithServerHandlingTimeHistogram(grpcprom.WithHistogramNamespace("beeline")),
		),
		panics: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "beeline_rpc_panics_total",
			Help: "Calls that ended in a panic.",
		}),
	}
	for _, c := range []prometheus.Collector{o.metrics, o.panics} {
		if err := deps.Metrics.Register(c); err != nil {
			return nil, fmt.Errorf("register metrics: %w", err)
		}
	}
	return o, nil
}

func (o *observer) unary() []grpc.UnaryServerInterceptor {
	return []grpc.UnaryServerInterceptor{
		o.metrics.UnaryServerInterceptor(),
		logging.UnaryServerInterceptor(o.calls(), o.logOptions()...),
		o.guard.unary,
		recovery.UnaryServerInterceptor(recovery.WithRecoveryHandlerContext(o.recovered)),
	}
}

func (o *observer) stream() []grpc.StreamServerInterceptor {
	// These two would cost something on every message of a stream. Streams that go both ways carry the traffic
	// of the cluster, and their owners have their own metrics and logs.
	oneWay := selector.MatchFunc(func(_ context.Context, call interceptors.CallMeta) bool {
		return call.Typ != interceptors.BidiStream
	})
	return []grpc.StreamServerInterceptor{
		selector.StreamServerInterceptor(o.metrics.StreamServerInterceptor(), oneWay),
		selector.StreamServerInterceptor(logging.StreamServerInterceptor(o.calls(), o.logOptions()...), oneWay),
		o.guard.stream,
		recovery.StreamServerInterceptor(recovery.WithRecoveryHandlerContext(o.recovered)),
	}
}

// calls hands the lines about calls to the logger.
func (o *observer) calls() logging.Logger {
	return logging.LoggerFunc(func(ctx context.Context, level logging.Level, msg string, fields ...any) {
		o.logger.Log(ctx, slog.Level(level), msg, fields...) //nolint:sloglint // the interceptor's messages are static
	})
}

// logOptions: one line when a call ends, without what was said in it.
func (o *observer) logOptions() []logging.Option {
	return []logging.Option{
		logging.WithLogOnEvents(logging.FinishCall),
		logging.WithLevels(levelOf),
		logging.WithDisableLoggingFields(logging.ComponentFieldKey, logging.MethodTypeFieldKey, logging.SystemTag[0]),
	}
}

// levelOf makes errors of the faults of this server. All else is what clients ask for and what services answer
// in the course of things.
func levelOf(code codes.Code) logging.Level {
	switch code {
	case codes.Internal, codes.Unknown, codes.DataLoss:
		return logging.LevelError
	default:
		return logging.LevelDebug
	}
}

// recovered logs a panic and tells the peer no more than that something went wrong.
func (o *observer) recovered(ctx context.Context, p any) error {
	o.panics.Inc()
	o.logger.ErrorContext(ctx, "panic in a call", slog.Any("error", p), slog.String("stack", string(debug.Stack())))
	return status.Error(codes.Internal, "internal error")
}
