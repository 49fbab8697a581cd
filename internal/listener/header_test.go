package listener

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"
	"github.com/pires/go-proxyproto"
)

const (
	local, proxied = 0x20, 0x21
	inet, inet6    = 0x11, 0x21
)

// v2 makes a header of version 2 out of its command, its family and what follows the length.
func v2(command, family byte, body ...string) string {
	all := strings.Join(body, "")
	b := append([]byte(signature2), command, family)
	return string(binary.BigEndian.AppendUint16(b, uint16(len(all)))) + all
}

// tlv makes one of the things that follow the addresses in version 2.
func tlv(kind proxyproto.PP2Type, value ...string) string {
	all := strings.Join(value, "")
	return string(binary.BigEndian.AppendUint16([]byte{byte(kind)}, uint16(len(all)))) + all
}

// from4 is 203.0.113.7:4711 to 10.0.0.1:1883, from6 2001:db8::7 to 2001:db8::1 and the same ports.
const (
	from4 = "\xcb\x00\x71\x07" + "\x0a\x00\x00\x01" + "\x12\x67" + "\x07\x5b"
	from6 = "\x20\x01\x0d\xb8\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x07" +
		"\x20\x01\x0d\xb8\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01" + "\x12\x67" + "\x07\x5b"
	line4 = "PROXY TCP4 203.0.113.7 10.0.0.1 4711 1883\r\n"
)

// What is presented in TLS facts, and what the proxy thinks of it.
const (
	noTLS, noCert, certNow, certBefore = "\x00", "\x01", "\x03", "\x05"
	good, bad                          = "\x00\x00\x00\x00", "\x00\x00\x00\x13"
)

func tlsFacts(presented, verified string, more ...string) string {
	return tlv(proxyproto.PP2_TYPE_SSL, append([]string{presented, verified}, more...)...)
}

var (
	version = tlv(proxyproto.PP2_SUBTYPE_SSL_VERSION, "TLSv1.3")
	ann     = tlv(proxyproto.PP2_SUBTYPE_SSL_CN, "ann")
)

// meant is a header and what it says.
type meant struct {
	name, bytes, remote string // remote "": as the socket says
	facts               Proxied
}

func headers() []meant {
	longest := "PROXY UNKNOWN " + strings.Repeat("x", most1-len("PROXY UNKNOWN ")-2) + "\r\n"
	largest := v2(proxied, inet, from4, tlv(proxyproto.PP2_TYPE_NOOP, strings.Repeat("\x00", most2-fixed2-len(from4)-3)))
	return []meant{
		{"version 1, IPv4", line4, "203.0.113.7:4711", Proxied{}},
		{"version 1, IPv6", "PROXY TCP6 2001:db8::7 2001:db8::1 4711 1883\r\n", "[2001:db8::7]:4711", Proxied{}},
		{"version 1, IPv4 in IPv6", "PROXY TCP6 ::ffff:203.0.113.7 ::1 4711 1883\r\n", "203.0.113.7:4711", Proxied{}},
		{"version 1, the shortest", "PROXY UNKNOWN\r\n", "", Proxied{}},
		{"version 1, the longest", longest, "", Proxied{}},
		{"version 2, IPv4", v2(proxied, inet, from4), "203.0.113.7:4711", Proxied{}},
		{"version 2, IPv6", v2(proxied, inet6, from6), "[2001:db8::7]:4711", Proxied{}},
		{"the proxy's own", v2(local, 0), "", Proxied{}},
		{"the proxy's own, with addresses", v2(local, inet, from4, tlsFacts(certNow, good, version, ann)), "", Proxied{}},
		{"version 2, the largest", largest, "203.0.113.7:4711", Proxied{}},
		{
			"TLS without a certificate", v2(proxied, inet, from4, tlsFacts(noCert, bad, version)), "203.0.113.7:4711",
			Proxied{TLS: true, Version: "TLSv1.3"},
		},
		{
			"a certificate", v2(proxied, inet, from4, tlsFacts(certNow, good, version, ann)), "203.0.113.7:4711",
			Proxied{TLS: true, Version: "TLSv1.3", CommonName: "ann", Verified: true},
		},
		{
			"a certificate of a resumed session", v2(proxied, inet, from4, tlsFacts(certBefore, good, version, ann)),
			"203.0.113.7:4711",
			Proxied{TLS: true, Version: "TLSv1.3", CommonName: "ann", Verified: true},
		},
		{
			"a certificate that is not good", v2(proxied, inet, from4, tlsFacts(certNow, bad, version, ann)),
			"203.0.113.7:4711",
			Proxied{TLS: true, Version: "TLSv1.3"},
		},
		{
			"nothing wrong with no certificate", v2(proxied, inet, from4, tlsFacts(noCert, good, version, ann)),
			"203.0.113.7:4711",
			Proxied{TLS: true, Version: "TLSv1.3"},
		},
		{
			"no TLS, it says", v2(proxied, inet, from4, tlsFacts(noTLS, good, version, ann)), "203.0.113.7:4711", Proxied{},
		},
		{
			"the host asked for, and what we do not know",
			v2(proxied, inet6, from6, tlv(0xE3, "?"), tlv(proxyproto.PP2_TYPE_AUTHORITY, "mqtt.example.com"), tlv(proxyproto.PP2_TYPE_ALPN, "mqtt")),
			"[2001:db8::7]:4711",
			Proxied{Authority: "mqtt.example.com"},
		},
	}
}

