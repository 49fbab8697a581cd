// Package watched keeps in memory what a file says, and reads the file again when it changes. As long as what is new cannot
// be read, what was read last counts. A File is safe for concurrent use; it has no goroutine of its own.
package watched

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/beeline-mqtt/beeline/internal/lifecycle"
)

// Interval is how long a change of a file may go unnoticed.
const Interval = time.Second

// Deps are what a File works with.
type Deps struct {
	Logger *slog.Logger
	// Now is the clock, time.Now outside tests.
	Now func() time.Time
}

// File is what a file says.
type File[T any] struct {
	path  string
	parse func([]byte) (T, error)
	deps  Deps
	value atomic.Pointer[T]

	mu      sync.Mutex // guards the following
	seen    os.FileInfo
	checked time.Time
}

// Open reads the file at path for the first time. The error says what is wrong with it; then there is no File.
func Open[T any](path string, parse func([]byte) (T, error), d Deps) (*File[T], error) {
	f := &File[T]{path: path, parse: parse, deps: d}
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.read(); err != nil {
		return nil, err
	}
	return f, nil
}

// Get returns what the file said when it could be read last, after it has looked, unless it has within the last Interval,
// whether the file has changed. What is wrong with the file is logged.
func (f *File[T]) Get(ctx context.Context) T {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.deps.Now().Sub(f.checked) >= Interval {
		if err := f.read(); err != nil {
			f.deps.Logger.ErrorContext(ctx, "a file cannot be read again: what it said before counts", slog.Any("error", err))
		}
	}
	return f.Current()
}

// Current returns what the file said when somebody has looked last. It takes no lock.
func (f *File[T]) Current() T { return *f.value.Load() }

// Run looks at the file once in each Interval until ctx ends, for those who ask for Current alone.
func (f *File[T]) Run(ctx context.Context) {
	for lifecycle.Pause(ctx, Interval) {
		f.Get(ctx)
	}
}

// read must be called with mu held. A file that has not changed since it was read, or since it was wrong, is not read again.
func (f *File[T]) read() error {
	f.checked = f.deps.Now()
	info, err := os.Stat(f.path)
	if err != nil {
		f.seen = nil
		return err
	}
	if f.seen != nil && os.SameFile(info, f.seen) && info.ModTime().Equal(f.seen.ModTime()) && info.Size() == f.seen.Size() {
		return nil
	}
	f.seen = info
	text, err := os.ReadFile(f.path)
	if err != nil {
		return err
	}
	value, err := f.parse(text)
	if err != nil {
		return fmt.Errorf("%s: %w", f.path, err)
	}
	f.value.Store(&value)
	return nil
}
