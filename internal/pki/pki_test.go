package pki

import (
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

const day = 24 * time.Hour

// clock is a time that tests move.
type clock struct{ t time.Time }

func (c *clock) now() time.Time { return c.t }

func newClock() *clock { return &clock{time.Now()} }

func open(t *testing.T, dir string, c *clock) *CA {
	t.Helper()
	ca, err := Open(dir, c.now)
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

func issue(t *testing.T, ca *CA, r Request) Files {
	t.Helper()
	files, err := ca.Issue(r)
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// snapshot reads all files of a directory.
func snapshot(t *testing.T, dir string) map[string]string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{}
	for _, e := range entries {
		text, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		files[e.Name()] = string(text)
	}
	return files
}

// changed lists which files differ between two snapshots.
func changed(before, after map[string]string) map[string]bool {
	names := map[string]bool{}
	for name, text := range after {
		if before[name] != text {
			names[name] = true
		}
	}
	return names
}

func cert(t *testing.T, files Files) *x509.Certificate {
	t.Helper()
	c, err := readCert(files.Cert)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestOpenAndIssueMakeFilesThatOnlyTheirOwnerCanUse(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "deep", "pki")
	ca := open(t, dir, newClock())
	issue(t, ca, Request{Name: "gateway-1", Role: "gateway"})
	want := map[string]os.FileMode{"ca.crt": 0o644, "ca.key": 0o600, "gateway-1.crt": 0o644, "gateway-1.key": 0o600}
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
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("files (-want +got):\n%s", diff)
	}
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("directory: %v, %v; want 0700", info.Mode(), err)
	}
}

func TestAServiceCertificateNamesItsRoleAndHosts(t *testing.T) {
	c := newClock()
	ca := open(t, t.TempDir(), c)
	got := cert(t, issue(t, ca, Request{Name: "gateway-1", Role: "gateway", Hosts: []string{"gw.example", "10.0.0.7"}}))

	id, err := IdentityOf(got)
	if want := (Identity{Role: "gateway", Name: "gateway-1"}); err != nil || id != want {
		t.Errorf("identity = %v, %v; want %v", id, err, want)
	}
	for _, host := range []string{"localhost", "127.0.0.1", "::1", "gw.example", "10.0.0.7"} {
		if err := got.VerifyHostname(host); err != nil {
			t.Errorf("not valid for %s: %v", host, err)
		}
	}
	want := []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	if diff := cmp.Diff(want, got.ExtKeyUsage); diff != "" {
		t.Errorf("usage (-want +got):\n%s", diff)
	}
	if got.PublicKeyAlgorithm != x509.ECDSA || got.PublicKey.(*ecdsa.PublicKey).Curve.Params().Name != "P-256" {
		t.Errorf("key is %v", got.PublicKeyAlgorithm)
	}
	if got.NotBefore.After(c.t) || got.NotAfter.Before(c.t.Add(364*day)) || got.NotAfter.After(c.t.Add(366*day)) {
		t.Errorf("valid from %v to %v", got.NotBefore, got.NotAfter)
	}
}

func TestOpeningAndIssuingAgainChangesNothing(t *testing.T) {
	dir, c := t.TempDir(), newClock()
	requests := []Request{
		{Name: "gateway", Role: "gateway", Hosts: []string{"a.example", "10.0.0.7"}},
		{Name: "mqtt"},
	}
	for _, r := range requests {
		issue(t, open(t, dir, c), r)
	}
	before := snapshot(t, dir)
	c.t = c.t.Add(200 * day)
	for _, r := range requests {
		issue(t, open(t, dir, c), r)
	}
	if diff := cmp.Diff(before, snapshot(t, dir)); diff != "" {
		t.Errorf("files (-before +after):\n%s", diff)
	}
}

