package mesh

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/beeline-mqtt/beeline/internal/message"
)

// errBooks is wrapped by every error about frames that do not fit what has been sent.
var errBooks = errors.New("the peer's books differ")

// sender is the sending end of one link: it numbers deliveries, keeps them until the peer has taken them, knows
// what to send again after a break, and matches receipts. It is a plain value; the link locks.
//
//	taken          sent            last
//	  |--- sent ----|--- waiting ---|
//
// Deliveries up to taken are the peer's. Those of them that it answered with Accepted wait in accepted for
// their settlement and are no longer charged to the link.
type sender struct {
	limit int

	window  ring[entry] // taken+1 .. last
	taken   uint64
	sent    uint64 // on the present stream
	reached uint64 // on any stream
	last    uint64
	bytes   int // in the window
	exempt  int // of those, what the limit does not count

	accepted        map[uint64]held
	named           map[string][]uint64 // of those accepted that somebody waits for, by the client that they name, ascending
	receiptsThrough uint64
}

type entry struct {
	held
	size int
	// note is the index, from 1, of the receipt that names the delivery, while a Receipts frame is taken.
	note int32
	// exempt: the limit does not count it, because it was taken once before, here or at another link.
	exempt bool
}

type held struct {
	delivery Delivery
	waiter   Waiter
	// inherited: it was moved here from the link of a dead peer.
	inherited bool
}

// settlement is a call to make once the lock is released.
type settlement struct {
	held
	receipt Receipt
}

// push takes a delivery into the window, or reports that its bound is reached: QoS 0 may fill half of the window,
// so that a flood of it leaves room for what is acknowledged.
func (s *sender) push(d Delivery, w Waiter) bool {
	size, limit := d.Message.Size(), s.limit
	if d.Message.QoS == message.AtMostOnce {
		limit /= 2
	}
	if used := s.bytes - s.exempt; used > 0 && used+size > limit {
		return false
	}
	s.append(entry{held: held{delivery: d, waiter: w}, size: size})
	return true
}

func (s *sender) append(e entry) {
	s.last++
	s.bytes += e.size
	if e.exempt {
		s.exempt += e.size
	}
	s.window.push(e)
}

// unsent counts the deliveries that have not been sent on the present stream.
func (s *sender) unsent() int { return int(s.last - s.sent) }

// next returns the oldest delivery that has not been sent; unsent must not be 0.
func (s *sender) next() *Delivery {
	return &s.window.at(int(s.sent - s.taken)).delivery
}

// advance marks the oldest unsent delivery as sent. It comes before the write, because the receipt may be back
// before the write returns.
func (s *sender) advance() {
	s.sent++
	s.reached = max(s.reached, s.sent)
}

// resume starts a new stream at what the receiver has taken, and returns how many deliveries will be sent again.
func (s *sender) resume(receivedThrough uint64) (resent uint64, err error) {
	if receivedThrough < s.taken || receivedThrough > s.reached {
		return 0, fmt.Errorf("%w: it has taken up to %d, which is not between %d and %d", errBooks, receivedThrough, s.taken, s.reached)
	}
	s.sent = receivedThrough
	return s.reached - receivedThrough, nil
}

// take works through one Receipts frame and appends what somebody waits for to dst: settlements, and clients that have moved
// before. counts is increased for every final outcome. A frame that was taken before changes nothing.
func (s *sender) take(f *receiptsFrame, dst []settlement, counts *[outcomes]uint64) ([]settlement, error) {
	if f.number != 0 && f.number <= s.receiptsThrough {
		return dst, nil
	}
	if err := s.check(f); err != nil {
		return dst, err
	}
	for i, r := range f.receipts {
		if r.seq > s.taken {
			e := s.window.at(int(r.seq - s.taken - 1))
			if e.note > 0 {
				f.receipts[i].receipt = f.receipts[e.note-1].receipt.then(r.receipt)
			}
			e.note = int32(i + 1)
			continue
		}
		h, ok := s.accepted[r.seq]
		switch {
		case !ok:
		case r.receipt.Outcome == Accepted:
			dst = h.movedOn(r.receipt, dst)
		default:
			s.settled(r.seq, h)
			dst = h.settle(r.receipt, dst, counts)
		}
	}
	for s.taken < f.through {
		e := s.window.pop()
		s.taken++
		s.bytes -= e.size
		if e.exempt {
			s.exempt -= e.size
		}
		receipt := Receipt{Outcome: Queued}
		if e.note > 0 {
			receipt = f.receipts[e.note-1].receipt
		}
		if receipt.Outcome == Accepted {
			s.accept(s.taken, e.held)
			dst = e.movedOn(receipt, dst)
			continue
		}
		dst = e.settle(receipt, dst, counts)
	}
	if f.number != 0 {
		s.receiptsThrough = f.number
	}
	return dst, nil
}

