package pebble

import (
	"errors"
	"fmt"
	"os"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
)

// Backup makes a copy of the store as it is now in dir, which must not exist; its parent must, on the same disk for the
// copy to be cheap: files are linked where that is possible. The store goes on working meanwhile. The copy holds
// everything that was answered before the call.
func (s *Store) Backup(dir string) error {
	return s.read(lineAll, func() error {
		if err := s.db.Checkpoint(dir, pebble.WithFlushedWAL()); err != nil {
			return fmt.Errorf("back up store to %q: %w", dir, err)
		}
		return nil
	})
}

// Restore copies a backup to dir, which must not exist or be empty, and looks whether it can be opened and read: it
// fails with store.ErrCorrupt if it cannot. o is as for Open; its Dir is where the copy goes.
func Restore(from string, o Options) error {
	o = o.withDefaults()
	if names, err := o.FS.List(o.Dir); err == nil && len(names) > 0 {
		return fmt.Errorf("restore store to %q: directory is not empty", o.Dir)
	}
	names, err := o.FS.List(from)
	if err != nil {
		return fmt.Errorf("restore store from %q: %w", from, err)
	}
	if len(names) == 0 {
		return fmt.Errorf("restore store from %q: directory is empty", from)
	}
	if ok, err := vfs.Clone(o.FS, o.FS, from, o.Dir, vfs.CloneSync); err != nil || !ok {
		return fmt.Errorf("restore store from %q to %q: %w", from, o.Dir, errors.Join(err, missing(ok)))
	}
	s, err := Open(o)
	if err != nil {
		return fmt.Errorf("restore store: %w", err)
	}
	return errors.Join(s.verify(), s.Close())
}

// InUse fails with store.ErrLocked while a store is open in dir. What is not there is not in use.
func InUse(dir string) error {
	if _, err := os.Stat(dir); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	lock, err := lockDirectory(vfs.Default, dir)
	if err != nil {
		return err
	}
	return lock.Close()
}

func missing(ok bool) error {
	if ok {
		return nil
	}
	return errors.New("there is nothing to copy")
}

// verify reads everything.
func (s *Store) verify() error {
	return s.read(lineAll, func() error {
		for space := 0; space < 256; space++ {
			err := scan(s.db, byte(space), func(key, value []byte) error {
				_, err := open(key, value)
				return err
			})
			if err != nil {
				return err
			}
		}
		return nil
	})
}
