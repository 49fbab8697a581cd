// Package atomicfile replaces files as a whole: whoever reads one sees what it said before or what it says now.
package atomicfile

import (
	"errors"
	"os"
	"path/filepath"
)

// NewMode is the mode of a file that nobody has given another.
const NewMode os.FileMode = 0o600

// Read returns what the file at path says, and its mode, for who will replace it. If it is not there the error is
// fs.ErrNotExist, and the mode NewMode.
func Read(path string) (text []byte, mode os.FileMode, err error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, NewMode, err
	}
	text, err = os.ReadFile(path)
	return text, info.Mode().Perm(), err
}

// Write puts a file with that text in the place of path, when it is on the disk. It has the mode whatever the umask is.
// With an error the file is as it was.
func Write(path string, text []byte, mode os.FileMode) (err error) {
	next, err := os.CreateTemp(filepath.Dir(path), ".new-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(next.Name()))
		}
	}()
	_, written := next.Write(text)
	if err := errors.Join(next.Chmod(mode), written, next.Sync(), next.Close()); err != nil {
		return err
	}
	return os.Rename(next.Name(), path)
}
