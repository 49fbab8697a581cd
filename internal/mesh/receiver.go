package mesh

import (
	"errors"
	"fmt"
)

// creditBytes and creditDeliveries are what a receiver takes before it returns credit although nobody waits
// for a receipt.
const (
	creditBytes      = 16 << 10
	creditDeliveries = 64
)

// receiptsPerFrame and receiptsBytes keep a Receipts frame small after a long break. One receipt may always exceed
// receiptsBytes.
const (
	receiptsPerFrame = 4096
	receiptsBytes    = 256 << 10
)

var errSequenceGap = errors.New("deliveries are missing")

// receiver is the books of the receiving end of one link: what has been taken, what the sender has been told,
// and the receipts that it may not have got yet. It is a plain value; the inbound half locks.
type receiver struct {
	through uint64 // taken
	told    uint64 // taken, as of the newest frame that was made
	owed    bool   // told has to be said again, after a break
	urgent  bool
	bytes   int // taken since told

	pending []numberedReceipt
	early   map[uint64]Receipt // settled before the answer Accepted was recorded

	number uint64
	kept   []keptReceipts // not confirmed, ascending
	replay int            // index into kept of the next one to send on this stream
}

type numberedReceipt struct {
	seq     uint64
	receipt Receipt
}

type keptReceipts struct {
	number uint64
	frame  []byte
}

// receiptsFrame is a Receipts message.
type receiptsFrame struct {
	through  uint64
	number   uint64
	receipts []numberedReceipt
}

// resume starts a new stream: what the sender has not confirmed is given again.
func (r *receiver) resume(nextSequence, receiptsThrough uint64) error {
	if nextSequence > r.through+1 {
		return fmt.Errorf("%w: taken up to %d, the sender starts at %d", errSequenceGap, r.through, nextSequence)
	}
	r.confirm(receiptsThrough)
	r.again()
	return nil
}

// again gives every receipt once more that the sender has not confirmed: it seems to have missed some.
func (r *receiver) again() {
	r.replay = 0
	r.owed = r.through > 0
}

// confirm forgets the frames that the sender has taken.
func (r *receiver) confirm(receiptsThrough uint64) {
	n := 0
	for n < len(r.kept) && r.kept[n].number <= receiptsThrough {
		n++
	}
	if n == 0 {
		return
	}
	left := copy(r.kept, r.kept[n:])
	clear(r.kept[left:])
	r.kept = r.kept[:left]
	r.replay = max(0, r.replay-n)
}

// took records the deliveries up to through, which came in a frame of that many bytes, and the answers among
// them that are not Queued, ascending. urgent: somebody waits for a receipt. It reports whether to send now.
func (r *receiver) took(through uint64, bytes int, exceptions []numberedReceipt, urgent bool) (due bool) {
	r.through = through
	r.bytes += bytes
	for _, e := range exceptions {
		if next, ok := r.early[e.seq]; ok {
			e.receipt = e.receipt.then(next).fit()
		}
		r.pending = append(r.pending, e)
	}
	for seq := range r.early {
		if seq <= through {
			delete(r.early, seq)
		}
	}
	r.urgent = r.urgent || urgent || len(exceptions) > 0
	return r.due()
}

// settle records a receipt of a delivery that was answered with Accepted.
func (r *receiver) settle(seq uint64, receipt Receipt) (due bool) {
	if seq > r.through {
		if r.early == nil {
			r.early = make(map[uint64]Receipt)
		}
		if first, ok := r.early[seq]; ok {
			receipt = first.then(receipt).fit()
		}
		r.early[seq] = receipt
		return false
	}
	r.pending = append(r.pending, numberedReceipt{seq: seq, receipt: receipt})
	return true
}

// flush has the credit that was held back go out now, if there is any: another frame is about to go anyway, or
// the sender has asked for it.
func (r *receiver) flush() {
	r.urgent = r.urgent || r.through != r.told
}

// due reports whether a frame should be sent without waiting for another reason.
func (r *receiver) due() bool {
	return r.urgent || r.owed || len(r.pending) > 0 || r.replay < len(r.kept) ||
		r.bytes >= creditBytes || r.through-r.told >= creditDeliveries
}

// next returns the bytes of the next frame to send, false when none is due. The bytes must not be changed.
func (r *receiver) next() ([]byte, bool) {
	if r.replay < len(r.kept) {
		f := r.kept[r.replay].frame
		r.replay++
		return f, true
	}
	if !r.due() {
		return nil, false
	}
	f := r.cut()
	r.told = f.through
	if len(r.pending) == 0 {
		r.owed, r.urgent, r.bytes = false, false, 0
	}
	b := appendReceipts(nil, f)
	if f.number != 0 {
		r.kept = append(r.kept, keptReceipts{number: f.number, frame: b})
		r.replay = len(r.kept)
	}
	return b, true
}

// cut takes the oldest pending receipts into a frame. The frame's through never covers a delivery whose receipt
// is left for a later frame, because the sender takes what no receipt names for Queued.
func (r *receiver) cut() *receiptsFrame {
	f := &receiptsFrame{through: r.through, receipts: r.pending}
	r.pending = nil
	if n := fits(f.receipts); n < len(f.receipts) {
		f.receipts, r.pending = f.receipts[:n:n], f.receipts[n:]
		named := r.told
		for _, n := range f.receipts {
			named = max(named, n.seq)
		}
		// First answers are pending in ascending order; what is not above named is a settlement.
		for _, left := range r.pending {
			if left.seq > named {
				f.through = left.seq - 1
				break
			}
		}
	}
	if len(f.receipts) > 0 {
		r.number++
		f.number = r.number
	}
	return f
}

// fits returns how many of the pending receipts go into one frame, at least one of them.
func fits(pending []numberedReceipt) int {
	size := 0
	for i := range min(len(pending), receiptsPerFrame) {
		size += sizeField(sizeReceipt(&pending[i]))
		if size > receiptsBytes && i > 0 {
			return i
		}
	}
	return min(len(pending), receiptsPerFrame)
}
