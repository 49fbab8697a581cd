package pki

import (
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"time"

	"github.com/beeline-mqtt/beeline/internal/atomicfile"
)

// Files are the paths of a certificate, its key, and the certificates of the authorities that its holder
// trusts, all PEM.
type Files struct {
	Cert, Key, CA string
}

// Mutual returns the TLS configuration, for both ends of a connection between services: TLS 1.3, certificates
// required and verified both ways, and each naming its holder as Identity says. Clients verify the host name too.
func (f Files) Mutual() (*tls.Config, error) {
	cert, err := tls.LoadX509KeyPair(f.Cert, f.Key)
	if err != nil {
		return nil, fmt.Errorf("load certificate: %w", err)
	}
	pool, err := f.authorities()
	if err != nil {
		return nil, err
	}
	return &tls.Config{
		Certificates:     []tls.Certificate{cert},
		RootCAs:          pool,
		ClientCAs:        pool,
		ClientAuth:       tls.RequireAndVerifyClientCert,
		MinVersion:       tls.VersionTLS13,
		VerifyConnection: requireIdentity,
	}, nil
}

// Public is Mutual for a server that is called by others than services, too: a client may have no certificate. One
// that it shows has to be right.
func (f Files) Public() (*tls.Config, error) {
	cfg, err := f.Mutual()
	if err != nil {
		return nil, err
	}
	cfg.ClientAuth = tls.VerifyClientCertIfGiven
	cfg.VerifyConnection = func(state tls.ConnectionState) error {
		if len(state.PeerCertificates) == 0 {
			return nil
		}
		return requireIdentity(state)
	}
	return cfg, nil
}

// Server returns the TLS configuration of a public server: TLS 1.2 or later, no client certificates.
func (f Files) Server() (*tls.Config, error) {
	cert, err := tls.LoadX509KeyPair(f.Cert, f.Key)
	if err != nil {
		return nil, fmt.Errorf("load certificate: %w", err)
	}
	return &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12}, nil
}

// Client returns the TLS configuration of a client of a server that is not a service of the cluster: TLS 1.2 or
// later, the server verified against CA by its host name. The certificate is shown to servers that ask; Cert and
// Key may be empty.
func (f Files) Client() (*tls.Config, error) {
	pool, err := f.authorities()
	if err != nil {
		return nil, err
	}
	cfg := &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
	if f.Cert == "" && f.Key == "" {
		return cfg, nil
	}
	cert, err := tls.LoadX509KeyPair(f.Cert, f.Key)
	if err != nil {
		return nil, fmt.Errorf("load certificate: %w", err)
	}
	cfg.Certificates = []tls.Certificate{cert}
	return cfg, nil
}

// Expiry returns the time until which the certificate is valid.
func (f Files) Expiry() (time.Time, error) {
	cert, err := readCert(f.Cert)
	if err != nil {
		return time.Time{}, err
	}
	return cert.NotAfter, nil
}

func (f Files) authorities() (*x509.CertPool, error) {
	text, err := os.ReadFile(f.CA)
	if err != nil {
		return nil, fmt.Errorf("load certificate authorities: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(text) {
		return nil, fmt.Errorf("load certificate authorities: no certificate in %s", f.CA)
	}
	return pool, nil
}

func requireIdentity(state tls.ConnectionState) error {
	if len(state.PeerCertificates) == 0 {
		return ErrNoIdentity
	}
	_, err := IdentityOf(state.PeerCertificates[0])
	return err
}

func readCert(path string) (*x509.Certificate, error) {
	der, err := readPEM(path, "CERTIFICATE")
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

func readKey(path string) (*ecdsa.PrivateKey, error) {
	der, err := readPEM(path, "PRIVATE KEY")
	if err != nil {
		return nil, err
	}
	key, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	ec, ok := key.(*ecdsa.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("read %s: not an ECDSA key", path)
	}
	return ec, nil
}

func writeKey(path string, key *ecdsa.PrivateKey, mode os.FileMode) error {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	return writePEM(path, "PRIVATE KEY", der, mode)
}

func readPEM(path, kind string) ([]byte, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(text)
	if block == nil || block.Type != kind {
		return nil, fmt.Errorf("read %s: no %s in it", path, kind)
	}
	return block.Bytes, nil
}

func writePEM(path, kind string, der []byte, mode os.FileMode) error {
	return atomicfile.Write(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), mode)
}
