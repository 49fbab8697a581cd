package atomicfile

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

// want checks what a file says and its mode, and that there is nothing beside it.
func want(t *testing.T, path, text string, mode os.FileMode) {
	t.Helper()
	got, is, err := Read(path)
	if err != nil || string(got) != text || is != mode {
		t.Errorf("it says %q, mode %v, %v, want %q, %v", got, is, err, text, mode)
	}
	if all, err := os.ReadDir(filepath.Dir(path)); err != nil || len(all) != 1 {
		t.Errorf("in its directory are %v, %v", all, err)
	}
}

func TestAFileIsReplaced(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	if _, mode, err := Read(path); !errors.Is(err, fs.ErrNotExist) || mode != NewMode {
		t.Errorf("before it is there: %v, %v", mode, err)
	}
	for _, x := range []struct {
		text string
		mode os.FileMode
	}{{"first", NewMode}, {"", 0o644}, {"third", 0o666}} { // more than the umask lets
		if err := Write(path, []byte(x.text), x.mode); err != nil {
			t.Fatal(err)
		}
		want(t, path, x.text, x.mode)
	}
}

func TestWhatCannotBeReplacedStays(t *testing.T) {
	path := filepath.Join(t.TempDir(), "directory")
	if err := os.Mkdir(path, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := Write(path, nil, NewMode); err == nil {
		t.Error("a file is in the place of a directory")
	}
	if all, err := os.ReadDir(filepath.Dir(path)); err != nil || len(all) != 1 || !all[0].IsDir() {
		t.Errorf("there are %v, %v", all, err)
	}
	if err := Write(filepath.Join(path, "none", "file"), nil, NewMode); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("without a directory: %v", err)
	}
}