// accept keeps a delivery that is to be settled later.
func (s *sender) accept(seq uint64, h held) {
	if s.accepted == nil {
		s.accepted = make(map[uint64]held)
		s.named = make(map[string][]uint64)
	}
	s.accepted[seq] = h
	if client := h.delivery.Target.ClientID; client != "" && h.waiter != nil {
		s.named[client] = append(s.named[client], seq)
	}
}

// settled forgets a delivery that was accepted.
func (s *sender) settled(seq uint64, h held) {
	delete(s.accepted, seq)
	client := h.delivery.Target.ClientID
	i, found := slices.BinarySearch(s.named[client], seq)
	if !found {
		return
	}
	if left := slices.Delete(s.named[client], i, i+1); len(left) > 0 {
		s.named[client] = left
	} else {
		delete(s.named, client)
	}
}

// owes reports whether a delivery up to seq that was accepted, and names the client at that epoch or an older one, has not
// settled.
func (s *sender) owes(client string, epoch, seq uint64) bool {
	for _, n := range s.named[client] {
		if n <= seq && s.accepted[n].delivery.Target.Epoch <= epoch {
			return true
		}
	}
	return false
}

// check refuses a frame as a whole, before anything of it has been used.
func (s *sender) check(f *receiptsFrame) error {
	switch {
	case f.number == 0 && len(f.receipts) > 0:
		return fmt.Errorf("%w: a Receipts frame with receipts has no number", errBooks)
	case f.number > s.receiptsThrough+1:
		return fmt.Errorf("%w: Receipts frame %d after %d", errBooks, f.number, s.receiptsThrough)
	case f.through > s.sent:
		return fmt.Errorf("%w: receipts through %d, sent %d", errBooks, f.through, s.sent)
	}
	through := max(f.through, s.taken)
	for _, r := range f.receipts {
		if r.seq > through || r.seq == 0 {
			return fmt.Errorf("%w: a receipt for %d, through %d", errBooks, r.seq, through)
		}
	}
	return nil
}

// fail settles everything as Gone.
func (s *sender) fail(dst []settlement, counts *[outcomes]uint64) []settlement {
	gone := Receipt{Outcome: Gone}
	for _, seq := range slices.Sorted(maps.Keys(s.accepted)) {
		dst = s.accepted[seq].settle(gone, dst, counts)
	}
	s.accepted, s.named = nil, nil
	for s.window.len() > 0 {
		e := s.window.pop()
		dst = e.settle(gone, dst, counts)
	}
	s.taken, s.sent, s.bytes, s.exempt = s.last, s.last, 0, 0
	return dst
}

// orphan ends the dealings with a peer that is dead. What keep wants stays, as if it had never been sent; everything
// else settles as Gone. What the peer had inherited comes first: it is older than what the peer was sent for the same
// sessions, which it held back for as long. Apart from that the order is that in which it was pushed. What the peer
// had accepted the limit does not count: it did not before, and its publishers are still charged.
func (s *sender) orphan(keep func(*Delivery) bool, dst []settlement, counts *[outcomes]uint64) []settlement {
	old := *s
	*s = sender{limit: old.limit}
	gone := Receipt{Outcome: Gone}
	var own []entry
	sort := func(e entry) {
		switch {
		case !keep(&e.delivery):
			dst = e.settle(gone, dst, counts)
		case e.inherited:
			s.append(e)
		default:
			own = append(own, e)
		}
	}
	for _, seq := range slices.Sorted(maps.Keys(old.accepted)) {
		h := old.accepted[seq]
		sort(entry{held: h, size: h.delivery.Message.Size(), exempt: true})
	}
	for old.window.len() > 0 {
		sort(old.window.pop())
	}
	for _, e := range own {
		s.append(e)
	}
	return dst
}

// bequeath moves everything that an orphaned sender holds, in order, to the end of the heir's window and beyond its
// limit. What was for those who match at the dead incarnation is for that one's orphans.
func (s *sender) bequeath(dead string, heir *sender) {
	for s.window.len() > 0 {
		e := s.window.pop()
		e.delivery = e.delivery.orphanOf(dead)
		e.exempt, e.inherited = true, true
		heir.append(e)
	}
	*s = sender{}
}

func (h held) settle(r Receipt, dst []settlement, counts *[outcomes]uint64) []settlement {
	counts[r.Outcome]++
	if h.waiter == nil {
		return dst
	}
	return append(dst, settlement{held: h, receipt: r})
}

// movedOn tells whoever waits of clients that the delivery is to be sent after, before it settles.
func (h held) movedOn(r Receipt, dst []settlement) []settlement {
	if h.waiter == nil || len(r.Moved) == 0 {
		return dst
	}
	return append(dst, settlement{held: h, receipt: r})
}
