//go:build linux

// Package faults holds the promises of docs/guarantees.md against processes that are killed, paused and cut off
// from each other. Each test has a cluster of its own.
//
// BEELINE_TEST_FAULTS is how long the test of random faults lasts (make faults); with it pauses last 30 s.
// BEELINE_TEST_SEED is what chance begins from, BEELINE_TEST_LOGS a directory in which the processes' logs stay, and
// BEELINE_TEST_RACE=1 has the processes look for data races.
package faults

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/beeline-mqtt/beeline/internal/cluster"
	"github.com/beeline-mqtt/beeline/test/faults/processes"
)

// patience bounds the waits of clients.
const patience = 20 * time.Second

// slack is what a busy machine may add to a time that is promised.
const slack = 2 * time.Second

var binaries processes.Binaries

func TestMain(m *testing.M) {
	code, err := run(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	os.Exit(code)
}

func run(m *testing.M) (code int, err error) {
	dir, err := os.MkdirTemp("", "beeline-faults-")
	if err != nil {
		return 1, err
	}
	defer os.RemoveAll(dir)
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	if binaries, err = processes.Build(ctx, dir, os.Getenv("BEELINE_TEST_RACE") == "1"); err != nil {
		return 1, err
	}
	if code = m.Run(); code == 0 {
		if err = goleak.Find(); err != nil {
			code = 1
		}
	}
	return code, err
}

// start starts a cluster for a test that runs beside others.
func start(t *testing.T, cfg processes.Config) *processes.Cluster {
	t.Helper()
	t.Parallel()
	return startAlone(t, cfg)
}

// startAlone starts a cluster for a test that wants the machine.
func startAlone(t *testing.T, cfg processes.Config) *processes.Cluster {
	t.Helper()
	if testing.Short() {
		t.Skip("takes seconds")
	}
	cfg.Binaries = binaries
	return processes.Start(t, cfg)
}

// seed returns where chance begins, and says it.
func seed(t testing.TB) uint64 {
	t.Helper()
	s := uint64(time.Now().UnixNano())
	if text := os.Getenv("BEELINE_TEST_SEED"); text != "" {
		var err error
		if s, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatalf("BEELINE_TEST_SEED: %v", err)
		}
	}
	t.Logf("BEELINE_TEST_SEED=%d", s)
	return s
}

func eventually(t testing.TB, what string, f func() bool) {
	t.Helper()
	processes.Eventually(t, what, f)
}

// leases returns the leases in force of some clients.
func leases(t testing.TB, c *processes.Cluster, ids ...string) map[string]cluster.Lease {
	t.Helper()
	return look(t, c, (*cluster.Directory).LookUp, ids)
}

// records returns the records of some clients, in force or not.
func records(t testing.TB, c *processes.Cluster, ids ...string) map[string]cluster.Lease {
	t.Helper()
	return look(t, c, (*cluster.Directory).Records, ids)
}

func look(t testing.TB, c *processes.Cluster, how func(*cluster.Directory, context.Context, []string) (map[string]cluster.Lease, error), ids []string) map[string]cluster.Lease {
	t.Helper()
	d := cluster.NewDirectory(c.Deps, nil)
	defer d.Close()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	found, err := how(d, ctx, ids)
	if err != nil {
		t.Fatalf("read leases: %v", err)
	}
	return found
}

// mqtt returns the addresses of some gateways, of all when none is named.
func mqtt(c *processes.Cluster, gateways ...int) []string {
	var all []string
	for i, g := range c.Gateways {
		wanted := len(gateways) == 0
		for _, k := range gateways {
			wanted = wanted || k == i
		}
		if wanted {
			all = append(all, g.MQTT)
		}
	}
	return all
}

// within fails the test when something took longer than was promised, and says how long it took.
func within(t testing.TB, what string, took, limit time.Duration) {
	t.Helper()
	t.Logf("%s: %v (at most %v) %s", what, took.Round(time.Millisecond), limit, time.Now().Format("05.000"))
	if took > limit {
		t.Errorf("%s took %v, want at most %v", what, took, limit)
	}
}
