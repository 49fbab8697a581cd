package announce_test

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"errors"
	"net"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/pires/go-proxyproto"
	"github.com/pires/go-proxyproto/tlvparse"

	"github.com/beeline-mqtt/beeline/services/router/internal/announce"
)

func tcp(ip string, port int) *net.TCPAddr { return &net.TCPAddr{IP: net.ParseIP(ip), Port: port} }

// told is what a node reads in a header.
type told struct {
	Local                  bool
	Protocol               string
	Source, Destination    string
	UniqueID, ALPN, Server string
	TLS                    bool
	CertOnConn, CertOnSess bool
	Verified               bool
	Version, CN            string
}

// read reads a header as a node does, and proves that nothing is left of it.
func read(t *testing.T, b []byte) told {
	t.Helper()
	r := bufio.NewReader(bytes.NewReader(append(bytes.Clone(b), 0x10))) // the CONNECT follows
	h, err := proxyproto.Read(r)
	if err != nil {
		t.Fatal(err)
	}
	if next, err := r.ReadByte(); next != 0x10 || err != nil {
		t.Fatalf("after the header: %#x, %v", next, err)
	}
	got := told{Local: h.Command.IsLocal()}
	switch h.TransportProtocol {
	case proxyproto.TCPv4:
		got.Protocol = "TCP4"
	case proxyproto.TCPv6:
		got.Protocol = "TCP6"
	case proxyproto.UNSPEC:
		got.Protocol = "UNSPEC"
	default:
		t.Fatalf("protocol %#x", h.TransportProtocol)
	}
	if h.SourceAddr != nil {
		got.Source, got.Destination = h.SourceAddr.String(), h.DestinationAddr.String()
	}
	tlvs, err := h.TLVs()
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range tlvs {
		switch v.Type {
		case proxyproto.PP2_TYPE_UNIQUE_ID:
			got.UniqueID = string(v.Value)
		case proxyproto.PP2_TYPE_ALPN:
			got.ALPN = string(v.Value)
		case proxyproto.PP2_TYPE_AUTHORITY:
			got.Server = string(v.Value)
		case proxyproto.PP2_TYPE_SSL:
			ssl, err := tlvparse.SSL(v)
			if err != nil {
				t.Fatal(err)
			}
			got.TLS, got.Verified = ssl.ClientSSL(), ssl.Verified()
			got.CertOnConn, got.CertOnSess = ssl.ClientCertConn(), ssl.ClientCertSess()
			got.Version, _ = ssl.SSLVersion()
			got.CN, _ = ssl.ClientCN()
		default:
			t.Fatalf("unexpected TLV %#x", v.Type)
		}
	}
	return got
}

