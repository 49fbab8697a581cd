package node

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/beeline-mqtt/beeline/internal/config"
	"github.com/beeline-mqtt/beeline/internal/lifecycle"
	"github.com/beeline-mqtt/beeline/internal/pki"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = 10 * time.Second

// free is a configuration on free ports of this machine, without TLS. Nothing listens where etcd should.
func free() Config {
	c := DefaultConfig()
	c.Admin.Address, c.Listen = "127.0.0.1:0", "127.0.0.1:0"
	c.RPC.TLS.Insecure = true
	c.Log.Format = "text"
	return c
}

// log gathers lines of many goroutines.
type log struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

func newNode(t *testing.T, c Config) *Node {
	t.Helper()
	n, err := New(t.Context(), c, "test", io.Discard, Options{})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestWrongConfigurationNamesTheKey(t *testing.T) {
	dir := t.TempDir()
	ca, err := pki.Open(dir, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	files, err := ca.Issue(pki.Request{Name: "gateway", Role: "gateway"})
	if err != nil {
		t.Fatal(err)
	}
	garbage := filepath.Join(dir, "garbage")
	if err := os.WriteFile(garbage, []byte("no certificate"), 0o600); err != nil {
		t.Fatal(err)
	}
	good := func(c *Config) {
		c.RPC.TLS.Insecure = false
		c.RPC.TLS.CertFile, c.RPC.TLS.KeyFile, c.RPC.TLS.CAFile = files.Cert, files.Key, files.CA
	}
	tests := []struct {
		name   string
		change func(*Config)
		want   string // "": valid
	}{
		{"nothing wrong", func(*Config) {}, ""},
		{"certificates", good, ""},
		{"no certificates", func(c *Config) { c.RPC.TLS.Insecure = false }, "rpc.tls.cert_file: is missing"},
		{"certificate is not there", func(c *Config) { good(c); c.RPC.TLS.CertFile = "/no/such.crt" }, "rpc.tls.cert_file: open /no/such.crt"},
		{"certificate is none", func(c *Config) { good(c); c.RPC.TLS.CertFile = garbage }, "rpc.tls.cert_file: "},
		{"key is not there", func(c *Config) { good(c); c.RPC.TLS.KeyFile = "/no/such.key" }, "rpc.tls.key_file: open /no/such.key"},
		{"authority is not there", func(c *Config) { good(c); c.RPC.TLS.CAFile = "/no/ca.crt" }, "rpc.tls.ca_file: "},
		{"authority is none", func(c *Config) { good(c); c.RPC.TLS.CAFile = garbage }, "rpc.tls.ca_file: "},
		{"listen without port", func(c *Config) { c.Listen = "127.0.0.1" }, "listen: is not host:port"},
		{"listen on every address", func(c *Config) { c.Listen = ":7946" }, "advertise: is missing"},
		{"listen on every IPv6 address", func(c *Config) { c.Listen = "[::]:7946" }, "advertise: is missing"},
		{"listen on every address and say which", func(c *Config) { c.Listen, c.Advertise = "0.0.0.0:7946", "g1:7946" }, ""},
		{"advertise without port", func(c *Config) { c.Advertise = "g1" }, "advertise: is not host:port"},
		{"admin without port", func(c *Config) { c.Admin.Address = "localhost" }, "admin.address: is not host:port"},
		{"no admin server", func(c *Config) { c.Admin.Address = "" }, ""},
		{"no etcd", func(c *Config) { c.Etcd.Endpoints = nil }, "etcd.endpoints: is missing"},
		{"etcd without port", func(c *Config) { c.Etcd.Endpoints = []string{"a:1", "b"} }, `etcd.endpoints: has "b"`},
		{"etcd as a URL", func(c *Config) { c.Etcd.Endpoints = []string{"http://a:1"} }, `etcd.endpoints: has "http://a:1"`},
		{"etcd certificate without key", func(c *Config) { c.Etcd.CertFile = files.Cert }, "etcd.cert_file: and key_file"},
		{"etcd certificate without authority", func(c *Config) { c.Etcd.CertFile, c.Etcd.KeyFile = files.Cert, files.Key }, "etcd.ca_file: is missing"},
		{"etcd with TLS", func(c *Config) { c.Etcd.CertFile, c.Etcd.KeyFile, c.Etcd.CAFile = files.Cert, files.Key, files.CA }, ""},
		{"etcd authority is not there", func(c *Config) { c.Etcd.CAFile = "/no/ca.crt" }, "etcd.ca_file: "},
		{"etcd key is not there", func(c *Config) {
			c.Etcd.CertFile, c.Etcd.KeyFile, c.Etcd.CAFile = files.Cert, "/no/such.key", files.CA
		}, "etcd.key_file: "},
		{"no time to stop", func(c *Config) { c.StopGrace = 0 }, "stop_grace: must be positive"},
		{"log format", func(c *Config) { c.Log.Format = "xml" }, "log.format: must be text or json"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := free()
			tt.change(&c)
			_, err := config.Load(c, config.Source{Program: "test"})
			switch {
			case tt.want == "" && err != nil:
				t.Errorf("error: %v", err)
			case tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)):
				t.Errorf("error %v, want %q in it", err, tt.want)
			}
		})
	}
}

