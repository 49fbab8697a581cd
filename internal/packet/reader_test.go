package packet

import (
	"bytes"
	"errors"
	"io"
	"os"
	"runtime"
	"slices"
	"testing"
	"testing/iotest"

	"github.com/beeline-mqtt/beeline/internal/buffers"
	"github.com/beeline-mqtt/beeline/test/wire"
)

type read struct {
	first byte
	body  []byte
}

// readAll reads until the error that ends the stream.
func readAll(r *Reader, limit int) (packets []read, err error) {
	for {
		first, body, _, err := r.Next(limit)
		if err != nil {
			return packets, err
		}
		packets = append(packets, read{first, bytes.Clone(body)})
	}
}

// stream returns packets of all sizes around that of the buffer, and their bytes.
func stream() (packets []read, raw []byte) {
	for i, size := range []int{0, 1, 127, 128, 2, 4000, 4092, 4093, 4094, 0, 4096, 4097, 16383, 16384, 16385, 5, 70_000, 300_000, 1} {
		p := read{0x30, bytes.Repeat([]byte{byte(i)}, size)}
		packets = append(packets, p)
		raw = append(raw, wire.Frame(p.first, p.body)...)
	}
	return packets, raw
}

func TestAStreamIsSplitTheSameHoweverItArrives(t *testing.T) {
	want, raw := stream()
	for name, wrap := range map[string]func(io.Reader) io.Reader{
		"at once":               func(r io.Reader) io.Reader { return r },
		"byte by byte":          iotest.OneByteReader,
		"by halves":             iotest.HalfReader,
		"the end with the data": iotest.DataErrReader,
	} {
		for kind, source := range map[string]io.Reader{
			"a reader": wrap(bytes.NewReader(raw)), "a waiter": &waiter{Reader: wrap(bytes.NewReader(raw))},
		} {
			t.Run(name+" from "+kind, func(t *testing.T) {
				got, err := readAll(NewReader(source), len(raw))
				if !errors.Is(err, io.EOF) {
					t.Fatal(err)
				}
				if !slices.EqualFunc(want, got, func(a, b read) bool { return a.first == b.first && bytes.Equal(a.body, b.body) }) {
					t.Errorf("read %d packets, want %d, or their contents differ", len(got), len(want))
				}
			})
		}
	}
}

func TestAStreamThatEndsWithinAPacketIsNotJustAnEnd(t *testing.T) {
	for _, size := range []int{0, 1, 200, 4091, 4092, 4093, 4094, 20_000} {
		raw := wire.Frame(0x30, make([]byte, size))
		for _, n := range []int{1, 2, 3, len(raw) / 2, len(raw) - 1} {
			if n >= len(raw) {
				continue
			}
			packets, err := readAll(NewReader(bytes.NewReader(raw[:n])), 1<<20)
			if !errors.Is(err, io.ErrUnexpectedEOF) || len(packets) > 0 {
				t.Errorf("%d of %d bytes: %v", n, len(raw), err)
			}
		}
	}
}

func TestOnlyLargeBodiesAreOwned(t *testing.T) {
	r := NewReader(bytes.NewReader(append(wire.Frame(0x30, make([]byte, 4093)), wire.Frame(0x30, make([]byte, 4094))...)))
	_, body, owned, err := r.Next(1 << 20)
	if err != nil || owned || len(body) != 4093 || cap(body) != 4093 {
		t.Errorf("a packet of 4096 bytes: owned %v, %d bytes (%d), %v", owned, len(body), cap(body), err)
	}
	_, body, owned, err = r.Next(1 << 20)
	if err != nil || !owned || len(body) != 4094 || cap(body) != 4094 {
		t.Errorf("a packet of 4097 bytes: owned %v, %d bytes (%d), %v", owned, len(body), cap(body), err)
	}
}