func TestANodeIsToldTheAddresses(t *testing.T) {
	unix := &net.UnixAddr{Name: "/socket", Net: "unix"}
	for _, tc := range []struct {
		name                string
		source, destination net.Addr
		want                told
	}{
		{
			"IPv4", tcp("192.0.2.7", 40000), tcp("198.51.100.1", 1883),
			told{Protocol: "TCP4", Source: "192.0.2.7:40000", Destination: "198.51.100.1:1883"},
		},
		{
			"IPv4 in four bytes", &net.TCPAddr{IP: net.IPv4(192, 0, 2, 7).To4(), Port: 1}, tcp("198.51.100.1", 65535),
			told{Protocol: "TCP4", Source: "192.0.2.7:1", Destination: "198.51.100.1:65535"},
		},
		{
			"IPv6", tcp("2001:db8::7", 40000), tcp("2001:db8::1", 8883),
			told{Protocol: "TCP6", Source: "[2001:db8::7]:40000", Destination: "[2001:db8::1]:8883"},
		},
		{
			"IPv6 with a zone, which means nothing elsewhere", &net.TCPAddr{IP: net.ParseIP("fe80::7"), Port: 2, Zone: "eth0"},
			tcp("fe80::1", 1883),
			told{Protocol: "TCP6", Source: "[fe80::7]:2", Destination: "[fe80::1]:1883"},
		},
		{
			"IPv4 mapped into IPv6 on both sides is IPv4", tcp("::ffff:192.0.2.7", 3), tcp("::ffff:198.51.100.1", 1883),
			told{Protocol: "TCP4", Source: "192.0.2.7:3", Destination: "198.51.100.1:1883"},
		},
		{
			"IPv4 to IPv6 is mapped", tcp("192.0.2.7", 3), tcp("2001:db8::1", 1883),
			// package net writes a mapped address like one that is not
			told{Protocol: "TCP6", Source: "192.0.2.7:3", Destination: "[2001:db8::1]:1883"},
		},
		{
			"IPv6 to IPv4 is mapped", tcp("2001:db8::7", 3), tcp("198.51.100.1", 1883),
			told{Protocol: "TCP6", Source: "[2001:db8::7]:3", Destination: "198.51.100.1:1883"},
		},
		{"a Unix socket", unix, unix, told{Local: true, Protocol: "UNSPEC"}},
		{"UDP", &net.UDPAddr{IP: net.IPv4zero}, &net.UDPAddr{IP: net.IPv4zero}, told{Local: true, Protocol: "UNSPEC"}},
		{"TCP to something else", tcp("192.0.2.7", 3), unix, told{Local: true, Protocol: "UNSPEC"}},
		{"an address without IP", &net.TCPAddr{Port: 3}, tcp("198.51.100.1", 1883), told{Local: true, Protocol: "UNSPEC"}},
		{"a nil address", (*net.TCPAddr)(nil), tcp("198.51.100.1", 1883), told{Local: true, Protocol: "UNSPEC"}},
		{"none", nil, nil, told{Local: true, Protocol: "UNSPEC"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			b, err := announce.Header(announce.Info{Source: tc.source, Destination: tc.destination})
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, read(t, b)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func holder(name string) []*x509.Certificate {
	return []*x509.Certificate{{Subject: pkix.Name{CommonName: name}}, {Subject: pkix.Name{CommonName: "an authority"}}}
}

func TestANodeIsToldTheFactsOfTLS(t *testing.T) {
	device := holder("device-7")
	verified := [][]*x509.Certificate{device}
	for _, tc := range []struct {
		name  string
		state tls.ConnectionState
		want  told
	}{
		{
			"no certificate",
			tls.ConnectionState{Version: tls.VersionTLS13, ServerName: "mqtt.example.com", NegotiatedProtocol: "mqtt"},
			told{Version: "TLSv1.3", Server: "mqtt.example.com", ALPN: "mqtt"},
		},
		{"neither server name nor ALPN", tls.ConnectionState{Version: tls.VersionTLS12}, told{Version: "TLSv1.2"}},
		{"TLS 1.1", tls.ConnectionState{Version: tls.VersionTLS11}, told{Version: "TLSv1.1"}},
		{"TLS 1.0", tls.ConnectionState{Version: tls.VersionTLS10}, told{Version: "TLSv1"}},
		{
			"a certificate that was verified",
			tls.ConnectionState{Version: tls.VersionTLS13, PeerCertificates: device, VerifiedChains: verified},
			told{Version: "TLSv1.3", CertOnConn: true, CertOnSess: true, Verified: true, CN: "device-7"},
		},
		{
			"one of a session that is resumed",
			tls.ConnectionState{Version: tls.VersionTLS13, DidResume: true, PeerCertificates: device, VerifiedChains: verified},
			told{Version: "TLSv1.3", CertOnSess: true, Verified: true, CN: "device-7"},
		},
		{
			"one that was not verified names nobody",
			tls.ConnectionState{Version: tls.VersionTLS13, PeerCertificates: device},
			told{Version: "TLSv1.3", CertOnConn: true, CertOnSess: true},
		},
		{
			"a common name in UTF-8",
			tls.ConnectionState{Version: tls.VersionTLS12, PeerCertificates: holder("Gerät 7"), VerifiedChains: verified},
			told{Version: "TLSv1.2", CertOnConn: true, CertOnSess: true, Verified: true, CN: "Gerät 7"},
		},
		{
			"a subject without common name",
			tls.ConnectionState{Version: tls.VersionTLS12, PeerCertificates: holder(""), VerifiedChains: verified},
			told{Version: "TLSv1.2", CertOnConn: true, CertOnSess: true, Verified: true},
		},
		{
			"names that are not UTF-8",
			tls.ConnectionState{
				Version: tls.VersionTLS12, ServerName: "\xff", PeerCertificates: holder("\xff"), VerifiedChains: verified,
			},
			told{Version: "TLSv1.2", CertOnConn: true, CertOnSess: true, Verified: true},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			tc.state.HandshakeComplete = true
			info := announce.Info{Source: tcp("192.0.2.7", 4), Destination: tcp("198.51.100.1", 8883), TLS: &tc.state}
			b, err := announce.Header(info)
			if err != nil {
				t.Fatal(err)
			}
			tc.want.TLS = true
			tc.want.Protocol, tc.want.Source, tc.want.Destination = "TCP4", "192.0.2.7:4", "198.51.100.1:8883"
			if diff := cmp.Diff(tc.want, read(t, b)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestWithoutACompleteHandshakeThereIsNoTLS(t *testing.T) {
	b, err := announce.Header(announce.Info{TLS: &tls.ConnectionState{}})
	if err != nil {
		t.Fatal(err)
	}
	if got := read(t, b); got.TLS {
		t.Errorf("%+v", got)
	}
}

func TestTheUniqueIDIsTold(t *testing.T) {
	for _, id := range []string{"", "x", "\x00\xff", strings.Repeat("i", announce.MaxUniqueID)} {
		b, err := announce.Header(announce.Info{UniqueID: []byte(id)})
		if err != nil {
			t.Fatal(err)
		}
		if got := read(t, b).UniqueID; got != id {
			t.Errorf("%q, want %q", got, id)
		}
	}
}

func TestWhatCannotBeToldIsRefused(t *testing.T) {
	done := tls.ConnectionState{HandshakeComplete: true, Version: tls.VersionTLS13}
	unknown, long, absurd := done, done, done
	unknown.Version = 0x0999
	long.ServerName = strings.Repeat("n", 4096)
	absurd.ServerName = strings.Repeat("n", 1<<16)
	for _, tc := range []struct {
		name string
		info announce.Info
		want error // nil: any
	}{
		{"a unique id beyond the bound", announce.Info{UniqueID: make([]byte, announce.MaxUniqueID+1)}, announce.ErrUniqueID},
		{"a header beyond the bound", announce.Info{TLS: &long}, announce.ErrHeader},
		{"a name beyond the format", announce.Info{TLS: &absurd}, nil},
		{"a version that does not exist", announce.Info{TLS: &unknown}, nil},
		{"a port that does not exist", announce.Info{Source: tcp("192.0.2.7", 65536), Destination: tcp("192.0.2.7", 1)}, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			b, err := announce.Header(tc.info)
			if b != nil || err == nil || tc.want != nil && !errors.Is(err, tc.want) {
				t.Errorf("%d bytes, %v", len(b), err)
			}
		})
	}
}

// The bytes are written down from the text of the protocol, sections 2.2 and 2.2.6, not taken from what came out.
func TestTheBytesAreThoseOfTheSpecification(t *testing.T) {
	for _, tc := range []struct {
		name string
		info announce.Info
		want []string
	}{
		{
			"IPv4",
			announce.Info{Source: tcp("192.0.2.7", 40000), Destination: tcp("198.51.100.1", 1883)},
			[]string{
				"0d0a0d0a000d0a515549540a", // signature
				"21",                       // version 2, PROXY
				"11",                       // AF_INET, STREAM
				"000c",                     // length of what follows
				"c0000207", "c6336401",     // source, destination
				"9c40", "075b", // their ports
			},
		},
		{
			"TLS with a certificate over IPv6",
			announce.Info{
				Source: tcp("2001:db8::7", 40000), Destination: tcp("2001:db8::1", 8883), UniqueID: []byte("id"),
				TLS: &tls.ConnectionState{
					HandshakeComplete: true, Version: tls.VersionTLS13, ServerName: "sni", NegotiatedProtocol: "mqtt",
					PeerCertificates: holder("cn"), VerifiedChains: [][]*x509.Certificate{holder("cn")},
				},
			},
			[]string{
				"0d0a0d0a000d0a515549540a",
				"21",
				"21",                               // AF_INET6, STREAM
				"004d",                             // 36 + 5 + 7 + 6 + 23
				"20010db8000000000000000000000007", // source
				"20010db8000000000000000000000001", // destination
				"9c40", "22b3",
				"05", "0002", "6964", // UNIQUE_ID "id"
				"01", "0004", "6d717474", // ALPN "mqtt"
				"02", "0003", "736e69", // AUTHORITY "sni"
				"20", "0014", // SSL: 5 + 10 + 5
				"07",                           // SSL, CERT_CONN, CERT_SESS
				"00000000",                     // verified
				"21", "0007", "544c5376312e33", // SSL_VERSION "TLSv1.3"
				"22", "0002", "636e", // SSL_CN "cn"
			},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			b, err := announce.Header(tc.info)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(strings.Join(tc.want, ""), hex.EncodeToString(b)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestTheLongestHeaderCanBeRead(t *testing.T) {
	name := strings.Repeat("n", announce.MaxHeader-16-3-18) // beside the fixed part, its own frame, and the TLV of TLS 1.3
	state := &tls.ConnectionState{HandshakeComplete: true, Version: tls.VersionTLS13, ServerName: name}
	b, err := announce.Header(announce.Info{TLS: state})
	if err != nil || len(b) != announce.MaxHeader {
		t.Fatalf("%d bytes, %v", len(b), err)
	}
	if got := read(t, b).Server; got != name {
		t.Errorf("a name of %d bytes", len(got))
	}
	state.ServerName += "n"
	if _, err := announce.Header(announce.Info{TLS: state}); !errors.Is(err, announce.ErrHeader) {
		t.Errorf("one byte more: %v", err)
	}
}
