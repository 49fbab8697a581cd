package session_test

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/beeline-mqtt/beeline/internal/cluster/clustertest"
	"github.com/beeline-mqtt/beeline/services/session"
)

func TestAnInstanceThatCannotOpenItsStoreSaysWhyUntilItCan(t *testing.T) {
	etcd := clustertest.StartEtcd(t).Client()
	// A file is where the directory is to be.
	if err := os.WriteFile(dataOf(t), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	i := start(t, etcd, nil)
	clustertest.Wait(t, "it says why", func() bool {
		err := i.Ready()
		return err != nil && strings.Contains(err.Error(), "open store: make store directory: ")
	})
	if i.Active() {
		t.Error("it is active")
	}
	if err := os.Remove(dataOf(t)); err != nil {
		t.Fatal(err)
	}
	i.waitActive(t)
	clustertest.Wait(t, "it is ready", func() bool { return i.Ready() == nil })
}

func TestAnInstanceSaysThatItWaitsForTheStore(t *testing.T) {
	first := start(t, clustertest.StartEtcd(t).Client(), nil)
	first.waitActive(t)
	// Another cluster with the same directory: a mistake that looks like a paused instance.
	other := start(t, clustertest.StartEtcd(t).Client(), nil)
	clustertest.Wait(t, "it says what it waits for", func() bool {
		err := other.Ready()
		return err != nil && strings.Contains(err.Error(), "waiting: store is open elsewhere")
	})
	first.stop()
	other.waitActive(t)
	clustertest.Wait(t, "it is ready", func() bool { return other.Ready() == nil })
}

func TestAnInstanceWithAnotherStoreDoesNotBeginWithoutTheSessions(t *testing.T) {
	etcd := clustertest.StartEtcd(t).Client()
	right := start(t, etcd, nil)
	right.waitActive(t)
	wrong := start(t, etcd, func(c *session.Config) { c.Data = t.TempDir() })
	right.stop()
	clustertest.Wait(t, "it says why", func() bool {
		err := wrong.Ready()
		return err != nil && strings.Contains(err.Error(), "but the cluster's is ")
	})
	if wrong.Active() {
		t.Error("it is active")
	}
	// The right one takes its place, whatever the other one tries meanwhile.
	right = start(t, etcd, nil)
	right.waitActive(t)
	right.stop()
	if _, err := etcd.Delete(t.Context(), "/beeline/test/store"); err != nil {
		t.Fatal(err)
	}
	wrong.waitActive(t)
	clustertest.Wait(t, "it is ready", func() bool { return wrong.Ready() == nil })
}

func TestAnInstanceEndsWithAStoreOfANewerVersion(t *testing.T) {
	etcd := clustertest.StartEtcd(t).Client()
	i := start(t, etcd, nil)
	i.waitActive(t)
	i.stop()
	former, err := filepath.Glob(filepath.Join(dataOf(t), "marker.format-version.*"))
	if err != nil || len(former) != 1 {
		t.Fatalf("%v, %v", former, err)
	}
	if err := os.Rename(former[0], filepath.Join(dataOf(t), "marker.format-version.000999.999")); err != nil {
		t.Fatal(err)
	}
	c := session.DefaultConfig()
	c.Cluster, c.Address, c.Data = "test", "127.0.0.1:1", dataOf(t)
	s, err := session.New(c, session.Deps{Etcd: etcd, Logger: slog.New(slog.DiscardHandler), Metrics: prometheus.NewRegistry(), Dial: dial})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	began := time.Now()
	if err := s.Run(ctx); err == nil || !strings.Contains(err.Error(), "store is from a newer version") {
		t.Errorf("after %v: %v", time.Since(began), err)
	}
	if _, err := os.Stat(filepath.Join(dataOf(t), "marker.format-version.000999.999")); errors.Is(err, fs.ErrNotExist) {
		t.Error("the store was changed")
	}
}
