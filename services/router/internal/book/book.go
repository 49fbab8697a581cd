// Package book is the routers' store in etcd: which clients are assigned to which cluster, what the clusters are, and
// at which node a client was last. It does not decide where a client goes, nor what a cluster's definition means.
//
// Assignments and clusters are few. Every router has all of them in memory, kept current by a watch, and reads them
// from there, whether etcd is reachable or not; whoever changes one names the revision that is meant. Recorded nodes
// are as many as there are clients. They are read when they are needed, within a short time or not at all, and
// written some time later or, when too many wait, never: what is lost costs a client another node, and nothing else.
//
// A Book may be used from any goroutine. Its goroutines are those of Run, which waits for them. The decision behind it
// is docs/decisions/0012-the-route-store.md.
package book

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/beeline-mqtt/beeline/internal/cluster"
	"github.com/beeline-mqtt/beeline/internal/config"
)

// What this package reports.
var (
	// ErrInvalid says that an entry cannot be stored as it is.
	ErrInvalid = errors.New("invalid entry")
	// ErrConflict says that the entry has another revision than the one given; nothing was changed.
	ErrConflict = errors.New("the entry has another revision: give the one that is listed, or -1 if it does not matter")
	// ErrNotFound says that there is no such entry; nothing was changed.
	ErrNotFound = errors.New("no such entry")
	// ErrUnavailable says that etcd did not answer in time. Whether something was changed is not known.
	ErrUnavailable = errors.New("etcd is unavailable")
)

// Config bounds what a Book keeps, and how long it takes.
type Config struct {
	// NodeDays is for how many days a recorded node stays that is not recorded again.
	NodeDays int `koanf:"node_days" help:"days after which a client's recorded node is forgotten, if the client has not come back"`
	// CachedNodes is how many recorded nodes are kept in memory, with about 200 bytes each.
	CachedNodes int `koanf:"cached_nodes" help:"clients whose recorded nodes are kept in memory"`
	// CacheFor is how long a node in memory is taken for the recorded one without asking: another router may have
	// recorded another one since.
	CacheFor time.Duration `koanf:"cache_for" help:"how long a recorded node in memory is not read again"`
	// ReadTimeout bounds the read of a recorded node, and thereby what a slow etcd costs a client that connects.
	ReadTimeout time.Duration `koanf:"read_timeout" help:"how long a client waits for its recorded node"`
	// ReadQueue and WriteQueue bound the recorded nodes that wait to be read and to be written.
	ReadQueue  int `koanf:"read_queue" help:"recorded nodes that wait to be read"`
	WriteQueue int `koanf:"write_queue" help:"recorded nodes that wait to be written"`
	// SweepRate is how many recorded nodes a sweep deletes in a second.
	SweepRate int `koanf:"sweep_rate" help:"forgotten nodes that are deleted in a second"`
}

// DefaultConfig is for some hundred thousand clients at one router.
func DefaultConfig() Config {
	return Config{
		NodeDays:    30,
		CachedNodes: 250_000,
		CacheFor:    10 * time.Minute,
		ReadTimeout: 75 * time.Millisecond,
		ReadQueue:   10_000,
		WriteQueue:  100_000,
		SweepRate:   200,
	}
}

// leastNodeDays leaves time for a node to be recorded again, which happens when its record is two days old.
const leastNodeDays = 3

// Validate reports the first setting that cannot work, by its key.
func (c Config) Validate() error {
	switch {
	case c.NodeDays < leastNodeDays:
		return config.Invalid("node_days", "must be at least %d", leastNodeDays)
	case c.CachedNodes < 1:
		return config.Invalid("cached_nodes", "must be positive")
	case c.CacheFor <= 0:
		return config.Invalid("cache_for", "must be positive")
	case c.ReadTimeout <= 0:
		return config.Invalid("read_timeout", "must be positive")
	case c.ReadQueue < 1:
		return config.Invalid("read_queue", "must be positive")
	case c.WriteQueue < 1:
		return config.Invalid("write_queue", "must be positive")
	case c.SweepRate < 1:
		return config.Invalid("sweep_rate", "must be positive")
	}
	return nil
}

// Deps are what a Book works with. All but Metrics and Now are required.
type Deps struct {
	Client *clientv3.Client
	Keys   cluster.Keys
	Logger *slog.Logger
	// Metrics is nil when nothing is to be counted.
	Metrics prometheus.Registerer
	// Now is the time by which records age; nil: that of the machine. The clocks of routers may differ by hours.
	Now func() time.Time
}

// Book is the routers' store.
type Book struct {
	deps    Deps
	metrics *metrics

	assignments *table[Assignment]
	clusters    *table[Cluster]
	wake        chan struct{} // one element: a table has seen a change
	ready       chan struct{} // closed when both tables are complete
	onChange    []func()

	nodes *nodes
	sweep *sweeper
}

// Open makes a Book of a valid Config. It does not reach for etcd.
func Open(c Config, d Deps) *Book {
	if d.Now == nil {
		d.Now = time.Now
	}
	m := newMetrics(d.Metrics)
	b := &Book{
		deps:    d,
		metrics: m,
		wake:    make(chan struct{}, 1),
		ready:   make(chan struct{}),
		nodes:   newNodes(c, d, m),
		sweep:   newSweeper(c, d, m),
	}
	b.assignments = newTable(kindAssignment, prefixOf(d.Keys, assignments), decodeAssignment)
	b.clusters = newTable(kindCluster, prefixOf(d.Keys, clusters), decodeCluster)
	return b
}

// Assignments are those of the last snapshot, never nil; one of generation 0 has nothing because nothing was read yet.
func (b *Book) Assignments() *Snapshot[Assignment] { return b.assignments.snapshot.Load() }

// Clusters are those of the last snapshot, as Assignments are.
func (b *Book) Clusters() *Snapshot[Cluster] { return b.clusters.snapshot.Load() }

// Assignment finds one in the last snapshot.
func (b *Book) Assignment(rule, value string) (Assignment, bool) {
	return b.Assignments().find(assignmentID(rule, value))
}

// Cluster finds one in the last snapshot.
func (b *Book) Cluster(name string) (Cluster, bool) { return b.Clusters().find(escape(name)) }

// Ready is closed when assignments and clusters have been read completely for the first time, after the functions of
// OnChange were called.
func (b *Book) Ready() <-chan struct{} { return b.ready }

// OnChange has f called after each change of a snapshot, one call at a time, on a goroutine of Run; several changes may
// be one call. f must not block. OnChange is called before Run.
func (b *Book) OnChange(f func()) { b.onChange = append(b.onChange, f) }

// Run keeps the snapshots current, reads and writes recorded nodes, and deletes those that are too old, until ctx is
// done. Then it writes what waits, for a second at most, and returns nil. It is called once.
func (b *Book) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var all sync.WaitGroup
	var watches [2]error
	all.Go(func() {
		defer cancel()
		watches[0] = b.watch(ctx, b.assignments.prefix, &b.assignments.latest)
	})
	all.Go(func() {
		defer cancel()
		watches[1] = b.watch(ctx, b.clusters.prefix, &b.clusters.latest)
	})
	all.Go(func() { b.rebuild(ctx) })
	for range readsInFlight {
		all.Go(func() { b.nodes.read(ctx) })
	}
	all.Go(func() { b.nodes.write(ctx) })
	all.Go(func() { b.sweep.run(ctx) })
	all.Wait()
	return errors.Join(watches[:]...)
}
