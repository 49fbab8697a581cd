package cluster

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// Term is one time of one session instance as the active one.
type Term struct {
	// Instance is the incarnation id of the active instance.
	Instance string
	// Revision is the etcd revision that made it active. Everything that earlier active instances wrote came
	// before it.
	Revision int64
}

// Lead waits until this session instance is the active one, calls lead for as long as it is, and waits again
// after it. The context of lead is done when the term is over; Lead waits for lead to return. Being active is a
// key under the incarnation's lease, put when nobody has it: all that a Recorder writes is conditional on it, so
// a term that etcd cannot confirm needs no end of its own. Returns nil when the context is done.
func Lead(ctx context.Context, i *Incarnation, lead func(context.Context, Term)) error {
	c := candidate{incarnation: i, seen: make(chan Term, 1)}
	var wg sync.WaitGroup
	defer wg.Wait()
	o := &observer{deps: i.deps, key: i.deps.Keys.Active(), on: c.observe}
	wg.Go(func() { _ = o.run(ctx) })

	var current Term
	var again <-chan time.Time
	for end := func() {}; ; {
		select {
		case <-ctx.Done():
			end()
			return nil
		case now := <-c.seen:
			if now == current && now.Instance == i.ID() {
				continue
			}
			end()
			current, end, again = now, func() {}, nil
			switch now.Instance {
			case "":
				again = c.stand(ctx)
			case i.ID():
				end = c.start(ctx, now, lead)
			}
		case <-again:
			again = c.stand(ctx)
		}
	}
}

type candidate struct {
	incarnation *Incarnation
	// seen holds the latest state of the key only; an older one that was not read yet is replaced.
	seen chan Term
}

func (c *candidate) observe(kvs []*mvccpb.KeyValue, _ int64) {
	now := Term{}
	if len(kvs) > 0 {
		now = Term{Instance: string(kvs[0].Value), Revision: kvs[0].CreateRevision}
	}
	select {
	case <-c.seen:
	default:
	}
	c.seen <- now
}

// stand puts the key if it is still absent. Whether that worked is seen by watching the key. A key that was put and
// deleted between two looks of the watch is not seen at all: when nothing else is seen until again, stand again.
func (c *candidate) stand(ctx context.Context) (again <-chan time.Time) {
	i := c.incarnation
	key, self := i.deps.Keys.Active(), i.deps.Keys.Member(Session, i.ID())
	for {
		try, cancel := context.WithTimeout(ctx, readTimeout)
		_, err := i.deps.Client.Txn(try).
			If(clientv3.Compare(clientv3.CreateRevision(key), "=", 0),
				clientv3.Compare(clientv3.CreateRevision(self), "=", i.Revision())).
			Then(clientv3.OpPut(key, i.ID(), clientv3.WithLease(i.lease))).
			Commit()
		cancel()
		if err == nil {
			return time.After(retryMost)
		}
		i.deps.Logger.WarnContext(ctx, "could not stand for active session instance", slog.Any("error", err))
		if !pause(ctx, retryMost/4) {
			return nil
		}
	}
}

func (c *candidate) start(ctx context.Context, t Term, lead func(context.Context, Term)) (end func()) {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		lead(ctx, t)
	}()
	return func() { cancel(); <-done }
}
