package rpc

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	reflectionv1 "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/beeline-mqtt/beeline/internal/config"
	"github.com/beeline-mqtt/beeline/internal/lifecycle"
)

// handled returns how many calls of a method the metrics have counted with a code.
func handled(t *testing.T, s *server, method, code string) float64 {
	t.Helper()
	families, err := s.metrics.Gather()
	if err != nil {
		t.Fatal(err)
	}
	total := 0.0
	for _, f := range families {
		if f.GetName() != "beeline_grpc_server_handled_total" {
			continue
		}
		for _, m := range f.GetMetric() {
			labels := map[string]string{}
			for _, l := range m.GetLabel() {
				labels[l.GetName()] = l.GetValue()
			}
			if labels["grpc_method"] == method && labels["grpc_code"] == code {
				total += m.GetCounter().GetValue()
			}
		}
	}
	return total
}

func TestCallsAreCountedAndLoggedByTheirOutcome(t *testing.T) {
	tests := []struct {
		name  string
		err   error
		code  codes.Code
		level string
	}{
		{"success", nil, codes.OK, "DEBUG"},
		{"refusal", Refuse(NotActive, "x"), codes.FailedPrecondition, "DEBUG"},
		{"fault", status.Error(codes.Internal, "x"), codes.Internal, "ERROR"},
		{"plain error", errors.New("x"), codes.Unknown, "ERROR"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := serve(t, insecureConfig(), &service{call: func(context.Context) error { return tt.err }})
			if err := call(t, dial(t, insecureConfig(), s.address)); status.Code(err) != tt.code {
				t.Errorf("call = %v, want %v", err, tt.code)
			}
			if err := s.stop(); err != nil {
				t.Fatal(err)
			}
			if got := handled(t, s, "Call", tt.code.String()); got != 1 {
				t.Errorf("counted %v calls with %v, want 1", got, tt.code)
			}
			line := lineWith(s.log.String(), "finished call")
			for _, want := range []string{"level=" + tt.level, "grpc.code=" + tt.code.String(), "grpc.method=Call"} {
				if !strings.Contains(line, want) {
					t.Errorf("the log does not say %s: %q", want, line)
				}
			}
		})
	}
}

func lineWith(log, text string) string {
	for line := range strings.Lines(log) {
		if strings.Contains(line, text) {
			return line
		}
	}
	return ""
}

func TestAPanicEndsTheCallAloneAndItsTextStaysHere(t *testing.T) {
	s := serve(t, insecureConfig(), &service{
		call:   func(context.Context) error { panic("bees are out") },
		stream: func(grpc.ServerStream) error { panic("wasps are in") },
		echo:   func(in *wrapperspb.BytesValue) []byte { return in.GetValue() },
	})
	conn := dial(t, insecureConfig(), s.address)
	stream, err := conn.NewStream(t.Context(), &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, streamMethod)
	if err != nil {
		t.Fatal(err)
	}
	for name, err := range map[string]error{"call": call(t, conn), "stream": stream.RecvMsg(&emptypb.Empty{})} {
		if got := status.Convert(err); got.Code() != codes.Internal || got.Message() != "internal error" {
			t.Errorf("%s = %v, want an internal error without the text", name, err)
		}
	}
	if err := conn.Invoke(t.Context(), echoMethod, wrapperspb.Bytes(nil), new(wrapperspb.BytesValue)); err != nil {
		t.Errorf("a call after the panics: %v", err)
	}
	for _, want := range []string{"bees are out", "wasps are in", "server_test.go"} {
		if !strings.Contains(s.log.String(), want) {
			t.Errorf("the log does not say %q", want)
		}
	}
	if got := counter(t, s, "beeline_rpc_panics_total"); got != 2 {
		t.Errorf("counted %v panics, want 2", got)
	}
}

func counter(t *testing.T, s *server, name string) float64 {
	t.Helper()
	families, err := s.metrics.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == name {
			return f.GetMetric()[0].GetCounter().GetValue()
		}
	}
	t.Fatalf("no metric %s", name)
	return 0
}

func TestStreamsThatGoBothWaysAreLeftToTheirOwners(t *testing.T) {
	s := serve(t, insecureConfig(), &service{stream: func(s grpc.ServerStream) error {
		for range 10 {
			if err := s.SendMsg(&emptypb.Empty{}); err != nil {
				return err
			}
		}
		return nil
	}})
	stream := openStream(t, dial(t, insecureConfig(), s.address))
	for stream.RecvMsg(&emptypb.Empty{}) == nil {
	}
	if err := s.stop(); err != nil {
		t.Fatal(err)
	}
	if got := handled(t, s, "Stream", "OK"); got != 0 {
		t.Errorf("counted %v", got)
	}
	if line := lineWith(s.log.String(), "finished call"); line != "" {
		t.Errorf("logged %s", line)
	}
}

