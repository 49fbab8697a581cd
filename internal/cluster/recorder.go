package cluster

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// RecorderConfig bounds a Recorder. Zero fields mean the value in brackets.
type RecorderConfig struct {
	// InFlight is how many etcd requests may be under way at once (4).
	InFlight int
	// Batch is how many clients share a request at most (60; etcd takes 127).
	Batch int
	// Timeout is how long a request waits for its answer, and an operation to be sent while etcd does not answer at
	// all (2 s). While it answers, only slowly, operations wait five times as long.
	Timeout time.Duration
	// Waiting is how many operations may wait (100,000); what comes then is answered ErrUnavailable.
	Waiting int
	// Base is added to etcd's revision to make an epoch (0): above all epochs from before etcd was restored.
	Base uint64
}

func (c *RecorderConfig) complete() {
	set := func(v *int, d int) {
		if *v == 0 {
			*v = d
		}
	}
	set(&c.InFlight, 4)
	set(&c.Batch, 60)
	set(&c.Waiting, 100_000)
	if c.Timeout == 0 {
		c.Timeout = 2 * time.Second
	}
}

// requestBytes keeps a request well below etcd's bound of 1.5 MiB.
const requestBytes = 1 << 20

// Claimed is the outcome of Claim or Release. Err is nil when it is done, for Release also when the lease was not
// in force any more. ErrHolderDead, ErrUnavailable, ErrNotActive: nothing was changed. ErrUnknown: the recorder
// ended before it could find out.
type Claimed struct {
	// Epoch of the new lease. For Release one at which the lease was not in force any more, and below those of all
	// leases to come.
	Epoch uint64
	// Former is the record that was there before, whether its holder was alive or not.
	Former Lease
	Err    error
}

// ErrUnknown says that a change was sent to etcd and its answer was not seen.
var ErrUnknown = errors.New("etcd's answer is not known")

// Recorder changes leases of clients while this instance is the active one.
//
// Each change is a transaction of its own, conditional on the new holder's key (or on the released epoch), nested
// in one etcd request with those of other clients: whatever waits while requests are under way goes together.
// Clients of one request share its revision as their epoch, which is only ever compared for one client. Two
// changes of one client never share a request and are carried out in the order they came, so that a release and
// the claim that follows it have different revisions.
//
// Requests are conditional on a generation: the mod revision of the key that names the active instance. When a
// request's outcome is unknown, the recorder first writes that key anew. What may still be on its way cannot be
// applied after that, so that the records, read then, say for certain whether it was.
type Recorder struct {
	deps        Deps
	config      RecorderConfig
	incarnation *Incarnation
	term        Term
	metrics     recorderMetrics
	queue       *opQueue

	generation atomic.Int64
	fencing    sync.Mutex // held while the generation is raised
	// answered is when etcd answered last, or Run began: nanoseconds since 1970.
	answered atomic.Int64
	// seen is the highest revision in any answer so far: what was completed came before it.
	seen atomic.Int64
}

// NewRecorder returns a recorder for one term of an incarnation.
func NewRecorder(i *Incarnation, t Term, c RecorderConfig) *Recorder {
	c.complete()
	r := &Recorder{
		deps: i.deps, config: c, incarnation: i, term: t,
		metrics: newRecorderMetrics(i.deps.Metrics), queue: newOpQueue(c.Waiting, c.Batch/4),
	}
	r.generation.Store(t.Revision)
	r.seen.Store(t.Revision)
	return r
}

// Claim records the holder of a client: the newest claim wins. done is called once, on another goroutine unless
// the claim is refused at once, and must not block.
func (r *Recorder) Claim(clientID, holder string, done func(Claimed)) {
	value, err := encodeRecord(holder, r.config.Base)
	if err != nil {
		done(Claimed{Err: err})
		return
	}
	r.add(&op{client: clientID, holder: holder, value: value, added: time.Now(), done: done})
}

