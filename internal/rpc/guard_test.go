package rpc

import (
	"context"
	"log/slog"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/beeline-mqtt/beeline/internal/pki"
)

// doorman lets in who has an identity, and counts.
type doorman struct{ asked int }

func (d *doorman) Unary(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	d.asked++
	if _, err := PeerIdentity(ctx); err != nil {
		return nil, status.Error(codes.Unauthenticated, err.Error())
	}
	return handler(ctx, req)
}

func (d *doorman) Stream(srv any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	d.asked++
	return handler(srv, stream)
}

// serveAs runs a server that is public or not.
func serveAs(t *testing.T, cfg Config, public bool, g Guard, svc *service) (s *Server, address string) {
	t.Helper()
	s, err := NewServer(cfg, ServerDeps{Logger: slog.New(slog.DiscardHandler), Metrics: prometheus.NewRegistry(), Public: public})
	if err != nil {
		t.Fatal(err)
	}
	if g != nil {
		s.Guard(g)
	}
	s.RegisterService(svc.desc(), svc)
	l, err := Listen(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	start(t, s, l)
	return s, l.Addr().String()
}

// anonymous connects to address without a certificate.
func anonymous(t *testing.T, ca *pki.CA, address string) *grpc.ClientConn {
	t.Helper()
	files, err := ca.Issue(pki.Request{Name: "router-1", Role: "router"})
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := pki.Files{CA: files.CA}.Client()
	if err != nil {
		t.Fatal(err)
	}
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(credentials.NewTLS(cfg)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

func fine() *service {
	return &service{call: func(context.Context) error { return nil }, stream: func(s grpc.ServerStream) error { return s.SendMsg(&emptypb.Empty{}) }}
}

func TestAPublicServerTakesThoseWithoutACertificateAndAsksItsGuard(t *testing.T) {
	ca := authority(t)
	cfg, d := certified(t, ca, pki.Request{Name: "router-1", Role: "router"}), &doorman{}
	_, address := serveAs(t, cfg, true, d, fine())
	if got := status.Code(call(t, anonymous(t, ca, address))); got != codes.Unauthenticated {
		t.Errorf("without a certificate: %v", got)
	}
	if err := call(t, dial(t, certified(t, ca, pki.Request{Name: "olga", Role: "operator"}), address)); err != nil {
		t.Errorf("with a certificate: %v", err)
	}
	if got := status.Code(call(t, dial(t, certified(t, authority(t), pki.Request{Name: "olga", Role: "operator"}), address))); got != codes.Unavailable {
		t.Errorf("with a certificate of somebody else's: %v", got)
	}
	openStream(t, anonymous(t, ca, address))
	if d.asked != 3 {
		t.Errorf("the guard was asked %d times", d.asked)
	}
}

func TestAServerThatIsNotPublicAsksNoGuardAndTakesNobodyWithoutACertificate(t *testing.T) {
	ca, d := authority(t), &doorman{}
	_, address := serveAs(t, certified(t, ca, pki.Request{Name: "gateway-1", Role: "gateway"}), false, d, fine())
	if got := status.Code(call(t, anonymous(t, ca, address))); got != codes.Unavailable {
		t.Errorf("without a certificate: %v", got)
	}
	if err := call(t, dial(t, certified(t, ca, pki.Request{Name: "session-1", Role: "session"}), address)); err != nil || d.asked != 0 {
		t.Errorf("with one: %v; the guard was asked %d times", err, d.asked)
	}
}

func TestAPublicServerWithoutAGuardRefusesEverything(t *testing.T) {
	ca := authority(t)
	_, address := serveAs(t, certified(t, ca, pki.Request{Name: "router-1", Role: "router"}), true, nil, fine())
	if got := status.Code(call(t, dial(t, certified(t, ca, pki.Request{Name: "olga", Role: "operator"}), address))); got != codes.Unauthenticated {
		t.Errorf("an operator: %v", got)
	}
}

func TestACallWithinTheProcessHasTheIdentityThatItIsMadeFor(t *testing.T) {
	ca := authority(t)
	for name, c := range map[string]struct {
		cfg     Config
		trusted bool
	}{
		"with TLS":    {certified(t, ca, pki.Request{Name: "router-1", Role: "router"}), false},
		"without TLS": {insecureConfig(), true},
	} {
		t.Run(name, func(t *testing.T) {
			var id pki.Identity
			var idErr, roleErr error
			var trusted bool
			svc := &service{call: func(ctx context.Context) error {
				id, idErr = PeerIdentity(ctx)
				roleErr, trusted = RequireRole(ctx, "operator"), Trusted(ctx)
				return nil
			}}
			s, _ := serveAs(t, c.cfg, false, nil, svc)
			conn, err := s.Connect()
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { conn.Close() })
			if err := call(t, conn); err != nil || idErr == nil || trusted != c.trusted || (roleErr == nil) != c.trusted {
				t.Errorf("for nobody: %v, %v, %v, trusted %v", err, idErr, roleErr, trusted)
			}
			olga := pki.Identity{Role: "operator", Name: "olga"}
			ctx := metadata.NewOutgoingContext(t.Context(), OnBehalfOf(olga))
			if err := conn.Invoke(ctx, callMethod, &emptypb.Empty{}, &emptypb.Empty{}); err != nil || idErr != nil || id != olga || roleErr != nil {
				t.Errorf("for an operator: %v, %v, %v, %v", err, id, idErr, roleErr)
			}
		})
	}
	if Trusted(t.Context()) {
		t.Error("what is no call is trusted")
	}
}