func TestACertificateIsIssuedAgainWhenItIsNotRight(t *testing.T) {
	original := Request{Name: "gateway", Role: "gateway"}
	tests := []struct {
		name    string
		change  func(t *testing.T, files Files, c *clock)
		request Request
	}{
		{"about to expire", func(_ *testing.T, _ Files, c *clock) { c.t = c.t.Add(250 * day) }, original},
		{"expired", func(_ *testing.T, _ Files, c *clock) { c.t = c.t.Add(500 * day) }, original},
		{"another role", nil, Request{Name: "gateway", Role: "session"}},
		{"no role any more", nil, Request{Name: "gateway"}},
		{"another host", nil, Request{Name: "gateway", Role: "gateway", Hosts: []string{"a.example"}}},
		{"another address", nil, Request{Name: "gateway", Role: "gateway", Hosts: []string{"10.0.0.7"}}},
		{"certificate lost", func(t *testing.T, f Files, _ *clock) { remove(t, f.Cert) }, original},
		{"key lost", func(t *testing.T, f Files, _ *clock) { remove(t, f.Key) }, original},
		{"certificate damaged", func(t *testing.T, f Files, _ *clock) { write(t, f.Cert, "x") }, original},
		{"key of another certificate", func(t *testing.T, f Files, c *clock) {
			other := issue(t, open(t, t.TempDir(), c), original)
			text, err := os.ReadFile(other.Key)
			if err != nil {
				t.Fatal(err)
			}
			write(t, f.Key, string(text))
		}, original},
		{"authority replaced", func(t *testing.T, f Files, _ *clock) {
			remove(t, f.CA)
			remove(t, filepath.Join(filepath.Dir(f.CA), "ca.key"))
		}, original},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir, c := t.TempDir(), newClock()
			first := issue(t, open(t, dir, c), original)
			before := snapshot(t, dir)
			if tt.change != nil {
				tt.change(t, first, c)
			}
			ca := open(t, dir, c)
			files := issue(t, ca, tt.request)
			got := changed(before, snapshot(t, dir))
			if !got["gateway.crt"] || !got["gateway.key"] {
				t.Errorf("changed files: %v, want certificate and key", got)
			}
			if c := cert(t, files); c.CheckSignatureFrom(ca.cert) != nil {
				t.Error("the new certificate is not signed by the authority")
			}
			if _, err := tls.LoadX509KeyPair(files.Cert, files.Key); err != nil {
				t.Errorf("certificate and key: %v", err)
			}
		})
	}
}

func remove(t *testing.T, path string) {
	t.Helper()
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestARenewedAuthorityKeepsItsKeySoThatWhatItSignedStaysValid(t *testing.T) {
	dir, c := t.TempDir(), newClock()
	open(t, dir, c)
	before := snapshot(t, dir)
	c.t = c.t.Add(6 * 365 * day)
	leaf := cert(t, issue(t, open(t, dir, c), Request{Name: "gateway", Role: "gateway"}))
	c.t = c.t.Add(day * 250)
	renewed := open(t, dir, c)
	if diff := cmp.Diff(map[string]bool{"ca.crt": true, "gateway.crt": true, "gateway.key": true}, changed(before, snapshot(t, dir))); diff != "" {
		t.Errorf("changed files (-want +got):\n%s", diff)
	}
	if err := leaf.CheckSignatureFrom(renewed.cert); err != nil {
		t.Errorf("a certificate signed before the renewal: %v", err)
	}
	if !renewed.cert.NotAfter.After(c.t.Add(9 * 365 * day)) {
		t.Errorf("renewed until %v", renewed.cert.NotAfter)
	}
}

func TestOpenLeavesADamagedAuthorityAlone(t *testing.T) {
	tests := []struct {
		name   string
		damage func(t *testing.T, dir string)
		want   string
	}{
		{"key is no key", func(t *testing.T, dir string) { write(t, filepath.Join(dir, "ca.key"), "x") }, "ca.key"},
		{"certificate is none", func(t *testing.T, dir string) { write(t, filepath.Join(dir, "ca.crt"), "x") }, "ca.crt"},
		{"certificate without its key", func(t *testing.T, dir string) { remove(t, filepath.Join(dir, "ca.key")) }, "do not belong together"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir, c := t.TempDir(), newClock()
			open(t, dir, c)
			tt.damage(t, dir)
			crt := snapshot(t, dir)["ca.crt"]
			if _, err := Open(dir, c.now); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("Open = %v, want an error that says %q", err, tt.want)
			}
			if snapshot(t, dir)["ca.crt"] != crt {
				t.Error("the certificate of the authority was replaced")
			}
		})
	}
}

