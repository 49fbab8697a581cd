package pebble_test

import (
	"errors"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"github.com/beeline-mqtt/beeline/services/session/internal/store"
	"github.com/beeline-mqtt/beeline/services/session/internal/store/pebble"
	"github.com/beeline-mqtt/beeline/services/session/internal/store/storetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestContract(t *testing.T) {
	storetest.Run(t, func(l store.Limits) *storetest.Engine { return newDisk(l).engine() })
}

// disk is a disk in memory with a store on it, and whatever can happen to it.
type disk struct {
	limits store.Limits
	mem    *vfs.MemFS
	shift  atomic.Int64
	open   *pebble.Store
	// broken and held are for all files.
	broken  atomic.Bool
	mu      sync.Mutex
	held    chan struct{}
	crashed []*pebble.Store
}

const dir = "/store"

func newDisk(l store.Limits) *disk {
	d := &disk{limits: l, mem: vfs.NewCrashableMem()}
	d.fill(false)
	return d
}

// now stands still but for Advance.
func (d *disk) now() time.Time { return time.Unix(1_700_000_000, d.shift.Load()) }

var errBroken = errors.New("the disk is broken")

// inject is called before every operation of the file system.
func (d *disk) inject(op errorfs.Op) error {
	if op.Kind.ReadOrWrite() != errorfs.OpIsWrite {
		return nil
	}
	if d.broken.Load() {
		return errBroken
	}
	if op.Kind == errorfs.OpFileSync || op.Kind == errorfs.OpFileSyncData || op.Kind == errorfs.OpFileSyncTo {
		d.mu.Lock()
		held := d.held
		d.mu.Unlock()
		if held != nil {
			<-held
		}
	}
	return nil
}

func (d *disk) options() pebble.Options {
	return pebble.Options{
		Dir: dir, FS: errorfs.Wrap(d.mem, errorfs.InjectorFunc(d.inject)), Limits: d.limits,
		Logger: slog.New(slog.DiscardHandler), Metrics: prometheus.NewRegistry(), Now: d.now, Cache: 1 << 20,
	}
}

func (d *disk) openStore() (store.Store, error) {
	s, err := pebble.Open(d.options())
	if err != nil {
		return nil, err
	}
	d.open = s
	return s, nil
}

func (d *disk) fill(full bool) {
	usage := vfs.DiskUsage{AvailBytes: 1 << 40, TotalBytes: 1 << 41}
	if full {
		usage.AvailBytes = 1 << 20
	}
	d.mem.TestingSetDiskUsage(usage)
	if d.open != nil {
		d.open.LookForSpace()
	}
}

func (d *disk) engine() *storetest.Engine {
	return &storetest.Engine{
		Open: d.openStore,
		Now:  d.now,
		Advance: func(by time.Duration) {
			d.shift.Add(int64(by))
			d.open.Sweep()
		},
		Crash: func() {
			after := d.mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 50, RNG: rand.New(rand.NewPCG(1, rand.Uint64()))})
			d.crashed = append(d.crashed, d.open)
			d.mem = after
		},
		Hold: func() func() {
			held := make(chan struct{})
			d.mu.Lock()
			d.held = held
			d.mu.Unlock()
			return func() {
				d.mu.Lock()
				d.held = nil
				d.mu.Unlock()
				close(held)
			}
		},
		Fill:  d.fill,
		Break: func() { d.broken.Store(true) },
		End: func() {
			for _, s := range d.crashed {
				_ = s.Close() // it goes on in a world that nobody sees
			}
		},
	}
}
