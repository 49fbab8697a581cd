package packet

import (
	"errors"
	"io"
	"slices"

	"github.com/beeline-mqtt/beeline/internal/buffers"
)

const (
	// bufferSize is what is read at once.
	bufferSize = 4096
	// believed is how much of an announced length gets memory before bytes have come. Beyond it the memory grows
	// with what has really been received, so that five bytes cannot claim a megabyte.
	believed = 16 << 10
)

// inputs serves all connections of the process: one that is quiet holds no buffer.
var inputs = buffers.New(bufferSize, bufferSize) //nolint:gochecknoglobals // a pool holds no state that anyone could observe

// Waiter is a stream that can wait for bytes without a buffer to put them into.
type Waiter interface {
	// ReadPooled reads what is there into a buffer of the pool, which it takes when there is something. The buffer is as
	// long as what was read, never empty, and the caller's; it is nil beside an error.
	ReadPooled(pool *buffers.Pool) (*[]byte, error)
}

// Reader splits a connection into packets. After an error it is of no more use.
type Reader struct {
	src        io.Reader
	waiter     Waiter // src, if it is one
	lent       *[]byte
	buf        []byte // all of lent
	start, end int    // of what has been read and not been returned
}

// NewReader returns a Reader. It holds no buffer between packets if r is a Waiter, and else one of 4 KiB.
func NewReader(r io.Reader) *Reader {
	w, _ := r.(Waiter)
	return &Reader{src: r, waiter: w}
}

// Next returns the first byte of the next packet, which is checked (MQTT-2.1.3-1), and its body, as long as its
// Remaining Length. The body is valid until the following Next, unless owned: then it is the caller's for good.
//
// limit bounds the whole packet, its fixed header included, in bytes. A longer one is an *Error PacketTooLarge before
// anything is allocated. A header that is wrong is an *Error MalformedPacket as soon as its first wrong byte is
// there. Remaining Lengths of up to four bytes are taken even when fewer would do: 3.1.1 does not forbid it.
// At the end of the stream the error is io.EOF between packets and io.ErrUnexpectedEOF within one; errors of the
// stream are returned as they are.
func (r *Reader) Next(limit int) (first byte, body []byte, owned bool, err error) {
	var head, size int
	for want := 1; head == 0; want++ {
		if err := r.fill(want); err != nil {
			return 0, nil, false, err
		}
		var bad *Error
		if head, size, bad = parseHeader(r.buf[r.start:r.end]); bad != nil {
			return 0, nil, false, bad
		}
	}
	if head+size > limit {
		return 0, nil, false, &Error{Code: PacketTooLarge, Detail: "longer than the Maximum Packet Size"}
	}
	first = r.buf[r.start]
	if head+size > len(r.buf) {
		body, err = r.large(head, size)
		return first, body, true, err
	}
	if err := r.fill(head + size); err != nil {
		return 0, nil, false, err
	}
	end := r.start + head + size
	body = r.buf[r.start+head : end : end]
	r.start = end
	return first, body, false, nil
}

// Buffered returns the size of the next packet, in bytes, when Next can return it (or refuse it) without reading from
// the connection, and 0 when Next would have to read.
func (r *Reader) Buffered() int {
	have := r.buf[r.start:r.end]
	head, size, bad := parseHeader(have)
	switch {
	case bad != nil:
		return len(have)
	case head == 0 || head+size > len(have):
		return 0
	default:
		return head + size
	}
}

// parseHeader returns the size of the fixed header at the start of b and the Remaining Length that it announces. The
// size is 0 when b ends within the header.
func parseHeader(b []byte) (head, remaining int, err *Error) {
	if len(b) == 0 {
		return 0, 0, nil
	}
	if err := checkFirst(b[0]); err != nil {
		return 0, 0, err
	}
	for i := 1; i < len(b); i++ {
		remaining |= int(b[i]&0x7f) << (7 * (i - 1))
		if b[i] < 0x80 {
			return i + 1, remaining, nil
		}
		if i == 4 {
			return 0, 0, malformed("Remaining Length is longer than four bytes (2.1.4)")
		}
	}
	return 0, 0, nil
}

// fill reads until n bytes, at most the size of the buffer, are there.
func (r *Reader) fill(n int) error {
	if r.start == r.end {
		if err := r.begin(); err != nil {
			return err
		}
	}
	if r.start+n > len(r.buf) {
		r.end = copy(r.buf, r.buf[r.start:r.end])
		r.start = 0
	}
	for idle := 0; r.end-r.start < n; {
		got, err := r.src.Read(r.buf[r.end:])
		r.end += got
		if got > 0 {
			idle = 0
			continue // an error comes again with the following Read, if it is needed
		}
		if errors.Is(err, io.EOF) && r.end > r.start {
			return io.ErrUnexpectedEOF
		}
		if err != nil {
			return err
		}
		if idle++; idle == 100 {
			return io.ErrNoProgress
		}
	}
	return nil
}

// begin fills the buffer anew, all of which has been returned.
func (r *Reader) begin() error {
	r.start, r.end = 0, 0
	if r.waiter == nil {
		if r.lent == nil {
			r.lend(inputs.Get())
		}
		return nil
	}
	if b := r.lent; b != nil {
		r.lent, r.buf = nil, nil
		inputs.Put(b)
	}
	b, err := r.waiter.ReadPooled(inputs)
	if err != nil {
		return err
	}
	r.lend(b)
	return nil
}

func (r *Reader) lend(b *[]byte) {
	r.lent, r.buf, r.end = b, (*b)[:cap(*b)], len(*b)
}

// large reads the body of a packet that does not fit into the buffer.
func (r *Reader) large(head, size int) ([]byte, error) {
	body := make([]byte, 0, min(size, believed))
	body = append(body, r.buf[r.start+head:r.end]...)
	r.start, r.end = 0, 0
	for len(body) < size {
		if len(body) == cap(body) {
			body = slices.Grow(body, min(3*len(body), size-len(body)))
		}
		chunk := body[len(body):min(cap(body), size)]
		n, err := io.ReadFull(r.src, chunk)
		body = body[:len(body)+n]
		if errors.Is(err, io.EOF) {
			return nil, io.ErrUnexpectedEOF
		}
		if err != nil {
			return nil, err
		}
	}
	return body[:size:size], nil
}
