package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/beeline-mqtt/beeline/internal/pki"
)

// delivered are the files in a directory that beeline certs has made.
func delivered(dir string) pki.Files {
	return pki.Files{Cert: filepath.Join(dir, "tls.crt"), Key: filepath.Join(dir, "tls.key"), CA: filepath.Join(dir, "ca.crt")}
}

func TestCertsMakesACertificateForEachService(t *testing.T) {
	authority, out := filepath.Join(t.TempDir(), "authority"), t.TempDir()
	said := begin(t, nil, "certs", "--authority", authority, "--out", out,
		"session/session-1", "gateway/gateway-1=gw.example,10.0.0.7").done()
	for name, want := range map[string]struct {
		hosts []string
		id    string
	}{
		"session-1": {[]string{"session-1", "localhost"}, "beeline://session/session-1"},
		"gateway-1": {[]string{"gw.example", "10.0.0.7", "127.0.0.1"}, "beeline://gateway/gateway-1"},
	} {
		mutual, err := delivered(filepath.Join(out, name)).Mutual()
		if err != nil {
			t.Fatal(err)
		}
		leaf := mutual.Certificates[0].Leaf
		for _, host := range want.hosts {
			if err := leaf.VerifyHostname(host); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
		if id, err := pki.IdentityOf(leaf); err != nil || id.String() != want.id {
			t.Errorf("%s: identity %v, %v", name, id, err)
		}
		if !strings.Contains(said, filepath.Join(out, name)+"  valid until "+leaf.NotAfter.Format("2006-01-02")+", for "+want.hosts[0]) {
			t.Errorf("%s is not in\n%s", name, said)
		}
	}
}

func TestTheKeyOfTheAuthorityStaysWithIt(t *testing.T) {
	authority, out := t.TempDir(), t.TempDir()
	succeeds(t, "certs", "--authority", authority, "--out", out, "gateway/gateway-1")
	secret, err := os.ReadFile(filepath.Join(authority, "ca.key"))
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range contents(t, out) {
		if text == string(secret) {
			t.Errorf("%s is the key of the authority", name)
		}
	}
}

// contents are the texts of all files under dir.
func contents(t *testing.T, dir string) map[string]string {
	t.Helper()
	all := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		text, err := os.ReadFile(path)
		all[path] = string(text)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// A compose project runs it each time it is brought up.
func TestCertsAgainKeepsWhatIsThereAndAddsWhatIsNew(t *testing.T) {
	authority, out := t.TempDir(), t.TempDir()
	args := []string{"certs", "--authority", authority, "--out", out, "session/session-1", "gateway/gateway-1"}
	succeeds(t, args...)
	first := contents(t, out)
	succeeds(t, append(args, "gateway/gateway-2")...)
	second := contents(t, out)
	for name, text := range first {
		if diff := cmp.Diff(text, second[name]); diff != "" {
			t.Errorf("%s has changed", name)
		}
	}
	if _, err := delivered(filepath.Join(out, "gateway-2")).Mutual(); err != nil {
		t.Error(err)
	}
}

func TestCertsMakesTheSecretOfRoutersOnce(t *testing.T) {
	secret := filepath.Join(t.TempDir(), "secret")
	args := []string{"certs", "--authority", t.TempDir(), "--out", t.TempDir(), "--secret", secret, "router/router"}
	succeeds(t, args...)
	first, err := os.ReadFile(secret)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(secret); err != nil || info.Mode() != 0o640 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	succeeds(t, args...)
	if again, err := os.ReadFile(secret); err != nil || string(again) != string(first) {
		t.Errorf("%v; it was %q and is %q", err, first, again)
	}
}

func TestACertificateWithoutARoleIsForMQTTClients(t *testing.T) {
	authority, out := t.TempDir(), t.TempDir()
	succeeds(t, "certs", "--authority", authority, "--out", out, "mqtt=broker.example")
	server, err := delivered(filepath.Join(out, "mqtt")).Server()
	if err != nil {
		t.Fatal(err)
	}
	leaf := server.Certificates[0].Leaf
	if err := leaf.VerifyHostname("broker.example"); err != nil {
		t.Error(err)
	}
	if id, err := pki.IdentityOf(leaf); err == nil {
		t.Errorf("it names the service %v", id)
	}
}

func TestCertsSaysWhatItCannotMake(t *testing.T) {
	dir := t.TempDir()
	for _, tt := range []struct {
		name, want string
		args       []string
	}{
		{"nothing asked", "requires at least 1 arg", []string{"--authority", dir, "--out", dir}},
		{"no authority", "give an --authority", []string{"--out", dir, "gateway/a"}},
		{"no output", "give an --authority and an --out", []string{"--authority", dir, "gateway/a"}},
		{"no name", `gateway/: "" cannot be the name`, []string{"--authority", dir, "--out", dir, "gateway/"}},
		{"way out", `"../x" cannot be the name`, []string{"--authority", dir, "--out", dir, "gateway/../x"}},
		{"no role", `"a b" cannot be a role`, []string{"--authority", dir, "--out", dir, "a b/c"}},
		{"no directory for the secret", "--secret: make a secret", []string{"--authority", dir, "--out", dir, "--secret", dir + "/no/secret", "router/a"}},
		{"no directory", "make certificate directory", []string{"--authority", "/dev/null/ca", "--out", dir, "gateway/a"}},
	} {
		t.Run(tt.name, func(t *testing.T) { fails(t, tt.want, append([]string{"certs"}, tt.args...)...) })
	}
}
