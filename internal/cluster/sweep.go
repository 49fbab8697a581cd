package cluster

import (
	"context"
	"fmt"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

const (
	sweepPage  = 1000
	sweepBatch = 100
)

// Sweep reads all clients' records and deletes those whose holder is dead, at most rate of them in a second. Dead
// says which holders seem dead, from a view that may be behind or ahead: the deletion itself is conditional on the
// holder's key being absent and on the record being the one that was read. Returns the number deleted.
func (r *Recorder) Sweep(ctx context.Context, dead func(holder string, epoch uint64) bool, rate int) (int, error) {
	deleted := 0
	end := clientv3.GetPrefixRangeEnd(r.deps.Keys.Clients())
	for from := r.deps.Keys.Clients(); ; {
		page, err := r.sweepRead(ctx, from, end)
		if err != nil {
			return deleted, err
		}
		var stale []clientv3.Op
		for _, kv := range page.Kvs {
			rec, err := decodeRecord(kv.Value)
			if err != nil || !dead(rec.Holder, uint64(kv.ModRevision)) {
				continue
			}
			key := string(kv.Key)
			stale = append(stale, clientv3.OpTxn(
				[]clientv3.Cmp{
					clientv3.Compare(clientv3.ModRevision(key), "=", kv.ModRevision),
					clientv3.Compare(clientv3.CreateRevision(r.deps.Keys.Member(Gateway, rec.Holder)), "=", 0),
				},
				[]clientv3.Op{clientv3.OpDelete(key)}, nil))
		}
		for len(stale) > 0 {
			n := min(len(stale), sweepBatch)
			start := time.Now()
			d, err := r.sweepDelete(ctx, stale[:n])
			if err != nil {
				return deleted, err
			}
			deleted, stale = deleted+d, stale[n:]
			r.metrics.swept.Add(float64(d))
			pause(ctx, time.Duration(n)*time.Second/time.Duration(rate)-time.Since(start))
		}
		if !page.More {
			r.metrics.sweeps.Inc()
			return deleted, nil
		}
		from = string(page.Kvs[len(page.Kvs)-1].Key) + "\x00"
	}
}

func (r *Recorder) sweepRead(ctx context.Context, from, end string) (*clientv3.GetResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, r.config.Timeout)
	defer cancel()
	page, err := r.deps.Client.Get(ctx, from, clientv3.WithRange(end), clientv3.WithLimit(sweepPage), clientv3.WithSerializable())
	if err != nil {
		return nil, fmt.Errorf("sweep: read records: %w", err)
	}
	return page, nil
}

func (r *Recorder) sweepDelete(ctx context.Context, stale []clientv3.Op) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, r.config.Timeout)
	defer cancel()
	answer, err := r.deps.Client.Txn(ctx).
		If(clientv3.Compare(clientv3.CreateRevision(r.deps.Keys.Active()), "=", r.term.Revision)).
		Then(stale...).
		Commit()
	if err != nil {
		return 0, fmt.Errorf("sweep: delete records: %w", err)
	}
	if !answer.Succeeded {
		return 0, fmt.Errorf("sweep: delete records: %w", ErrNotActive)
	}
	n := 0
	for _, one := range answer.Responses {
		if one.GetResponseTxn().GetSucceeded() {
			n++
		}
	}
	return n, nil
}
