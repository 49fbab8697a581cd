package cluster

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// Witness asks every session instance that this process knows, and reports whether each of them has answered
// that it cannot reach etcd either. No instance known, or one silent, is false.
type Witness func(ctx context.Context) (allBlind bool)

// IncarnationConfig says what joins.
type IncarnationConfig struct {
	Kind Kind
	// Member is what others see. ID and Revision are filled in, State is Active unless it is set.
	Member Member
	// TTL is how long the others wait for a silent incarnation: whole seconds, 10 s when zero.
	TTL time.Duration
	// Margin is by how much earlier the incarnation itself gives up: TTL/5 when zero, at most TTL/3.
	Margin time.Duration
}

func (c *IncarnationConfig) complete() error {
	if c.TTL == 0 {
		c.TTL = 10 * time.Second
	}
	if c.Margin == 0 {
		c.Margin = c.TTL / 5
	}
	if c.TTL < time.Second || c.TTL%time.Second != 0 {
		return fmt.Errorf("incarnation TTL %v: want whole seconds, at least one", c.TTL)
	}
	if c.Margin < 0 || c.Margin > c.TTL/3 {
		return fmt.Errorf("incarnation margin %v: want at most a third of the TTL %v", c.Margin, c.TTL)
	}
	if c.Member.State == "" {
		c.Member.State = Active
	}
	return nil
}

// Incarnation is one run of a gateway or session instance: alive while its one key in etcd exists. A new one has
// a new id; what is lost is never put back.
//
// It is over, and Serving false for good, when etcd says that lease or key are gone, or when it has not renewed
// the lease for TTL - Margin by its own clock, counted from before the last request that renewed it was sent.
// There is one way to go on without etcd: while every known session instance answers, asked again within each
// Margin, that it cannot reach etcd either, nobody can take anything over. Any other answer, or silence, prolongs
// nothing.
type Incarnation struct {
	deps    Deps
	config  IncarnationConfig
	lease   clientv3.LeaseID
	tenure  *tenure
	metrics incarnationMetrics

	mu     sync.Mutex
	member Member // guarded by mu; only State changes
}

// Join grants a lease and puts the key of a new incarnation under it. The caller goes on with Run at once.
func Join(ctx context.Context, d Deps, c IncarnationConfig) (*Incarnation, error) {
	if err := c.complete(); err != nil {
		return nil, err
	}
	c.Member.ID = rand.Text()
	value, err := json.Marshal(c.Member)
	if err != nil {
		return nil, fmt.Errorf("join as %s: %w", c.Member.ID, err)
	}
	sent := time.Now()
	granted, err := d.Client.Grant(ctx, int64(c.TTL/time.Second))
	if err != nil {
		return nil, fmt.Errorf("join as %s: grant lease: %w", c.Member.ID, err)
	}
	key := d.Keys.Member(c.Kind, c.Member.ID)
	put, err := d.Client.Txn(ctx).
		If(clientv3.Compare(clientv3.CreateRevision(key), "=", 0)).
		Then(clientv3.OpPut(key, string(value), clientv3.WithLease(granted.ID))).
		Commit()
	if err == nil && !put.Succeeded {
		err = errors.New("the key exists")
	}
	if err != nil {
		// The key may be there: without its lease it goes.
		revoke(ctx, d.Client, granted.ID)
		return nil, fmt.Errorf("join as %s: put key: %w", c.Member.ID, err)
	}
	c.Member.Revision = put.Header.Revision
	ttl := time.Duration(granted.TTL) * time.Second
	return &Incarnation{
		deps: d, config: c, member: c.Member, lease: granted.ID,
		tenure:  newTenure(sent.Add(ttl - c.Margin)),
		metrics: newIncarnationMetrics(d.Metrics),
	}, nil
}

// ID is random, 26 letters and digits.
func (i *Incarnation) ID() string { return i.config.Member.ID }

// Revision is the etcd revision that created the key.
func (i *Incarnation) Revision() int64 { return i.config.Member.Revision }

// Serving looks at the clock and says whether the incarnation may act now: a process that was paused asks before
// it reads, delivers or acknowledges. Once false it stays false.
func (i *Incarnation) Serving() bool { return i.tenure.lasts() }

// Member is the incarnation as others see it.
func (i *Incarnation) Member() Member {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.member
}

// Run keeps the incarnation alive. When the context is done it gives the lease back, which frees all it held at
// once, and returns nil. It returns an error that is ErrLost as soon as the incarnation is over.
func (i *Incarnation) Run(ctx context.Context, witness Witness) error {
	run, lose := context.WithCancelCause(ctx)
	defer lose(nil)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer lose(nil)
	wg.Go(func() { lose(i.watchKey(run)) })
	wg.Go(func() { lose(i.renew(run)) })
	wg.Go(func() { i.askWitness(run, witness) })

	for {
		left := time.NewTimer(max(0, i.tenure.remaining()))
		select {
		case <-ctx.Done():
			left.Stop()
			i.Leave(ctx)
			return nil
		case <-run.Done():
			left.Stop()
			if ctx.Err() != nil {
				i.Leave(ctx)
				return nil
			}
			i.tenure.end()
			return context.Cause(run)
		case <-left.C:
			if !i.tenure.lasts() {
				return fmt.Errorf("lease not renewed for %v: %w", i.config.TTL-i.config.Margin, ErrLost)
			}
		}
	}
}

