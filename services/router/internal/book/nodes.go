package book

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/maypok86/otter/v2"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/beeline-mqtt/beeline/internal/lifecycle"
)

const (
	// mostOperations is how many etcd takes in one transaction.
	mostOperations = 128
	// readsInFlight is how many transactions read at a time. What is asked for meanwhile goes together in the next.
	readsInFlight = 4
	// readPause is between the beginnings of two transactions that read. A read costs etcd and the router more than what
	// is read: a client that comes alone does not wait, and of many that come at once several are one read.
	readPause = 4 * time.Millisecond
	// renewDays is the age of a record from which it is written again although the node is the same. Days are counted
	// by the calendar, so that a record of yesterday may be a minute old.
	renewDays = 2
	// mostRecord bounds name, key and node of one record together, so that a full transaction is one that etcd takes.
	mostRecord = 4096
)

// nodes are the recorded nodes of clients.
type nodes struct {
	cfg     Config
	deps    Deps
	metrics *metrics
	prefix  string

	cache *otter.Cache[string, cached]
	reads chan *nodeRead
	// nextRead has the time of the next read, unless somebody waits for it.
	nextRead chan time.Time
	queue    *writeQueue
}

// cached is what is known of a client's record.
type cached struct {
	node string
	day  int64     // of the record in etcd; 0: it is not known to be there
	at   time.Time // when it was read or written
}

// nodeRead is one record that somebody waits for.
type nodeRead struct {
	id    string
	until time.Time       // nobody waits any longer
	done  chan readAnswer // of one element
}

type readAnswer struct {
	node    string // empty unless outcome is readRecorded
	outcome outcome
}

func newNodes(c Config, d Deps, m *metrics) *nodes {
	next := make(chan time.Time, 1)
	next <- time.Time{}
	return &nodes{
		cfg:     c,
		deps:    d,
		metrics: m,
		prefix:  prefixOf(d.Keys, nodeRecords),
		cache:   otter.Must(&otter.Options[string, cached]{MaximumSize: c.CachedNodes}),
		reads:   make(chan *nodeRead, c.ReadQueue),
		queue:   newWriteQueue(c.WriteQueue),

		nextRead: next,
	}
}

// Recorded is the node at which the client with a key was last in the cluster with a name, as far as that is known
// within the read time-out: from memory, else from etcd, else from what memory has beyond its time. An answer that
// does not come in time is none.
func (b *Book) Recorded(ctx context.Context, name, key string) (node string, ok bool) {
	node, o := b.nodes.recorded(ctx, nodeID(name, key))
	b.metrics.read(o)
	return node, node != ""
}

// Record says that the client with a key is placed at a node of the cluster with a name. Recorded has it at once here,
// and in a while elsewhere, unless it is dropped: for example because too many wait. key is the text of the client's
// keyed hash; with name and node it is bounded by 4 KiB. A record that has the node already is written anew only when
// it is more than a day old. It never blocks.
func (b *Book) Record(name, key, node string) { b.nodes.record(nodeID(name, key), node) }

func (n *nodes) today() int64 { return dayOf(n.deps.Now()) }

// dayOf counts days in UTC.
func dayOf(t time.Time) int64 { return t.Unix() / int64(24*time.Hour/time.Second) }

// fresh says that memory need not be asked about again.
func (n *nodes) fresh(c cached) bool { return n.deps.Now().Sub(c.at) < n.cfg.CacheFor }

func (n *nodes) recorded(ctx context.Context, id string) (string, outcome) {
	c, inMemory := n.cache.GetIfPresent(id)
	if inMemory && n.fresh(c) {
		return c.node, readCached
	}
	answer := n.ask(ctx, id)
	switch answer.outcome {
	case readRecorded, readAbsent:
		return answer.node, answer.outcome
	default:
		return c.node, answer.outcome
	}
}

// ask waits for a read.
func (n *nodes) ask(ctx context.Context, id string) readAnswer {
	r := &nodeRead{id: id, until: time.Now().Add(n.cfg.ReadTimeout), done: make(chan readAnswer, 1)}
	n.metrics.readsWaiting.Inc()
	select {
	case n.reads <- r:
	default:
		n.metrics.readsWaiting.Dec()
		return readAnswer{outcome: readFull}
	}
	patience := time.NewTimer(n.cfg.ReadTimeout)
	defer patience.Stop()
	select {
	case a := <-r.done:
		return a
	case <-patience.C:
	case <-ctx.Done():
	}
	return readAnswer{outcome: readTimedOut}
}

// read reads what is asked for until ctx is done. It is several goroutines, of which one gathers at a time.
func (n *nodes) read(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case next := <-n.nextRead:
			batch := n.await(ctx, next)
			n.nextRead <- time.Now().Add(readPause)
			if len(batch) > 0 {
				n.get(ctx, batch)
			}
		}
	}
}