func TestABodyIsValidUntilTheFollowingNext(t *testing.T) {
	// The second packet is there only in part, so that the buffer is moved for it.
	a, b := wire.Frame(0x30, bytes.Repeat([]byte("a"), 3000)), wire.Frame(0x30, bytes.Repeat([]byte("b"), 3000))
	r := NewReader(io.MultiReader(bytes.NewReader(append(a, b[:1000]...)), bytes.NewReader(b[1000:])))
	_, first, _, err := r.Next(1 << 20)
	if err != nil || string(first) != string(a[3:]) {
		t.Fatal("the first packet is wrong", err)
	}
	if r.Buffered() != 0 {
		t.Error("part of a packet counts as a packet")
	}
	if string(first) != string(a[3:]) {
		t.Error("Buffered has changed the body")
	}
	if _, second, _, err := r.Next(1 << 20); err != nil || string(second) != string(b[3:]) {
		t.Error("the second packet is wrong", err)
	}
}

func TestOwnedBodiesStay(t *testing.T) {
	a, b := bytes.Repeat([]byte("a"), 50_000), bytes.Repeat([]byte("b"), 50_000)
	r := NewReader(bytes.NewReader(append(wire.Frame(0x30, a), wire.Frame(0x30, b)...)))
	_, body, _, err := r.Next(1 << 20)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, _, err := r.Next(1 << 20); err != nil || !bytes.Equal(body, a) {
		t.Error("the first body has changed", err)
	}
}

// trap fails the test when it is read after its bytes are used up.
type trap struct {
	t    *testing.T
	left []byte
}

func (r *trap) Read(p []byte) (int, error) {
	if len(r.left) == 0 {
		r.t.Error("read on after the header had said enough")
		return 0, io.EOF
	}
	n := copy(p, r.left)
	r.left = r.left[n:]
	return n, nil
}

func TestBadHeadersAreRefusedAtOnce(t *testing.T) {
	for _, c := range []struct {
		name  string
		raw   []byte
		limit int
		code  Code
	}{
		{"2.1.2 packet type 0", []byte{0x00}, 100, MalformedPacket},
		{"MQTT-2.1.3-1 an HTTP request", []byte("G"), 100, MalformedPacket},
		{"MQTT-2.1.3-1 a TLS ClientHello", []byte{0x16}, 100, MalformedPacket},
		{"MQTT-3.3.1-4 QoS 3", []byte{0x36}, 100, MalformedPacket},
		{"1.5.5 a Remaining Length of five bytes", []byte{0x10, 0x80, 0x80, 0x80, 0x80}, 1 << 30, MalformedPacket},
		{"one byte too large", []byte{0x10, 99}, 100, PacketTooLarge},
		{"256 MB announced in five bytes", []byte{0x10, 0xff, 0xff, 0xff, 0x7f}, 64 << 10, PacketTooLarge},
		{"nothing allowed", []byte{0xc0, 0}, 0, PacketTooLarge},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, _, _, err := NewReader(&trap{t, c.raw}).Next(c.limit)
			wantCode(t, err, c.code)
			_, _, _, err = NewReader(iotest.OneByteReader(&trap{t, c.raw})).Next(c.limit)
			wantCode(t, err, c.code)
		})
	}
}

func TestAPacketOfExactlyTheMaximumIsTaken(t *testing.T) {
	for _, size := range []int{0, 100, 126, 127, 5000} {
		raw := wire.Frame(0x30, make([]byte, size))
		if _, _, _, err := NewReader(bytes.NewReader(raw)).Next(len(raw)); err != nil {
			t.Errorf("%d bytes: %v", len(raw), err)
		}
		_, _, _, err := NewReader(bytes.NewReader(raw)).Next(len(raw) - 1)
		wantCode(t, err, PacketTooLarge)
	}
}

func TestRemainingLengthsNeedNotBeMinimal(t *testing.T) {
	first, body, _, err := NewReader(bytes.NewReader([]byte{0x30, 0x83, 0x80, 0x80, 0x00, 0, 1, 't'})).Next(100)
	if err != nil || first != 0x30 || string(body) != "\x00\x01t" {
		t.Errorf("%x %q %v", first, body, err)
	}
}

