package pebble_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/beeline-mqtt/beeline/services/session/internal/store/pebble"
)

// BenchmarkSync appends over this machine's disk as it is, over one whose syncs do nothing, and over one whose syncs take
// a millisecond longer.
func BenchmarkSync(b *testing.B) {
	for _, tt := range []struct {
		name string
		sync func(disk func() error) error
	}{
		{"as it is", func(disk func() error) error { return disk() }},
		{"no syncs", func(func() error) error { return nil }},
		{"1 ms more", func(disk func() error) error {
			time.Sleep(time.Millisecond)
			return disk()
		}},
	} {
		for _, underWay := range []int{1, 16} {
			b.Run(fmt.Sprintf("%s/%d under way", tt.name, underWay), func(b *testing.B) {
				s := openReal(b, benchSessions, func(o *pebble.Options) { o.FS = syncing{vfs.Default, tt.sync} })
				appends(b, s, underWay, 64, 1, false)
			})
		}
	}
}

// syncing is a file system whose syncs of files go through a function.
type syncing struct {
	vfs.FS
	sync func(disk func() error) error
}

func (s syncing) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	f, err := s.FS.Create(name, c)
	return syncedFile{f, s.sync}, err
}

func (s syncing) ReuseForWrite(from, to string, c vfs.DiskWriteCategory) (vfs.File, error) {
	f, err := s.FS.ReuseForWrite(from, to, c)
	return syncedFile{f, s.sync}, err
}

type syncedFile struct {
	vfs.File
	sync func(disk func() error) error
}

func (f syncedFile) Sync() error     { return f.sync(f.File.Sync) }
func (f syncedFile) SyncData() error { return f.sync(f.File.SyncData) }
func (f syncedFile) SyncTo(n int64) (full bool, err error) {
	err = f.sync(func() error {
		full, err = f.File.SyncTo(n)
		return err
	})
	return full, err
}
