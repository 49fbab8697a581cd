package cluster

import (
	"context"
	"fmt"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// Store is the key that names the store which has the cluster's sessions.
func (k Keys) Store() string { return k.Prefix() + "store" }

// ClaimStore makes the store with an id that of the cluster if the cluster has none yet, and returns the id of the one
// that it has. revision is that of the caller's Term. It fails with ErrNotActive when that is over, and with whatever
// etcd says.
func ClaimStore(ctx context.Context, d Deps, revision int64, id string) (owner string, err error) {
	key := d.Keys.Store()
	r, err := d.Client.Txn(ctx).
		If(clientv3.Compare(clientv3.CreateRevision(d.Keys.Active()), "=", revision), clientv3.Compare(clientv3.CreateRevision(key), "=", 0)).
		Then(clientv3.OpPut(key, id)).
		Else(clientv3.OpGet(key)).
		Commit()
	switch {
	case err != nil:
		return "", fmt.Errorf("claim store: %w", err)
	case r.Succeeded:
		return id, nil
	}
	if kvs := r.Responses[0].GetResponseRange().GetKvs(); len(kvs) > 0 {
		return string(kvs[0].Value), nil
	}
	return "", fmt.Errorf("claim store: %w", ErrNotActive)
}
