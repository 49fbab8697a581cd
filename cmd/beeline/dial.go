package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"

	"github.com/coder/websocket"
	"github.com/spf13/pflag"
)

// target is where an MQTT client connects, and as whom.
type target struct {
	url          string
	urlFlag      string // the flag that it is from
	version      string
	clientID     string
	username     string
	passwordFile string
	caFile       string
	certFile     string
	keyFile      string
	keepAlive    uint16
	// resume goes on with the session that the client has, and sessionExpiry (seconds) is how long MQTT 5 keeps it.
	resume        bool
	sessionExpiry uint32
}

func (t *target) flags(f *pflag.FlagSet) {
	t.urlFlag = "--url"
	f.StringVarP(&t.url, "url", "u", "mqtt://127.0.0.1:18831", "broker: mqtt://, mqtts://, ws:// or wss://host:port[/path]")
	f.StringVarP(&t.version, "mqtt-version", "V", "5", "protocol version: 5 or 3.1.1")
	f.StringVarP(&t.clientID, "id", "i", "", "client id; empty has the broker or this command choose one")
	t.authFlags(f)
	f.Uint16Var(&t.keepAlive, "keep-alive", 30, "keep alive in seconds")
}

// authFlags are those about who the client and the broker are.
func (t *target) authFlags(f *pflag.FlagSet) {
	f.StringVar(&t.username, "username", "", "user name")
	f.StringVar(&t.passwordFile, "password-file", "", "file with the password")
	f.StringVar(&t.caFile, "ca-file", "", "certificate authority (PEM) of the broker; default: the system's")
	f.StringVar(&t.certFile, "cert-file", "", "client certificate (PEM)")
	f.StringVar(&t.keyFile, "key-file", "", "private key (PEM) of the client certificate")
}

// keeps reports whether the session may outlive the connection.
func (t *target) keeps() bool { return t.resume || t.sessionExpiry > 0 }

func (t *target) v5() (bool, error) {
	switch t.version {
	case "5", "5.0":
		return true, nil
	case "3.1.1", "311", "4":
		return false, nil
	}
	return false, fmt.Errorf("--mqtt-version %q: 5 or 3.1.1", t.version)
}

func (t *target) password() ([]byte, error) {
	if t.passwordFile == "" {
		return nil, nil
	}
	b, err := os.ReadFile(t.passwordFile)
	if err != nil {
		return nil, fmt.Errorf("--password-file: %w", err)
	}
	for len(b) > 0 && (b[len(b)-1] == '\n' || b[len(b)-1] == '\r') {
		b = b[:len(b)-1]
	}
	return b, nil
}

// dialer makes what opens the connection that the URL names. An error is about a flag.
func (t *target) dialer() (func(ctx context.Context) (net.Conn, error), error) {
	u, err := url.Parse(t.url)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", t.urlFlag, err)
	}
	tc, err := t.tls(u.Hostname())
	if err != nil {
		return nil, err
	}
	tcp := &net.Dialer{KeepAlive: -1} // MQTT has its own
	switch u.Scheme {
	case "mqtt", "tcp":
		return func(ctx context.Context) (net.Conn, error) {
			return tcp.DialContext(ctx, "tcp", hostPort(u, "1883"))
		}, nil
	case "mqtts", "ssl", "tls":
		return func(ctx context.Context) (net.Conn, error) {
			return (&tls.Dialer{NetDialer: tcp, Config: tc}).DialContext(ctx, "tcp", hostPort(u, "8883"))
		}, nil
	case "ws", "wss":
		if u.Path == "" {
			u.Path = "/mqtt"
		}
		return func(ctx context.Context) (net.Conn, error) { return dialWebSocket(ctx, u, tc) }, nil
	}
	return nil, fmt.Errorf("%s %q: the scheme has to be mqtt, mqtts, ws or wss", t.urlFlag, t.url)
}

func dialWebSocket(ctx context.Context, u *url.URL, tc *tls.Config) (net.Conn, error) {
	ws, _, err := websocket.Dial(ctx, u.String(), &websocket.DialOptions{ //nolint:bodyclose // Dial says that nobody has to
		Subprotocols: []string{"mqtt"},
		HTTPClient:   &http.Client{Transport: &http.Transport{TLSClientConfig: tc}},
	})
	if err != nil {
		return nil, err
	}
	return websocket.NetConn(context.WithoutCancel(ctx), ws, websocket.MessageBinary), nil
}

func hostPort(u *url.URL, port string) string {
	if u.Port() != "" {
		port = u.Port()
	}
	return net.JoinHostPort(u.Hostname(), port)
}

func (t *target) tls(host string) (*tls.Config, error) {
	c := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: host}
	if t.caFile != "" {
		pem, err := os.ReadFile(t.caFile)
		if err != nil {
			return nil, fmt.Errorf("--ca-file: %w", err)
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("--ca-file %s: no certificate in it", t.caFile)
		}
	}
	if t.certFile != "" || t.keyFile != "" {
		cert, err := tls.LoadX509KeyPair(t.certFile, t.keyFile)
		if err != nil {
			return nil, fmt.Errorf("--cert-file, --key-file: %w", err)
		}
		c.Certificates = []tls.Certificate{cert}
	}
	return c, nil
}
