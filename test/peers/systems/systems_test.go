//go:build linux

package systems

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// broker answers every CONNECT with a code.
func broker(t *testing.T, code byte) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			nc, err := ln.Accept()
			if err != nil {
				return
			}
			connect := make([]byte, 19)
			if _, err := io.ReadFull(nc, connect); err == nil {
				_, _ = nc.Write([]byte{0x20, 2, 0, code})
			}
			_, _ = io.Copy(io.Discard, nc)
			_ = nc.Close()
		}
	}()
	t.Cleanup(func() {
		_ = ln.Close()
		<-done
	})
	return ln.Addr().String()
}

func TestANodeIsReadyWhenItLetsAClientIn(t *testing.T) {
	if err := takesClients(t.Context(), broker(t, 0)); err != nil {
		t.Error(err)
	}
	if err := takesClients(t.Context(), broker(t, 3)); err == nil || !strings.Contains(err.Error(), "code 3") {
		t.Errorf("refused: %v", err)
	}
	at, err := addresses(1)
	if err != nil {
		t.Fatal(err)
	}
	if err := takesClients(t.Context(), at[0]); err == nil {
		t.Error("nobody listens, and it is ready")
	}
}

// sleeping is a system whose nodes only wait, and which are reached at some addresses.
func sleeping(script string, brokers ...string) System {
	return System{Name: "sleeping", start: func(_ context.Context, r *Running) error {
		for i := range 2 {
			if err := r.run(fmt.Sprintf("node-%d", i+1), "/bin/sh", "-c", script); err != nil {
				return err
			}
		}
		r.Brokers = brokers
		return nil
	}}
}

func TestASystemThatStartedIsNamedAndEndedByItsProcesses(t *testing.T) {
	r, err := sleeping("sleep 600", "mqtt://"+broker(t, 0)).Start(t.Context(), Env{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Stop()
	first, second := r.parts[0].PID(), r.parts[1].PID()
	want := []string{fmt.Sprintf("node=%d", first), fmt.Sprintf("node=%d", second)}
	if diff := cmp.Diff(want, r.Processes()); diff != "" {
		t.Error(diff)
	}
	if err := r.Check(); err != nil {
		t.Error(err)
	}
	if metrics, err := r.ReadMetrics(t.Context()); len(metrics) != 0 || err != nil {
		t.Errorf("metrics %v, %v of a system that has none", metrics, err)
	}
	r.Stop()
	for _, pid := range []int{first, second} {
		if err := syscall.Kill(pid, 0); err == nil {
			t.Errorf("process %d goes on", pid)
		}
	}
	if err := r.Check(); err == nil {
		t.Error("ended processes are found well")
	}
}

func TestASystemThatEndsWhileItStartsSaysWhatItSaid(t *testing.T) {
	at, err := addresses(1)
	if err != nil {
		t.Fatal(err)
	}
	_, err = sleeping("echo cannot do that", "mqtt://"+at[0]).Start(t.Context(), Env{Dir: t.TempDir()})
	if err == nil || !strings.Contains(err.Error(), " has ended: cannot do that") {
		t.Errorf("started: %v", err)
	}
}

func TestASystemThatDoesNotGetReadyIsStopped(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	r := &Running{Env: Env{Dir: t.TempDir()}}
	defer r.Stop()
	if err := sleeping("sleep 600").start(ctx, r); err != nil {
		t.Fatal(err)
	}
	asked := 0
	err := r.await(ctx, func() error {
		if asked++; asked == 3 {
			cancel()
		}
		return errors.New("not yet")
	})
	if !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "not yet") || asked < 3 {
		t.Errorf("asked %d times: %v", asked, err)
	}
}

func TestGatewaysAreReadyWhenAllKnowAllOthers(t *testing.T) {
	asked := 0
	gateway := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		asked++
		peers := min(2, asked/4) // none at first
		fmt.Fprintf(w, "# HELP beeline_mesh_peers Others.\nbeeline_mesh_peers %d\nbeeline_mesh_deliveries_total{direction=\"in\"} 1.5e+06\n", peers)
	}))
	defer gateway.Close()
	r := &Running{Metrics: []string{gateway.URL + "/metrics", gateway.URL + "/metrics"}}
	if err := r.awaitPeers(t.Context()); err != nil || asked < 5 {
		t.Errorf("ready after %d answers, %v", asked, err)
	}
	metrics, err := r.ReadMetrics(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if got := metrics[0][`beeline_mesh_deliveries_total{direction="in"}`]; got != 1.5e6 {
		t.Errorf("deliveries %v, want 1.5e6", got)
	}
	if len(metrics[0]) != 2 {
		t.Errorf("comments were read as metrics: %v", metrics[0])
	}
	gateway.Close()
	if _, err := r.ReadMetrics(t.Context()); err == nil {
		t.Error("metrics of a gateway that is gone")
	}
}

