package listener

import (
	"crypto/tls"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/beeline-mqtt/beeline/internal/pki"
)

// handshaken returns both ends of a TLS connection over a pipe, where every write waits for its reader.
func handshaken(t *testing.T, cert tls.Certificate) (near tlsConn, far net.Conn) {
	t.Helper()
	a, b := net.Pipe()
	near = tlsConn{tls.Server(a, &tls.Config{Certificates: []tls.Certificate{cert}, SessionTicketsDisabled: true})}
	done := make(chan error, 1)
	go func() { done <- near.Handshake() }()
	if err := tls.Client(b, &tls.Config{InsecureSkipVerify: true}).Handshake(); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	return near, b
}

func TestClosingTLSWaitsForNoPeer(t *testing.T) {
	ca, err := pki.Open(t.TempDir(), time.Now)
	if err != nil {
		t.Fatal(err)
	}
	files, err := ca.Issue(pki.Request{Name: "server"})
	if err != nil {
		t.Fatal(err)
	}
	cert, err := tls.LoadX509KeyPair(files.Cert, files.Key)
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name  string
		close func(tlsConn) error
		most  time.Duration
	}{
		{"all of it, at once", tlsConn.Close, 0},
		{"the writing half, within the patience", tlsConn.CloseWrite, closePatience},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				near, far := handshaken(t, cert)
				defer far.Close()
				began := time.Now()
				_ = tc.close(near)
				if took := time.Since(began); took > tc.most {
					t.Errorf("it took %v", took)
				}
			})
		})
	}
}
