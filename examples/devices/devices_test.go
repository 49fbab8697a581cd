package main

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/beeline-mqtt/beeline/cmd/beeline/local"
	"github.com/beeline-mqtt/beeline/examples/internal/dial"
	"github.com/beeline-mqtt/beeline/test/clustertest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// console has what is printed.
type console struct {
	mu   sync.Mutex
	text strings.Builder
}

func (c *console) Write(b []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.text.Write(b)
}

func (c *console) has(t *testing.T, text string) {
	t.Helper()
	clustertest.Eventually(t, "it says "+text, func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		return strings.Contains(c.text.String(), text)
	})
}

// up is the directory of a beeline up, with what these examples read.
func up(t *testing.T, c *clustertest.Cluster) string {
	t.Helper()
	dir := t.TempDir()
	r := c.Router()
	text, err := json.Marshal(map[string]any{
		"ca_file":  c.CAFile(),
		"router":   map[string]string{"grpc": r.Node.Address(), "mqtt": "mqtt://" + r.Service.Addr("mqtt").String()},
		"operator": map[string]string{"token_file": r.OperatorToken},
	})
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "endpoints.json"), text, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestDevicesAreAskedAndWhoComesIsSaid(t *testing.T) {
	c := clustertest.Start(t, 2, func(c *local.Config) { c.Router = &local.RouterPorts{} })
	router := &dial.Flags{Data: up(t, c)}
	o := options{router: router, prefix: "meter-", command: "read", every: 100 * time.Millisecond}
	ctx, cancel := context.WithCancel(context.Background())
	var out console
	ended := make(chan error, 1)
	go func() { ended <- run(ctx, o, &out) }()
	out.has(t, "0 devices, 0 answers\n")

	o.simulate = 5
	stop, err := simulate(ctx, o)
	if err != nil {
		t.Fatal(err)
	}
	out.has(t, "5 devices, 5 answers\n")
	out.has(t, "meter-4: ")
	out.has(t, "meter-0 has come\n")
	stop()
	out.has(t, "meter-0 has gone: client\n")
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("it ends with %v", err)
	}
}

func TestItSaysWhichRouterItWants(t *testing.T) {
	o := options{router: &dial.Flags{Data: t.TempDir()}, simulate: 1}
	if err := run(t.Context(), o, &console{}); err == nil || !strings.Contains(err.Error(), "is there a beeline up?") {
		t.Errorf("error %v", err)
	}
	if _, err := simulate(t.Context(), o); err == nil || !strings.Contains(err.Error(), "-simulate") {
		t.Errorf("devices without a router: %v", err)
	}
}
