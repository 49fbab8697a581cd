package router

import (
	"context"
	"log/slog"
	"sync"

	"github.com/beeline-mqtt/beeline/services/router/internal/book"
	"github.com/beeline-mqtt/beeline/services/router/internal/foreign"
)

// foreigners are the foreign clusters of the book, each watched for as long as its definition stays as it is.
type foreigners struct {
	deps foreign.Deps

	mu      sync.Mutex
	watched map[string]*foreigner // guarded by mu
	wg      sync.WaitGroup
}

// foreigner is one of them.
type foreigner struct {
	revision int64
	stop     context.CancelFunc
	// view and trouble are guarded by mu of foreigners. trouble is why the definition is of no use.
	view    foreign.View
	trouble error
}

func newForeigners(d foreign.Deps) *foreigners {
	return &foreigners{deps: d, watched: make(map[string]*foreigner)}
}

// follow has exactly the clusters of a snapshot watched, until ctx ends. It is called on one goroutine at a time.
func (f *foreigners) follow(ctx context.Context, clusters []book.Cluster) {
	f.mu.Lock()
	defer f.mu.Unlock()
	keep := make(map[string]bool, len(clusters))
	for _, c := range clusters {
		keep[c.Name] = true
		if x := f.watched[c.Name]; x != nil && x.revision == c.Revision {
			continue
		}
		f.drop(c.Name)
		f.begin(ctx, c)
	}
	for name := range f.watched {
		if !keep[name] {
			f.drop(name)
		}
	}
}

// drop ends the watch of a cluster. With mu held.
func (f *foreigners) drop(name string) {
	if x := f.watched[name]; x != nil {
		x.stop()
		delete(f.watched, name)
	}
}

// begin watches a cluster. With mu held.
func (f *foreigners) begin(ctx context.Context, c book.Cluster) {
	ctx, stop := context.WithCancel(ctx)
	x := &foreigner{revision: c.Revision, stop: stop}
	f.watched[c.Name] = x
	d, err := foreign.Decode(c.Definition)
	if err != nil {
		x.trouble = err
		f.deps.Logger.ErrorContext(ctx, "definition of a cluster is of no use", slog.String("cluster", c.Name), slog.Any("error", err))
		return
	}
	f.wg.Go(func() {
		err := foreign.Watch(ctx, d, f.deps, func(v foreign.View) {
			f.mu.Lock()
			defer f.mu.Unlock()
			x.view = v
		})
		if err != nil {
			f.mu.Lock()
			defer f.mu.Unlock()
			x.trouble = err
		}
	})
}

// find returns the nodes of a cluster, and whether there is such a cluster. trouble is why they may be out of date.
func (f *foreigners) find(name string) (v foreign.View, trouble error, ok bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	x := f.watched[name]
	if x == nil {
		return foreign.View{}, nil, false
	}
	if x.trouble != nil {
		return x.view, x.trouble, true
	}
	return x.view, x.view.Err, true
}

// close ends all watches and waits for them.
func (f *foreigners) close() {
	f.mu.Lock()
	for name := range f.watched {
		f.drop(name)
	}
	f.mu.Unlock()
	f.wg.Wait()
}
