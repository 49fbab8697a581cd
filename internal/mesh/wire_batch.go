package mesh

import (
	"fmt"

	"google.golang.org/protobuf/encoding/protowire"
)

// Field numbers of beeline.mesh.v1.
const (
	requestBatch     = 2
	responseReceipts = 2

	batchFirstSequence   = 1
	batchReceiptsThrough = 2
	batchDeliveries      = 3

	deliveryMatch   = 1
	deliveryShare   = 2
	deliveryClient  = 3
	deliveryOrphans = 4
	deliveryMessage = 5
	deliveryWithin  = 6
	deliveryUntil   = 7
)

// batchBytes is the size up to which deliveries go into one batch; a larger one goes alone.
const batchBytes = 64 << 10

// batchHeader is the room for what stands before the deliveries and is known after them.
const batchHeader = 32

// batchWriter encodes one ConnectRequest with a Batch, behind room for its header.
type batchWriter struct {
	self  string
	clock clock
	buf   []byte
	count int
}

// begin starts a batch in buf, whose contents are given up.
func (w *batchWriter) begin(buf []byte) {
	w.buf = append(buf[:0], make([]byte, batchHeader)...)
	w.count = 0
	w.clock = clock{}
}

// add appends a delivery, or reports that the batch is full. The first one always fits.
func (w *batchWriter) add(d *Delivery) bool {
	form := measure(d.Message, w.self, &w.clock)
	target := sizeTarget(&d.Target)
	size := sizeField(target) + sizeField(form.size)
	if d.ReportWithinMs > 0 {
		size += sizeReport(d)
	}
	if w.count > 0 && len(w.buf)-batchHeader+sizeField(size) > batchBytes {
		return false
	}
	b := append(w.buf, tag(batchDeliveries, protowire.BytesType))
	b = protowire.AppendVarint(b, uint64(size))
	b = appendTarget(b, &d.Target, target)
	b = append(b, tag(deliveryMessage, protowire.BytesType))
	b = protowire.AppendVarint(b, uint64(form.size))
	w.buf = appendMessage(b, d.Message, form)
	if d.ReportWithinMs > 0 {
		w.buf = appendReport(w.buf, d)
	}
	w.count++
	return true
}

func sizeReport(d *Delivery) int {
	n := sizeUint(uint64(d.ReportWithinMs))
	if d.UntilAcked {
		n += 2
	}
	return n
}

func appendReport(b []byte, d *Delivery) []byte {
	b = appendUint(b, deliveryWithin, uint64(d.ReportWithinMs))
	if d.UntilAcked {
		b = append(b, tag(deliveryUntil, protowire.VarintType), 1)
	}
	return b
}

// finish writes the header in front and returns the offset in the buffer at which the frame starts.
func (w *batchWriter) finish(first, receiptsThrough uint64) int {
	deliveries := len(w.buf) - batchHeader
	var room [batchHeader]byte
	fields := sizeUint(first) + sizeUint(receiptsThrough)
	h := append(room[:0], tag(requestBatch, protowire.BytesType))
	h = protowire.AppendVarint(h, uint64(fields+deliveries))
	h = appendUint(h, batchFirstSequence, first)
	h = appendUint(h, batchReceiptsThrough, receiptsThrough)
	start := batchHeader - len(h)
	copy(w.buf[start:], h)
	return start
}

func sizeTarget(t *Target) int {
	switch t.Kind {
	case TargetShare:
		return sizeText(len(t.Group)) + sizeText(len(t.Filter))
	case TargetClient:
		return sizeText(len(t.ClientID)) + sizeUint(t.Epoch)
	case TargetOrphans:
		return sizeText(len(t.Incarnation))
	}
	return 0
}

func appendTarget(b []byte, t *Target, size int) []byte {
	switch t.Kind {
	case TargetShare:
		b = append(b, tag(deliveryShare, protowire.BytesType))
		b = protowire.AppendVarint(b, uint64(size))
		b = appendText(b, 1, t.Group)
		return appendText(b, 2, t.Filter)
	case TargetClient:
		b = append(b, tag(deliveryClient, protowire.BytesType))
		b = protowire.AppendVarint(b, uint64(size))
		b = appendText(b, 1, t.ClientID)
		return appendUint(b, 2, t.Epoch)
	case TargetOrphans:
		b = append(b, tag(deliveryOrphans, protowire.BytesType))
		b = protowire.AppendVarint(b, uint64(size))
		return appendText(b, 1, t.Incarnation)
	}
	return append(b, tag(deliveryMatch, protowire.BytesType), 0)
}

