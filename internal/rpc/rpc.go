// Package rpc makes the gRPC servers and clients that services of a cluster talk through: transport security,
// keepalive, flow control windows, reconnecting, interceptors, and the errors that cross the wire.
//
// It owns no service: those are registered on a Server by their packages, and clients are made on the
// connections of a Dialer. A Server starts goroutines in its part only, which waits for them. Everything may be
// used by several goroutines.
package rpc

import (
	"context"
	"crypto/tls"
	"fmt"
	"math"
	"net"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/beeline-mqtt/beeline/internal/config"
	"github.com/beeline-mqtt/beeline/internal/pki"
)

const (
	// window is the HTTP/2 flow control window of a stream and of a connection. It bounds what is under way
	// between two processes unread; 16 MiB keep 1 Gbit/s busy over a round trip of 130 ms.
	window = 16 << 20
	// pingAfter and pingTimeout: a connection over which nothing comes is probed after the one, and is closed
	// when the answer takes longer than the other.
	pingAfter   = 10 * time.Second
	pingTimeout = 5 * time.Second
	// pingMin is how often a client may probe; less than pingAfter, for clocks are not exact.
	pingMin = 5 * time.Second
	// handshakeTimeout bounds the making of a connection, TLS included.
	handshakeTimeout = 10 * time.Second
)

// Config configures both ends of the connections between services.
type Config struct {
	TLS TLSConfig `koanf:"tls"`
	// MaxMessageSize bounds one gRPC message, either way.
	MaxMessageSize config.Bytes `koanf:"max_message_size" help:"bound of one gRPC message"`
	// StopGrace is how long calls under way may take when a server stops.
	StopGrace time.Duration `koanf:"stop_grace" help:"how long calls under way may take when a server stops"`
}

// DefaultConfig has everything but the certificates.
func DefaultConfig() Config {
	return Config{MaxMessageSize: 16 * config.MiB, StopGrace: 2 * time.Second}
}

// Validate checks all but TLS, which has its own.
func (c Config) Validate() error {
	if c.MaxMessageSize < config.KiB || c.MaxMessageSize > math.MaxInt32 {
		return config.Invalid("max_message_size", "must be between 1KiB and 2GiB, is %v", c.MaxMessageSize)
	}
	if c.StopGrace < 0 {
		return config.Invalid("stop_grace", "must not be negative, is %v", c.StopGrace)
	}
	return nil
}

// TLSConfig says how services prove to each other who they are. Each service has a certificate that names it as
// pki.Identity says; both ends require and verify it, with TLS 1.3.
type TLSConfig struct {
	CertFile string `koanf:"cert_file" help:"certificate of this service (PEM); its URI SAN is beeline://<role>/<name>"`
	KeyFile  string `koanf:"key_file" help:"key of the certificate (PEM)"`
	CAFile   string `koanf:"ca_file" help:"authorities that sign the certificates of services (PEM)"`
	// Insecure means no encryption and no proof of anything: whoever reaches the port is a service.
	Insecure bool `koanf:"insecure" help:"no TLS between services: whoever reaches the port is trusted"`
}

// Validate accepts three files, or Insecure.
func (c TLSConfig) Validate() error {
	files := []struct{ key, path string }{{"cert_file", c.CertFile}, {"key_file", c.KeyFile}, {"ca_file", c.CAFile}}
	for _, f := range files {
		if c.Insecure && f.path != "" {
			return config.Invalid("insecure", "must not be set together with %s", f.key)
		}
		if !c.Insecure && f.path == "" {
			return config.Invalid(f.key, "is missing: services need cert_file, key_file and ca_file, or insecure: true to go without TLS")
		}
	}
	return nil
}

// load returns the TLS configuration for both ends, or that of a public server; nil when Insecure.
func (c TLSConfig) load(public bool) (*tls.Config, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	if c.Insecure {
		return nil, nil //nolint:nilnil // nil is what crypto/tls and others take for no TLS
	}
	files := pki.Files{Cert: c.CertFile, Key: c.KeyFile, CA: c.CAFile}
	if public {
		return files.Public()
	}
	return files.Mutual()
}

func (c TLSConfig) credentials(public bool) (credentials.TransportCredentials, error) {
	cfg, err := c.load(public)
	switch {
	case err != nil:
		return nil, fmt.Errorf("tls: %w", err)
	case cfg == nil:
		return insecure.NewCredentials(), nil
	default:
		return credentials.NewTLS(cfg), nil
	}
}

// PeerIdentity returns who is at the other end of the call with the context ctx. Without TLS nobody has an
// identity, and a client of a public server need not have one: the error wraps pki.ErrNoIdentity.
func PeerIdentity(ctx context.Context) (pki.Identity, error) {
	if p, ok := peer.FromContext(ctx); ok {
		switch info := p.AuthInfo.(type) {
		case credentials.TLSInfo:
			if len(info.State.PeerCertificates) > 0 {
				return pki.IdentityOf(info.State.PeerCertificates[0])
			}
		case inProcess:
			return represented(ctx)
		}
	}
	return pki.Identity{}, fmt.Errorf("connection without a certificate: %w", pki.ErrNoIdentity)
}

// Trusted reports whether the call with the context ctx came to a server without TLS, which trusts whoever reaches it.
func Trusted(ctx context.Context) bool {
	p, ok := peer.FromContext(ctx)
	if !ok || p.AuthInfo == nil {
		return false
	}
	if within, ok := p.AuthInfo.(inProcess); ok {
		return within.trusted
	}
	return p.AuthInfo.AuthType() == insecure.NewCredentials().Info().SecurityProtocol
}

// RequireRole returns an error of the code PermissionDenied unless the caller's certificate is of one of the roles.
// Without TLS there is nothing to check: whoever reaches the port is trusted.
func RequireRole(ctx context.Context, roles ...string) error {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return status.Error(codes.PermissionDenied, "the caller is not known")
	}
	_, within := p.AuthInfo.(inProcess)
	if _, secure := p.AuthInfo.(credentials.TLSInfo); !secure && (!within || Trusted(ctx)) {
		return nil
	}
	id, err := PeerIdentity(ctx)
	if err != nil || !slices.Contains(roles, id.Role) {
		return status.Errorf(codes.PermissionDenied, "only a %s may call this", strings.Join(roles, " or a "))
	}
	return nil
}

// Listen binds a TCP address, host:port; port 0 means any. The listener's Addr says which it is.
func Listen(ctx context.Context, address string) (net.Listener, error) {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("listen on %q: %w", address, err)
	}
	return l, nil
}
