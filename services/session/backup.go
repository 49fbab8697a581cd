package session

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/beeline-mqtt/beeline/services/session/internal/store"
	"github.com/beeline-mqtt/beeline/services/session/internal/store/pebble"
)

// ErrNotActive says that this instance has no store open: another one is active, or none.
var ErrNotActive = errors.New("this is not the active session instance, which has the store open")

// ErrBackupName says that a name cannot be that of a back-up.
var ErrBackupName = errors.New("a back-up's name is letters, digits, '-', '_' and '.', and begins with a letter or a digit")

// BackupPath is the path on the admin server at which a back-up is asked for: POST, with ?name= or without. The
// answer is the directory.
const BackupPath = "/backup"

// Backups is the directory of back-ups, beside the data: on one disk a back-up is made of links to what is there.
func (c Config) Backups() string { return filepath.Clean(c.Data) + "-backups" }

// newBackup returns the directory of a back-up that is to be made; without a name it is called for the time.
func (c Config) newBackup(name string) (string, error) {
	if name == "" {
		name = stamp()
	}
	if !regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$`).MatchString(name) {
		return "", fmt.Errorf("%w: %q", ErrBackupName, name)
	}
	if err := os.MkdirAll(c.Backups(), 0o700); err != nil {
		return "", fmt.Errorf("back up: %w", err)
	}
	return filepath.Join(c.Backups(), name), nil
}

func stamp() string { return time.Now().UTC().Format("20060102T150405.000Z") }

// Backup makes a copy of the store under Config.Backups, and returns its directory. Everything goes on meanwhile.
func (s *Session) Backup(name string) (dir string, err error) {
	st := s.store.Load()
	if st == nil {
		return "", ErrNotActive
	}
	if dir, err = s.config.newBackup(name); err != nil {
		return "", err
	}
	if err := st.Backup(dir); err != nil {
		if errors.Is(err, store.ErrClosed) {
			err = ErrNotActive
		}
		return "", err
	}
	s.deps.Logger.Info("backed up the store", slog.String("directory", dir))
	return dir, nil
}

// BackupHandler answers at BackupPath.
func (s *Session) BackupHandler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		dir, err := s.Backup(r.URL.Query().Get("name"))
		switch {
		case errors.Is(err, ErrNotActive):
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
		case errors.Is(err, ErrBackupName):
			http.Error(w, err.Error(), http.StatusBadRequest)
		case err != nil:
			http.Error(w, err.Error(), http.StatusInternalServerError)
		default:
			_, _ = io.WriteString(w, dir+"\n")
		}
	})
}

// BackupStopped makes a back-up of a store that no instance has open.
func BackupStopped(c Config, name string) (dir string, err error) {
	if _, err := os.Stat(c.Data); err != nil {
		return "", fmt.Errorf("back up: %w", err)
	}
	st, err := pebble.Open(c.offline(c.Data))
	if err != nil {
		return "", fmt.Errorf("back up: %w", err)
	}
	defer func() { err = errors.Join(err, st.Close()) }()
	if dir, err = c.newBackup(name); err != nil {
		return "", err
	}
	return dir, st.Backup(dir)
}

// Restore puts a back-up in the place of the store, which no instance may have open. The back-up is read to its end
// first. It returns where the former store is now, itself a back-up; "" if there was none.
func Restore(c Config, from string) (former string, err error) {
	if err := pebble.InUse(c.Data); err != nil {
		return "", fmt.Errorf("restore: stop all session instances first: %w", err)
	}
	next := filepath.Clean(c.Data) + "-new"
	if err := os.RemoveAll(next); err != nil { // of one that was interrupted
		return "", fmt.Errorf("restore: %w", err)
	}
	if err := pebble.Restore(from, c.offline(next)); err != nil {
		return "", errors.Join(err, os.RemoveAll(next))
	}
	if _, err := os.Stat(c.Data); err == nil {
		if former, err = c.newBackup("before-" + stamp()); err != nil {
			return "", err
		}
		if err := errors.Join(pebble.InUse(c.Data), os.Rename(c.Data, former)); err != nil {
			return "", fmt.Errorf("restore: put the former store aside: %w", err)
		}
	}
	if err := os.Rename(next, c.Data); err != nil {
		return former, fmt.Errorf("restore: %w", err)
	}
	return former, nil
}

// offline are the options of a store that serves nobody.
func (c Config) offline(dir string) pebble.Options {
	return pebble.Options{
		Dir: dir, Limits: c.limits(), Reserve: -1,
		Logger: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})), Metrics: prometheus.NewRegistry(),
	}
}
