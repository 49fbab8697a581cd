// Package announce makes the header of the PROXY protocol, version 2, by which the router tells a node whom a
// connection comes from, before the CONNECT. It is pure; the format is that of github.com/pires/go-proxyproto. A node
// believes such a header, so it has to make sure that it comes from a router.
package announce

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"unicode/utf8"

	"github.com/pires/go-proxyproto"
	"github.com/pires/go-proxyproto/tlvparse"
)

const (
	// MaxUniqueID bounds Info.UniqueID, in bytes, as the protocol does.
	MaxUniqueID = 128
	// MaxHeader bounds a header, in bytes: what go-proxyproto reads by default, of which 16 are the fixed part. Only
	// names of absurd length in a certificate or handshake get near.
	MaxHeader = 16 + 4096
)

var (
	// ErrUniqueID says that Info.UniqueID is longer than MaxUniqueID.
	ErrUniqueID = errors.New("unique id is too long")
	// ErrHeader says that a header would be longer than MaxHeader.
	ErrHeader = errors.New("header is too long")
)

// Info is what a node is told of a client's connection.
type Info struct {
	// Source is the client's address, Destination the one it has connected to.
	Source, Destination net.Addr
	// TLS are the facts of the client's TLS connection; nil, or without a complete handshake: there is none.
	TLS *tls.ConnectionState
	// UniqueID names the connection, in logs of the router and the node; empty: not at all.
	UniqueID []byte
}

// Header returns the header for a client. It is the caller's.
//
// Addresses are those of TCP over IPv4 if both are IPv4, mapped into IPv6 or not; otherwise of IPv6, with an IPv4
// address mapped into it. Zones are not told. If one of them is no TCP address the header is LOCAL and UNSPEC, and the
// node takes the router for the client.
//
// With TLS come the version, and whether the client has presented a certificate, on this connection or when the session
// began that it resumes. The common name of its subject comes only when the certificate was verified, so a name can be
// relied on. The server name that the client asked for and the protocol negotiated (ALPN) come when there are any. A
// name that is not UTF-8 is left out. There is no checksum: TCP has one.
//
// Errors are ErrUniqueID, ErrHeader, and those for a port or a version of TLS that does not exist.
func Header(client Info) ([]byte, error) {
	if n := len(client.UniqueID); n > MaxUniqueID {
		return nil, fmt.Errorf("PROXY header: %w: %d bytes, %d are allowed", ErrUniqueID, n, MaxUniqueID)
	}
	var tlvs []proxyproto.TLV
	if len(client.UniqueID) > 0 {
		tlvs = append(tlvs, proxyproto.TLV{Type: proxyproto.PP2_TYPE_UNIQUE_ID, Value: client.UniqueID})
	}
	if client.TLS != nil && client.TLS.HandshakeComplete {
		facts, err := ofTLS(client.TLS)
		if err != nil {
			return nil, fmt.Errorf("PROXY header: %w", err)
		}
		tlvs = append(tlvs, facts...)
	}
	h := proxyproto.HeaderProxyFromAddrs(2, tcpAddr(client.Source), tcpAddr(client.Destination))
	if err := h.SetTLVs(tlvs); err != nil {
		return nil, fmt.Errorf("PROXY header: %w", err)
	}
	b, err := h.Format()
	if err != nil {
		return nil, fmt.Errorf("PROXY header: %w", err)
	}
	if len(b) > MaxHeader {
		return nil, fmt.Errorf("PROXY header: %w: %d bytes, %d are allowed", ErrHeader, len(b), MaxHeader)
	}
	return b, nil
}

// tcpAddr is a, or nil if it is no TCP address: the format knows UDP and Unix sockets too, but MQTT does not.
func tcpAddr(a net.Addr) net.Addr {
	if t, ok := a.(*net.TCPAddr); ok && t != nil {
		return t
	}
	return nil
}

func ofTLS(state *tls.ConnectionState) ([]proxyproto.TLV, error) {
	var tlvs []proxyproto.TLV
	if state.NegotiatedProtocol != "" {
		tlvs = append(tlvs, text(proxyproto.PP2_TYPE_ALPN, state.NegotiatedProtocol))
	}
	if state.ServerName != "" && utf8.ValidString(state.ServerName) {
		tlvs = append(tlvs, text(proxyproto.PP2_TYPE_AUTHORITY, state.ServerName))
	}
	version, err := versionName(state.Version)
	if err != nil {
		return nil, err
	}
	ssl := tlvparse.PP2SSL{
		Client: tlvparse.PP2_BITFIELD_CLIENT_SSL,
		Verify: 1, // not verified; the protocol knows no reasons
		TLV:    []proxyproto.TLV{text(proxyproto.PP2_SUBTYPE_SSL_VERSION, version)},
	}
	if len(state.PeerCertificates) > 0 {
		ssl.Client |= tlvparse.PP2_BITFIELD_CLIENT_CERT_SESS
		if !state.DidResume {
			ssl.Client |= tlvparse.PP2_BITFIELD_CLIENT_CERT_CONN
		}
	}
	if len(state.PeerCertificates) > 0 && len(state.VerifiedChains) > 0 {
		ssl.Verify = 0
		if name := state.PeerCertificates[0].Subject.CommonName; name != "" && utf8.ValidString(name) {
			ssl.TLV = append(ssl.TLV, text(proxyproto.PP2_SUBTYPE_SSL_CN, name))
		}
	}
	t, err := ssl.Marshal()
	if err != nil {
		return nil, err
	}
	return append(tlvs, t), nil
}

func text(kind proxyproto.PP2Type, value string) proxyproto.TLV {
	return proxyproto.TLV{Type: kind, Value: []byte(value)}
}

// versionName is what other proxies call a version of TLS, and nodes compare with.
func versionName(v uint16) (string, error) {
	switch v {
	case tls.VersionTLS10:
		return "TLSv1", nil
	case tls.VersionTLS11:
		return "TLSv1.1", nil
	case tls.VersionTLS12:
		return "TLSv1.2", nil
	case tls.VersionTLS13:
		return "TLSv1.3", nil
	}
	return "", fmt.Errorf("TLS version %#04x is unknown", v)
}