// Leave ends the incarnation and gives its lease back, if etcd answers within a second and still has it. Run does
// so at an orderly end. After ErrLost, whoever joins again leaves the lost incarnation: it may be alive in etcd yet,
// and all it held would count until its lease runs out.
func (i *Incarnation) Leave(ctx context.Context) {
	i.tenure.end()
	revoke(ctx, i.deps.Client, i.lease)
}

// watchKey returns when the key is gone.
func (i *Incarnation) watchKey(ctx context.Context) error {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	o := &observer{deps: i.deps, key: i.deps.Keys.Member(i.config.Kind, i.ID())}
	o.on = func(kvs []*mvccpb.KeyValue, _ int64) {
		if len(kvs) == 0 || kvs[0].CreateRevision != i.Revision() {
			stop(fmt.Errorf("key is gone: %w", ErrLost))
		}
	}
	if err := o.run(ctx); err != nil {
		return err
	}
	return context.Cause(ctx)
}

// renew returns when the lease is gone.
func (i *Incarnation) renew(ctx context.Context) error {
	for {
		sent := time.Now()
		ttl, err := i.renewOnce(ctx)
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case err != nil:
			i.metrics.renewals.WithLabelValues("failed").Inc()
			i.deps.Logger.WarnContext(ctx, "lease not renewed", slog.String("incarnation", i.ID()), slog.Duration("left", i.tenure.remaining()), slog.Any("error", err))
			if !pause(ctx, min(i.config.Margin/4, 250*time.Millisecond)) {
				return context.Cause(ctx)
			}
			continue
		case ttl <= 0:
			return fmt.Errorf("lease is gone: %w", ErrLost)
		}
		i.metrics.renewals.WithLabelValues("renewed").Inc()
		if !i.tenure.prolong(sent.Add(ttl - i.config.Margin)) {
			return fmt.Errorf("lease renewed too late: %w", ErrLost)
		}
		if !pause(ctx, time.Until(sent.Add(i.config.TTL/3))) {
			return context.Cause(ctx)
		}
	}
}

// renewOnce sends one keep-alive. The client's own KeepAlive would end by a clock of its own, and its
// KeepAliveOnce repeats without a pause when it cannot connect.
func (i *Incarnation) renewOnce(ctx context.Context) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(clientv3.WithRequireLeader(ctx), i.config.TTL/6)
	defer cancel()
	// A connection that waits before it tries again could be longer about it than there is left, while a witness
	// reaches etcd already.
	i.deps.Client.ActiveConnection().ResetConnectBackoff()
	stream, err := clientv3.RetryLeaseClient(i.deps.Client).LeaseKeepAlive(ctx)
	if err != nil {
		return 0, fmt.Errorf("open keep-alive: %w", err)
	}
	if err := stream.Send(&etcdserverpb.LeaseKeepAliveRequest{ID: int64(i.lease)}); err != nil {
		return 0, fmt.Errorf("send keep-alive: %w", err)
	}
	r, err := stream.Recv()
	if err != nil {
		return 0, fmt.Errorf("receive keep-alive: %w", err)
	}
	return time.Duration(r.TTL) * time.Second, nil
}

// askWitness prolongs the tenure whenever it is about to end and all session instances are blind. After another
// answer it asks no more until the lease has been renewed.
func (i *Incarnation) askWitness(ctx context.Context, witness Witness) {
	if witness == nil {
		return
	}
	refusedAt := int64(math.MinInt64)
	for {
		until := i.tenure.until.Load()
		if left := i.tenure.remaining() - i.config.Margin/2; left > 0 || until == refusedAt {
			if !pause(ctx, max(left*4/5, i.config.Margin/16)) {
				return
			}
			continue
		}
		asked := time.Now()
		round, cancel := context.WithTimeout(ctx, i.config.Margin/2)
		blind := witness(round)
		cancel()
		if ctx.Err() != nil {
			return
		}
		if !blind {
			i.metrics.witnesses.WithLabelValues("not_blind").Inc()
			refusedAt = until
			continue
		}
		i.metrics.witnesses.WithLabelValues("all_blind").Inc()
		if !i.tenure.prolong(asked.Add(i.config.Margin)) {
			return
		}
	}
}

// UpdateState shows another state to the others. It may be repeated after an error. ErrLost: the key is gone.
func (i *Incarnation) UpdateState(ctx context.Context, s State) error {
	i.mu.Lock()
	m := i.member
	i.mu.Unlock()
	m.State = s
	value, err := json.Marshal(m)
	if err != nil {
		return fmt.Errorf("update state to %s: %w", s, err)
	}
	key := i.deps.Keys.Member(i.config.Kind, i.ID())
	r, err := i.deps.Client.Txn(ctx).
		If(clientv3.Compare(clientv3.CreateRevision(key), "=", i.Revision())).
		Then(clientv3.OpPut(key, string(value), clientv3.WithLease(i.lease))).
		Commit()
	if err != nil {
		return fmt.Errorf("update state to %s: %w", s, err)
	}
	if !r.Succeeded {
		return fmt.Errorf("update state to %s: %w", s, ErrLost)
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	i.member.State = s
	return nil
}

// revoke ends a lease as well as it can; etcd ends it later otherwise.
func revoke(ctx context.Context, c *clientv3.Client, id clientv3.LeaseID) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	_, _ = c.Revoke(ctx, id)
}
