// Package pebble is the engine of the store for one machine: Pebble, CockroachDB's key-value store, in this process.
//
// It owns one directory. One goroutine, the committer, carries out everything that changes something: it takes what
// waits, checks and stages it into one batch, and hands it to Pebble; another one waits for the disk and answers.
// So one sync serves all that came while the one before took place, and nothing is answered before its sync.
// Reads go to Pebble directly, after waiting for what was called before.
//
// What has to be known to judge a change is kept in memory, and rebuilt from small rows at the start: epochs and fill
// of all sessions (about 200 bytes each), what was sent of inboxes, how many entries refer to each bucket of messages.
//
// # The disk
//
// A message goes into the entry of the first inbox that gets it. From the second inbox on, entries refer to one copy in
// a bucket, if the message has Options.ShareAbove bytes; from the first on, if it has 4 KiB. A bucket takes messages
// for a minute, or 64 MiB of them, and is dropped as a whole with the last entry that refers to it.
//
// When less than Options.Reserve bytes are free, there is no room for entries and retained messages; what is small goes
// on: clients can be claimed, subscribe and publish, and inboxes are emptied. A failed write or sync of the log, or of Pebble's list of files, ends the
// store for good: everything fails with ErrFailed, and Options.Failed is called. Failed flushes and compactions are
// logged, counted and repeated by Pebble.
//
// Bits that flip are found at open or when they are read: by the checksums of Pebble's blocks and of every value, and in
// logs by checkLogs. What cannot be told from a write that a crash cut short is the very end of a log: a flip in what
// was written in the last second before a crash loses it.
package pebble

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/bloom"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/beeline-mqtt/beeline/internal/journal"
	"github.com/beeline-mqtt/beeline/services/session/internal/store"
)

// Options say where and how. The zero values of all but Dir, Logger and Metrics are defaults.
type Options struct {
	// Dir is the directory; it is made if need be.
	Dir string
	// FS is the disk unless a test has another one.
	FS     vfs.FS
	Limits store.Limits
	// Reserve is how many bytes of the disk are left alone; 256 MiB, and none if it is negative.
	Reserve int64
	// ShareAbove is how many bytes a message has at least, encoded, to be stored once for its inboxes but the first; 256.
	ShareAbove int
	// Cache is how many bytes of blocks are kept in memory; 64 MiB.
	Cache   int64
	Logger  *slog.Logger
	Metrics prometheus.Registerer
	// Failed is called once, on a goroutine of the store, when the store has failed; it must not block.
	Failed func(error)
	// Now is the clock.
	Now func() time.Time
}