func TestNamesThatCannotBeFilesOrRolesAreRefused(t *testing.T) {
	ca := open(t, t.TempDir(), newClock())
	for _, r := range []Request{
		{Name: ""},
		{Name: "ca"},
		{Name: "../x"},
		{Name: ".hidden"},
		{Name: "a/b"},
		{Name: "a b"},
		{Name: "a", Role: "a/b"},
		{Name: "a", Role: "ä"},
		{Name: "a", Role: "-"},
	} {
		if files, err := ca.Issue(r); err == nil {
			t.Errorf("%+v gave %v", r, files)
		}
	}
}

func TestIssueIsSafeForConcurrentUse(t *testing.T) {
	ca := open(t, t.TempDir(), newClock())
	var wg sync.WaitGroup
	for range 4 {
		for _, name := range []string{"a", "b"} {
			wg.Go(func() {
				files, err := ca.Issue(Request{Name: name, Role: "gateway"})
				if err != nil {
					t.Error(err)
					return
				}
				if _, err := files.Mutual(); err != nil {
					t.Error(err)
				}
			})
		}
	}
	wg.Wait()
}

// shake connects a client to a server and returns the errors of both ends.
func shake(t *testing.T, server, client *tls.Config) (serverErr, clientErr error) {
	t.Helper()
	l, err := tls.Listen("tcp", "127.0.0.1:0", server)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	done := make(chan error, 1)
	go func() {
		conn, err := l.Accept()
		if err == nil {
			_, err = conn.Write([]byte("x")) // a TLS 1.3 client learns with the first byte whether it was refused
			conn.Close()
		}
		done <- err
	}()
	raw, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	client = client.Clone()
	client.ServerName = "localhost"
	_, clientErr = tls.Client(raw, client).Read(make([]byte, 1))
	raw.Close()
	return <-done, clientErr
}

func mutual(t *testing.T, files Files) *tls.Config {
	t.Helper()
	cfg, err := files.Mutual()
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}

func TestServicesOfOneAuthorityTrustEachOtherAndNobodyElse(t *testing.T) {
	c := newClock()
	ca, foreign := open(t, t.TempDir(), c), open(t, t.TempDir(), c)
	gateway := mutual(t, issue(t, ca, Request{Name: "gateway-1", Role: "gateway"}))
	session := mutual(t, issue(t, ca, Request{Name: "session-1", Role: "session"}))
	stranger := mutual(t, issue(t, foreign, Request{Name: "gateway-1", Role: "gateway"}))
	public := mutual(t, issue(t, ca, Request{Name: "mqtt"}))
	anonymous := &tls.Config{RootCAs: gateway.RootCAs, MinVersion: tls.VersionTLS13}
	old := gateway.Clone()
	old.MinVersion, old.MaxVersion = tls.VersionTLS12, tls.VersionTLS12

	tests := []struct {
		name           string
		server, client *tls.Config
		ok             bool
	}{
		{"two roles", session, gateway, true},
		{"the other way round", gateway, session, true},
		{"client of another authority", session, stranger, false},
		{"server of another authority", stranger, gateway, false},
		{"client without a certificate", session, anonymous, false},
		{"client without a role", session, public, false},
		{"server without a role", public, gateway, false},
		{"TLS 1.2", session, old, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			serverErr, clientErr := shake(t, tt.server, tt.client)
			if ok := serverErr == nil && clientErr == nil; ok != tt.ok {
				t.Errorf("connected: %v, want %v (server: %v; client: %v)", ok, tt.ok, serverErr, clientErr)
			}
		})
	}
}

