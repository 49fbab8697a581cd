package listener

import (
	"bytes"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/beeline-mqtt/beeline/internal/pki"
)

func TestACertificateIsReadAgainWhenItsFilesHaveChanged(t *testing.T) {
	ca, err := pki.Open(t.TempDir(), time.Now)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	certFile, keyFile := filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")
	put := func(from, to string) {
		t.Helper()
		b, err := os.ReadFile(from)
		if err == nil {
			err = os.WriteFile(to, b, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	issue := func(name string) pki.Files {
		t.Helper()
		f, err := ca.Issue(pki.Request{Name: name})
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	first, second := issue("first"), issue("second-and-longer")
	put(first.Cert, certFile)
	put(first.Key, keyFile)
	var log bytes.Buffer
	c, err := loadCertificate(certFile, keyFile, slog.New(slog.NewTextHandler(&log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	c.every = 0
	shown := func() string {
		t.Helper()
		cert, err := c.get(nil)
		if err != nil {
			t.Fatal(err)
		}
		return cert.Leaf.Subject.CommonName
	}
	was := shown()
	if again := shown(); again != was || log.Len() > 0 {
		t.Errorf("%q becomes %q, logged %q", was, again, log.String())
	}
	put(second.Cert, certFile) // half way: the key is another one's
	if half := shown(); half != was || !strings.Contains(log.String(), "the former one stays") {
		t.Errorf("half way %q, logged %q", half, log.String())
	}
	put(second.Key, keyFile)
	if is := shown(); is == was || !strings.Contains(is, "second") {
		t.Errorf("%q after the files were replaced, it was %q", is, was)
	}
	if err := os.Remove(keyFile); err != nil {
		t.Fatal(err)
	}
	if is := shown(); !strings.Contains(is, "second") {
		t.Errorf("%q without files", is)
	}
	if _, err := loadCertificate(certFile, keyFile, nil); err == nil {
		t.Error("loaded without a key")
	}
}
