package mesh

import (
	"fmt"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// pair is a sender and a receiver with a stream between them that may break at any moment, losing what is on
// its way in both directions.
type pair struct {
	s *sender
	r *receiver

	out []batchOnTheWay
	in  [][]byte

	pushed   []string
	arrived  []string
	settled  map[string][]Outcome
	expected map[string]Outcome // what the receiver has decided
	owed     []uint64           // answered with Accepted

	moved map[string]int // by topic: clients that the receiver has named before it has settled, less those that have come
}

type batchOnTheWay struct {
	first, receipts uint64
	topics          []string
}

func newPair() *pair {
	return &pair{
		s: &sender{limit: 4000}, r: &receiver{},
		settled: make(map[string][]Outcome), expected: make(map[string]Outcome), moved: make(map[string]int),
	}
}

func (p *pair) push(t *rapid.T) {
	topic := fmt.Sprint(len(p.pushed) + 1)
	if p.s.push(publish(topic, 1), nobody{}) {
		p.pushed = append(p.pushed, topic)
	} else if p.s.bytes == 0 {
		t.Fatal("refused while nothing is unacknowledged")
	}
}

func (p *pair) send(t *rapid.T) {
	b := batchOnTheWay{first: p.s.sent + 1, receipts: p.s.receiptsThrough}
	for n := rapid.IntRange(1, 3).Draw(t, "batch"); n > 0 && p.s.unsent() > 0; n-- {
		b.topics = append(b.topics, p.s.next().Message.Topic)
		p.s.advance()
	}
	if len(b.topics) > 0 {
		p.out = append(p.out, b)
	}
}

func (p *pair) arrive(t *rapid.T) {
	if len(p.out) == 0 {
		return
	}
	b := p.out[0]
	p.out = p.out[1:]
	if b.first > p.r.through+1 {
		t.Fatalf("a gap on an unbroken stream: %d after %d", b.first, p.r.through)
	}
	p.r.confirm(b.receipts)
	var answers []numberedReceipt
	last := p.r.through
	for i, topic := range b.topics {
		seq := b.first + uint64(i)
		if seq <= p.r.through {
			continue
		}
		o := rapid.SampledFrom([]Outcome{Queued, Queued, Accepted, NotHolder}).Draw(t, "answer")
		p.arrived = append(p.arrived, topic)
		last = seq
		switch o {
		case Queued:
			p.expected[topic] = o
			continue
		case Accepted:
			p.owed = append(p.owed, seq)
			a := Receipt{Outcome: Accepted}
			if rapid.Bool().Draw(t, "moved") {
				a.Moved = p.moveOn(seq)
			}
			for rapid.Bool().Draw(t, "moves") {
				p.r.settle(seq, Receipt{Outcome: Accepted, Moved: p.moveOn(seq)})
			}
			if rapid.Bool().Draw(t, "early") {
				p.settle(len(p.owed)-1, Stored)
			}
			answers = append(answers, numberedReceipt{seq: seq, receipt: a})
			continue
		default:
			p.expected[topic] = o
		}
		answers = append(answers, numberedReceipt{seq: seq, receipt: Receipt{Outcome: o}})
	}
	p.r.took(last, 10, answers, rapid.Bool().Draw(t, "urgent"))
}

func (p *pair) settle(i int, o Outcome) {
	seq := p.owed[i]
	p.owed = slices.Delete(p.owed, i, i+1)
	p.expected[p.pushed[seq-1]] = o
	p.r.settle(seq, Receipt{Outcome: o})
}

// moveOn is one more client that a delivery is to be sent after.
func (p *pair) moveOn(seq uint64) []MovedClient {
	topic := p.pushed[seq-1]
	p.moved[topic]++
	return []MovedClient{{ClientID: "x", Epoch: 1}}
}

func (p *pair) answer() bool {
	b, ok := p.r.next()
	if ok {
		p.in = append(p.in, b)
	}
	return ok
}

func (p *pair) take(t *rapid.T) {
	if len(p.in) == 0 {
		return
	}
	_, body, err := only(p.in[0])
	p.in = p.in[1:]
	var f receiptsFrame
	if err == nil {
		err = decodeReceipts(body, &f)
	}
	if err != nil {
		t.Fatal(err)
	}
	var counts [outcomes]uint64
	settled, err := p.s.take(&f, nil, &counts)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range settled {
		topic, outcome := s.delivery.Message.Topic, s.receipt.Outcome
		p.moved[topic] -= len(s.receipt.Moved)
		switch {
		case outcome == Accepted && len(s.receipt.Moved) > 0 && len(p.settled[topic]) == 0:
			continue
		case outcome == Moved && len(s.receipt.Moved) > 0:
			outcome = p.expected[topic] // which clients have moved came together with the outcome
		}
		p.settled[topic] = append(p.settled[topic], outcome)
	}
}

func (p *pair) breakStream(t *rapid.T) {
	p.out, p.in = nil, nil
	if err := p.r.resume(p.s.taken+1, p.s.receiptsThrough); err != nil {
		t.Fatal(err)
	}
	if _, err := p.s.resume(p.r.through); err != nil {
		t.Fatal(err)
	}
}

func TestAcrossBreaksEveryDeliveryArrivesOnceInOrderAndSettlesOnceAsAnswered(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := newPair()
		t.Repeat(map[string]func(*rapid.T){
			"push":   p.push,
			"send":   p.send,
			"arrive": p.arrive,
			"settle": func(t *rapid.T) {
				if len(p.owed) > 0 {
					p.settle(rapid.IntRange(0, len(p.owed)-1).Draw(t, "which"), Acked)
				}
			},
			"move": func(t *rapid.T) {
				if len(p.owed) > 0 {
					seq := p.owed[rapid.IntRange(0, len(p.owed)-1).Draw(t, "which")]
					p.r.settle(seq, Receipt{Outcome: Accepted, Moved: p.moveOn(seq)})
				}
			},
			"answer": func(*rapid.T) { p.answer() },
			"flush":  func(*rapid.T) { p.r.flush() },
			"take":   p.take,
			"break":  p.breakStream,
			"":       func(t *rapid.T) { p.check(t) },
		})
		p.drain(t)
	})
}

