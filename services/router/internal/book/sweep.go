package book

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/beeline-mqtt/beeline/internal/lifecycle"
)

const (
	sweepTimeout = 5 * time.Second
	sweepPage    = 500
	// sweepBatch is less than etcd takes, because it counts the nested operations too.
	sweepBatch = 100
	// sweepPause between two pages bounds what a sweep costs etcd when there is little to delete.
	sweepPause = 20 * time.Millisecond
	sweepEvery = 24 * time.Hour
	// sweepTick is how often a sweeper looks at the clock.
	sweepTick = time.Minute
)

// sweeper deletes recorded nodes that nobody has recorded again for too long. Every router has one. Each looks once a
// day, at an hour of its own, and goes through all records unless another one has done so on that day. Two at once do
// no harm: a record is deleted only as it was read.
type sweeper struct {
	cfg     Config
	deps    Deps
	metrics *metrics
	prefix  string
	next    time.Time
	tick    time.Duration
}

func newSweeper(c Config, d Deps, m *metrics) *sweeper {
	return &sweeper{
		cfg: c, deps: d, metrics: m, prefix: prefixOf(d.Keys, nodeRecords),
		next: d.Now().Add(rand.N(sweepEvery)), tick: sweepTick,
	}
}

// sweptValue names a day as nodeValue does. It is JSON in etcd; unknown fields are ignored.
type sweptValue struct {
	Version int   `json:"v"`
	Day     int64 `json:"day"`
}

func (s *sweeper) run(ctx context.Context) {
	tick := time.NewTicker(s.tick)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		now := s.deps.Now()
		if now.Before(s.next) {
			continue
		}
		s.next = now.Add(sweepEvery)
		deleted, err := s.daily(ctx)
		switch {
		case ctx.Err() != nil:
		case err != nil:
			s.deps.Logger.WarnContext(ctx, "sweep of recorded nodes ended early", slog.Int("deleted", deleted), slog.Any("error", err))
		default:
			s.deps.Logger.DebugContext(ctx, "recorded nodes are swept", slog.Int("deleted", deleted))
		}
	}
}

// daily sweeps, unless that was done today.
func (s *sweeper) daily(ctx context.Context) (deleted int, err error) {
	today := dayOf(s.deps.Now())
	last, err := s.lastDay(ctx)
	if err != nil || last >= today {
		return 0, err
	}
	if deleted, err = s.sweep(ctx, today); err != nil {
		return deleted, err
	}
	value, err := encode(sweptValue{Version: version, Day: today})
	if err != nil {
		return deleted, err
	}
	ctx, cancel := context.WithTimeout(ctx, sweepTimeout)
	defer cancel()
	if _, err = s.deps.Client.Put(ctx, sweptKey(s.deps.Keys), value); err != nil {
		return deleted, fmt.Errorf("note the day of the sweep: %w", err)
	}
	return deleted, nil
}

// lastDay is that of the last complete sweep; 0 if nobody knows.
func (s *sweeper) lastDay(ctx context.Context) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, sweepTimeout)
	defer cancel()
	answer, err := s.deps.Client.Get(ctx, sweptKey(s.deps.Keys))
	if err != nil {
		return 0, fmt.Errorf("read the day of the last sweep: %w", err)
	}
	var v sweptValue
	if len(answer.Kvs) == 0 {
		return 0, nil
	}
	if err = errors.Join(json.Unmarshal(answer.Kvs[0].Value, &v), checkVersion(v.Version)); err != nil {
		s.deps.Logger.DebugContext(ctx, "day of the last sweep cannot be read", slog.Any("error", err))
		return 0, nil
	}
	return v.Day, nil
}

// sweep goes once through all records, page by page, and deletes those that are too old on a day, at most SweepRate of
// them in a second. What it cannot read it leaves: a newer release may have written it.
func (s *sweeper) sweep(ctx context.Context, today int64) (deleted int, err error) {
	end := clientv3.GetPrefixRangeEnd(s.prefix)
	for from := s.prefix; ; {
		page, err := s.readPage(ctx, from, end)
		if err != nil {
			return deleted, err
		}
		stale := s.stale(page.Kvs, today)
		for len(stale) > 0 {
			n := min(len(stale), sweepBatch, s.cfg.SweepRate)
			start := time.Now()
			d, err := s.remove(ctx, stale[:n])
			if err != nil {
				return deleted, err
			}
			deleted, stale = deleted+d, stale[n:]
			s.metrics.swept.Add(float64(d))
			lifecycle.Pause(ctx, time.Duration(n)*time.Second/time.Duration(s.cfg.SweepRate)-time.Since(start))
		}
		if !page.More {
			return deleted, nil
		}
		from = string(page.Kvs[len(page.Kvs)-1].Key) + "\x00"
		lifecycle.Pause(ctx, sweepPause)
	}
}

func (s *sweeper) stale(kvs []*mvccpb.KeyValue, today int64) []*mvccpb.KeyValue {
	var stale []*mvccpb.KeyValue
	for _, kv := range kvs {
		if v, err := decodeNode(kv.Value); err == nil && today-v.Day > int64(s.cfg.NodeDays) {
			stale = append(stale, kv)
		}
	}
	return stale
}

func (s *sweeper) readPage(ctx context.Context, from, end string) (*clientv3.GetResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, sweepTimeout)
	defer cancel()
	page, err := s.deps.Client.Get(ctx, from, clientv3.WithRange(end), clientv3.WithLimit(sweepPage), clientv3.WithSerializable())
	if err != nil {
		return nil, fmt.Errorf("sweep: read recorded nodes: %w", err)
	}
	return page, nil
}

// remove deletes records that have not been written since they were read.
func (s *sweeper) remove(ctx context.Context, stale []*mvccpb.KeyValue) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, sweepTimeout)
	defer cancel()
	deletes := make([]clientv3.Op, len(stale))
	for i, kv := range stale {
		key := string(kv.Key)
		same := clientv3.Compare(clientv3.ModRevision(key), "=", kv.ModRevision)
		deletes[i] = clientv3.OpTxn([]clientv3.Cmp{same}, []clientv3.Op{clientv3.OpDelete(key)}, nil)
	}
	answer, err := s.deps.Client.Txn(ctx).Then(deletes...).Commit()
	if err != nil {
		return 0, fmt.Errorf("sweep: delete recorded nodes: %w", err)
	}
	n := 0
	for _, one := range answer.Responses {
		if one.GetResponseTxn().GetSucceeded() {
			n++
		}
	}
	return n, nil
}