func TestDefaultsLackTheCertificatesOnly(t *testing.T) {
	c := DefaultConfig()
	c.RPC.TLS.Insecure = true
	if _, err := config.Load(c, config.Source{Program: "test"}); err != nil {
		t.Error(err)
	}
}

// A program that does not load its configuration, but makes it, gets an error all the same.
func TestANodeIsNotMadeOfWrongConfiguration(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	tests := []struct {
		name   string
		change func(*Config)
		want   string
	}{
		{"certificate is not there", func(c *Config) {
			c.RPC.TLS.Insecure = false
			c.RPC.TLS.CertFile, c.RPC.TLS.KeyFile, c.RPC.TLS.CAFile = "/no/crt", "/no/key", "/no/ca"
		}, "rpc: "},
		{"etcd authority is not there", func(c *Config) { c.Etcd.CAFile = "/no/ca" }, "etcd: "},
		{"no etcd", func(c *Config) { c.Etcd.Endpoints = nil }, "etcd: "},
		{"address in use", func(c *Config) { c.Listen = taken.Addr().String() }, "listen: "},
		{"address of no machine here", func(c *Config) { c.Listen = "192.0.2.1:1" }, "listen: "},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := free()
			tt.change(&c)
			n, err := New(t.Context(), c, "test", io.Discard, Options{})
			if err == nil {
				n.Close()
				t.Fatal("no error")
			}
			if !strings.HasPrefix(err.Error(), tt.want) || strings.Contains(err.Error(), "canceled") {
				t.Errorf("error %q, want it to begin with %q and to say no more than what is wrong", err, tt.want)
			}
		})
	}
}

func TestCloseGivesTheAddressUp(t *testing.T) {
	n := newNode(t, free())
	if err := n.Close(); err != nil {
		t.Error(err)
	}
	if err := n.Close(); err != nil {
		t.Errorf("the second time: %v", err)
	}
	again, err := net.Listen("tcp", n.Address())
	if err != nil {
		t.Fatalf("the address is still taken: %v", err)
	}
	again.Close()
}

func TestOthersAreToldTheAdvertisedAddress(t *testing.T) {
	c := free()
	c.Advertise = "gateway-1.example:7946"
	n := newNode(t, c)
	defer n.Close()
	if n.Address() != c.Advertise {
		t.Errorf("Address = %s", n.Address())
	}
}

// started runs a node with parts until stop is called.
func started(t *testing.T, n *Node, parts ...lifecycle.Part) (stop func() error) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	ended := make(chan error, 1)
	go func() { ended <- n.Run(ctx, parts...) }()
	stop = sync.OnceValue(func() error {
		cancel()
		select {
		case err := <-ended:
			return err
		case <-time.After(patience):
			return errors.New("it does not end")
		}
	})
	t.Cleanup(func() { _ = stop() })
	return stop
}

func get(t *testing.T, url string) (int, string) {
	t.Helper()
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: patience}
	r, err := client.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	body, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return r.StatusCode, string(body)
}

func serving(t *testing.T, n *Node) error {
	t.Helper()
	conn, err := n.Dialer.Dial(n.Address())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_, err = healthv1.NewHealthClient(conn).Check(t.Context(), &healthv1.HealthCheckRequest{})
	return err
}