// sliced reads at most n bytes at a time, each time another number.
type sliced struct {
	r io.Reader
	n int
}

func (s *sliced) Read(p []byte) (int, error) {
	s.n = s.n*3%7 + 1
	return s.r.Read(p[:min(len(p), s.n)])
}

func TestAHeaderIsReadAndNothingBehindIt(t *testing.T) {
	segments := map[string]func(io.Reader) io.Reader{
		"at once":      func(r io.Reader) io.Reader { return r },
		"byte by byte": iotest.OneByteReader,
		"in pieces":    func(r io.Reader) io.Reader { return &sliced{r: r} },
		"with its end": iotest.DataErrReader,
	}
	for _, h := range headers() {
		for how, split := range segments {
			t.Run(h.name+", "+how, func(t *testing.T) {
				for _, behind := range []string{"", "\x10\x0c behind", "\r\n", line4} {
					r := split(strings.NewReader(h.bytes + behind))
					got, err := readHeader(r)
					if err != nil {
						t.Fatal(err)
					}
					remote := ""
					if got.remote != nil {
						remote = got.remote.String()
					}
					if remote != h.remote {
						t.Errorf("client's address %q, want %q", remote, h.remote)
					}
					if diff := cmp.Diff(h.facts, got.facts); diff != "" {
						t.Error(diff)
					}
					if rest, err := io.ReadAll(r); string(rest) != behind || err != nil {
						t.Errorf("behind it there is %q, %v; want %q", rest, err, behind)
					}
				}
			})
		}
	}
}

func TestAnAddressOfIPv4HasOneForm(t *testing.T) {
	for _, b := range []string{line4, "PROXY TCP6 ::ffff:203.0.113.7 ::1 4711 1883\r\n", v2(proxied, inet, from4)} {
		h, err := readHeader(strings.NewReader(b))
		if err != nil {
			t.Fatal(err)
		}
		if a := h.remote.(*net.TCPAddr).AddrPort().Addr(); !a.Is4() {
			t.Errorf("%q: %v is IPv6", b, a)
		}
	}
}

