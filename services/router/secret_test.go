package router

import (
	"os"
	"path/filepath"
	"sync"
	"testing"
)

// secretIn reads a secret as a router does.
func secretIn(t *testing.T, path string) string {
	t.Helper()
	c := DefaultConfig()
	c.SecretFile = path
	if err := c.Validate(); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestASecretIsMadeOnceWhoeverMakesIt(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "secret")
	var making sync.WaitGroup
	for range 8 {
		making.Go(func() {
			if err := makeSecret(path, 0o640); err != nil { // as if nobody had seen the file of another one
				t.Error(err)
				return
			}
			first := secretIn(t, path)
			if err := ProvideSecret(path, 0o600); err != nil {
				t.Error(err)
			}
			if again := secretIn(t, path); again != first {
				t.Errorf("it was %q and is %q", first, again)
			}
		})
	}
	making.Wait()
	if info, err := os.Stat(path); err != nil || info.Mode() != 0o640 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	files, err := os.ReadDir(dir)
	if err != nil || len(files) != 1 {
		t.Errorf("%v, %v: want the secret alone", files, err)
	}
	other := filepath.Join(dir, "other")
	if err := ProvideSecret(other, 0o600); err != nil {
		t.Fatal(err)
	}
	if secretIn(t, other) == secretIn(t, path) {
		t.Error("two secrets are the same")
	}
}

// Whatever is there may be somebody's secret.
func TestASecretReplacesNothing(t *testing.T) {
	path := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(path, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := ProvideSecret(path, 0o640); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(path); err != nil || string(b) != "mine" {
		t.Errorf("%q, %v", b, err)
	}
	if err := ProvideSecret(filepath.Join(path, "in-a-file"), 0o640); err == nil {
		t.Error("a secret was made below a file")
	}
}
