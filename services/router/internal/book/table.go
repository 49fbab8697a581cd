package book

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync/atomic"

	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/beeline-mqtt/beeline/internal/cluster"
)

// Snapshot is everything of a kind as of one revision of etcd. Nobody changes it.
type Snapshot[E any] struct {
	// Generation is 0 before the first complete read, and grows by one with each snapshot of this process.
	Generation uint64
	// Revision is that of etcd up to which the snapshot is complete.
	Revision int64
	// Entries are ordered as their keys are.
	Entries []E

	ids []string // of the entries, in the same order
}

// Page returns up to limit entries that come after those of an earlier page, whose next is given; "" is the beginning.
// next is empty when there are no more. Pages may be of different snapshots: what was there all the time is in one of
// them, once.
func (s *Snapshot[E]) Page(after string, limit int) (entries []E, next string) {
	from := 0
	if after != "" {
		at, found := slices.BinarySearch(s.ids, after)
		from = at
		if found {
			from++
		}
	}
	to := min(from+max(limit, 1), len(s.ids))
	if to < len(s.ids) {
		next = s.ids[to-1]
	}
	return s.Entries[from:to:to], next
}

func (s *Snapshot[E]) find(id string) (e E, ok bool) {
	at, ok := slices.BinarySearch(s.ids, id)
	if !ok {
		return e, false
	}
	return s.Entries[at], true
}

// table makes snapshots of what a watch shows. It belongs to one goroutine, but for snapshot and latest.
type table[E any] struct {
	kind     string // as metrics and the log have it
	prefix   string
	decode   func(id string, kv *mvccpb.KeyValue) (E, error)
	snapshot atomic.Pointer[Snapshot[E]]
	latest   atomic.Pointer[listing] // nil: the snapshot is up to date
	rows     map[string]*row[E]      // by key
}

// listing is what the watch has shown.
type listing struct {
	kvs      []*mvccpb.KeyValue
	revision int64
}

// row is what became of a key, so that nothing is decoded, or complained of, twice.
type row[E any] struct {
	kv    *mvccpb.KeyValue
	id    string
	entry E
	err   error
	seen  uint64 // the last generation that had the key
}

func newTable[E any](kind, prefix string, decode func(string, *mvccpb.KeyValue) (E, error)) *table[E] {
	t := &table[E]{kind: kind, prefix: prefix, decode: decode, rows: map[string]*row[E]{}}
	t.snapshot.Store(&Snapshot[E]{})
	return t
}

// rebuild makes a new snapshot if the watch has shown something since the last one. Entries that cannot be read are
// not in it: a newer release may have written them.
func (t *table[E]) rebuild(log *slog.Logger, m *metrics) bool {
	l := t.latest.Swap(nil)
	if l == nil {
		return false
	}
	generation := t.snapshot.Load().Generation + 1
	rows := make([]*row[E], 0, len(l.kvs))
	for _, kv := range l.kvs {
		r := t.row(kv, log)
		r.seen = generation
		if r.err == nil {
			rows = append(rows, r)
		}
	}
	for key, r := range t.rows {
		if r.seen != generation {
			delete(t.rows, key)
		}
	}
	slices.SortFunc(rows, func(a, b *row[E]) int { return cmp.Compare(a.id, b.id) })
	s := &Snapshot[E]{Generation: generation, Revision: l.revision, Entries: make([]E, len(rows)), ids: make([]string, len(rows))}
	for i, r := range rows {
		s.Entries[i], s.ids[i] = r.entry, r.id
	}
	t.snapshot.Store(s)
	m.entries.WithLabelValues(t.kind).Set(float64(len(rows)))
	m.unreadable.WithLabelValues(t.kind).Set(float64(len(t.rows) - len(rows)))
	return true
}

// row decodes a key unless that was done before.
func (t *table[E]) row(kv *mvccpb.KeyValue, log *slog.Logger) *row[E] {
	// A revision alone does not tell: an etcd that was restored from a copy has them twice.
	if r := t.rows[string(kv.Key)]; r != nil && r.kv.ModRevision == kv.ModRevision && bytes.Equal(r.kv.Value, kv.Value) {
		r.kv = kv
		return r
	}
	r := &row[E]{kv: kv, id: strings.TrimPrefix(string(kv.Key), t.prefix)}
	r.entry, r.err = t.decode(r.id, kv)
	if r.err != nil {
		log.Warn("entry of the route store is ignored", slog.String("kind", t.kind), slog.String("entry", r.id), slog.Any("error", r.err))
	}
	t.rows[string(kv.Key)] = r
	return r
}

// watch shows a table what there is.
func (b *Book) watch(ctx context.Context, prefix string, latest *atomic.Pointer[listing]) error {
	d := cluster.Deps{Client: b.deps.Client, Keys: b.deps.Keys, Logger: b.deps.Logger}
	err := cluster.WatchKeys(ctx, d, prefix, func(kvs []*mvccpb.KeyValue, revision int64) {
		latest.Store(&listing{kvs: kvs, revision: revision})
		select {
		case b.wake <- struct{}{}:
		default:
		}
	})
	if err != nil {
		return fmt.Errorf("watch %s: %w", prefix, err)
	}
	return nil
}

// rebuild follows the watches. What they show while snapshots are being made goes into the next ones.
func (b *Book) rebuild(ctx context.Context) {
	ready := false
	for {
		select {
		case <-ctx.Done():
			return
		case <-b.wake:
		}
		changed := b.assignments.rebuild(b.deps.Logger, b.metrics)
		changed = b.clusters.rebuild(b.deps.Logger, b.metrics) || changed
		if changed {
			for _, f := range b.onChange {
				f()
			}
		}
		if !ready && b.Assignments().Generation > 0 && b.Clusters().Generation > 0 {
			ready = true
			close(b.ready)
		}
	}
}
