package router

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/reflection"

	adminv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/admin/v1"
	"github.com/beeline-mqtt/beeline/internal/cluster/clustertest"
	"github.com/beeline-mqtt/beeline/internal/lifecycle"
	"github.com/beeline-mqtt/beeline/internal/pki"
	"github.com/beeline-mqtt/beeline/internal/rpc"
	"github.com/beeline-mqtt/beeline/services/router/internal/access"
	"github.com/beeline-mqtt/beeline/services/router/internal/administration"
)

func TestEveryMethodThatIsServedHasARule(t *testing.T) {
	s, rules := grpc.NewServer(), access.AllRules()
	(&Router{administration: administration.New(administration.Deps{}), messaging: &messaging{}}).Register(s)
	healthv1.RegisterHealthServer(s, health.NewServer())
	reflection.Register(s)
	for service, info := range s.GetServiceInfo() {
		for _, m := range info.Methods {
			if _, ok := rules["/"+service+"/"+m.Name]; !ok {
				t.Errorf("%s/%s has no rule", service, m.Name)
			}
		}
	}
}

// public is a router whose services are served as in a process.
type public struct {
	t    *testing.T
	ca   *pki.CA
	grpc string
	rest string
}

func startPublic(t *testing.T, tokensFile string) *public {
	t.Helper()
	p := &public{t: t}
	var err error
	if p.ca, err = pki.Open(t.TempDir(), time.Now); err != nil {
		t.Fatal(err)
	}
	c := DefaultConfig()
	c.Cluster, c.Secret = "test", "0123456789abcdef0123456789abcdef"
	c.Listeners = []Listener{{Name: "mqtt", Address: "127.0.0.1:0"}}
	c.REST.Address, c.Access.TokensFile = "127.0.0.1:0", tokensFile
	metrics, logger := prometheus.NewRegistry(), slog.New(slog.DiscardHandler)
	r, err := New(c, Deps{Etcd: clustertest.StartEtcd(t).Client(), Metrics: metrics, Logger: logger})
	if err != nil {
		t.Fatal(err)
	}
	rc, files := rpc.DefaultConfig(), p.issue("router", "router-1")
	rc.TLS = rpc.TLSConfig{CertFile: files.Cert, KeyFile: files.Key, CAFile: files.CA}
	s, err := rpc.NewServer(rc, rpc.ServerDeps{Logger: logger, Metrics: metrics, Public: true})
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Serve(s); err != nil {
		t.Fatal(err)
	}
	l, err := rpc.Listen(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p.grpc, p.rest = l.Addr().String(), "http://"+r.REST().String()
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- lifecycle.Run(ctx, time.Minute, s.Part(l), lifecycle.Simple("router", r.Run)) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	clustertest.Wait(t, "the router is ready", func() bool { return r.Ready() == nil })
	return p
}

func (p *public) issue(role, name string) pki.Files {
	p.t.Helper()
	files, err := p.ca.Issue(pki.Request{Name: name, Role: role})
	if err != nil {
		p.t.Fatal(err)
	}
	return files
}

// as connects with a certificate of a role, without one if it is empty.
func (p *public) as(role string) *grpc.ClientConn {
	p.t.Helper()
	files := p.issue("router", "router-1")
	files.Cert, files.Key = "", ""
	if role != "" {
		files = p.issue(role, role)
	}
	cfg, err := files.Client()
	if err != nil {
		p.t.Fatal(err)
	}
	conn, err := grpc.NewClient(p.grpc, grpc.WithTransportCredentials(credentials.NewTLS(cfg)))
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() { _ = conn.Close() })
	return conn
}

func (p *public) get(path, token string) (int, string) {
	p.t.Helper()
	q, err := http.NewRequestWithContext(p.t.Context(), http.MethodGet, p.rest+path, http.NoBody)
	if err != nil {
		p.t.Fatal(err)
	}
	if token != "" {
		q.Header.Set("Authorization", "Bearer "+token)
	}
	answer, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(q)
	if err != nil {
		p.t.Fatal(err)
	}
	defer answer.Body.Close()
	b, err := io.ReadAll(answer.Body)
	if err != nil {
		p.t.Fatal(err)
	}
	return answer.StatusCode, string(b)
}

func TestGatewaysAndPlacementAreManagedByOperatorsAndSeenByViewers(t *testing.T) {
	p, ctx := startPublic(t, ""), t.Context()
	for role, want := range map[string]struct{ see, change codes.Code }{
		"":          {codes.Unauthenticated, codes.Unauthenticated},
		"gateway":   {codes.PermissionDenied, codes.PermissionDenied},
		"viewer":    {codes.OK, codes.PermissionDenied},
		"publisher": {codes.OK, codes.PermissionDenied},
		"operator":  {codes.OK, codes.NotFound},
	} {
		conn := p.as(role)
		g, a := adminv1.NewGatewayServiceClient(conn), adminv1.NewPlacementServiceClient(conn)
		_, err := g.ListGateways(ctx, &adminv1.ListGatewaysRequest{})
		wantCode(t, role+" lists gateways", err, want.see)
		_, err = a.ListAssignments(ctx, &adminv1.ListAssignmentsRequest{})
		wantCode(t, role+" lists assignments", err, want.see)
		_, err = g.DrainGateway(ctx, &adminv1.DrainGatewayRequest{Gateway: "none"})
		wantCode(t, role+" drains a gateway", err, want.change)
		_, err = a.DeleteCluster(ctx, &adminv1.DeleteClusterRequest{Name: "none", Revision: -1})
		wantCode(t, role+" deletes a cluster", err, want.change)
	}
}

func TestATokenThatIsAddedWhileTheRouterRunsIsTaken(t *testing.T) {
	path := filepath.Join(t.TempDir(), "tokens.yaml")
	token, entry, err := NewToken("vera", "viewer", nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	p := startPublic(t, path)
	if code, body := p.get("/v1/clusters", token); code != http.StatusUnauthorized || !strings.Contains(body, "TOKEN_INVALID") {
		t.Errorf("before: %d %s", code, body)
	}
	if err := AppendToken(path, entry); err != nil {
		t.Fatal(err)
	}
	clustertest.Wait(t, "the token is taken", func() bool {
		code, _ := p.get("/v1/clusters", token)
		return code == http.StatusOK
	})
	if code, body := p.get("/v1/gateways", ""); code != http.StatusUnauthorized || !strings.Contains(body, "NO_IDENTITY") {
		t.Errorf("without a token: %d %s", code, body)
	}
}

func TestARouterDoesNotStartWithAccessThatCannotBeRead(t *testing.T) {
	c := DefaultConfig()
	c.Secret, c.Listeners = "0123456789abcdef0123456789abcdef", []Listener{{Name: "mqtt", Address: "127.0.0.1:0"}}
	c.Access.TokensFile = filepath.Join(t.TempDir(), "none")
	_, err := New(c, Deps{Etcd: clustertest.StartEtcd(t).Client(), Metrics: prometheus.NewRegistry(), Logger: slog.New(slog.DiscardHandler)})
	if err == nil || !strings.Contains(err.Error(), "token file") {
		t.Errorf("it starts: %v", err)
	}
}