func TestThePartsRunBetweenTheServersAndReadiness(t *testing.T) {
	n := newNode(t, free())
	var mu sync.Mutex
	var journal []string
	note := func(format string, args ...any) {
		mu.Lock()
		defer mu.Unlock()
		journal = append(journal, fmt.Sprintf(format, args...))
	}
	look := func(when string) {
		status, text := get(t, "http://"+n.AdminAddress()+"/readyz")
		_, first, _ := strings.Cut(strings.TrimSpace(text), "\n")
		alive := n.Etcd.Ctx().Err() == nil && serving(t, n) == nil
		note("%s: %d %q, gRPC and etcd %v", when, status, first, alive)
	}
	part := func(name string) lifecycle.Part {
		return lifecycle.Part{Name: name, Run: func(ctx context.Context, started func()) error {
			look(name + " starts")
			started()
			<-ctx.Done()
			look(name + " stops")
			return nil
		}}
	}
	stop := started(t, n, part("first"), part("second"))
	deadline := time.Now().Add(patience)
	for len(n.Readiness.NotReady()) > 0 && time.Now().Before(deadline) {
		time.Sleep(time.Millisecond)
	}
	look("running")
	if err := stop(); err != nil {
		t.Errorf("Run = %v", err)
	}
	want := []string{
		`first starts: 503 "started: not yet", gRPC and etcd true`,
		`second starts: 503 "started: not yet", gRPC and etcd true`,
		`running: 200 "", gRPC and etcd true`,
		`second stops: 503 "started: stopping", gRPC and etcd true`,
		`first stops: 503 "started: stopping", gRPC and etcd true`,
	}
	if diff := cmp.Diff(want, journal); diff != "" {
		t.Errorf("what happened (-want +got):\n%s", diff)
	}
	if n.Etcd.Ctx().Err() == nil {
		t.Error("the client of etcd is left open")
	}
	if conn, err := net.Dial("tcp", n.Address()); err == nil {
		conn.Close()
		t.Error("somebody still listens")
	}
}

func TestEveryProcessHasMetricsAndHealth(t *testing.T) {
	n := newNode(t, free())
	up := make(chan struct{})
	started(t, n, lifecycle.Simple("part", func(ctx context.Context) error {
		close(up)
		<-ctx.Done()
		return nil
	}))
	select {
	case <-up:
	case <-time.After(patience):
		t.Fatal("it does not start")
	}
	for path, want := range map[string]string{
		"/healthz": "ok",
		"/metrics": `beeline_build_info{`,
	} {
		if status, text := get(t, "http://"+n.AdminAddress()+path); status != 200 || !strings.Contains(text, want) {
			t.Errorf("%s: %d, want %q in\n%s", path, status, want, text)
		}
	}
}

func TestAPartThatFailsEndsTheNode(t *testing.T) {
	broken := errors.New("broken")
	n := newNode(t, free())
	err := n.Run(t.Context(), lifecycle.Simple("part", func(context.Context) error { return broken }))
	if !errors.Is(err, broken) {
		t.Errorf("Run = %v, want %v", err, broken)
	}
	if err := n.Close(); err != nil {
		t.Errorf("Close after Run = %v", err)
	}
}

func TestWhatDidNotStartIsClosedAllTheSame(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	c := free()
	c.Admin.Address = taken.Addr().String()
	n := newNode(t, c)
	err = n.Run(t.Context(), lifecycle.Simple("part", func(context.Context) error {
		t.Error("the part was started")
		return nil
	}))
	if err == nil || !strings.Contains(err.Error(), "admin server: listen: ") || !strings.Contains(err.Error(), c.Admin.Address) {
		t.Errorf("Run = %v, want an error that says which address is taken", err)
	}
	if n.Etcd.Ctx().Err() == nil {
		t.Error("the client of etcd is left open")
	}
	again, err := net.Listen("tcp", n.Address())
	if err != nil {
		t.Fatalf("the gRPC address is still taken: %v", err)
	}
	again.Close()
}

func TestGoingWithoutTLSIsSaid(t *testing.T) {
	var lines log
	n, err := New(t.Context(), free(), "test", &lines, Options{})
	if err != nil {
		t.Fatal(err)
	}
	up := make(chan struct{})
	stop := started(t, n, lifecycle.Simple("part", func(ctx context.Context) error {
		close(up)
		<-ctx.Done()
		return nil
	}))
	<-up
	if err := stop(); err != nil {
		t.Error(err)
	}
	if !strings.Contains(lines.String(), "services talk without TLS") {
		t.Errorf("log:\n%s", lines.String())
	}
}
