package pebble

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/record"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/beeline-mqtt/beeline/services/session/internal/store"
)

// fail ends the store for good.
func (s *Store) fail(cause error) {
	err := fmt.Errorf("%w: %w", store.ErrFailed, cause)
	if s.failure.CompareAndSwap(nil, &err) {
		s.o.Logger.Error("store has failed", slog.Any("error", cause))
		s.o.Failed(err)
	}
}

// failed returns nil while the store is well.
func (s *Store) failed() error {
	if p := s.failure.Load(); p != nil {
		return *p
	}
	return nil
}

// logger is what Pebble logs to. What it calls fatal is a failed write of its list of files or of its log, or a bug.
// It goes on after the call, as far as it can; the store does not.
type logger struct{ s *Store }

func (l logger) Infof(string, ...any) {}

func (l logger) Errorf(format string, args ...any) {
	l.s.o.Logger.Warn("pebble", slog.String("error", fmt.Sprintf(format, args...)))
}

func (l logger) Fatalf(format string, args ...any) {
	l.s.fail(fmt.Errorf(format, args...))
}

func (s *Store) listener() *pebble.EventListener {
	return &pebble.EventListener{
		BackgroundError: func(err error) {
			s.metrics.background.Inc()
			s.o.Logger.Warn("background work of the store is repeated", slog.Any("error", err))
		},
		DataCorruption: func(info pebble.DataCorruptionInfo) {
			s.metrics.corruption.Inc()
			s.o.Logger.Error("store is corrupt", slog.String("path", info.Path), slog.Any("error", info.Details))
		},
		WriteStallBegin: func(info pebble.WriteStallBeginInfo) {
			s.o.Logger.Warn("store waits for its background work", slog.String("reason", info.Reason))
		},
	}
}

// closeDB turns the panics of a Pebble in disorder into errors.
func closeDB(db *pebble.DB) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("close: %v", p)
		}
	}()
	return db.Close()
}

// closeFailed closes what has failed, unless that takes too long: Pebble may hold its own locks for ever then.
func (s *Store) closeFailed() error {
	closed := make(chan error, 1)
	go func() { closed <- errors.Join(closeDB(s.db), s.lock.Close()) }()
	timer := time.NewTimer(5 * time.Second)
	defer timer.Stop()
	select {
	case err := <-closed:
		return err
	case <-timer.C:
		return errors.New("the store does not close")
	}
}

func lockDirectory(fs vfs.FS, dir string) (*pebble.Lock, error) {
	lock, err := pebble.LockDirectory(dir, fs)
	var denied *os.PathError // of opening the file, which says nothing about the lock
	switch {
	case err == nil:
		return lock, nil
	case errors.As(err, &denied):
	case errors.Is(err, syscall.EAGAIN), errors.Is(err, syscall.EACCES), strings.Contains(err.Error(), "held by current process"):
		return nil, fmt.Errorf("%w: %q", store.ErrLocked, dir)
	}
	return nil, fmt.Errorf("lock store %q: %w", dir, err)
}

// openError and readError find the store's words for Pebble's errors.
func openError(err error) error {
	if strings.Contains(err.Error(), "written in unknown format major version") {
		return fmt.Errorf("%w: %w", store.ErrFuture, err)
	}
	return readError(err)
}

func readError(err error) error {
	if err != nil && !errors.Is(err, store.ErrCorrupt) && isCorruption(err) {
		return fmt.Errorf("%w: %w", store.ErrCorrupt, err)
	}
	return err
}

func isCorruption(err error) bool {
	return pebble.IsCorruptionError(err) || errors.Is(err, record.ErrInvalidChunk) || errors.Is(err, record.ErrZeroedChunk)
}