func TestAProgramThatIsNotInstalledIsMissing(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	if _, err := find("beeline-no-such-broker"); !errors.Is(err, ErrMissing) {
		t.Errorf("find = %v", err)
	}
	for _, s := range []System{NATS(3), Broadcast(3)} {
		if version, err := s.Version(t.Context(), Env{Bin: t.TempDir()}); err == nil {
			t.Errorf("%s is %q without its program", s.Name, version)
		}
	}
}

func TestAProxyNeedsWhatIsBehindIt(t *testing.T) {
	_, missing := Mosquitto().Version(t.Context(), Env{})
	for s, want := range map[*System]string{new(Router(3)): "Beeline: this commit", new(HAProxy(3)): "HAProxy version "} {
		version, err := s.Version(t.Context(), Env{})
		switch {
		case err == nil && (missing != nil || !strings.HasPrefix(version, want)):
			t.Errorf("%s is %q; mosquitto: %v", s.Name, version, missing)
		case err != nil && !errors.Is(err, ErrMissing):
			t.Errorf("%s: %v", s.Name, err)
		}
	}
}

func TestHAProxyTakesItsConfiguration(t *testing.T) {
	path, err := find("haproxy")
	if err != nil {
		t.Skip(err)
	}
	r := &Running{Env: Env{Dir: t.TempDir()}}
	config, err := r.file("haproxy.cfg", haproxyConfig, "127.0.0.1:1", haproxyServers([]string{"127.0.0.1:2", "127.0.0.1:3"}))
	if err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(t.Context(), path, "-c", "-f", config).CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}

func TestVersionsAreReadFromPrograms(t *testing.T) {
	script := filepath.Join(t.TempDir(), "program")
	if err := os.WriteFile(script, []byte("#!/bin/sh\necho ' program 1.2 '\necho more\nexit 3\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	if got, err := firstLine(t.Context(), script); got != "program 1.2" || err != nil {
		t.Errorf("firstLine = %q, %v", got, err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{self, script} {
		if got, err := moduleVersion(path, "example.com/absent"); err == nil {
			t.Errorf("a module that is not in %s has version %q", path, got)
		}
	}
}

func TestServicesTrustEachOtherByCertificateOrNotAtAll(t *testing.T) {
	plain, err := trust(t.TempDir(), "gateway-1", "gateway", false)
	if diff := cmp.Diff([]string{"--rpc.tls.insecure"}, plain); diff != "" || err != nil {
		t.Errorf("%v\n%s", err, diff)
	}
	mutual, err := trust(filepath.Join(t.TempDir(), "pki"), "gateway-1", "gateway", true)
	if err != nil || len(mutual) != 6 {
		t.Fatalf("trust = %q, %v", mutual, err)
	}
	for i := 1; i < len(mutual); i += 2 {
		if _, err := os.Stat(mutual[i]); err != nil {
			t.Errorf("%s: %v", mutual[i-1], err)
		}
	}
}

func TestSystemsAreNamedWithTheirSize(t *testing.T) {
	for want, s := range map[string]System{
		"Beeline, 1 gateway": Beeline(1, false), "Beeline, 3 gateways, mTLS": Beeline(3, true), "NATS, 3 nodes": NATS(3),
		"broadcast, 6 nodes": Broadcast(6), "mosquitto, 1 node": Mosquitto(),
		"Beeline's router, 3 mosquitto": Router(3), "HAProxy, 3 mosquitto": HAProxy(3), "Beeline, 3 gateways, router": BeelineBehindRouter(3),
	} {
		if s.Name != want {
			t.Errorf("%q, want %q", s.Name, want)
		}
	}
}