// check is what holds at every moment.
func (p *pair) check(t *rapid.T) {
	if len(p.arrived) > len(p.pushed) || !slices.Equal(p.arrived, p.pushed[:len(p.arrived)]) {
		t.Fatalf("arrived %v of %v", p.arrived, p.pushed)
	}
	if p.s.bytes > p.s.limit {
		t.Fatalf("%d bytes unacknowledged", p.s.bytes)
	}
}

// drain lets everything that is still open come to its end, on an unbroken stream.
func (p *pair) drain(t *rapid.T) {
	for p.s.unsent() > 0 || len(p.out) > 0 {
		p.send(t)
		p.arrive(t)
	}
	for len(p.owed) > 0 {
		p.settle(0, Acked)
	}
	p.r.flush()
	for p.answer() {
	}
	for len(p.in) > 0 {
		p.take(t)
	}
	if !slices.Equal(p.arrived, p.pushed) {
		t.Fatalf("arrived %v of %v", p.arrived, p.pushed)
	}
	want := make(map[string][]Outcome)
	for topic, o := range p.expected {
		want[topic] = []Outcome{o}
	}
	if diff := cmp.Diff(want, p.settled); diff != "" {
		t.Fatalf("settled (-want +got):\n%s", diff)
	}
	for topic, missing := range p.moved {
		if missing != 0 {
			t.Fatalf("%s: %d clients that have moved are missing", topic, missing)
		}
	}
	if p.s.bytes != 0 || len(p.s.accepted) != 0 || p.s.window.len() != 0 {
		t.Fatalf("the sender keeps %d bytes, %d accepted, %d in its window", p.s.bytes, len(p.s.accepted), p.s.window.len())
	}
	p.r.confirm(p.s.receiptsThrough)
	if len(p.r.kept)+len(p.r.pending)+len(p.r.early) != 0 {
		t.Fatalf("the receiver keeps %d frames, %d pending, %d early", len(p.r.kept), len(p.r.pending), len(p.r.early))
	}
}

func TestARingIsAQueue(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var r ring[int]
		var want []int
		t.Repeat(map[string]func(*rapid.T){
			"push": func(t *rapid.T) {
				for range rapid.IntRange(1, 700).Draw(t, "n") {
					r.push(len(want))
					want = append(want, len(want))
				}
			},
			"pop": func(t *rapid.T) {
				for range rapid.IntRange(0, r.len()).Draw(t, "n") {
					if got := r.pop(); got != want[0] {
						t.Fatalf("popped %d, want %d", got, want[0])
					}
					want = want[1:]
				}
			},
			"": func(t *rapid.T) {
				if r.len() != len(want) {
					t.Fatalf("length %d, want %d", r.len(), len(want))
				}
				if r.len() == 0 && len(r.slots) > keepSlots {
					t.Fatalf("an empty ring keeps %d slots", len(r.slots))
				}
				for i := range want {
					if *r.at(i) != want[i] {
						t.Fatalf("at %d: %d, want %d", i, *r.at(i), want[i])
					}
				}
			},
		})
	})
}
