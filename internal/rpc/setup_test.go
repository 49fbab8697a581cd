package rpc

import (
	"bytes"
	"context"
	"log/slog"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/beeline-mqtt/beeline/internal/lifecycle"
	"github.com/beeline-mqtt/beeline/internal/pki"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// service is a gRPC service of which tests write the methods.
type service struct {
	call   func(ctx context.Context) error              // unary
	stream func(s grpc.ServerStream) error              // both ways
	echo   func(in *wrapperspb.BytesValue) (out []byte) // unary
}

const (
	callMethod   = "/beeline.test.v1.TestService/Call"
	echoMethod   = "/beeline.test.v1.TestService/Echo"
	streamMethod = "/beeline.test.v1.TestService/Stream"
)

// unaryHandler makes a grpc handler of a function.
func unaryHandler[In any](method string, handle func(s *service, ctx context.Context, in *In) (any, error)) grpc.MethodHandler {
	return func(srv any, ctx context.Context, decode func(any) error, intercept grpc.UnaryServerInterceptor) (any, error) {
		in := new(In)
		if err := decode(in); err != nil {
			return nil, err
		}
		return intercept(ctx, in, &grpc.UnaryServerInfo{Server: srv, FullMethod: method}, func(ctx context.Context, req any) (any, error) {
			return handle(srv.(*service), ctx, req.(*In))
		})
	}
}

func (s *service) desc() *grpc.ServiceDesc {
	return &grpc.ServiceDesc{
		ServiceName: "beeline.test.v1.TestService",
		HandlerType: (*any)(nil),
		Methods: []grpc.MethodDesc{
			{MethodName: "Call", Handler: unaryHandler(callMethod, func(s *service, ctx context.Context, _ *emptypb.Empty) (any, error) {
				return &emptypb.Empty{}, s.call(ctx)
			})},
			{MethodName: "Echo", Handler: unaryHandler(echoMethod, func(s *service, _ context.Context, in *wrapperspb.BytesValue) (any, error) {
				return wrapperspb.Bytes(s.echo(in)), nil
			})},
		},
		Streams: []grpc.StreamDesc{{
			StreamName: "Stream", ServerStreams: true, ClientStreams: true,
			Handler: func(srv any, stream grpc.ServerStream) error { return srv.(*service).stream(stream) },
		}},
	}
}

// buffer is a log that several goroutines write to.
type buffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// server is a running server.
type server struct {
	address string
	log     buffer
	metrics *prometheus.Registry
	stop    func() error // tells the server to stop and returns what its part returned; once
}

// serve runs a server with svc until the test ends.
func serve(t *testing.T, cfg Config, svc *service) *server {
	t.Helper()
	running := &server{metrics: prometheus.NewRegistry()}
	deps := ServerDeps{
		Logger:  slog.New(slog.NewTextHandler(&running.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
		Metrics: running.metrics,
	}
	s, err := NewServer(cfg, deps)
	if err != nil {
		t.Fatal(err)
	}
	s.RegisterService(svc.desc(), svc)
	l, err := Listen(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	running.address = l.Addr().String()
	running.stop = start(t, s, l)
	return running
}

// start runs the part of s, and returns what stops it.
func start(t *testing.T, s *Server, l net.Listener) (stop func() error) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	ended := make(chan error, 1)
	up := make(chan struct{})
	go func() {
		ended <- lifecycle.Run(ctx, time.Minute, s.Part(l), lifecycle.Simple("up", func(ctx context.Context) error {
			close(up)
			<-ctx.Done()
			return nil
		}))
	}()
	<-up
	stop = sync.OnceValue(func() error {
		cancel()
		return <-ended
	})
	t.Cleanup(func() {
		if err := stop(); err != nil {
			t.Errorf("the server ended with %v", err)
		}
	})
	return stop
}

// dial connects to address until the test ends.
func dial(t *testing.T, cfg Config, address string, opts ...grpc.DialOption) *grpc.ClientConn {
	t.Helper()
	d, err := NewDialer(cfg, opts...)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := d.Dial(address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// call calls the unary method.
func call(t *testing.T, conn *grpc.ClientConn, opts ...grpc.CallOption) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	return conn.Invoke(ctx, callMethod, &emptypb.Empty{}, &emptypb.Empty{}, opts...)
}

// openStream opens the stream both ways and waits for the first message of the server.
func openStream(t *testing.T, conn *grpc.ClientConn) grpc.ClientStream {
	t.Helper()
	stream, err := conn.NewStream(t.Context(), &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, streamMethod)
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.RecvMsg(&emptypb.Empty{}); err != nil {
		t.Fatal(err)
	}
	return stream
}

func insecureConfig() Config {
	cfg := DefaultConfig()
	cfg.TLS.Insecure = true
	return cfg
}

// certified makes the configuration of a service with a certificate of ca.
func certified(t *testing.T, ca *pki.CA, r pki.Request) Config {
	t.Helper()
	files, err := ca.Issue(r)
	if err != nil {
		t.Fatal(err)
	}
	cfg := DefaultConfig()
	cfg.TLS = TLSConfig{CertFile: files.Cert, KeyFile: files.Key, CAFile: files.CA}
	return cfg
}

func authority(t *testing.T) *pki.CA {
	t.Helper()
	ca, err := pki.Open(t.TempDir(), time.Now)
	if err != nil {
		t.Fatal(err)
	}
	return ca
}
