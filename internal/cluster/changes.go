package cluster

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// changes makes one nested transaction of each operation. A claim: if the holder's key exists, put the record
// and return the one before. A release: if the record is the one meant, delete it.
func (r *Recorder) changes(batch []*op) []clientv3.Op {
	ops := make([]clientv3.Op, len(batch))
	for i, o := range batch {
		key := r.deps.Keys.Client(o.client)
		var when clientv3.Cmp
		change := clientv3.OpDelete(key)
		switch {
		case !o.release:
			when = clientv3.Compare(clientv3.CreateRevision(r.deps.Keys.Member(Gateway, o.holder)), ">", 0)
			change = clientv3.OpPut(key, o.value, clientv3.WithPrevKV())
		case o.epoch == 0:
			when = clientv3.Compare(clientv3.Value(key), "=", o.value)
		default:
			when = clientv3.Compare(clientv3.ModRevision(key), "=", r.revision(o.epoch))
		}
		ops[i] = clientv3.OpTxn([]clientv3.Cmp{when}, []clientv3.Op{change}, nil)
	}
	return ops
}

func (r *Recorder) succeed(batch []*op, answer *clientv3.TxnResponse) {
	outcomes := make([]Claimed, len(batch))
	for i, o := range batch {
		outcomes[i] = r.outcome(o, answer.Header.Revision, answer.Responses[i].GetResponseTxn())
	}
	r.queue.complete(batch)
	for i, o := range batch {
		o.done(outcomes[i])
	}
}

func (r *Recorder) outcome(o *op, revision int64, answer *etcdserverpb.TxnResponse) Claimed {
	if o.release {
		return Claimed{Epoch: r.config.Base + uint64(revision)}
	}
	if !answer.GetSucceeded() {
		return Claimed{Err: ErrHolderDead}
	}
	return Claimed{Epoch: r.config.Base + uint64(revision), Former: r.lease(answer.Responses[0].GetResponsePut().GetPrevKv())}
}

// lease reads a record; nil or one that nobody can read is held by nobody.
func (r *Recorder) lease(kv *mvccpb.KeyValue) Lease {
	if kv == nil {
		return Lease{}
	}
	rec, err := decodeRecord(kv.Value)
	if err != nil {
		r.deps.Logger.Warn("client's record cannot be read", slog.Any("error", err))
		return Lease{}
	}
	return Lease{Holder: rec.Holder, Epoch: rec.Base + uint64(kv.ModRevision)}
}

// revision is the mod revision of a record with an epoch: 0, as of a key that is not there, if no record can have it.
func (r *Recorder) revision(epoch uint64) int64 { return int64(epoch - min(epoch, r.config.Base)) }

// readBack finds out what has become of a request without an answer. It goes on until it knows or the recorder
// ends: as long, nothing else happens to these clients.
func (r *Recorder) readBack(ctx context.Context, batch []*op, generation, since int64) {
	wait := retryLeast
	for {
		err := r.fence(ctx, generation)
		if errors.Is(err, ErrNotActive) {
			r.finish(batch, func(*op) Claimed { return Claimed{Err: ErrUnknown} })
			return
		}
		if err == nil {
			err = r.resolve(ctx, batch, since)
		}
		if err == nil {
			return
		}
		r.deps.Logger.WarnContext(ctx, "outcome of a change of leases is not known yet", slog.Int("clients", len(batch)), slog.Any("error", err))
		if !pause(ctx, wait) {
			r.finish(batch, func(*op) Claimed { return Claimed{Err: ErrUnknown} })
			return
		}
		wait = min(2*wait, retryMost)
	}
}

