package pki

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func deliver(t *testing.T, ca *CA, dir string, r Request) Files {
	t.Helper()
	files, err := ca.Deliver(dir, r)
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func TestADeliveryHoldsWhatItsHolderNeedsAndNoMore(t *testing.T) {
	ca := open(t, t.TempDir(), newClock())
	dir := filepath.Join(t.TempDir(), "deep", "gateway-1")
	files := deliver(t, ca, dir, Request{Name: "gateway-1", Role: "gateway", Hosts: []string{"gateway-1"}})
	got := map[string]os.FileMode{}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			t.Fatal(err)
		}
		got[e.Name()] = info.Mode()
	}
	if diff := cmp.Diff(map[string]os.FileMode{"ca.crt": 0o644, "tls.crt": 0o644, "tls.key": 0o640}, got); diff != "" {
		t.Errorf("files (-want +got):\n%s", diff)
	}
	if id, err := IdentityOf(cert(t, files)); err != nil || id != (Identity{Role: "gateway", Name: "gateway-1"}) {
		t.Errorf("identity = %v, %v", id, err)
	}
}

func TestHoldersOfDeliveredCertificatesTrustEachOther(t *testing.T) {
	ca := open(t, t.TempDir(), newClock())
	server := deliver(t, ca, t.TempDir(), Request{Name: "session-1", Role: "session"})
	client := deliver(t, ca, t.TempDir(), Request{Name: "gateway-1", Role: "gateway"})
	if serverErr, clientErr := shake(t, mutual(t, server), mutual(t, client)); serverErr != nil || clientErr != nil {
		t.Errorf("server: %v, client: %v", serverErr, clientErr)
	}
}

func TestDeliveringAgainChangesOnlyWhatIsNotRight(t *testing.T) {
	r := Request{Name: "gateway-1", Role: "gateway"}
	tests := []struct {
		name   string
		change func(t *testing.T, f Files, c *clock)
		want   map[string]bool
	}{
		{"nothing wrong", func(*testing.T, Files, *clock) {}, map[string]bool{}},
		{"about to expire", func(_ *testing.T, _ Files, c *clock) { c.t = c.t.Add(250 * day) }, map[string]bool{"tls.crt": true, "tls.key": true}},
		{"key lost", func(t *testing.T, f Files, _ *clock) { remove(t, f.Key) }, map[string]bool{"tls.crt": true, "tls.key": true}},
		{"authority lost", func(t *testing.T, f Files, _ *clock) { write(t, f.CA, "x") }, map[string]bool{}},
		{
			"authority renewed", func(_ *testing.T, _ Files, c *clock) { c.t = c.t.Add(7 * 365 * day) },
			map[string]bool{"ca.crt": true, "tls.crt": true, "tls.key": true},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			authority, dir, c := t.TempDir(), t.TempDir(), newClock()
			files := deliver(t, open(t, authority, c), dir, r)
			before := snapshot(t, dir)
			tt.change(t, files, c)
			deliver(t, open(t, authority, c), dir, r)
			if diff := cmp.Diff(tt.want, changed(before, snapshot(t, dir))); diff != "" {
				t.Errorf("changed files (-want +got):\n%s", diff)
			}
			if _, err := files.Mutual(); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestWhatCannotBeDeliveredIsNot(t *testing.T) {
	ca := open(t, t.TempDir(), newClock())
	dir := filepath.Join(t.TempDir(), "new")
	if files, err := ca.Deliver(dir, Request{Name: "../x"}); err == nil {
		t.Errorf("a name that cannot be gave %v", files)
	}
	if _, err := os.Stat(dir); err == nil {
		t.Error("a directory was made for a name that cannot be")
	}
	write(t, dir, "a file in the way")
	if _, err := ca.Deliver(dir, Request{Name: "a"}); err == nil || !strings.Contains(err.Error(), "deliver certificate a: ") {
		t.Errorf("error %v, want it to say what was delivered", err)
	}
}
