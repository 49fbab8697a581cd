package pki

import (
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
	"strings"
)

// ErrNoIdentity says that a certificate does not name a service of the cluster.
var ErrNoIdentity = errors.New("certificate names no service: its URI SAN must be beeline://<role>/<name>")

// scheme begins the URIs that name services.
const scheme = "beeline"

// Identity is who the holder of a certificate is among the services of a cluster. It is carried in a URI of the
// Subject Alternative Name, beeline://<role>/<name>.
type Identity struct {
	// Role is what the holder does: "gateway", "session", ...
	Role string
	// Name tells holders of one role apart; it may be empty.
	Name string
}

// URI returns the URI that carries the identity.
func (id Identity) URI() *url.URL {
	return &url.URL{Scheme: scheme, Host: id.Role, Path: "/" + id.Name}
}

// String returns the URI as text.
func (id Identity) String() string { return id.URI().String() }

// IdentityOf reads the identity out of a certificate. The error wraps ErrNoIdentity unless there is exactly one.
func IdentityOf(cert *x509.Certificate) (Identity, error) {
	var ids []Identity
	for _, uri := range cert.URIs {
		if uri.Scheme == scheme && uri.Host != "" {
			ids = append(ids, Identity{Role: uri.Host, Name: strings.TrimPrefix(uri.Path, "/")})
		}
	}
	if len(ids) != 1 {
		return Identity{}, fmt.Errorf("%q: %w", cert.Subject.CommonName, ErrNoIdentity)
	}
	return ids[0], nil
}
