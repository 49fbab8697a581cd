package mesh

import (
	"fmt"
	"strings"

	"google.golang.org/protobuf/encoding/protowire"
)

// Field numbers of beeline.mesh.v1.Receipts and Receipt.
const (
	receiptsThrough  = 1
	receiptsReceipts = 2
	receiptsNumber   = 3

	receiptSequence = 1
	receiptOutcome  = 2
	receiptClientID = 3
	receiptEpoch    = 4
	receiptMoved    = 5
	receiptClients  = 6

	movedClientID = 1
	movedEpoch    = 2

	clientClientID = 1
	clientOutcome  = 2
	clientEpoch    = 3
)

// maxReceipt bounds one receipt on the wire, so that it fits into a frame. Only a list of some hundred thousand
// clients is longer.
const maxReceipt = maxFrame - 1<<10

// appendReceipts appends a ConnectResponse with a Receipts frame.
func appendReceipts(dst []byte, f *receiptsFrame) []byte {
	body := sizeUint(f.through) + sizeUint(f.number)
	for i := range f.receipts {
		body += sizeField(sizeReceipt(&f.receipts[i]))
	}
	dst = append(dst, tag(responseReceipts, protowire.BytesType))
	dst = protowire.AppendVarint(dst, uint64(body))
	dst = appendUint(dst, receiptsThrough, f.through)
	for i := range f.receipts {
		r := &f.receipts[i]
		dst = append(dst, tag(receiptsReceipts, protowire.BytesType))
		dst = protowire.AppendVarint(dst, uint64(sizeReceipt(r)))
		dst = appendUint(dst, receiptSequence, r.seq)
		dst = appendUint(dst, receiptOutcome, uint64(r.receipt.Outcome))
		dst = appendText(dst, receiptClientID, r.receipt.ClientID)
		dst = appendUint(dst, receiptEpoch, r.receipt.Epoch)
		for j := range r.receipt.Moved {
			m := &r.receipt.Moved[j]
			dst = append(dst, tag(receiptMoved, protowire.BytesType))
			dst = protowire.AppendVarint(dst, uint64(sizeMoved(m)))
			dst = appendText(dst, movedClientID, m.ClientID)
			dst = appendUint(dst, movedEpoch, m.Epoch)
		}
		dst = appendClients(dst, r.receipt.Clients)
	}
	return appendUint(dst, receiptsNumber, f.number)
}

func sizeReceipt(r *numberedReceipt) int {
	n := sizeUint(r.seq) + sizeUint(uint64(r.receipt.Outcome)) + sizeText(len(r.receipt.ClientID)) +
		sizeUint(r.receipt.Epoch)
	for i := range r.receipt.Moved {
		n += sizeField(sizeMoved(&r.receipt.Moved[i]))
	}
	for i := range r.receipt.Clients {
		n += sizeField(sizeClient(&r.receipt.Clients[i]))
	}
	return n
}

func appendClients(dst []byte, clients []ClientReceipt) []byte {
	for i := range clients {
		c := &clients[i]
		dst = append(dst, tag(receiptClients, protowire.BytesType))
		dst = protowire.AppendVarint(dst, uint64(sizeClient(c)))
		dst = appendText(dst, clientClientID, c.ClientID)
		dst = appendUint(dst, clientOutcome, uint64(c.Outcome))
		dst = appendUint(dst, clientEpoch, c.Epoch)
	}
	return dst
}

func sizeClient(c *ClientReceipt) int {
	return sizeText(len(c.ClientID)) + sizeUint(uint64(c.Outcome)) + sizeUint(c.Epoch)
}

func sizeMoved(m *MovedClient) int { return sizeText(len(m.ClientID)) + sizeUint(m.Epoch) }

// fit returns the receipt as it can be sent: what does not fit into a frame becomes Overloaded, which has the
// publisher try again, where a list that is cut short would lose the message, or tell less than has happened.
func (r Receipt) fit() Receipt {
	if len(r.Moved)+len(r.Clients) > 0 && sizeReceipt(&numberedReceipt{receipt: r}) > maxReceipt {
		return Receipt{Outcome: Overloaded}
	}
	return r
}

// decodeReceipts reads the body of a Receipts frame into f, whose slice is used again. Nothing of f aliases
// body.
func decodeReceipts(body []byte, f *receiptsFrame) error {
	f.through, f.number, f.receipts = 0, 0, f.receipts[:0]
	c := cursor{b: body}
	for {
		num, typ, ok := c.more()
		if !ok {
			break
		}
		switch num {
		case receiptsThrough:
			f.through = c.varint(typ)
		case receiptsNumber:
			f.number = c.varint(typ)
		case receiptsReceipts:
			in := cursor{b: c.bytes(typ)}
			r := decodeReceipt(&in)
			// Gone and what later versions may add mean nothing here.
			if in.bad || r.receipt.Outcome < Queued || r.receipt.Outcome > Refused {
				c.fail()
			}
			f.receipts = append(f.receipts, r)
		default:
			c.skip(num, typ)
		}
	}
	if c.bad {
		return fmt.Errorf("%w: receipts", errMalformed)
	}
	return nil
}

func decodeReceipt(c *cursor) (r numberedReceipt) {
	for {
		num, typ, ok := c.more()
		if !ok {
			return r
		}
		switch num {
		case receiptSequence:
			r.seq = c.varint(typ)
		case receiptOutcome:
			r.receipt.Outcome = Outcome(min(c.varint(typ), outcomes))
		case receiptClientID:
			r.receipt.ClientID = strings.Clone(text(c.text(typ)))
		case receiptEpoch:
			r.receipt.Epoch = c.varint(typ)
		case receiptMoved:
			in := cursor{b: c.bytes(typ)}
			r.receipt.Moved = append(r.receipt.Moved, decodeMoved(&in))
			if in.bad {
				c.fail()
			}
		case receiptClients:
			in := cursor{b: c.bytes(typ)}
			x := decodeClient(&in)
			if in.bad || x.Outcome == 0 || x.Outcome >= clientOutcomes {
				c.fail()
			}
			r.receipt.Clients = append(r.receipt.Clients, x)
		default:
			c.skip(num, typ)
		}
	}
}

func decodeClient(c *cursor) (x ClientReceipt) {
	for {
		num, typ, ok := c.more()
		if !ok {
			return x
		}
		switch num {
		case clientClientID:
			x.ClientID = strings.Clone(text(c.text(typ)))
		case clientOutcome:
			x.Outcome = ClientOutcome(min(c.varint(typ), clientOutcomes))
		case clientEpoch:
			x.Epoch = c.varint(typ)
		default:
			c.skip(num, typ)
		}
	}
}

func decodeMoved(c *cursor) (m MovedClient) {
	for {
		num, typ, ok := c.more()
		if !ok {
			return m
		}
		switch num {
		case movedClientID:
			m.ClientID = strings.Clone(text(c.text(typ)))
		case movedEpoch:
			m.Epoch = c.varint(typ)
		default:
			c.skip(num, typ)
		}
	}
}