func TestWhatIsNoHeaderIsKnownForWhatItIs(t *testing.T) {
	for _, tc := range []struct {
		name, bytes string
		want        error
	}{
		{"nothing", "", errNoHeader},
		{"a CONNECT", "\x10\x0c\x00\x04MQTT\x04\x02\x00\x3c\x00\x00", errNoHeader},
		{"a PINGREQ, and nothing more", "\xc0\x00", errNoHeader},
		{"HTTP", "POST / HTTP/1.1\r\n", errNoHeader},
		{"TLS", "\x16\x03\x01\x02\x00", errNoHeader},
		{"part of a signature", "PROX", errNoHeader},
		{"another word", "PROXYTCP4 ", errNoHeader},
		{"the other signature's end", signature2[:10] + "PROXY", errNoHeader},
		{"a line that ends within", line4[:20], errMalformed},
		{"a line without carriage return", "PROXY TCP4 203.0.113.7 10.0.0.1 4711 1883\n", errMalformed},
		{"an empty line", "PROXY \r\n", errMalformed},
		{"a carriage return within", "PROXY TCP4\r203.0.113.7 10.0.0.1 4711 1883\r\n", errMalformed},
		{"a line feed within", "PROXY \n203.0.113.7 10.0.0.1 4711 1883\r\n", errMalformed},
		{"an address that is none", "PROXY TCP4 ann 10.0.0.1 4711 1883\r\n", errMalformed},
		{"a port that is none", "PROXY TCP4 203.0.113.7 10.0.0.1 70000 1883\r\n", errMalformed},
		{"another protocol", "PROXY UDP4 203.0.113.7 10.0.0.1 4711 1883\r\n", errMalformed},
		{"an endless line", "PROXY UNKNOWN " + strings.Repeat("x", 1000), errTooLong},
		{"a line longer by one byte", "PROXY UNKNOWN " + strings.Repeat("x", most1-len("PROXY UNKNOWN ")-1) + "\r\n", errTooLong},
		{"no length", signature2 + "\x21", errMalformed},
		{"shorter than it says", v2(proxied, inet, from4)[:20], errMalformed},
		{"shorter than addresses are", v2(proxied, inet, from4[:11]), errMalformed},
		{"longer by one byte", v2(proxied, inet, from4, strings.Repeat("x", most2-fixed2-len(from4)+1)), errTooLong},
		{"much too long, it says", signature2 + "\x21\x11\xff\xff", errTooLong},
		{"version 3", v2(0x31, inet, from4), errMalformed},
		{"another command", v2(0x22, inet, from4), errMalformed},
		{"no address", v2(proxied, 0), errMalformed},
		{"an address of UDP", v2(proxied, 0x12, from4), errMalformed},
		{"an address in the file system", v2(proxied, 0x31, strings.Repeat("/", 216)), errMalformed},
		{"facts cut off", v2(proxied, inet, from4, "\x02\x00\x05ann"), errMalformed},
		{"TLS facts cut off", v2(proxied, inet, from4, tlv(proxyproto.PP2_TYPE_SSL, "\x01\x00")), errMalformed},
		{"TLS facts without the version", v2(proxied, inet, from4, tlsFacts(certNow, good, ann)), errMalformed},
		{"a name that is no text", v2(proxied, inet, from4, tlsFacts(certNow, good, version, tlv(proxyproto.PP2_SUBTYPE_SSL_CN, "\xff"))), errMalformed},
		{"a host that is no text", v2(proxied, inet, from4, tlv(proxyproto.PP2_TYPE_AUTHORITY, "\xff")), errMalformed},
	} {
		t.Run(tc.name, func(t *testing.T) {
			for _, r := range []io.Reader{strings.NewReader(tc.bytes), iotest.OneByteReader(strings.NewReader(tc.bytes))} {
				if h, err := readHeader(r); !errors.Is(err, tc.want) {
					t.Errorf("%+v, %v; want %v", h, err, tc.want)
				}
			}
		})
	}
}

func TestWhatIsNoHeaderIsKnownAtItsFirstWrongByte(t *testing.T) {
	for _, b := range []string{"\x10", "\r\n\r\n\x01", "PROXX", "Q"} {
		r := io.MultiReader(strings.NewReader(b), iotest.ErrReader(errors.New("read on")))
		if _, err := readHeader(iotest.OneByteReader(r)); !errors.Is(err, errNoHeader) {
			t.Errorf("%q: %v", b, err)
		}
	}
}

func TestAHeaderThatCannotBeReadSaysWhy(t *testing.T) {
	broken := errors.New("by order of the test")
	for _, whole := range []string{line4, v2(proxied, inet, from4)} {
		for n := range len(whole) {
			r := io.MultiReader(strings.NewReader(whole[:n]), iotest.ErrReader(broken))
			if _, err := readHeader(r); !errors.Is(err, broken) {
				t.Errorf("after %d bytes of %q: %v", n, whole, err)
			}
		}
	}
}

// Whatever comes: no panic, no byte read behind a header or beyond the bounds, and no client without an address.
func FuzzHeader(f *testing.F) {
	for _, h := range headers() {
		f.Add([]byte(h.bytes + "behind"))
	}
	f.Add([]byte("PROXY TCP4 203.0.113.7"))
	f.Add([]byte("\x10\x0c\x00\x04MQTT"))
	f.Fuzz(func(t *testing.T, b []byte) {
		r := bytes.NewReader(b)
		h, err := readHeader(r)
		read := b[:len(b)-r.Len()]
		switch {
		case len(read) > most2:
			t.Fatalf("read %d bytes", len(read))
		case err != nil:
			return
		case read[0] == 'P' && (len(read) > most1 || bytes.IndexByte(read, '\n') != len(read)-1):
			t.Fatalf("read %q", read)
		case read[0] != 'P' && len(read) != fixed2+int(binary.BigEndian.Uint16(read[fixed2-2:])):
			t.Fatalf("read %d bytes of % x", len(read), b)
		}
		a, ok := h.remote.(*net.TCPAddr)
		if h.remote != nil && (!ok || !a.AddrPort().IsValid()) || h.remote == nil && h.facts != (Proxied{}) {
			t.Fatalf("%v, %+v", h.remote, h.facts)
		}
		if h.facts.CommonName != "" && !h.facts.Verified || h.facts.Verified && !h.facts.TLS {
			t.Fatalf("%+v", h.facts)
		}
	})
}
