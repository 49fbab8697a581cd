package pebble

import (
	"errors"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
)

// Sweep does what the store does from time to time, and returns when it is done.
func (s *Store) Sweep() {
	s.sweep()
	for {
		_ = s.queue.await(lineAll)
		s.queue.mu.Lock()
		idle := len(s.queue.latest) == 0
		s.queue.mu.Unlock()
		if idle {
			done := make(chan error)
			s.submit(operation{line: lineMeta, stage: func(*stage) error { return nil }, done: func(err error) { done <- err }}, false)
			<-done // what was staged before is durable
			return
		}
	}
}

// LookForSpace does not wait for the second to pass.
func (s *Store) LookForSpace() {
	done := make(chan error)
	s.submit(operation{line: lineMeta, stage: func(*stage) error { s.lookForSpace(); return nil }, done: func(err error) { done <- err }}, false)
	<-done
}

// Attest adds to the log what comes when it is idle.
func (s *Store) Attest() {
	done := make(chan error)
	s.attest(func(err error) { done <- err })
	<-done
}

// Buckets returns how many buckets of messages there are.
func (s *Store) Buckets() int64 { return s.metrics.buckets.Load() }

// SetSchema changes the schema of a closed store.
func SetSchema(t *testing.T, fs vfs.FS, dir string, version uint64) {
	t.Helper()
	db, err := pebble.Open(dir, &pebble.Options{FS: fs, FormatMajorVersion: formatVersion})
	if err != nil {
		t.Fatal(err)
	}
	key := keyMeta(metaSchema)
	value := putNumbers(nil, version)
	if err := errors.Join(db.Set(key, seal(value, 0, key), pebble.Sync), db.Close()); err != nil {
		t.Fatal(err)
	}
}