func (o Options) withDefaults() Options {
	if o.FS == nil {
		o.FS = vfs.Default
	}
	if o.Limits == (store.Limits{}) {
		o.Limits = store.DefaultLimits()
	}
	if o.Reserve == 0 {
		o.Reserve = 256 << 20
	}
	if o.ShareAbove == 0 {
		o.ShareAbove = 256
	}
	if o.Cache == 0 {
		o.Cache = 64 << 20
	}
	if o.Failed == nil {
		o.Failed = func(error) {}
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	return o
}

const (
	// queueBytes is how much waits at most before Write and Retain wait.
	queueBytes = 64 << 20
	// groupBytes is about how much is made durable by one sync.
	groupBytes = 4 << 20
	// sweepEvery is how often is looked for what has become too old.
	sweepEvery = time.Minute
	// attestEvery is for how long the newest group of changes may lack something behind it by which damage to it
	// can be told from a write that a crash cut short.
	attestEvery = time.Second
)

// Store is a store.Store. It is safe for concurrent use.
type Store struct {
	o       Options
	db      *pebble.DB
	lock    *pebble.Lock
	metrics *metrics
	id      string

	queue   *queue
	failure atomic.Pointer[error]
	// answers takes groups from the committer to who waits for the disk: one waits while one syncs.
	answers chan *group
	stop    chan struct{}
	ended   sync.WaitGroup
	closed  chan struct{}
	// handed counts groups that were handed to Pebble, synced those of them that are durable. unattested is set while
	// there is no mark behind the newest one.
	handed, synced atomic.Uint64
	unattested     atomic.Bool

	// mu guards the memory below against readers: the committer alone changes it, and reads without.
	mu       sync.RWMutex
	sessions map[string]*session
	meta     metaState
	// reading is held by readers, and exclusively by Close.
	reading sync.RWMutex
	lately  lately

	// The committer's own.
	byID    map[journal.SessionID]*session
	garbage []garbage
	buckets buckets
	space   space
	memory  uint64 // the newest generation of spaceMemory that was swept for
	arena   []byte // room for a plan
	rows    []row
}

// session is what is kept in memory of a record.
type session struct {
	client  string
	epoch   uint64
	id      journal.SessionID
	inbox   inbox
	flights map[journal.Position]flight
	twice   uint64 // how many of them are at QoS 2
	newest  newest
}

var _ store.Store = (*Store)(nil)

// Open opens the store, or makes a new one if the directory is empty. It fails with store.ErrLocked, store.ErrCorrupt
// or store.ErrFuture, or as the disk does.
func Open(o Options) (*Store, error) {
	o = o.withDefaults()
	if err := o.FS.MkdirAll(o.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("make store directory: %w", err)
	}
	lock, err := lockDirectory(o.FS, o.Dir)
	if err != nil {
		return nil, err
	}
	s := &Store{
		o:        o,
		lock:     lock,
		queue:    newQueue(queueBytes),
		answers:  make(chan *group, 1),
		stop:     make(chan struct{}),
		closed:   make(chan struct{}),
		sessions: make(map[string]*session),
		byID:     make(map[journal.SessionID]*session),
		buckets:  buckets{all: make(map[uint64]*bucket)},
	}
	if err := s.open(); err != nil {
		return nil, errors.Join(err, s.abandon())
	}
	s.ended.Go(s.commits)
	s.ended.Go(s.answersAll)
	s.ended.Go(s.sweeps)
	return s, nil
}

func (s *Store) open() error {
	if err := s.roomToOpen(); err != nil {
		return err
	}
	if err := checkLogs(s.o.FS, s.o.Dir); err != nil {
		return err
	}
	var err error
	if s.metrics, err = newMetrics(s.o.Metrics, s.queue); err != nil {
		return err
	}
	cache := pebble.NewCache(s.o.Cache)
	defer cache.Unref()
	po := &pebble.Options{
		FS:                    s.o.FS,
		Lock:                  s.lock,
		Cache:                 cache,
		Logger:                logger{s},
		EventListener:         s.listener(),
		FormatMajorVersion:    formatVersion,
		MemTableSize:          32 << 20,
		L0CompactionThreshold: 4,
		DisableWAL:            false,
	}
	for i := range po.Levels {
		po.Levels[i].FilterPolicy = bloom.FilterPolicy(10)
	}
	if s.db, err = openDB(s.o.Dir, po); err != nil {
		return err
	}
	if s.failed() != nil {
		return s.failed()
	}
	if err := s.load(); err != nil {
		return fmt.Errorf("open store %q: %w", s.o.Dir, err)
	}
	s.checkSpace()
	return nil
}

// formatVersion is fixed: a new version of Pebble is not to make stores that an older Beeline cannot open.
const formatVersion = pebble.FormatValueSeparation

// openDB turns panics into errors: Pebble goes on after some failures that our logger has to survive.
func openDB(dir string, po *pebble.Options) (db *pebble.DB, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("open store %q: %v", dir, p)
		}
	}()
	if db, err = pebble.Open(dir, po); err != nil {
		return nil, fmt.Errorf("open store %q: %w", dir, openError(err))
	}
	return db, nil
}

// abandon releases what an open that failed has got.
func (s *Store) abandon() error {
	var errs []error
	if s.db != nil {
		errs = append(errs, closeDB(s.db))
	}
	if s.metrics != nil {
		s.metrics.scope.End()
	}
	return errors.Join(append(errs, s.lock.Close())...)
}

// Close carries out what was called before, answers it, and ends the store. A store that has failed may not let go of
// its directory before the process ends.
func (s *Store) Close() error {
	if !s.queue.close() {
		<-s.closed
		return nil
	}
	close(s.stop)
	s.ended.Wait()
	s.reading.Lock()
	defer s.reading.Unlock()
	defer close(s.closed)
	s.metrics.scope.End()
	if err := s.failed(); err != nil {
		return errors.Join(err, s.closeFailed())
	}
	var errs []error
	// What is in files when the store is opened again need not be read from the log.
	if err := s.db.Flush(); err != nil {
		errs = append(errs, fmt.Errorf("flush: %w", err))
	}
	errs = append(errs, closeDB(s.db), s.lock.Close())
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("close store: %w", err)
	}
	return nil
}

// submit hands op to the committer.
func (s *Store) submit(op operation, wait bool) {
	if op.done == nil {
		op.done = func(error) {}
	}
	op.size += operationSize
	if !s.queue.put(op, wait) {
		// Not on this goroutine: done may need what the caller holds.
		go op.done(store.ErrClosed)
	}
}

// read lets f read when everything called before on line can be seen. No store is closed under f.
func (s *Store) read(line string, f func() error) error {
	if err := s.queue.await(line); err != nil {
		return err
	}
	s.reading.RLock()
	defer s.reading.RUnlock()
	select {
	case <-s.closed:
		return store.ErrClosed
	default:
	}
	if err := s.failed(); err != nil {
		return err
	}
	return readError(f())
}

// close ends c, whose error has been seen or does not matter.
func closeQuietly(c io.Closer) { _ = c.Close() }
