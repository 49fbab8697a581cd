package listener

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"os"
	"time"
)

// closePatience bounds what a TLS or WebSocket connection does beyond closing its socket.
const closePatience = 500 * time.Millisecond

// tlsConn never keeps whoever closes it waiting: (*tls.Conn).Close may take five seconds to say goodbye to a
// peer that does not read.
type tlsConn struct{ *tls.Conn }

// Close closes the socket at once, without a goodbye.
func (c tlsConn) Close() error { return c.NetConn().Close() }

// CloseWrite says goodbye, within closePatience. What the peer still sends can be read.
func (c tlsConn) CloseWrite() error {
	t := time.AfterFunc(closePatience, func() { _ = c.Close() })
	defer t.Stop()
	return c.Conn.CloseWrite()
}

func tlsConfig(cfg Config, logger *slog.Logger) (*tls.Config, error) {
	cert, err := loadCertificate(cfg.CertFile, cfg.KeyFile, logger)
	if err != nil {
		return nil, err
	}
	t := &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: cert.get}
	if cfg.ClientCAFile == "" {
		return t, nil
	}
	pem, err := os.ReadFile(cfg.ClientCAFile)
	if err != nil {
		return nil, fmt.Errorf("client_ca_file: %w", err)
	}
	t.ClientCAs = x509.NewCertPool()
	if !t.ClientCAs.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("client_ca_file: no certificate in %s", cfg.ClientCAFile)
	}
	t.ClientAuth = tls.RequireAndVerifyClientCert
	return t, nil
}
