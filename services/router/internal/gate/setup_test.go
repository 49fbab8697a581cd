package gate

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	reflectionv1 "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"

	adminv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/admin/v1"
	messagingv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/messaging/v1"
	"github.com/beeline-mqtt/beeline/internal/lifecycle"
	"github.com/beeline-mqtt/beeline/internal/pki"
	"github.com/beeline-mqtt/beeline/internal/rpc"
	"github.com/beeline-mqtt/beeline/services/router/internal/access"
	"github.com/beeline-mqtt/beeline/services/router/internal/tokens"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// services answer what tests ask for, and say who asked.
type services struct {
	messagingv1.UnimplementedMessagingServiceServer
	messagingv1.UnimplementedGroupServiceServer
	adminv1.UnimplementedAdminServiceServer

	mu  sync.Mutex
	who []access.Principal
}

func (s *services) seen(ctx context.Context) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.who = append(s.who, access.From(ctx))
}

func (s *services) callers() []access.Principal {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]access.Principal(nil), s.who...)
}

func (s *services) Publish(ctx context.Context, r *messagingv1.PublishRequest) (*messagingv1.PublishResponse, error) {
	s.seen(ctx)
	if r.GetMessage().GetTopic() == "panic" {
		panic("as the test wants it")
	}
	return &messagingv1.PublishResponse{Matched: true}, nil
}

func (s *services) PublishStream(stream grpc.BidiStreamingServer[messagingv1.PublishStreamRequest, messagingv1.PublishStreamResponse]) error {
	s.seen(stream.Context())
	for {
		r, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := stream.Send(&messagingv1.PublishStreamResponse{Results: make([]*messagingv1.PublishResult, len(r.GetMessages()))}); err != nil {
			return err
		}
	}
}

func (s *services) CommandStream(stream grpc.BidiStreamingServer[messagingv1.CommandStreamRequest, messagingv1.CommandStreamResponse]) error {
	for {
		r, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		answer := &messagingv1.CommandStreamResponse_Answer{Answer: &messagingv1.CommandResponse{}}
		if err := stream.Send(&messagingv1.CommandStreamResponse{RequestId: r.GetRequestId(), End: answer}); err != nil {
			return err
		}
	}
}

func (s *services) Subscribe(stream grpc.BidiStreamingServer[messagingv1.SubscribeRequest, messagingv1.SubscribeResponse]) error {
	if _, err := stream.Recv(); err != nil {
		return err
	}
	return stream.Send(&messagingv1.SubscribeResponse{Response: &messagingv1.SubscribeResponse_Opened_{Opened: &messagingv1.SubscribeResponse_Opened{}}})
}

func (s *services) WatchPresence(_ *messagingv1.WatchPresenceRequest, stream grpc.ServerStreamingServer[messagingv1.WatchPresenceResponse]) error {
	return stream.Send(&messagingv1.WatchPresenceResponse{Cursor: "1"})
}

func (s *services) ListClients(ctx context.Context, _ *adminv1.ListClientsRequest) (*adminv1.ListClientsResponse, error) {
	s.seen(ctx)
	return &adminv1.ListClientsResponse{}, nil
}

