package cluster

import (
	"context"
	"encoding/json"
	"log/slog"
	"strings"

	"go.etcd.io/etcd/api/v3/mvccpb"
)

// WatchMembers calls on with the living members of a kind: first when etcd has been read, then each time the
// list or a member changes. While etcd cannot be reached the last view stands: an error is never shown as an
// empty list. Returns nil when the context is done.
func WatchMembers(ctx context.Context, d Deps, kind Kind, on func(View)) error {
	o := &observer{deps: d, key: d.Keys.Members(kind), prefix: true}
	o.on = func(kvs []*mvccpb.KeyValue, revision int64) {
		view := View{Revision: revision, Members: make([]Member, 0, len(kvs))}
		for _, kv := range kvs {
			id := strings.TrimPrefix(string(kv.Key), o.key)
			m := Member{}
			if err := json.Unmarshal(kv.Value, &m); err != nil {
				// It is alive all the same: its clients' leases are in force.
				d.Logger.WarnContext(ctx, "member's record cannot be read", slog.String("member", id), slog.Any("error", err))
			}
			m.ID, m.Revision = id, kv.CreateRevision
			view.Members = append(view.Members, m)
		}
		on(view)
	}
	return o.run(ctx)
}

// WatchActive calls on with the id of the active session instance, "" while there is none: first when etcd has
// been read, then at each change. Returns nil when the context is done.
func WatchActive(ctx context.Context, d Deps, on func(id string)) error {
	o := &observer{deps: d, key: d.Keys.Active()}
	o.on = func(kvs []*mvccpb.KeyValue, _ int64) {
		if len(kvs) == 0 {
			on("")
			return
		}
		on(string(kvs[0].Value))
	}
	return o.run(ctx)
}
