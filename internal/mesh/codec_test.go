package mesh

import (
	"bytes"
	"testing"

	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"

	meshv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/mesh/v1"
)

func TestTheCodecPassesFramesAsTheyAre(t *testing.T) {
	out := &frame{buf: mem.SliceBuffer("bytes")}
	data, err := codec{}.Marshal(out)
	if err != nil || out.buf != nil {
		t.Fatalf("%v, the frame keeps its buffer: %v", err, out.buf != nil)
	}
	for name, received := range map[string]mem.BufferSlice{
		"in one piece":  data,
		"in two pieces": {mem.SliceBuffer("by"), mem.SliceBuffer("tes")},
	} {
		var in frame
		if err := (codec{}).Unmarshal(received, &in); err != nil {
			t.Fatal(err)
		}
		if got := in.bytes(); string(got) != "bytes" {
			t.Errorf("%s: %q", name, got)
		}
		in.free()
		in.free() // nothing left to free
	}
}

func TestTheCodecLeavesMessagesToProtobuf(t *testing.T) {
	want := &meshv1.RoutesAck{Version: 7}
	data, err := codec{}.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	reference, err := proto.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(data.Materialize(), reference) {
		t.Errorf("%x, want %x", data.Materialize(), reference)
	}
	got := &meshv1.RoutesAck{}
	if err := (codec{}).Unmarshal(data, got); err != nil || got.GetVersion() != 7 {
		t.Errorf("%v, %v", got, err)
	}
	if _, err := (codec{}).Marshal("no message"); err == nil {
		t.Error("a string is marshalled")
	}
	if (codec{}).Name() != "proto" {
		t.Error("the name decides whether other services find the codec")
	}
}

func TestSlabsAreGivenBackUnlessTheyAreLarge(t *testing.T) {
	s := newSlabs()
	b := s.Get(0)
	if cap(*b) < minSlab || !mem.IsBelowBufferPoolingThreshold(1) || mem.IsBelowBufferPoolingThreshold(cap(*b)) {
		t.Errorf("a new slab of %d bytes is not recycled by gRPC", cap(*b))
	}
	// gRPC frees the part that it was given; that must give back the whole.
	back := &gives{}
	whole := mem.NewBuffer(b, back)
	part := whole.Slice(0, 0+len(*b)) // empty as it is
	whole.Free()
	part.Free()
	if back.got != b {
		t.Error("the slab does not come back")
	}
	large := make([]byte, maxSlab+1)
	s.Put(&large)
	if got := s.Get(0); got == &large {
		t.Error("a large slab is kept")
	}
}

// gives is a pool that remembers what it was given.
type gives struct{ got *[]byte }

func (g *gives) Get(int) *[]byte { return nil }
func (g *gives) Put(b *[]byte)   { g.got = b }

func TestTheHeaderOfABatchAlwaysFitsItsRoom(t *testing.T) {
	d := publish("t", 1)
	d.Message.Payload = make([]byte, MaxMessageBytes)
	w := batchWriter{self: self}
	w.begin(nil)
	w.add(&d)
	start := w.finish(1<<64-1, 1<<64-1)
	if start < 0 {
		t.Fatal("it does not fit")
	}
	if len(w.buf)-start > maxFrame {
		t.Errorf("the largest message makes a frame of %d bytes, more than %d", len(w.buf)-start, maxFrame)
	}
	num, body, err := only(w.buf[start:])
	if err != nil || num != requestBatch {
		t.Fatalf("field %d, %v", num, err)
	}
	if r, err := readBatch(body); err != nil || r.first != 1<<64-1 || r.receiptsThrough != 1<<64-1 {
		t.Errorf("%+v, %v", r, err)
	}
}
