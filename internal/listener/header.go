package listener

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"unicode/utf8"

	"github.com/pires/go-proxyproto"
	"github.com/pires/go-proxyproto/tlvparse"
)

const (
	// most1 and most2 bound a PROXY header of version 1 and 2, in bytes. The first is the protocol's own bound.
	most1 = 107
	most2 = 4096
	// signature1 begins a header of version 1, signature2 one of version 2. fixed2 is the length of the part of
	// version 2 that says how long the rest is.
	signature1 = "PROXY "
	signature2 = "\r\n\r\n\x00\r\nQUIT\n"
	fixed2     = 16
)

// Errors of readHeader, beside those of reading.
var (
	errNoHeader  = errors.New("no PROXY header")
	errTooLong   = errors.New("PROXY header too long")
	errMalformed = errors.New("malformed PROXY header")
)

// header is what a PROXY header says. The zero value is one of a connection that is the proxy's own (LOCAL), or of
// whose client it knows nothing (UNKNOWN).
type header struct {
	remote net.Addr // nil: as the socket says
	facts  Proxied
}

// readHeader reads a PROXY header, of either version, and no byte behind it.
func readHeader(r io.Reader) (header, error) {
	b, err := readSignature(r)
	if err != nil {
		return header{}, err
	}
	if b[0] == signature1[0] {
		b, err = readLine(r, b)
	} else {
		b, err = readRest(r, b)
	}
	if err != nil {
		return header{}, err
	}
	return parseHeader(b)
}

// readSignature reads as far as the signatures go that it may be, and stops at the first byte that is in none.
func readSignature(r io.Reader) ([]byte, error) {
	b := make([]byte, 0, most1)
	for {
		signature := signature2
		if len(b) > 0 && b[0] == signature1[0] {
			signature = signature1
		}
		switch {
		case !strings.HasPrefix(signature, string(b)):
			return nil, errNoHeader
		case len(b) == len(signature):
			return b, nil
		}
		want := len(signature) - len(b)
		if len(b) == 0 {
			want = len(signature1) // the shorter: nothing of version 1 behind the signature is read with it
		}
		n, err := r.Read(b[len(b) : len(b)+want])
		b = b[:len(b)+n]
		switch {
		case err == nil || n > 0 && errors.Is(err, io.EOF): // which comes again
		case errors.Is(err, io.EOF):
			return nil, fmt.Errorf("%w: closed after %d bytes", errNoHeader, len(b))
		default:
			return nil, fmt.Errorf("read signature: %w", err)
		}
	}
}

// readLine completes b to a line. Before the end of one there are two bytes to come at least, unless it has begun.
func readLine(r io.Reader, b []byte) ([]byte, error) {
	for b[len(b)-1] != '\n' {
		more := 2
		if b[len(b)-1] == '\r' {
			more = 1
		}
		if len(b)+more > most1 {
			return nil, errTooLong
		}
		b = b[:len(b)+more]
		if err := readFull(r, b[len(b)-more:]); err != nil {
			return nil, err
		}
		if more == 1 && b[len(b)-1] != '\n' || more == 2 && b[len(b)-2] == '\n' {
			return nil, fmt.Errorf("%w: not a line", errMalformed)
		}
	}
	return b, nil
}

// readRest completes a header of version 2, of which b is the signature.
func readRest(r io.Reader, b []byte) ([]byte, error) {
	b = b[:fixed2]
	if err := readFull(r, b[len(signature2):]); err != nil {
		return nil, err
	}
	all := fixed2 + int(binary.BigEndian.Uint16(b[fixed2-2:]))
	if all > most2 {
		return nil, fmt.Errorf("%w: %d bytes", errTooLong, all)
	}
	whole := make([]byte, all)
	copy(whole, b)
	return whole, readFull(r, whole[fixed2:])
}

func readFull(r io.Reader, b []byte) error {
	_, err := io.ReadFull(r, b)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF):
		return fmt.Errorf("%w: closed within it", errMalformed)
	}
	return fmt.Errorf("read PROXY header: %w", err)
}

// parseHeader takes b, which is one whole header, apart.
func parseHeader(b []byte) (header, error) {
	h, err := proxyproto.Read(bufio.NewReaderSize(bytes.NewReader(b), len(b)))
	switch {
	case err != nil:
		return header{}, fmt.Errorf("%w: %w", errMalformed, err)
	case h.Command.IsLocal():
		return header{}, nil
	}
	remote, ok := h.SourceAddr.(*net.TCPAddr)
	if !ok {
		return header{}, fmt.Errorf("%w: the client's address is not one of TCP", errMalformed)
	}
	if ip := remote.IP.To4(); ip != nil {
		remote.IP = ip // one client has one address, however it is written
	}
	tlvs, err := h.TLVs()
	if err != nil {
		return header{}, fmt.Errorf("%w: %w", errMalformed, err)
	}
	facts, err := factsOf(tlvs)
	return header{remote: remote, facts: facts}, err
}

func factsOf(tlvs []proxyproto.TLV) (Proxied, error) {
	var p Proxied
	for _, t := range tlvs {
		switch t.Type {
		case proxyproto.PP2_TYPE_AUTHORITY:
			if !utf8.Valid(t.Value) {
				return Proxied{}, fmt.Errorf("%w: authority is not UTF-8", errMalformed)
			}
			p.Authority = string(t.Value)
		case proxyproto.PP2_TYPE_SSL:
			s, err := tlvparse.SSL(t)
			if err != nil {
				return Proxied{}, fmt.Errorf("%w: TLS facts: %w", errMalformed, err)
			}
			if p.TLS = s.ClientSSL(); !p.TLS {
				continue
			}
			p.Version, _ = s.SSLVersion()
			// Nothing was wrong with the certificate, some proxies say, when there was none.
			p.Verified = s.Verified() && (s.ClientCertConn() || s.ClientCertSess())
			if p.Verified {
				p.CommonName, _ = s.ClientCN()
			}
		default: // nobody asks for it
		}
	}
	return p, nil
}
