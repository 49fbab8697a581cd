package local

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/beeline-mqtt/beeline/internal/node"
	"github.com/beeline-mqtt/beeline/internal/telemetry"
	"github.com/beeline-mqtt/beeline/services/gateway"
	"github.com/beeline-mqtt/beeline/services/session"
	"github.com/beeline-mqtt/beeline/test/rawmqtt"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func testConfig(t *testing.T, gateways int) Config {
	t.Helper()
	return Config{
		Dir: t.TempDir(), Gateways: gateways, Unsynced: true, LogLevel: telemetry.DefaultLogConfig(), Log: io.Discard,
	}
}

func startCluster(t *testing.T, c Config) *Cluster {
	t.Helper()
	cluster, err := Start(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := cluster.Close(); err != nil {
			t.Errorf("Close = %v", err)
		}
	})
	return cluster
}

func mqtt(g *Gateway) string { return g.Service.Addr("mqtt").String() }

func TestServicesCanBeAddedAndStopped(t *testing.T) {
	c := startCluster(t, testConfig(t, 1))
	standby, err := c.AddSession(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	second, err := c.AddGateway(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(c.Gateways()) != 2 || len(c.Sessions()) != 2 || c.Sessions()[1] != standby {
		t.Errorf("%d gateways, %d sessions", len(c.Gateways()), len(c.Sessions()))
	}
	sub := rawmqtt.Connect(t, mqtt(second), rawmqtt.V5, "sub")
	sub.MustSubscribe("a", 1)
	pub := rawmqtt.Connect(t, mqtt(c.Gateways()[0]), rawmqtt.V5, "pub")
	pub.Publish("a", "m", 1)
	sub.ReceivePayload("m")

	if err := second.Stop(); err != nil {
		t.Errorf("Stop = %v", err)
	}
	if reason := sub.ExpectClosed(); reason != 0x8B {
		t.Errorf("DISCONNECT %#x, want 0x8B", reason)
	}
	pub.ExpectNothing()
	select {
	case err := <-c.Failed():
		t.Errorf("a service that was stopped has failed: %v", err)
	default:
	}
	if err := second.Stop(); err != nil {
		t.Errorf("the second Stop = %v", err)
	}
}

func TestAServiceThatCannotStartLeavesNothingBehind(t *testing.T) {
	tests := []struct {
		name   string
		change func(*Config)
		want   string
	}{
		{"a gateway", func(c *Config) {
			c.Gateway = func(i int, g *gateway.Config) {
				if i == 1 {
					g.MaxClients = 0
				}
			}
		}, "gateway 2: max_clients: "},
		{"the session service", func(c *Config) {
			c.Session = func(s *session.Config) { s.FlapLimit = 0 }
		}, "flap_limit: "},
		{"the authority", func(c *Config) {
			if err := os.MkdirAll(filepath.Join(c.Dir, "pki", "ca.key"), 0o700); err != nil {
				t.Fatal(err)
			}
		}, "certificate authority: "},
		{"etcd", func(c *Config) {
			if err := os.WriteFile(filepath.Join(c.Dir, "etcd"), nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}, "etcd: "},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			cfg := testConfig(t, 2)
			tt.change(&cfg)
			c, err := Start(t.Context(), cfg)
			if err == nil {
				_ = c.Close()
				t.Fatal("no error")
			}
			if !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %q, want %q in it", err, tt.want)
			}
			goleak.VerifyNone(t)
		})
	}
}

func TestAServiceThatIsNotReadyInTimeSaysWhatItWaitsFor(t *testing.T) {
	c := startCluster(t, testConfig(t, 0))
	if err := c.Sessions()[0].Stop(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second) // it joins the cluster within that
	defer cancel()
	_, err := c.AddGateway(ctx)
	if !errors.Is(err, ErrNotReady) || !strings.Contains(err.Error(), "gateway: the session service cannot be reached") {
		t.Errorf("AddGateway = %v, want %v and the reason", err, ErrNotReady)
	}
	if n := len(c.Gateways()); n != 0 {
		t.Errorf("%d gateways", n)
	}
}

func TestWhatEndsByItselfIsTold(t *testing.T) {
	c := startCluster(t, testConfig(t, 0))
	broken := errors.New("by order of the test")
	for range 2 { // the second failure has nobody to wait for it
		n, err := c.node(t.Context(), "gateway", node.Options{})
		if err != nil {
			t.Fatal(err)
		}
		p := c.run(n, "broken", func(context.Context) error { return broken })
		<-p.done
		if !errors.Is(p.err, broken) {
			t.Errorf("err = %v", p.err)
		}
	}
	select {
	case err := <-c.Failed():
		if !errors.Is(err, broken) || !strings.HasPrefix(err.Error(), "broken ended: ") {
			t.Errorf("Failed: %v", err)
		}
	case <-time.After(rawmqtt.Patience):
		t.Error("nothing is told")
	}
}
