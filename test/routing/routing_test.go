//go:build linux

// Package routing has clients of other people's libraries go through a router to clusters: one of ours that the router
// belongs to, another one of ours beside it, and mosquitto. What is promised is that a client is with its cluster as if
// it had connected there, and that nothing goes from one cluster to another.
//
// Without mosquitto, what needs it is skipped; BEELINE_TEST_MOSQUITTO=1 has it fail instead.
package routing

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	adminv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/admin/v1"
	"github.com/beeline-mqtt/beeline/cmd/beeline/local"
	"github.com/beeline-mqtt/beeline/test/clustertest"
	"github.com/beeline-mqtt/beeline/test/process"
)

// patience bounds every wait.
const patience = 20 * time.Second

func TestMain(m *testing.M) {
	mqtt.ERROR, mqtt.CRITICAL = slog.NewLogLogger(slog.DiscardHandler, 0), slog.NewLogLogger(slog.DiscardHandler, 0)
	goleak.VerifyTestMain(m)
}

// front is a cluster of ours with a router before its gateways.
type front struct {
	*clustertest.Cluster
	t     *testing.T
	admin adminv1.PlacementServiceClient
}

// open starts a cluster with a router, and connects to its management.
func open(t *testing.T, gateways int) *front {
	t.Helper()
	c := clustertest.Start(t, gateways, func(c *local.Config) { c.Router = new(local.RouterPorts) })
	mutual, err := c.Router().Operator.Mutual()
	if err != nil {
		t.Fatal(err)
	}
	conn, err := grpc.NewClient(c.Router().Node.Address(), grpc.WithTransportCredentials(credentials.NewTLS(mutual)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return &front{Cluster: c, t: t, admin: adminv1.NewPlacementServiceClient(conn)}
}

// add makes brokers a cluster that devices can be sent to, and waits until it takes some.
func (f *front) add(name string, brokers ...string) {
	f.t.Helper()
	s := &adminv1.Static{CheckIntervalMs: 1000}
	for _, b := range brokers {
		s.Nodes = append(s.Nodes, &adminv1.Static_Node{Address: b})
	}
	c := &adminv1.Cluster{Name: name, Kind: &adminv1.Cluster_Static{Static: s}}
	if _, err := f.admin.PutCluster(f.t.Context(), &adminv1.PutClusterRequest{Cluster: c}); err != nil {
		f.t.Fatal(err)
	}
	clustertest.Eventually(f.t, "the nodes of "+name+" are active", func() bool {
		l, err := f.admin.ListClusters(f.t.Context(), &adminv1.ListClustersRequest{})
		if err != nil {
			f.t.Fatal(err)
		}
		active := 0
		for _, c := range l.GetClusters() {
			for _, n := range c.GetNodes() {
				if c.GetCluster().GetName() == name && n.GetActive() {
					active++
				}
			}
		}
		return active == len(brokers)
	})
}

// assign sends devices to a cluster.
func (f *front) assign(name string, rule adminv1.Rule, value string) {
	f.t.Helper()
	a := &adminv1.Assignment{Rule: rule, Value: value, Cluster: name}
	if _, err := f.admin.PutAssignment(f.t.Context(), &adminv1.PutAssignmentRequest{Assignment: a}); err != nil {
		f.t.Fatal(err)
	}
}

// url is where devices reach the router.
func (f *front) url(transport string) string {
	r := f.Router().Service
	switch transport {
	case "TLS":
		return "tls://" + r.Addr("mqtts").String()
	case "WebSocket":
		return "ws://" + r.Addr("ws").String() + "/mqtt"
	}
	return "tcp://" + r.Addr("mqtt").String()
}

// trust is a TLS configuration that trusts the router.
func (f *front) trust() *tls.Config {
	f.t.Helper()
	pem, err := os.ReadFile(f.CAFile())
	if err != nil {
		f.t.Fatal(err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		f.t.Fatal("no certificate in the cluster's file")
	}
	return &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
}

// mosquitto starts one until the test ends and returns where it listens.
func mosquitto(t *testing.T) string {
	t.Helper()
	path, err := find("mosquitto")
	if errors.Is(err, exec.ErrNotFound) && os.Getenv("BEELINE_TEST_MOSQUITTO") == "" {
		t.Skip("there is no mosquitto (apt-get install mosquitto)")
	}
	if err != nil {
		t.Fatal(err)
	}
	address, err := process.Address()
	if err != nil {
		t.Fatal(err)
	}
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	config := filepath.Join(dir, "mosquitto.conf")
	if err := os.WriteFile(config, []byte("listener "+port+" "+host+"\nallow_anonymous true\npersistence false\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	p := &process.Process{Name: "mosquitto", Path: path, Args: []string{"-c", config}, LogFile: filepath.Join(dir, "log")}
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		p.Kill()
		if t.Failed() {
			t.Logf("mosquitto has said:\n%s", p.Tail(40))
		}
	})
	return address
}

// find looks for a program where Debian has those of the system, too.
func find(name string) (path string, err error) {
	for _, candidate := range []string{name, "/usr/sbin/" + name} {
		if path, err = exec.LookPath(candidate); err == nil {
			return path, nil
		}
	}
	return "", errors.Join(exec.ErrNotFound, err)
}

// do has f done within patience.
func do(t *testing.T, what string, f func(ctx context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := f(ctx); err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}

// once is f for the end of a test that may have called it before.
func once(t *testing.T, f func()) (call func()) {
	call = sync.OnceFunc(f)
	t.Cleanup(call)
	return call
}
