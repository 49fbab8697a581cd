package node

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/beeline-mqtt/beeline/internal/lifecycle"
	"github.com/beeline-mqtt/beeline/internal/telemetry"
)

func admin(address string) Config { return Config{Admin: telemetry.AdminConfig{Address: address}} }

func TestOnlyTheFirstArgumentIsAProbe(t *testing.T) {
	tests := []struct {
		name  string
		args  []string
		probe Probe
		rest  []string
	}{
		{"no arguments", nil, "", nil},
		{"flags", []string{"--listen", "health"}, "", []string{"--listen", "health"}},
		{"health", []string{"health"}, Health, []string{}},
		{"ready with flags", []string{"ready", "--listen", "a:1"}, Ready, []string{"--listen", "a:1"}},
		{"something else", []string{"helath"}, "", []string{"helath"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			probe, rest := ProbeOf(tt.args)
			if probe != tt.probe {
				t.Errorf("probe %q, want %q", probe, tt.probe)
			}
			if diff := cmp.Diff(tt.rest, rest); diff != "" {
				t.Errorf("rest (-want +got):\n%s", diff)
			}
		})
	}
}

// A process that runs and is not ready is not to be restarted: what it waits for would not come sooner.
func TestAProcessThatIsNotReadyIsHealthy(t *testing.T) {
	n := newNode(t, free())
	n.Readiness.Add("gateway", func() error { return errors.New("joining") })
	up := make(chan struct{})
	started(t, n, lifecycle.Simple("part", func(ctx context.Context) error {
		close(up)
		<-ctx.Done()
		return nil
	}))
	<-up
	if err := Health.Ask(t.Context(), admin(n.AdminAddress())); err != nil {
		t.Errorf("healthy, but: %v", err)
	}
	err := Ready.Ask(t.Context(), admin(n.AdminAddress()))
	if err == nil || !strings.HasPrefix(err.Error(), "not ready; ") || !strings.Contains(err.Error(), "; gateway: joining") {
		t.Errorf("error %v, want the lines of /readyz", err)
	}
}

func TestAReadyProcessIsReady(t *testing.T) {
	asked := make(chan string, 1)
	s := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { asked <- r.URL.Path }))
	defer s.Close()
	if err := Ready.Ask(t.Context(), admin(s.Listener.Addr().String())); err != nil {
		t.Error(err)
	}
	if path := <-asked; path != "/readyz" {
		t.Errorf("asked for %s", path)
	}
}

// Containers listen on every address of theirs. That is no address to dial.
func TestAServerOnEveryAddressIsAskedOnLoopback(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	defer s.Close()
	_, port, err := net.SplitHostPort(s.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	for _, host := range []string{"0.0.0.0", "[::]", "", "localhost"} {
		if err := Health.Ask(t.Context(), admin(host+":"+port)); err != nil {
			t.Errorf("%q: %v", host, err)
		}
	}
}

func TestAProbeThatCannotAskSaysWhy(t *testing.T) {
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := closed.Close(); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ name, address, want string }{
		{"no admin server", "", `admin.address is ""`},
		{"any port", "127.0.0.1:0", `admin.address is "127.0.0.1:0"`},
		{"nobody listens", closed.Addr().String(), "connection refused"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if err := Ready.Ask(t.Context(), admin(tt.address)); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want %q in it", err, tt.want)
			}
		})
	}
}

func TestAProcessThatDoesNotAnswerIsNotHealthy(t *testing.T) {
	t.Parallel() // it takes its time
	release := make(chan struct{})
	s := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-release }))
	defer s.Close()
	defer close(release)
	if err := Health.Ask(t.Context(), admin(s.Listener.Addr().String())); err == nil || !strings.Contains(err.Error(), "deadline exceeded") {
		t.Errorf("error %v, want that it took too long", err)
	}
}