// fence raises the generation above the one given, unless that has happened. After it nothing that was sent under
// that generation is applied any more.
func (r *Recorder) fence(ctx context.Context, generation int64) error {
	r.fencing.Lock()
	defer r.fencing.Unlock()
	if r.generation.Load() > generation {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, r.config.Timeout)
	defer cancel()
	key := r.deps.Keys.Active()
	answer, err := r.deps.Client.Txn(ctx).
		If(clientv3.Compare(clientv3.ModRevision(key), "=", generation)).
		Then(clientv3.OpPut(key, r.term.Instance, clientv3.WithLease(r.incarnation.lease))).
		Else(clientv3.OpGet(key)).
		Commit()
	if errors.Is(err, rpctypes.ErrLeaseNotFound) {
		return ErrNotActive
	}
	if err != nil {
		return fmt.Errorf("raise generation: %w", err)
	}
	if answer.Succeeded {
		r.saw(answer.Header.Revision)
		r.raise(answer.Header.Revision)
		return nil
	}
	kvs := answer.Responses[0].GetResponseRange().Kvs
	if len(kvs) == 0 || kvs[0].CreateRevision != r.term.Revision {
		return ErrNotActive
	}
	// An earlier attempt was applied although its answer was lost.
	r.saw(answer.Header.Revision)
	r.raise(kvs[0].ModRevision)
	return nil
}

// resolve reads the records of fenced operations: those that were applied are completed, the others are put back.
// A record was put by its operation if it names the holder and is younger than everything that had been seen when
// the request was sent, because no other change of that client can have been under way.
func (r *Recorder) resolve(ctx context.Context, batch []*op, since int64) error {
	ctx, cancel := context.WithTimeout(ctx, r.config.Timeout)
	defer cancel()
	gets := make([]clientv3.Op, len(batch))
	for i, o := range batch {
		gets[i] = clientv3.OpGet(r.deps.Keys.Client(o.client))
	}
	now, err := r.deps.Client.Txn(ctx).Then(gets...).Commit()
	if err != nil {
		return fmt.Errorf("read back: %w", err)
	}
	var applied, again []*op
	var outcomes []Claimed
	for i, o := range batch {
		var kv *mvccpb.KeyValue
		if kvs := now.Responses[i].GetResponseRange().Kvs; len(kvs) > 0 {
			kv = kvs[0]
		}
		done, outcome, err := r.found(ctx, o, kv, since)
		if o.release {
			// It was not in force any more when this was read.
			outcome.Epoch = r.config.Base + uint64(now.Header.Revision)
		}
		switch {
		case err != nil:
			return err
		case done:
			applied, outcomes = append(applied, o), append(outcomes, outcome)
		default:
			again = append(again, o)
		}
	}
	r.saw(now.Header.Revision)
	r.again(again)
	r.queue.complete(applied)
	for i, o := range applied {
		o.done(outcomes[i])
	}
	return nil
}

// found decides for one operation, given the record as it is now.
func (r *Recorder) found(ctx context.Context, o *op, kv *mvccpb.KeyValue, since int64) (applied bool, c Claimed, err error) {
	lease := r.lease(kv)
	if o.release {
		meant := lease.Holder == o.holder
		if o.epoch != 0 {
			meant = kv != nil && kv.ModRevision == r.revision(o.epoch)
		}
		return !meant, Claimed{}, nil
	}
	if lease.Holder != o.holder || kv.ModRevision <= since {
		return false, Claimed{}, nil
	}
	c = Claimed{Epoch: lease.Epoch}
	before, err := r.deps.Client.Get(ctx, r.deps.Keys.Client(o.client), clientv3.WithRev(kv.ModRevision-1))
	if errors.Is(err, rpctypes.ErrCompacted) {
		// Minutes have passed. A former holder that still serves the client learns of it from its peers' epochs.
		r.deps.Logger.ErrorContext(ctx, "former holder of a client is not known: history is compacted")
		return true, c, nil
	}
	if err != nil {
		return false, Claimed{}, fmt.Errorf("read former record: %w", err)
	}
	if len(before.Kvs) > 0 {
		c.Former = r.lease(before.Kvs[0])
	}
	return true, c, nil
}