func (s *services) RemoveSession(_ context.Context, r *adminv1.RemoveSessionRequest) (*adminv1.RemoveSessionResponse, error) {
	if r.GetClientId() == "nobody" {
		return nil, status.Error(codes.NotFound, "no such client")
	}
	return &adminv1.RemoveSessionResponse{}, nil
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

func (b *buffer) lines(containing string) (found []string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for line := range strings.Lines(b.buf.String()) {
		if strings.Contains(line, containing) {
			found = append(found, line)
		}
	}
	return found
}

// rig is a public server behind a Gate.
type rig struct {
	*services
	t       *testing.T
	ca      *pki.CA
	gate    *Gate
	server  *rpc.Server
	address string
	log     buffer
	metrics *prometheus.Registry
}

// theTokens are those of the token file of a rig.
const (
	viewerToken    = "token of a viewer"
	publisherToken = "token of a publisher"
	limitedToken   = "token of a publisher with limits"
	operatorToken  = "token of an operator"
)

func tokenFile(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "tokens.yaml")
	text := "tokens:\n" +
		"- {name: vera, role: viewer, sha256: " + tokens.Hash(viewerToken) + "}\n" +
		"- {name: paul, role: publisher, sha256: " + tokens.Hash(publisherToken) + "}\n" +
		"- {name: lim, role: publisher, sha256: " + tokens.Hash(limitedToken) + ", limits: {publish: [news/#], subscribe: [news/#], client_prefixes: [meter-]}}\n" +
		"- {name: olga, role: operator, sha256: " + tokens.Hash(operatorToken) + "}\n"
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func start(t *testing.T, changes ...func(*Config, *rpc.Config)) *rig {
	t.Helper()
	r := &rig{services: &services{}, t: t, metrics: prometheus.NewRegistry()}
	var err error
	if r.ca, err = pki.Open(t.TempDir(), time.Now); err != nil {
		t.Fatal(err)
	}
	cfg, rc := DefaultConfig(), rpc.DefaultConfig()
	cfg.TokensFile = tokenFile(t)
	files := r.issue("router", "router-1")
	rc.TLS = rpc.TLSConfig{CertFile: files.Cert, KeyFile: files.Key, CAFile: files.CA}
	for _, change := range changes {
		change(&cfg, &rc)
	}
	logger := slog.New(slog.NewTextHandler(&r.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	if r.gate, err = New(cfg, Deps{Logger: logger, Metrics: r.metrics, Now: time.Now}); err != nil {
		t.Fatal(err)
	}
	if r.server, err = rpc.NewServer(rc, rpc.ServerDeps{Logger: logger, Metrics: r.metrics, Public: true}); err != nil {
		t.Fatal(err)
	}
	r.server.Guard(r.gate)
	messagingv1.RegisterMessagingServiceServer(r.server, r.services)
	messagingv1.RegisterGroupServiceServer(r.server, r.services)
	adminv1.RegisterAdminServiceServer(r.server, r.services)
	r.run()
	return r
}

func (r *rig) run() {
	r.t.Helper()
	l, err := rpc.Listen(r.t.Context(), "127.0.0.1:0")
	if err != nil {
		r.t.Fatal(err)
	}
	r.address = l.Addr().String()
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() {
		ended <- lifecycle.Run(ctx, time.Minute, lifecycle.Simple("gate", r.gate.Run), r.server.Part(l))
	}()
	r.t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			r.t.Error(err)
		}
	})
}

func (r *rig) issue(role, name string) pki.Files {
	r.t.Helper()
	files, err := r.ca.Issue(pki.Request{Name: name, Role: role})
	if err != nil {
		r.t.Fatal(err)
	}
	return files
}

// dial connects with a certificate of a role, without one if it is empty.
func (r *rig) dial(role string) *grpc.ClientConn {
	r.t.Helper()
	files := r.issue("router", "router-1")
	files.Cert, files.Key = "", ""
	if role != "" {
		files = r.issue(role, role+"-7")
	}
	cfg, err := files.Client()
	if err != nil {
		r.t.Fatal(err)
	}
	return r.connect(credentials.NewTLS(cfg))
}

func (r *rig) connect(c credentials.TransportCredentials) *grpc.ClientConn {
	r.t.Helper()
	conn, err := grpc.NewClient(r.address, grpc.WithTransportCredentials(c), grpc.WithDisableServiceConfig())
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { conn.Close() })
	return conn
}

func (r *rig) plain() *grpc.ClientConn { return r.connect(insecure.NewCredentials()) }

// with is a context whose calls carry a token.
func with(ctx context.Context, token string) context.Context {
	return metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+token)
}

// refusedAs checks the code of an error and the reason in its details; no code is no error.
func refusedAs(t *testing.T, what string, err error, code codes.Code, reason string) {
	t.Helper()
	s := status.Convert(err)
	got := ""
	for _, d := range s.Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok && info.GetDomain() == domain {
			got = info.GetReason()
		}
	}
	if s.Code() != code || got != reason {
		t.Errorf("%s: %v %q (%s), want %v %q", what, s.Code(), got, s.Message(), code, reason)
	}
}

// detail is the first detail of a type.
func detail[T any](err error) (found T, ok bool) {
	for _, d := range status.Convert(err).Details() {
		if found, ok = d.(T); ok {
			return found, true
		}
	}
	return found, false
}

func publish(topic string) *messagingv1.PublishRequest {
	return &messagingv1.PublishRequest{Message: &messagingv1.Message{Topic: topic, Payload: []byte("a payload")}}
}

// reflect asks the server for its services.
func reflect(t *testing.T, conn *grpc.ClientConn) error {
	t.Helper()
	s, err := reflectionv1.NewServerReflectionClient(conn).ServerReflectionInfo(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	_ = s.Send(&reflectionv1.ServerReflectionRequest{MessageRequest: &reflectionv1.ServerReflectionRequest_ListServices{}})
	_, err = s.Recv()
	_ = s.CloseSend()
	return err
}
