package session_test

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/beeline-mqtt/beeline/internal/cluster/clustertest"
	"github.com/beeline-mqtt/beeline/services/session"
)

func TestTheActiveInstanceBacksItsStoreUp(t *testing.T) {
	etcd := clustertest.StartEtcd(t).Client()
	active := start(t, etcd, nil)
	active.waitActive(t)
	standby := start(t, etcd, nil)

	dir, err := active.Backup("monday")
	if err != nil {
		t.Fatal(err)
	}
	if want := filepath.Join(dataOf(t)+"-backups", "monday"); dir != want {
		t.Errorf("in %s, want %s", dir, want)
	}
	if _, err := active.Backup("monday"); err == nil {
		t.Error("a back-up was overwritten")
	}
	for range 2 {
		if _, err := active.Backup(""); err != nil {
			t.Errorf("without a name: %v", err)
		}
	}
	if made, err := os.ReadDir(dataOf(t) + "-backups"); err != nil || len(made) != 3 {
		t.Errorf("%v, %v", made, err)
	}
	for _, name := range []string{"..", "a/b", "/tmp/x", ".hidden", "-f", strings.Repeat("x", 101), "a b"} {
		if _, err := active.Backup(name); !errors.Is(err, session.ErrBackupName) {
			t.Errorf("%q: error %v, want %v", name, err, session.ErrBackupName)
		}
	}
	if _, err := standby.Backup("tuesday"); !errors.Is(err, session.ErrNotActive) {
		t.Errorf("the standby: error %v, want %v", err, session.ErrNotActive)
	}

	c := session.DefaultConfig()
	c.Data = dataOf(t)
	if _, err := session.Restore(c, dir); err == nil || !strings.Contains(err.Error(), "stop all session instances first: store is open elsewhere") {
		t.Errorf("restore while it is in use: %v", err)
	}
	if _, err := session.BackupStopped(c, "tuesday"); err == nil || !strings.Contains(err.Error(), "store is open elsewhere") {
		t.Errorf("back-up of what is in use by somebody else: %v", err)
	}
	standby.stop()
	active.stop()
	if _, err := active.Backup("tuesday"); !errors.Is(err, session.ErrNotActive) {
		t.Errorf("after its end: error %v, want %v", err, session.ErrNotActive)
	}
}

func TestAnAnswerAboutABackup(t *testing.T) {
	etcd := clustertest.StartEtcd(t).Client()
	active := start(t, etcd, nil)
	active.waitActive(t)
	standby := start(t, etcd, nil)
	for _, tt := range []struct {
		name, query string
		of          *instance
		code        int
		want        string
	}{
		{"made", "?name=monday", active, http.StatusOK, dataOf(t) + "-backups/monday\n"},
		{"there already", "?name=monday", active, http.StatusInternalServerError, "monday"},
		{"a name that cannot be", "?name=../x", active, http.StatusBadRequest, "a back-up's name is"},
		{"not active", "", standby, http.StatusServiceUnavailable, "not the active session instance"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := httptest.NewRecorder()
			tt.of.BackupHandler().ServeHTTP(w, httptest.NewRequest(http.MethodPost, session.BackupPath+tt.query, nil))
			if w.Code != tt.code || !strings.Contains(w.Body.String(), tt.want) {
				t.Errorf("%d %q, want %d %q", w.Code, w.Body, tt.code, tt.want)
			}
		})
	}
}

func TestARestoredStoreTakesThePlaceOfTheOther(t *testing.T) {
	c := session.DefaultConfig()
	c.Data = filepath.Join(t.TempDir(), "store")
	if _, err := session.BackupStopped(c, "a"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("back-up of nothing: %v", err)
	}
	if err := os.Mkdir(c.Data, 0o700); err != nil {
		t.Fatal(err)
	}
	dir, err := session.BackupStopped(c, "a")
	if err != nil {
		t.Fatal(err)
	}
	former, err := session.Restore(c, dir)
	if err != nil || !strings.HasPrefix(former, c.Backups()+"/before-") {
		t.Fatalf("former %q, %v", former, err)
	}
	// What was put aside is a back-up like others, and a missing store is nothing that has to be put aside.
	if err := os.RemoveAll(c.Data); err != nil {
		t.Fatal(err)
	}
	if again, err := session.Restore(c, former); err != nil || again != "" {
		t.Errorf("former %q, %v", again, err)
	}
	// What cannot be read leaves everything as it is.
	files, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if strings.Contains(f, "marker.format-version") {
			if err := os.Remove(f); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, "marker.format-version.000999.999"), nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	for from, want := range map[string]string{
		dir:                     "newer version",
		t.TempDir():             "directory is empty",
		filepath.Join(dir, "x"): "no such file",
	} {
		if _, err := session.Restore(c, from); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("restore from %s: error %v, want %q in it", from, err, want)
		}
	}
	if _, err := session.BackupStopped(c, "b"); err != nil {
		t.Errorf("the store after restores that failed: %v", err)
	}
	if left, _ := filepath.Glob(c.Data + "-new*"); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}
