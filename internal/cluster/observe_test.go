package cluster_test

import (
	"context"
	"slices"
	"testing"

	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/beeline-mqtt/beeline/internal/cluster"
	"github.com/beeline-mqtt/beeline/internal/cluster/clustertest"
)

func TestKeysAreWatchedByTheirPrefix(t *testing.T) {
	e := clustertest.StartEtcd(t)
	d := deps(e)
	put := func(key string) int64 {
		t.Helper()
		r, err := d.Client.Put(bg(t), key, "v")
		if err != nil {
			t.Fatal(err)
		}
		return r.Header.Revision
	}
	put("/x/b")
	put("/xy")
	last := put("/x/a")
	var keys latest[[]string]
	var upTo latest[int64]
	run(t, func(ctx context.Context) error {
		return cluster.WatchKeys(ctx, d, "/x/", func(kvs []*mvccpb.KeyValue, revision int64) {
			var now []string
			for _, kv := range kvs {
				now = append(now, string(kv.Key))
			}
			keys.set(now)
			upTo.set(revision)
		})
	})
	want := func(revision int64, names ...string) {
		t.Helper()
		clustertest.Wait(t, "the change is shown", func() bool { return upTo.get() >= revision })
		if got := keys.get(); !slices.Equal(got, names) {
			t.Errorf("got %q, want %q", got, names)
		}
	}
	want(last, "/x/b", "/x/a")
	want(put("/x/c"), "/x/b", "/x/a", "/x/c")
	r, err := d.Client.Delete(bg(t), "/x/b")
	if err != nil {
		t.Fatal(err)
	}
	want(r.Header.Revision, "/x/a", "/x/c")
}
