package announce_test

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/beeline-mqtt/beeline/internal/listener/listenertest"
	"github.com/beeline-mqtt/beeline/services/router/internal/announce"
)

// shake returns what the server knows of a handshake.
func shake(t *testing.T, server, client *tls.Config) *tls.ConnectionState {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	b, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	a, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	for _, nc := range []net.Conn{a, b} {
		_ = nc.SetDeadline(time.Now().Add(10 * time.Second))
	}
	s, c := tls.Server(a, server), tls.Client(b, client)
	done := make(chan error, 1)
	go func() {
		_, err := s.Write([]byte("x"))
		done <- err
	}()
	_, readErr := c.Read(make([]byte, 1)) // and with it the ticket of the session
	if err := errors.Join(readErr, <-done); err != nil {
		t.Fatal(err)
	}
	state := s.ConnectionState()
	return &state
}

func TestRealHandshakesAreToldRightly(t *testing.T) {
	certs := listenertest.Issue(t)
	server, err := certs.Server.Server()
	if err != nil {
		t.Fatal(err)
	}
	client := certs.Trusting(t, certs.Client)
	server.NextProtos, client.NextProtos = []string{"mqtt"}, []string{"other", "mqtt"}
	client.ClientSessionCache = tls.NewLRUClientSessionCache(1)
	server.ClientCAs = client.RootCAs
	header := func(server, client *tls.Config) told {
		t.Helper()
		b, err := announce.Header(announce.Info{TLS: shake(t, server, client)})
		if err != nil {
			t.Fatal(err)
		}
		return read(t, b)
	}
	check := func(what string, got, want told) {
		t.Helper()
		want.Local, want.Protocol, want.TLS = true, "UNSPEC", true
		want.Server, want.ALPN = "localhost", "mqtt"
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: %s", what, diff)
		}
	}

	server.ClientAuth = tls.VerifyClientCertIfGiven
	first := told{Version: "TLSv1.3", CertOnConn: true, CertOnSess: true, Verified: true, CN: "client"}
	check("the first of a session", header(server, client), first)
	resumed := told{Version: "TLSv1.3", CertOnSess: true, Verified: true, CN: "client"}
	check("a resumed one", header(server, client), resumed)

	anonymous := client.Clone()
	anonymous.Certificates, anonymous.ClientSessionCache, anonymous.MaxVersion = nil, nil, tls.VersionTLS12
	check("without a certificate", header(server, anonymous), told{Version: "TLSv1.2"})

	believing, stranger := server.Clone(), client.Clone()
	believing.ClientAuth, believing.ClientCAs = tls.RequireAnyClientCert, x509.NewCertPool()
	stranger.ClientSessionCache = nil
	check("with one that nobody has verified", header(believing, stranger),
		told{Version: "TLSv1.3", CertOnConn: true, CertOnSess: true})
}