// Release deletes the record of a client if it is that of the epoch; with epoch 0, if it names the holder. done
// is called as with Claim.
func (r *Recorder) Release(clientID, holder string, epoch uint64, done func(Claimed)) {
	value, err := encodeRecord(holder, r.config.Base)
	if err != nil {
		done(Claimed{Err: err})
		return
	}
	r.add(&op{client: clientID, holder: holder, value: value, release: true, epoch: epoch, added: time.Now(), done: done})
}

func (r *Recorder) add(o *op) {
	if err := r.queue.add(o); err != nil {
		o.done(Claimed{Err: err})
	}
}

// Run carries out what is added until the context is done; then the rest is answered ErrNotActive. Returns nil.
func (r *Recorder) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	for range r.config.InFlight {
		wg.Go(func() {
			for batch := r.take(); len(batch) > 0; batch = r.take() {
				r.carryOut(ctx, batch)
				r.queue.ended()
			}
		})
	}
	r.answered.Store(time.Now().UnixNano())
	check := time.NewTicker(r.config.Timeout / 4)
	defer check.Stop()
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case now := <-check.C:
			patience := r.config.Timeout
			if now.Sub(time.Unix(0, r.answered.Load())) < patience {
				patience *= 5
			}
			for _, o := range r.queue.expire(now.Add(-patience)) {
				o.done(Claimed{Err: ErrUnavailable})
			}
		}
	}
	for _, o := range r.queue.close() {
		o.done(Claimed{Err: ErrNotActive})
	}
	wg.Wait()
	return nil
}

func (r *Recorder) take() []*op { return r.queue.take(r.config.Batch, requestBytes) }

// carryOut sends one request and completes, fails or puts back its operations.
func (r *Recorder) carryOut(ctx context.Context, batch []*op) {
	generation, since := r.generation.Load(), r.seen.Load()
	start := time.Now()
	request, cancel := context.WithTimeout(ctx, r.config.Timeout)
	answer, err := r.deps.Client.Txn(request).
		If(clientv3.Compare(clientv3.ModRevision(r.deps.Keys.Active()), "=", generation)).
		Then(r.changes(batch)...).
		Else(clientv3.OpGet(r.deps.Keys.Active())).
		Commit()
	cancel()
	if err == nil {
		r.answered.Store(time.Now().UnixNano())
	}
	r.metrics.durations.Observe(time.Since(start).Seconds())
	r.metrics.batches.Observe(float64(len(batch)))
	switch {
	case err != nil:
		r.metrics.unknown.Inc()
		r.deps.Logger.WarnContext(ctx, "change of leases has no answer", slog.Int("clients", len(batch)), slog.Any("error", err))
		r.readBack(ctx, batch, generation, since)
	case !answer.Succeeded:
		kvs := answer.Responses[0].GetResponseRange().Kvs
		if len(kvs) == 0 || kvs[0].CreateRevision != r.term.Revision {
			r.finish(batch, func(*op) Claimed { return Claimed{Err: ErrNotActive} })
			return
		}
		r.raise(kvs[0].ModRevision)
		r.again(batch)
	default:
		r.saw(answer.Header.Revision)
		r.succeed(batch, answer)
	}
}

// again puts operations back that have changed nothing.
func (r *Recorder) again(batch []*op) {
	if r.queue.again(batch) {
		return
	}
	for _, o := range batch {
		o.done(Claimed{Err: ErrNotActive})
	}
}

func (r *Recorder) finish(batch []*op, outcome func(*op) Claimed) {
	r.queue.complete(batch)
	for _, o := range batch {
		o.done(outcome(o))
	}
}

func (r *Recorder) saw(revision int64) { storeMax(&r.seen, revision) }

func (r *Recorder) raise(generation int64) { storeMax(&r.generation, generation) }

func storeMax(to *atomic.Int64, v int64) {
	for old := to.Load(); old < v && !to.CompareAndSwap(old, v); old = to.Load() {
	}
}
