// Package pki is a private certificate authority in a directory, for set-ups on one machine and for tests, and
// the rule by which services of a cluster recognise each other, whoever signed their certificates.
//
// The directory holds ca.crt and ca.key, and a .crt and .key for each certificate that was issued there; others
// are delivered to directories of their holders. Keys are ECDSA P-256, readable by their owner alone, delivered
// ones by their group too. Opening and issuing again changes nothing as long as what is there is right and has a
// third of its life left; otherwise it is renewed. The authority keeps its key when it is renewed, so what it has
// signed stays valid.
//
// A CA may be used by several goroutines. Only one process at a time may open a directory.
package pki

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"sync"
	"time"
)

const (
	caLife   = 10 * 365 * 24 * time.Hour
	leafLife = 365 * 24 * time.Hour
	// skew is by how much clocks may differ: certificates are valid from that long ago.
	skew = time.Hour
)

// Modes of keys.
const (
	ownerOnly     os.FileMode = 0o600
	ownerAndGroup os.FileMode = 0o640
)

// CA is a certificate authority in a directory.
type CA struct {
	dir  string
	now  func() time.Time
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	mu   sync.Mutex // held while a certificate is looked at and issued
}

// Open loads the authority in dir, or makes one there. The directory is made when it does not exist. now is the
// clock, time.Now outside tests.
func Open(dir string, now func() time.Time) (*CA, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make certificate directory: %w", err)
	}
	ca := &CA{dir: dir, now: now}
	if err := ca.load(); err != nil {
		return nil, fmt.Errorf("open certificate authority in %s: %w", dir, err)
	}
	return ca, nil
}

// load reads key and certificate, making what is missing. A key is never replaced: what it signed is in use.
func (ca *CA) load() error {
	key, err := readKey(ca.path("ca.key"))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
			return err
		}
		if err := writeKey(ca.path("ca.key"), key, ownerOnly); err != nil {
			return err
		}
	case err != nil:
		return err
	}
	ca.key = key
	cert, err := readCert(ca.path("ca.crt"))
	if err == nil && !key.PublicKey.Equal(cert.PublicKey) {
		return errors.New("ca.crt and ca.key do not belong together: restore the one that is wrong, or remove both")
	}
	if err == nil && !expires(cert, ca.now()) {
		ca.cert = cert
		return nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	now := ca.now()
	template := &x509.Certificate{
		Subject:               pkix.Name{CommonName: "Beeline private authority"},
		NotBefore:             now.Add(-skew),
		NotAfter:              now.Add(caLife),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		IsCA:                  true,
		BasicConstraintsValid: true,
		MaxPathLenZero:        true,
	}
	ca.cert, err = ca.sign(ca.path("ca.crt"), template, template, &key.PublicKey)
	return err
}

// Request says what a certificate is for.
type Request struct {
	// Name is the name of the files, and of the holder within its role: letters, digits, dots, dashes and
	// underscores, beginning with a letter or digit. "ca" is taken.
	Name string
	// Role makes it the certificate of a service of the cluster, which works both as server and as client. It is
	// spelt like Name. Without a role the certificate is one of a public server, for MQTT clients: it is of no
	// use among services.
	Role string
	// Hosts are DNS names and IP addresses of the holder, beside localhost, 127.0.0.1 and ::1.
	Hosts []string
}

