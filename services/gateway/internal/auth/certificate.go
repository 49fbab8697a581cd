package auth

import (
	"context"
	"crypto/x509"
)

// certificates is the method certificate.
type certificates struct{ cfg CertificateConfig }

// try implements method. Who has shown no certificate that somebody has verified is another method's.
func (c certificates) try(_ context.Context, a Attempt) (Identity, error) {
	name, shown := c.name(a)
	switch {
	case !shown:
		return Identity{}, errNotMine
	case name == "":
		return Identity{}, refused(ErrNotAuthorized, reasonCertificate)
	case a.Username != "" && a.Username != name:
		return Identity{}, refused(ErrBadCredentials, reasonUsername)
	}
	return Identity{ClientID: a.ClientID, Username: name}, nil
}

// name is the user name in the client's certificate; shown says that there is a certificate to look at. Of one that a proxy
// has verified only the common name is known.
func (c certificates) name(a Attempt) (name string, shown bool) {
	switch {
	case a.Via != nil:
		if c.cfg.Username != nameCN {
			return "", a.Via.Verified
		}
		return a.Via.CommonName, a.Via.Verified
	case a.TLS == nil || len(a.TLS.VerifiedChains) == 0 || len(a.TLS.PeerCertificates) == 0:
		return "", false
	}
	return c.nameIn(a.TLS.PeerCertificates[0]), true
}

// nameIn is empty when the certificate has no such name, or several.
func (c certificates) nameIn(cert *x509.Certificate) string {
	var names []string
	switch c.cfg.Username {
	case nameCN:
		return cert.Subject.CommonName
	case nameDNS:
		names = cert.DNSNames
	case nameEmail:
		names = cert.EmailAddresses
	case nameURI:
		for _, u := range cert.URIs {
			names = append(names, u.String())
		}
	}
	if len(names) != 1 {
		return ""
	}
	return names[0]
}