func TestAServerCertificateServesClientsThatTrustTheAuthority(t *testing.T) {
	ca, foreign := open(t, t.TempDir(), newClock()), open(t, t.TempDir(), newClock())
	files := issue(t, ca, Request{Name: "mqtt"})
	server, err := files.Server()
	if err != nil {
		t.Fatal(err)
	}
	asking := server.Clone()
	asking.ClientAuth = tls.RequireAndVerifyClientCert
	asking.ClientCAs = mutual(t, issue(t, ca, Request{Name: "x", Role: "x"})).ClientCAs
	tests := []struct {
		name   string
		server *tls.Config
		files  Files
		ok     bool
	}{
		{"client that trusts the authority", server, Files{CA: files.CA}, true},
		{"client that trusts another", server, Files{CA: foreign.path("ca.crt")}, false},
		{"client with a certificate where one is asked for", asking, issue(t, ca, Request{Name: "c", Role: "client"}), true},
		{"client without one where one is asked for", asking, Files{CA: files.CA}, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			client, err := tt.files.Client()
			if err != nil {
				t.Fatal(err)
			}
			serverErr, clientErr := shake(t, tt.server, client)
			if ok := serverErr == nil && clientErr == nil; ok != tt.ok {
				t.Errorf("connected: %v, want %v (server: %v; client: %v)", ok, tt.ok, serverErr, clientErr)
			}
		})
	}
}

func TestFilesThatCannotBeUsedAreNamed(t *testing.T) {
	files := issue(t, open(t, t.TempDir(), newClock()), Request{Name: "gateway", Role: "gateway"})
	empty := filepath.Join(t.TempDir(), "empty")
	write(t, empty, "")
	tests := []struct {
		name string
		edit func(f *Files)
		want string
	}{
		{"no certificate", func(f *Files) { f.Cert = "/no/such.crt" }, "/no/such.crt"},
		{"no key", func(f *Files) { f.Key = "/no/such.key" }, "/no/such.key"},
		{"no authority", func(f *Files) { f.CA = "/no/such.ca" }, "/no/such.ca"},
		{"empty authority", func(f *Files) { f.CA = empty }, empty},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := files
			tt.edit(&f)
			for name, load := range map[string]func() (*tls.Config, error){"Mutual": f.Mutual, "Client": f.Client} {
				if _, err := load(); err == nil || !strings.Contains(err.Error(), tt.want) {
					t.Errorf("%s = %v, want an error with %q", name, err, tt.want)
				}
			}
		})
	}
}

func TestAnIdentityIsOneBeelineURI(t *testing.T) {
	tests := []struct {
		name string
		uris []string
		want Identity
	}{
		{"role and name", []string{"beeline://session/s-1"}, Identity{"session", "s-1"}},
		{"role alone", []string{"beeline://session"}, Identity{"session", ""}},
		{"beside another", []string{"spiffe://x/y", "beeline://gateway/g"}, Identity{"gateway", "g"}},
		{"none", nil, Identity{}},
		{"another scheme", []string{"https://gateway/g"}, Identity{}},
		{"no role", []string{"beeline:///g"}, Identity{}},
		{"two", []string{"beeline://gateway/g", "beeline://session/s"}, Identity{}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var c x509.Certificate
			for _, s := range tt.uris {
				u, err := url.Parse(s)
				if err != nil {
					t.Fatal(err)
				}
				c.URIs = append(c.URIs, u)
			}
			got, err := IdentityOf(&c)
			if got != tt.want || errors.Is(err, ErrNoIdentity) != (tt.want == Identity{}) {
				t.Errorf("IdentityOf = %v, %v; want %v", got, err, tt.want)
			}
		})
	}
	if got := (Identity{"gateway", "g-1"}).String(); got != "beeline://gateway/g-1" {
		t.Errorf("written as %s", got)
	}
}
