package telemetry

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/beeline-mqtt/beeline/internal/lifecycle"
)

func newAdmin(t *testing.T, cfg AdminConfig) (*Admin, *lifecycle.Readiness, *prometheus.Registry) {
	t.Helper()
	readiness, registry := new(lifecycle.Readiness), prometheus.NewRegistry()
	return NewAdmin(cfg, AdminDeps{
		Logger:    slog.New(slog.DiscardHandler),
		Metrics:   registry,
		Readiness: readiness,
	}), readiness, registry
}

// get asks the handler of a for a path.
func get(a *Admin, path string) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	a.handler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, http.NoBody))
	return w
}

func want(t *testing.T, got *httptest.ResponseRecorder, status int, body string) {
	t.Helper()
	if got.Code != status || got.Body.String() != body {
		t.Errorf("got %d %q, want %d %q", got.Code, got.Body, status, body)
	}
}

func TestReadyzSaysWhatIsNotReady(t *testing.T) {
	a, readiness, _ := newAdmin(t, AdminConfig{})
	want(t, get(a, "/readyz"), http.StatusOK, "ready\n")
	mesh := readiness.Condition("mesh")
	readiness.Add("etcd", func() error { return errors.New("unreachable for 3s") })
	want(t, get(a, "/readyz"), http.StatusServiceUnavailable, "not ready\nmesh: not yet\netcd: unreachable for 3s\n")
	mesh.Met()
	want(t, get(a, "/readyz"), http.StatusServiceUnavailable, "not ready\netcd: unreachable for 3s\n")
}

func TestHealthzIsGoodWhateverIsNotReady(t *testing.T) {
	a, readiness, _ := newAdmin(t, AdminConfig{})
	readiness.Condition("mesh")
	want(t, get(a, "/healthz"), http.StatusOK, "ok\n")
}

func TestMetricsShowsTheRegistry(t *testing.T) {
	a, _, registry := newAdmin(t, AdminConfig{})
	gauge := prometheus.NewGauge(prometheus.GaugeOpts{Name: "beeline_test_bees", Help: "Bees."})
	gauge.Set(3)
	registry.MustRegister(gauge)
	got := get(a, "/metrics")
	if got.Code != http.StatusOK || !strings.Contains(got.Body.String(), "beeline_test_bees 3\n") {
		t.Errorf("got %d:\n%s", got.Code, got.Body)
	}
}

func TestProfilesAreServedOnlyWhenEnabled(t *testing.T) {
	for _, path := range []string{"/debug/pprof/", "/debug/pprof/cmdline", "/debug/pprof/goroutine", "/debug/pprof/symbol"} {
		off, _, _ := newAdmin(t, AdminConfig{})
		if got := get(off, path); got.Code != http.StatusNotFound {
			t.Errorf("%s without pprof: %d", path, got.Code)
		}
		on, _, _ := newAdmin(t, AdminConfig{Pprof: true})
		if got := get(on, path); got.Code != http.StatusOK {
			t.Errorf("%s with pprof: %d", path, got.Code)
		}
	}
}

func TestNothingCanBeChangedOverTheAdminServer(t *testing.T) {
	a, _, _ := newAdmin(t, AdminConfig{Pprof: true})
	for _, path := range []string{"/healthz", "/readyz", "/metrics"} {
		w := httptest.NewRecorder()
		a.handler().ServeHTTP(w, httptest.NewRequest(http.MethodPost, path, http.NoBody))
		if w.Code != http.StatusMethodNotAllowed {
			t.Errorf("POST %s: %d", path, w.Code)
		}
	}
}

func TestTheAdminServerIsBoundWhenItHasStartedAndAnswersUntilTheOthersHaveStopped(t *testing.T) {
	a, _, _ := newAdmin(t, AdminConfig{Address: "127.0.0.1:0"})
	if a.Addr() != "" {
		t.Errorf("address before the start: %q", a.Addr())
	}
	ctx, cancel := context.WithCancel(t.Context())
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 10 * time.Second}
	ask := func() (string, error) {
		resp, err := client.Get("http://" + a.Addr() + "/healthz")
		if err != nil {
			return "", err
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		return string(body), err
	}
	last := lifecycle.Simple("last", func(ctx context.Context) error {
		if body, err := ask(); err != nil || body != "ok\n" {
			t.Errorf("after the start: %q, %v", body, err)
		}
		cancel()
		<-ctx.Done()
		if body, err := ask(); err != nil || body != "ok\n" {
			t.Errorf("while others stop: %q, %v", body, err)
		}
		return nil
	})
	if err := lifecycle.Run(ctx, 10*time.Second, a.Part(), last); err != nil {
		t.Errorf("Run = %v", err)
	}
	if _, err := ask(); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("after the stop: %v, want connection refused", err)
	}
}

func TestAnAddressInUseFailsTheStart(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	a, _, _ := newAdmin(t, AdminConfig{Address: l.Addr().String()})
	if err := lifecycle.Run(t.Context(), time.Second, a.Part()); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("Run = %v, want address in use", err)
	}
}

func TestWithoutAnAddressNothingListens(t *testing.T) {
	a, _, _ := newAdmin(t, AdminConfig{})
	ctx, cancel := context.WithCancel(t.Context())
	stop := lifecycle.Simple("stop", func(ctx context.Context) error {
		cancel()
		<-ctx.Done()
		return nil
	})
	if err := lifecycle.Run(ctx, time.Second, a.Part(), stop); err != nil || a.Addr() != "" {
		t.Errorf("Run = %v, address %q", err, a.Addr())
	}
}

func TestAMetricThatCannotBeCollectedIsLogged(t *testing.T) {
	var out bytes.Buffer
	registry := prometheus.NewRegistry()
	registry.MustRegister(broken{})
	a := NewAdmin(AdminConfig{}, AdminDeps{
		Logger: slog.New(slog.NewTextHandler(&out, nil)), Metrics: registry, Readiness: new(lifecycle.Readiness),
	})
	if got := get(a, "/metrics"); got.Code != http.StatusInternalServerError {
		t.Errorf("status %d", got.Code)
	}
	if !strings.Contains(out.String(), "level=ERROR") || !strings.Contains(out.String(), "no honey") {
		t.Errorf("log: %s", out.String())
	}
}

// broken is a collector whose metric is always invalid.
type broken struct{}

func (broken) Describe(ch chan<- *prometheus.Desc) {
	ch <- prometheus.NewDesc("beeline_test_broken", "Broken.", nil, nil)
}

func (broken) Collect(ch chan<- prometheus.Metric) {
	ch <- prometheus.NewInvalidMetric(prometheus.NewDesc("beeline_test_broken", "Broken.", nil, nil), errors.New("no honey"))
}

func TestAHandlerThatWasAddedIsNotForOtherOrigins(t *testing.T) {
	a, _, _ := newAdmin(t, AdminConfig{})
	a.Handle("POST /act", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "done") }))
	for _, tt := range []struct {
		name, method, origin string
		status               int
	}{
		{"a command", http.MethodPost, "", http.StatusOK},
		{"a page from elsewhere", http.MethodPost, "https://example.org", http.StatusForbidden},
		{"another method", http.MethodGet, "", http.StatusMethodNotAllowed},
	} {
		r := httptest.NewRequest(tt.method, "/act", http.NoBody)
		if tt.origin != "" {
			r.Header.Set("Origin", tt.origin)
		}
		w := httptest.NewRecorder()
		a.handler().ServeHTTP(w, r)
		if w.Code != tt.status {
			t.Errorf("%s: %d, want %d", tt.name, w.Code, tt.status)
		}
	}
}