// batchReader walks through a received Batch, in the canonical order of its fields.
type batchReader struct {
	first           uint64
	receiptsThrough uint64

	c    cursor
	next []byte
}

// readBatch reads what stands before the deliveries. A batch without any is malformed.
func readBatch(body []byte) (batchReader, error) {
	r := batchReader{c: cursor{b: body}}
	for {
		num, typ, ok := r.c.more()
		if !ok {
			return r, fmt.Errorf("%w: batch without deliveries", errMalformed)
		}
		switch num {
		case batchFirstSequence:
			r.first = r.c.varint(typ)
		case batchReceiptsThrough:
			r.receiptsThrough = r.c.varint(typ)
		case batchDeliveries:
			r.next = r.c.bytes(typ)
			if r.c.bad || r.first == 0 {
				return r, fmt.Errorf("%w: batch", errMalformed)
			}
			return r, nil
		default:
			r.c.skip(num, typ)
		}
	}
}

// delivery returns the bytes of the next delivery, nil after the last one.
func (r *batchReader) delivery() ([]byte, error) {
	d := r.next
	r.next = nil
	for r.next == nil {
		num, typ, ok := r.c.more()
		if !ok {
			break
		}
		switch num {
		case batchDeliveries:
			r.next = r.c.bytes(typ)
		case batchFirstSequence, batchReceiptsThrough:
			r.c.fail() // not where any encoder writes it, and too late
		default:
			r.c.skip(num, typ)
		}
	}
	if r.c.bad {
		return nil, fmt.Errorf("%w: batch", errMalformed)
	}
	return d, nil
}

// decodeDelivery reads a delivery. It copies b once; the result aliases the copy.
func decodeDelivery(b []byte, origin string, clk *clock) (Delivery, error) {
	own := make([]byte, len(b))
	copy(own, b)
	var d Delivery
	targets := 0
	c := cursor{b: own}
	for {
		num, typ, ok := c.more()
		if !ok {
			break
		}
		switch num {
		case deliveryMatch, deliveryShare, deliveryClient, deliveryOrphans:
			targets++
			decodeTarget(&c, num, typ, &d.Target)
		case deliveryMessage:
			body := c.bytes(typ)
			if c.bad || d.Message != nil {
				return Delivery{}, fmt.Errorf("%w: delivery", errMalformed)
			}
			m, err := decodeMessage(body, origin, clk)
			if err != nil {
				return Delivery{}, err
			}
			d.Message = m
		case deliveryWithin:
			d.ReportWithinMs = uint32(c.varint(typ))
		case deliveryUntil:
			d.UntilAcked = c.varint(typ) != 0
		default:
			c.skip(num, typ)
		}
	}
	if c.bad || targets != 1 || d.Message == nil {
		return Delivery{}, fmt.Errorf("%w: delivery", errMalformed)
	}
	return d, nil
}

func decodeTarget(c *cursor, kind protowire.Number, typ protowire.Type, t *Target) {
	in := cursor{b: c.bytes(typ)}
	for {
		num, typ, ok := in.more()
		if !ok {
			break
		}
		switch {
		case kind == deliveryShare && num == 1:
			t.Group = text(in.text(typ))
		case kind == deliveryShare && num == 2:
			t.Filter = text(in.text(typ))
		case kind == deliveryClient && num == 1:
			t.ClientID = text(in.text(typ))
		case kind == deliveryClient && num == 2:
			t.Epoch = in.varint(typ)
		case kind == deliveryOrphans && num == 1:
			t.Incarnation = text(in.text(typ))
		default:
			in.skip(num, typ)
		}
	}
	switch kind {
	case deliveryShare:
		t.Kind = TargetShare
	case deliveryClient:
		t.Kind = TargetClient
	case deliveryOrphans:
		t.Kind = TargetOrphans
	}
	if in.bad || t.Kind == TargetOrphans && t.Incarnation == "" {
		c.fail()
	}
}