// await waits until something is asked for, and for the time of the next read.
func (n *nodes) await(ctx context.Context, next time.Time) []*nodeRead {
	select {
	case <-ctx.Done():
		return nil
	case first := <-n.reads:
		if wait := time.Until(next); wait > 0 {
			lifecycle.Pause(ctx, wait)
		}
		return n.gather(first)
	}
}

// gather takes what waits, as far as somebody still waits for it.
func (n *nodes) gather(first *nodeRead) []*nodeRead {
	now := time.Now()
	var batch []*nodeRead
	for r := first; ; {
		n.metrics.readsWaiting.Dec()
		if now.Before(r.until) {
			batch = append(batch, r)
		}
		if len(batch) == mostOperations {
			return batch
		}
		select {
		case r = <-n.reads:
		default:
			return batch
		}
	}
}

// get reads records from whichever member of etcd is reached, without asking its leader: that is cheaper, and works
// without a majority.
func (n *nodes) get(ctx context.Context, batch []*nodeRead) {
	ctx, cancel := context.WithTimeout(ctx, n.cfg.ReadTimeout)
	defer cancel()
	gets := make([]clientv3.Op, len(batch))
	for i, r := range batch {
		gets[i] = clientv3.OpGet(n.prefix+r.id, clientv3.WithSerializable())
	}
	answer, err := n.deps.Client.Txn(ctx).Then(gets...).Commit()
	if err != nil {
		o := readFailed
		if ctx.Err() != nil || errors.Is(err, context.DeadlineExceeded) {
			o = readTimedOut
		}
		n.deps.Logger.DebugContext(ctx, "recorded nodes cannot be read", slog.Any("error", err))
		for _, r := range batch {
			r.done <- readAnswer{outcome: o}
		}
		return
	}
	for i, r := range batch {
		var value []byte
		if kvs := answer.Responses[i].GetResponseRange().GetKvs(); len(kvs) > 0 {
			value = kvs[0].Value
		}
		r.done <- n.learn(ctx, r.id, value)
	}
}

// learn keeps what a read has found. What was placed here meanwhile is newer.
func (n *nodes) learn(ctx context.Context, id string, value []byte) readAnswer {
	op, found := otter.InvalidateOp, cached{at: n.deps.Now()}
	if value != nil {
		if v, err := decodeNode(value); err == nil {
			op, found.node, found.day = otter.WriteOp, v.Node, v.Day
		} else {
			n.deps.Logger.DebugContext(ctx, "recorded node cannot be read", slog.Any("error", err))
		}
	}
	now, ok := n.cache.Compute(id, func(old cached, there bool) (cached, otter.ComputeOp) {
		if there && n.fresh(old) {
			return old, otter.CancelOp
		}
		return found, op
	})
	if !ok {
		return readAnswer{outcome: readAbsent}
	}
	return readAnswer{node: now.node, outcome: readRecorded}
}

func (n *nodes) record(id, node string) {
	if node == "" || len(id)+len(node) > mostRecord {
		n.metrics.drop(dropTooLong, 1)
		return
	}
	// Between the look and the writing another goroutine may place the same client elsewhere. One of the two is last in
	// the cache and in the queue, not always the same: the client finds either.
	c, there := n.cache.GetIfPresent(id)
	if there && c.node == node && n.today()-c.day < renewDays {
		return
	}
	n.cache.Set(id, cached{node: node, at: n.deps.Now()})
	n.metrics.drop(dropFull, n.queue.add(write{id: id, node: node}))
	n.metrics.writesWaiting.Set(float64(n.queue.len()))
}

// put records a batch, and notes in the cache that it is there.
func (n *nodes) put(ctx context.Context, batch []write) error {
	ctx, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	day := n.today()
	puts := make([]clientv3.Op, len(batch))
	for i, w := range batch {
		value, err := encode(nodeValue{Version: version, Node: w.node, Day: day})
		if err != nil {
			return err
		}
		puts[i] = clientv3.OpPut(n.prefix+w.id, value)
	}
	if _, err := n.deps.Client.Txn(ctx).Then(puts...).Commit(); err != nil {
		return fmt.Errorf("record nodes: %w", err)
	}
	n.metrics.written.Add(float64(len(batch)))
	now := n.deps.Now()
	for _, w := range batch {
		n.cache.ComputeIfPresent(w.id, func(old cached) (cached, otter.ComputeOp) {
			if old.node != w.node {
				return old, otter.CancelOp
			}
			return cached{node: w.node, day: day, at: now}, otter.WriteOp
		})
	}
	return nil
}