var validName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]*$`)

func (r Request) validate() error {
	if !validName.MatchString(r.Name) || r.Name == "ca" {
		return fmt.Errorf("%q cannot be the name of a certificate", r.Name)
	}
	if r.Role != "" && !validName.MatchString(r.Role) {
		return fmt.Errorf("%q cannot be a role", r.Role)
	}
	return nil
}

// Issue returns the files of a certificate as requested, which it makes or renews when they are not there, do
// not fit the request, are not of this authority or about to expire.
func (ca *CA) Issue(r Request) (Files, error) {
	files := Files{Cert: ca.path(r.Name + ".crt"), Key: ca.path(r.Name + ".key"), CA: ca.path("ca.crt")}
	if err := ca.provide(r, files, ownerOnly); err != nil {
		return Files{}, err
	}
	return files, nil
}

// Deliver is Issue into a directory of the holder's own, which holds no more than the holder needs: tls.crt,
// tls.key and ca.crt. The group of the files may read the key, so that they may belong to somebody else than the
// holder. The directory is made when it does not exist.
func (ca *CA) Deliver(dir string, r Request) (Files, error) {
	if err := r.validate(); err != nil {
		return Files{}, err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil { //nolint:gosec // what is secret in it is protected by itself
		return Files{}, fmt.Errorf("deliver certificate %s: %w", r.Name, err)
	}
	files := Files{Cert: filepath.Join(dir, "tls.crt"), Key: filepath.Join(dir, "tls.key"), CA: filepath.Join(dir, "ca.crt")}
	if err := ca.provide(r, files, ownerAndGroup); err != nil {
		return Files{}, err
	}
	if old, err := readCert(files.CA); err == nil && old.Equal(ca.cert) {
		return files, nil
	}
	if err := writePEM(files.CA, "CERTIFICATE", ca.cert.Raw, 0o644); err != nil {
		return Files{}, fmt.Errorf("deliver certificate %s: %w", r.Name, err)
	}
	return files, nil
}

// provide sees to it that the files of a certificate and its key are there and right.
func (ca *CA) provide(r Request, files Files, mode os.FileMode) error {
	if err := r.validate(); err != nil {
		return err
	}
	ca.mu.Lock()
	defer ca.mu.Unlock()
	template := ca.template(r)
	if ca.isCurrent(files, template) {
		return nil
	}
	if err := ca.issue(files, mode, template); err != nil {
		return fmt.Errorf("issue certificate %s: %w", r.Name, err)
	}
	return nil
}

func (ca *CA) template(r Request) *x509.Certificate {
	now := ca.now()
	t := &x509.Certificate{
		Subject:     pkix.Name{CommonName: r.Name},
		NotBefore:   now.Add(-skew),
		NotAfter:    now.Add(leafLife),
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		DNSNames:    []string{"localhost"},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1).To4(), net.IPv6loopback},
	}
	for _, host := range r.Hosts {
		if ip := net.ParseIP(host); ip == nil {
			t.DNSNames = append(t.DNSNames, host)
		} else {
			t.IPAddresses = append(t.IPAddresses, ip)
		}
	}
	if r.Role != "" {
		t.ExtKeyUsage = append(t.ExtKeyUsage, x509.ExtKeyUsageClientAuth)
		t.URIs = append(t.URIs, Identity{Role: r.Role, Name: r.Name}.URI())
	}
	return t
}

// isCurrent says whether the files hold what want asks for, for long enough.
func (ca *CA) isCurrent(files Files, want *x509.Certificate) bool {
	cert, err := readCert(files.Cert)
	if err != nil || cert.CheckSignatureFrom(ca.cert) != nil || expires(cert, ca.now()) {
		return false
	}
	key, err := readKey(files.Key)
	if err != nil || !key.PublicKey.Equal(cert.PublicKey) {
		return false
	}
	return cert.Subject.CommonName == want.Subject.CommonName &&
		slices.Equal(cert.DNSNames, want.DNSNames) &&
		slices.EqualFunc(cert.IPAddresses, want.IPAddresses, net.IP.Equal) &&
		slices.Equal(cert.ExtKeyUsage, want.ExtKeyUsage) &&
		fmt.Sprint(cert.URIs) == fmt.Sprint(want.URIs)
}

// issue writes a new key and its certificate. Between the two the files do not match, which isCurrent sees
// should the process end just there.
func (ca *CA) issue(files Files, mode os.FileMode, template *x509.Certificate) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	if err := writeKey(files.Key, key, mode); err != nil {
		return err
	}
	_, err = ca.sign(files.Cert, template, ca.cert, &key.PublicKey)
	return err
}

// sign makes the certificate and writes it to path.
func (ca *CA) sign(path string, template, parent *x509.Certificate, public *ecdsa.PublicKey) (*x509.Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, err
	}
	template.SerialNumber = serial
	der, err := x509.CreateCertificate(rand.Reader, template, parent, public, ca.key)
	if err != nil {
		return nil, err
	}
	if err := writePEM(path, "CERTIFICATE", der, 0o644); err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

func (ca *CA) path(name string) string { return filepath.Join(ca.dir, name) }

// expires says whether less than a third of the life of cert is left.
func expires(cert *x509.Certificate, now time.Time) bool {
	return cert.NotAfter.Sub(now) < cert.NotAfter.Sub(cert.NotBefore)/3
}