func TestHealthAndReflectionAreServed(t *testing.T) {
	s := serve(t, insecureConfig(), &service{})
	conn := dial(t, insecureConfig(), s.address)
	check, err := healthv1.NewHealthClient(conn).Check(t.Context(), &healthv1.HealthCheckRequest{})
	if err != nil || check.GetStatus() != healthv1.HealthCheckResponse_SERVING {
		t.Errorf("health = %v, %v", check, err)
	}
	stream, err := reflectionv1.NewServerReflectionClient(conn).ServerReflectionInfo(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	request := &reflectionv1.ServerReflectionRequest{MessageRequest: &reflectionv1.ServerReflectionRequest_ListServices{}}
	if err := stream.Send(request); err != nil {
		t.Fatal(err)
	}
	answer, err := stream.Recv()
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, s := range answer.GetListServicesResponse().GetService() {
		names = append(names, s.GetName())
	}
	if got := strings.Join(names, " "); !strings.Contains(got, "beeline.test.v1.TestService") || !strings.Contains(got, "grpc.health.v1.Health") {
		t.Errorf("services: %s", got)
	}
}

func TestAStoppingServerLetsCallsUnderWayEnd(t *testing.T) {
	entered, release := make(chan struct{}), make(chan struct{})
	cfg := insecureConfig()
	cfg.StopGrace = time.Hour
	s := serve(t, cfg, &service{call: func(context.Context) error {
		close(entered)
		<-release
		return nil
	}})
	conn := dial(t, insecureConfig(), s.address)
	watchCtx, endWatch := context.WithCancel(t.Context())
	defer endWatch()
	watch, err := healthv1.NewHealthClient(conn).Watch(watchCtx, &healthv1.HealthCheckRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if first, err := watch.Recv(); err != nil || first.GetStatus() != healthv1.HealthCheckResponse_SERVING {
		t.Fatalf("health = %v, %v", first, err)
	}
	called := make(chan error, 1)
	go func() { called <- call(t, conn) }()
	<-entered
	stopped := make(chan error, 1)
	go func() { stopped <- s.stop() }()
	if next, err := watch.Recv(); err != nil || next.GetStatus() != healthv1.HealthCheckResponse_NOT_SERVING {
		t.Errorf("health while stopping = %v, %v", next, err)
	}
	endWatch()
	close(release)
	if err := <-called; err != nil {
		t.Errorf("the call under way: %v", err)
	}
	if err := <-stopped; err != nil {
		t.Errorf("stop: %v", err)
	}
}

func TestAStoppingServerCutsOffWhatOutlivesTheGrace(t *testing.T) {
	cfg := insecureConfig()
	cfg.StopGrace = 20 * time.Millisecond
	s := serve(t, cfg, &service{stream: func(s grpc.ServerStream) error {
		if err := s.SendMsg(&emptypb.Empty{}); err != nil {
			return err
		}
		<-s.Context().Done()
		return s.Context().Err()
	}})
	stream := openStream(t, dial(t, cfg, s.address))
	if err := s.stop(); err != nil {
		t.Errorf("stop: %v", err)
	}
	if err := stream.RecvMsg(&emptypb.Empty{}); status.Code(err) != codes.Unavailable {
		t.Errorf("the stream ended with %v, want Unavailable", err)
	}
}

func TestAServerWhoseListenerBreaksStopsTheProcess(t *testing.T) {
	s, err := NewServer(insecureConfig(), ServerDeps{Logger: slog.New(slog.DiscardHandler), Metrics: prometheus.NewRegistry()})
	if err != nil {
		t.Fatal(err)
	}
	l, err := Listen(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	if err := lifecycle.Run(t.Context(), time.Minute, s.Part(l)); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Run = %v, want %v", err, net.ErrClosed)
	}
}

func TestMetricsThatAreTakenAreAnError(t *testing.T) {
	deps := ServerDeps{Logger: slog.New(slog.DiscardHandler), Metrics: prometheus.NewRegistry()}
	if _, err := NewServer(insecureConfig(), deps); err != nil {
		t.Fatal(err)
	}
	var taken prometheus.AlreadyRegisteredError
	if _, err := NewServer(insecureConfig(), deps); !errors.As(err, &taken) {
		t.Errorf("NewServer = %v, want %T", err, taken)
	}
}

func TestMessagesAreBoundBothWays(t *testing.T) {
	cfg := insecureConfig()
	cfg.MaxMessageSize = 64 * config.KiB
	big := bytes.Repeat([]byte("x"), 128<<10)
	s := serve(t, insecureConfig(), &service{echo: func(in *wrapperspb.BytesValue) []byte {
		return bytes.Repeat(in.GetValue(), 64)
	}})
	small := serve(t, cfg, &service{echo: func(*wrapperspb.BytesValue) []byte { return nil }})
	tests := []struct {
		name    string
		conn    *grpc.ClientConn
		payload []byte
		want    codes.Code
	}{
		{"within the bound", dial(t, cfg, s.address), big[:512], codes.OK},
		{"client does not send", dial(t, cfg, s.address), big, codes.ResourceExhausted},
		{"client does not take", dial(t, cfg, s.address), big[:2048], codes.ResourceExhausted},
		{"server does not take", dial(t, insecureConfig(), small.address), big, codes.ResourceExhausted},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			err := tt.conn.Invoke(t.Context(), echoMethod, wrapperspb.Bytes(tt.payload), new(wrapperspb.BytesValue))
			if status.Code(err) != tt.want {
				t.Errorf("Echo = %v, want %v", err, tt.want)
			}
		})
	}
}

func TestAClientFindsAServerThatHasRestarted(t *testing.T) {
	svc := &service{call: func(context.Context) error { return nil }}
	s := serve(t, insecureConfig(), svc)
	conn := dial(t, insecureConfig(), s.address)
	if err := call(t, conn); err != nil {
		t.Fatal(err)
	}
	if err := s.stop(); err != nil {
		t.Fatal(err)
	}
	l, err := Listen(t.Context(), s.address)
	if err != nil {
		t.Fatal(err)
	}
	again, err := NewServer(insecureConfig(), ServerDeps{Logger: slog.New(slog.DiscardHandler), Metrics: prometheus.NewRegistry()})
	if err != nil {
		t.Fatal(err)
	}
	again.RegisterService(svc.desc(), svc)
	start(t, again, l)
	if err := call(t, conn, grpc.WaitForReady(true)); err != nil {
		t.Errorf("after the restart: %v", err)
	}
}
