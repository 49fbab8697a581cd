package book

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
)

// AnyRevision means whichever revision an entry has, or that there is none.
const AnyRevision int64 = -1

// changeTimeout bounds one change.
const changeTimeout = 3 * time.Second

// PutAssignment stores a, if the one with the same rule and value has the revision ifRevision, 0 if there is none yet;
// and returns its new revision. An empty value of a Default becomes the cluster's name. Snapshots have it some
// milliseconds later. It fails with ErrInvalid, ErrConflict, ErrNotFound, ErrUnavailable, or what etcd refuses it with.
// After ErrUnavailable the same call may meet the change that it has made, as ErrConflict.
func (b *Book) PutAssignment(ctx context.Context, a Assignment, ifRevision int64) (revision int64, err error) {
	if a.Rule == Default && a.Value == "" {
		a.Value = a.Cluster
	}
	if err := a.validate(); err != nil {
		return 0, fmt.Errorf("put assignment: %w", err)
	}
	key := b.assignments.prefix + assignmentID(a.Rule, a.Value)
	revision, err = b.put(ctx, key, assignmentValue{Version: version, Cluster: a.Cluster, Weight: a.Weight}, ifRevision)
	if err != nil {
		return 0, fmt.Errorf("put assignment by %s %q: %w", a.Rule, a.Value, err)
	}
	return revision, nil
}

// DeleteAssignment deletes an assignment if it has the revision ifRevision. It fails as PutAssignment does, and with
// ErrNotFound also for AnyRevision if there is none.
func (b *Book) DeleteAssignment(ctx context.Context, rule, value string, ifRevision int64) error {
	if err := b.remove(ctx, b.assignments.prefix+assignmentID(rule, value), ifRevision); err != nil {
		return fmt.Errorf("delete assignment by %s %q: %w", rule, value, err)
	}
	return nil
}

// PutCluster stores c, on the terms of PutAssignment.
func (b *Book) PutCluster(ctx context.Context, c Cluster, ifRevision int64) (revision int64, err error) {
	if err := c.validate(); err != nil {
		return 0, fmt.Errorf("put cluster: %w", err)
	}
	revision, err = b.put(ctx, b.clusters.prefix+escape(c.Name), clusterValue{Version: version, Definition: c.Definition}, ifRevision)
	if err != nil {
		return 0, fmt.Errorf("put cluster %q: %w", c.Name, err)
	}
	return revision, nil
}

// DeleteCluster deletes a cluster, on the terms of DeleteAssignment. Assignments to it, and recorded nodes, stay.
func (b *Book) DeleteCluster(ctx context.Context, name string, ifRevision int64) error {
	if err := b.remove(ctx, b.clusters.prefix+escape(name), ifRevision); err != nil {
		return fmt.Errorf("delete cluster %q: %w", name, err)
	}
	return nil
}

func (b *Book) put(ctx context.Context, key string, value any, ifRevision int64) (int64, error) {
	text, err := encode(value)
	if err != nil {
		return 0, err
	}
	var when []clientv3.Cmp
	if ifRevision != AnyRevision {
		when = append(when, clientv3.Compare(clientv3.ModRevision(key), "=", ifRevision))
	}
	return b.change(ctx, key, when, clientv3.OpPut(key, text))
}

func (b *Book) remove(ctx context.Context, key string, ifRevision int64) error {
	when := []clientv3.Cmp{clientv3.Compare(clientv3.CreateRevision(key), ">", 0)}
	if ifRevision != AnyRevision {
		when = append(when, clientv3.Compare(clientv3.ModRevision(key), "=", ifRevision))
	}
	_, err := b.change(ctx, key, when, clientv3.OpDelete(key))
	return err
}

func (b *Book) change(ctx context.Context, key string, when []clientv3.Cmp, change clientv3.Op) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, changeTimeout)
	defer cancel()
	answer, err := b.deps.Client.Txn(ctx).If(when...).Then(change).Else(clientv3.OpGet(key, clientv3.WithKeysOnly())).Commit()
	switch {
	case err == nil && answer.Succeeded:
		return answer.Header.Revision, nil
	case err == nil && len(answer.Responses[0].GetResponseRange().GetKvs()) == 0:
		return 0, ErrNotFound
	case err == nil:
		return 0, ErrConflict
	case refused(err):
		return 0, fmt.Errorf("etcd: %w", err)
	}
	return 0, fmt.Errorf("%w: %w", ErrUnavailable, err)
}

// refused reports whether etcd has answered that it will not do what was asked, now or later.
func refused(err error) bool {
	var e rpctypes.EtcdError
	if !errors.As(err, &e) {
		return false
	}
	switch e.Code() {
	case codes.InvalidArgument, codes.PermissionDenied, codes.Unauthenticated, codes.FailedPrecondition:
		return true
	}
	return false
}
