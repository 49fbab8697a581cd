package cluster_test

import (
	"context"
	"errors"
	"testing"

	"github.com/beeline-mqtt/beeline/internal/cluster"
	"github.com/beeline-mqtt/beeline/internal/cluster/clustertest"
)

func TestAClusterHasOneStore(t *testing.T) {
	d := cluster.Deps{Client: clustertest.StartEtcd(t).Client(), Keys: "test"}
	if _, err := cluster.ClaimStore(t.Context(), d, 1, "a"); !errors.Is(err, cluster.ErrNotActive) {
		t.Errorf("claimed without a term: %v", err)
	}
	put, err := d.Client.Put(t.Context(), d.Keys.Active(), "me")
	if err != nil {
		t.Fatal(err)
	}
	claim := func(revision int64, id, want string) {
		t.Helper()
		if owner, err := cluster.ClaimStore(t.Context(), d, revision, id); owner != want || err != nil {
			t.Errorf("%q claimed: %q, %v; want %q", id, owner, err, want)
		}
	}
	claim(put.Header.Revision, "a", "a")
	claim(put.Header.Revision, "a", "a")
	claim(put.Header.Revision, "b", "a")
	if _, err := d.Client.Delete(t.Context(), d.Keys.Store()); err != nil {
		t.Fatal(err)
	}
	claim(put.Header.Revision, "b", "b")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := cluster.ClaimStore(ctx, d, put.Header.Revision, "b"); err == nil {
		t.Error("claimed without etcd")
	}
}