func TestBufferedCountsPacketsThatNeedNoRead(t *testing.T) {
	ping, publish := wire.Frame(0xc0), wire.Frame(0x30, wire.Bytes("topic", []byte("payload")))
	for _, c := range []struct {
		name string
		then []byte
		want int
	}{
		{"nothing", nil, 0},
		{"a packet", publish, len(publish)},
		{"two packets", append(bytes.Clone(publish), ping...), len(publish)},
		{"the first byte of a packet", publish[:1], 0},
		{"a packet but for its last byte", publish[:len(publish)-1], 0},
		{"the start of a large packet", wire.Frame(0x30, make([]byte, 9000))[:2000], 0},
		{"a packet that will be refused", []byte{0x36}, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := NewReader(bytes.NewReader(append(bytes.Clone(ping), c.then...)))
			if got := r.Buffered(); got != 0 {
				t.Errorf("%d before anything has been read", got)
			}
			if _, _, _, err := r.Next(10); err != nil {
				t.Fatal(err)
			}
			if got := r.Buffered(); got != c.want {
				t.Errorf("%d, want %d", got, c.want)
			}
		})
	}
}

func TestErrorsOfTheConnectionAreReturned(t *testing.T) {
	raw := wire.Frame(0x30, make([]byte, 20_000))
	for _, n := range []int{0, 1, 100, 6000} {
		r := NewReader(io.MultiReader(bytes.NewReader(raw[:n]), iotest.ErrReader(os.ErrDeadlineExceeded)))
		if _, _, _, err := r.Next(1 << 20); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("after %d bytes: %v", n, err)
		}
	}
}

type idle struct{}

func (idle) Read([]byte) (int, error) { return 0, nil }

func TestAConnectionThatGivesNothingForEverIsAnError(t *testing.T) {
	if _, _, _, err := NewReader(idle{}).Next(100); !errors.Is(err, io.ErrNoProgress) {
		t.Error(err)
	}
}

// allocated returns the bytes that f allocates.
func allocated(f func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

func TestAReaderWithNothingToReadHoldsNoBuffer(t *testing.T) {
	w := &waiter{Reader: bytes.NewReader(wire.Frame(0x30, []byte("packet")))}
	r := NewReader(w)
	if got, err := readAll(r, 100); len(got) != 1 || !errors.Is(err, io.EOF) {
		t.Fatal(got, err)
	}
	if r.lent != nil || r.buf != nil || w.lent == nil {
		t.Errorf("holds %v, %d bytes", r.lent, len(r.buf))
	}
}

// waiter checks that a Reader returns its buffer before it waits.
type waiter struct {
	io.Reader

	lent *[]byte
}

func (w *waiter) ReadPooled(pool *buffers.Pool) (*[]byte, error) {
	if w.lent != nil && len(*w.lent) > 0 {
		return nil, errors.New("the last buffer has not been put back")
	}
	b := pool.Get()
	n, err := w.Read((*b)[:cap(*b)])
	if n == 0 && err != nil {
		pool.Put(b)
		return nil, err
	}
	*b = (*b)[:n]
	w.lent = b
	return b, nil
}

func TestAnAnnouncedLengthGetsLittleMemoryBeforeItsBytesCome(t *testing.T) {
	header := []byte{0x30, 0xff, 0xff, 0xff, 0x7f}
	if got := allocated(func() {
		_, _, _, err := NewReader(bytes.NewReader(header)).Next(1 << 28)
		wantCode(t, err, PacketTooLarge)
	}); got > 16<<10 {
		t.Errorf("%d bytes for a packet that is too large", got)
	}
	if got := allocated(func() {
		if _, _, _, err := NewReader(bytes.NewReader(header)).Next(1 << 29); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Error(err)
		}
	}); got > 64<<10 {
		t.Errorf("%d bytes for a header of five", got)
	}
}
