package cluster

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/beeline-mqtt/beeline/internal/lifecycle"
)

const (
	readTimeout = 2 * time.Second
	// A watch that has silently stopped, or whose etcd was restored from a copy, is noticed by reading anew.
	relistInterval = time.Minute
	retryLeast     = 50 * time.Millisecond
	retryMost      = time.Second
)

// observer follows the keys under a prefix, or one key: it reads, then watches from there, and reads again when
// the watch breaks. on gets all keys there are, ordered by creation, whenever that changes, and the revision up
// to which it is complete. While etcd is away nothing is called.
type observer struct {
	deps   Deps
	key    string
	prefix bool
	on     func(kvs []*mvccpb.KeyValue, revision int64)

	kvs   []*mvccpb.KeyValue
	shown bool
}

// WatchKeys calls on with all keys that begin with prefix, ordered by creation, and the revision up to which they are
// complete: first when etcd has been read, then each time something changes; what comes and is gone at once may show in
// the revision alone. While etcd cannot be reached the last call stands. Nobody changes the slice or what is in it. Returns nil when the context is done.
func WatchKeys(ctx context.Context, d Deps, prefix string, on func(kvs []*mvccpb.KeyValue, revision int64)) error {
	o := &observer{deps: d, key: prefix, prefix: true, on: on}
	return o.run(ctx)
}

func (o *observer) run(ctx context.Context) error {
	wait := retryLeast
	for ctx.Err() == nil {
		err := o.follow(ctx)
		switch {
		case err == nil:
			wait = retryLeast
		case ctx.Err() == nil:
			o.deps.Logger.WarnContext(ctx, "watch of etcd broke, reading again", slog.String("key", o.key), slog.Any("error", err))
			pause(ctx, wait)
			wait = min(2*wait, retryMost)
		}
	}
	return nil
}

// follow reads and watches until the watch breaks or it is time to read again.
func (o *observer) follow(ctx context.Context) error {
	var opts []clientv3.OpOption
	if o.prefix {
		opts = append(opts, clientv3.WithPrefix())
	}
	readCtx, cancelRead := context.WithTimeout(ctx, readTimeout)
	defer cancelRead()
	read, err := o.deps.Client.Get(readCtx, o.key, opts...)
	if err != nil {
		return fmt.Errorf("read %s: %w", o.key, err)
	}
	if kvs := sorted(read.Kvs); !o.shown || !o.has(kvs) {
		o.show(kvs, read.Header.Revision)
	}

	watchCtx, cancelWatch := context.WithTimeout(clientv3.WithRequireLeader(ctx), relistInterval)
	defer cancelWatch()
	opts = append(opts, clientv3.WithRev(read.Header.Revision+1))
	for r := range o.deps.Client.Watch(watchCtx, o.key, opts...) {
		if err := r.Err(); err != nil {
			return fmt.Errorf("watch %s: %w", o.key, err)
		}
		if len(r.Events) > 0 {
			o.show(sorted(o.apply(r.Events)), r.Events[len(r.Events)-1].Kv.ModRevision)
		}
	}
	if watchCtx.Err() == nil {
		return fmt.Errorf("watch %s: %w", o.key, errors.New("ended"))
	}
	return nil
}

func (o *observer) apply(events []*clientv3.Event) []*mvccpb.KeyValue {
	kvs := slices.Clone(o.kvs)
	for _, e := range events {
		at := slices.IndexFunc(kvs, func(kv *mvccpb.KeyValue) bool { return string(kv.Key) == string(e.Kv.Key) })
		switch {
		case e.Type == clientv3.EventTypeDelete && at >= 0:
			kvs = slices.Delete(kvs, at, at+1)
		case e.Type == clientv3.EventTypePut && at >= 0:
			kvs[at] = e.Kv
		case e.Type == clientv3.EventTypePut:
			kvs = append(kvs, e.Kv)
		}
	}
	return kvs
}

// has reports whether the keys are those that were shown last. They are sorted.
func (o *observer) has(kvs []*mvccpb.KeyValue) bool {
	return slices.EqualFunc(kvs, o.kvs, func(a, b *mvccpb.KeyValue) bool {
		return a.ModRevision == b.ModRevision && slices.Equal(a.Key, b.Key)
	})
}

func (o *observer) show(kvs []*mvccpb.KeyValue, revision int64) {
	o.kvs, o.shown = kvs, true
	o.on(kvs, revision)
}

// sorted puts keys into the order in which they were created.
func sorted(kvs []*mvccpb.KeyValue) []*mvccpb.KeyValue {
	slices.SortFunc(kvs, func(a, b *mvccpb.KeyValue) int {
		if a.CreateRevision != b.CreateRevision {
			return int(a.CreateRevision - b.CreateRevision)
		}
		return slices.Compare(a.Key, b.Key)
	})
	return kvs
}

// pause waits, a quarter more or less so that not all processes act together; false: the context is done.
func pause(ctx context.Context, d time.Duration) bool {
	d = max(d, 0)
	return lifecycle.Pause(ctx, d*3/4+rand.N(d/2+1))
}
