package engine

import (
	"fmt"
	"math"
	"testing"
	"time"
	"unsafe"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/beeline-mqtt/beeline/internal/journal"
	"github.com/beeline-mqtt/beeline/internal/message"
	"github.com/beeline-mqtt/beeline/internal/packet"
)

func TestATransientSessionHasNothingToDoWithDurability(t *testing.T) {
	s := New[int](Limits{QueueMessages: 10, QueueBytes: 1 << 20})
	if s.Durable() || s.Spilled() {
		t.Error("it says that it is durable")
	}
	if got := s.Offer(Delivery[int]{Message: &message.Message{}, QoS: 1, Ticket: 1, Until: UntilSafe}, noon); got != Queued {
		t.Errorf("until safe: %v, want %v", got, Queued)
	}
	s.Taken(1, message.ID{Seq: 1})
	s.Written(1)
	s.LeftOut(journal.LeftOut{Position: 1})
	s.Page(nil)
	s.PageFailed()
	s.ForgetSeen()
	s.Abandon()
	if _, ok := s.Unsafe(); ok {
		t.Error("something is unsafe")
	}
	if _, want := s.Wanted(); want {
		t.Error("a page is wanted")
	}
	if _, ok := s.TakenID(1); ok {
		t.Error("a message was taken")
	}
	if n := len(s.Changes(noon, noon, nil)) + len(s.Suspend(noon, nil)) + len(s.Ready(nil)); n > 0 {
		t.Errorf("%d changes", n)
	}
	if _, ok := s.Next(noon); !ok {
		t.Error("it has ended")
	}
	want := packet.Ack{Type: packet.PUBCOMP, PacketID: 7, Code: packet.PacketIdentifierNotFound}
	if got, send := s.Release(7); got != want || !send {
		t.Errorf("release of nothing: %v %v", got, send)
	}
}

func TestAnIdleDurableSessionIsSmall(t *testing.T) {
	s := Resume[*int](Limits{}, journal.State{})
	if !s.Durable() || s.Spilled() {
		t.Error("a new durable session says something else")
	}
	if size := unsafe.Sizeof(*s) + unsafe.Sizeof(*s.durable); size >= 1200 {
		t.Errorf("%d bytes", size)
	}
	if n := testing.AllocsPerRun(100, func() { Resume[*int](Limits{}, journal.State{}) }); n > 2 {
		t.Errorf("%v allocations for a new session", n)
	}
	if n := testing.AllocsPerRun(100, func() {
		s.Next(noon)
		s.Changes(noon, noon, nil)
		s.Wanted()
		s.NextAck()
		s.Ready(nil)
	}); n > 0 {
		t.Errorf("%v allocations to find that there is nothing to do", n)
	}
}

// The transient session must not pay for the durable one: its entries are as large as they were.
func TestEntriesHaveNotGrown(t *testing.T) {
	type ticket interface{ Settle() }
	if size := unsafe.Sizeof(entry[ticket]{}); size > 64 {
		t.Errorf("an entry has %d bytes", size)
	}
	if size := unsafe.Sizeof(flight[ticket]{}); size > 72 {
		t.Errorf("a delivery in flight has %d bytes", size)
	}
}

func TestTheOrderSurvivesTheEndOfItsNumbers(t *testing.T) {
	s := Resume[int](Limits{QueueMessages: 10, QueueBytes: 1 << 20}, journal.State{})
	s.durable.numbered = math.MaxUint32 - 3
	for i := range 8 {
		until := UntilSafe
		if i%3 == 0 {
			until = UntilAcked
		}
		s.Offer(Delivery[int]{Message: &message.Message{Payload: []byte{byte(i)}}, QoS: byte(i % 2), Until: until, Ticket: i}, noon)
	}
	var got []byte
	for o, ok := s.Next(noon); ok; o, ok = s.Next(noon) {
		got = append(got, o.Message.Payload...)
	}
	if diff := cmp.Diff([]byte{0, 1, 2, 3, 4, 5, 6, 7}, got); diff != "" {
		t.Errorf("sent (-want +got):\n%s", diff)
	}
	s.End()
	last := 0
	for _, x := range s.Settled(nil) {
		if x.Ticket < last {
			t.Errorf("ticket %d settled behind %d", x.Ticket, last)
		}
		last = x.Ticket
	}
}

func TestSeenForgetsTheOldest(t *testing.T) {
	var s seen
	id := func(n int) message.ID { return message.ID{Origin: "o", Seq: uint64(n)} }
	for n := range 2 * seenMost {
		s.note(id(n+1), false)
		s.note(id(n+1), false)
	}
	if len(s.unread) != seenMost || s.order.n != seenMost {
		t.Errorf("%d ids, %d in order", len(s.unread), s.order.n)
	}
	if s.has(id(seenMost)) || !s.has(id(seenMost+1)) || !s.has(id(2*seenMost)) {
		t.Error("others than the newest are known")
	}
	if s.has(message.ID{}) {
		t.Error("no id is known")
	}
	s.note(message.ID{Origin: "o"}, false)
	if s.has(message.ID{Origin: "o"}) {
		t.Error("an id without a sequence number is known")
	}
	off := seen{off: true}
	if off.note(id(1), false); off.has(id(1)) || off.read(id(1)) || off.unread != nil {
		t.Error("ids are remembered that are not to be")
	}
}

func TestRecordsKeepTheirListsInOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var s records[int]
		var want [listCount][]uint32
		live := map[uint32]listName{}
		t.Repeat(map[string]func(*rapid.T){
			"add": func(t *rapid.T) {
				mark := s.add(record[int]{})
				name := listName(rapid.ByteRange(byte(unstored), byte(lent)).Draw(t, "list"))
				if _, taken := live[mark]; taken || mark == 0 {
					t.Fatalf("mark %d is zero or in use", mark)
				}
				s.link(name, mark)
				live[mark] = name
				want[name] = append(want[name], mark)
			},
			"drop": func(t *rapid.T) {
				name := listName(rapid.ByteRange(byte(unstored), byte(lent)).Draw(t, "list"))
				if len(want[name]) == 0 {
					t.Skip("empty")
				}
				i := rapid.IntRange(0, len(want[name])-1).Draw(t, "which")
				mark := want[name][i]
				want[name] = append(want[name][:i:i], want[name][i+1:]...)
				delete(live, mark)
				s.unlink(mark)
				s.unlink(mark)
				s.drop(mark)
			},
			"": func(t *rapid.T) {
				if s.n != len(live) {
					t.Fatalf("%d records, want %d", s.n, len(live))
				}
				for name := unstored; name < listCount; name++ {
					var got []uint32
					for mark := s.lists[name].first; mark != 0; mark = s.at(mark).links.next {
						got = append(got, mark)
					}
					if diff := cmp.Diff(want[name], got, cmp.Transformer("none", func(m []uint32) string { return fmt.Sprint(m) })); diff != "" {
						t.Fatalf("list %d (-want +got):\n%s", name, diff)
					}
				}
			},
		})
	})
}

func TestRecordsLetGoOfTheirMemory(t *testing.T) {
	var s records[*int]
	var marks []uint32
	for range 2 * keep {
		marks = append(marks, s.add(record[*int]{ticket: new(int)}))
	}
	for _, mark := range marks {
		s.drop(mark)
	}
	if s.all != nil {
		t.Errorf("%d records are kept", len(s.all))
	}
	mark := s.add(record[*int]{ticket: new(int)})
	s.drop(mark)
	s.drop(0)
	if s.at(mark).ticket != nil {
		t.Error("a ticket is kept")
	}
}

// durably delivers n messages to a client that is prompt, as a gateway does for a durable session.
func durably(tb testing.TB, s *Session[*int], m *message.Message, ticket *int, qos byte, n int, scratch *scratch) {
	step := func() {
		scratch.changes = s.Changes(noon, noon.Add(-50*time.Millisecond), scratch.changes[:0])
		s.Written(len(scratch.changes))
		s.Wanted()
	}
	for range n {
		m.Seq++
		s.Offer(Delivery[*int]{Message: m, QoS: qos, Ticket: ticket, Until: UntilSafe}, noon)
	}
	step()
	for o, ok := s.Next(noon); ok; o, ok = s.Next(noon) {
		switch {
		case o.Type == packet.PUBREL:
			acknowledge(tb, s, packet.PUBCOMP, o.PacketID)
		case qos == 1:
			acknowledge(tb, s, packet.PUBACK, o.PacketID)
		case qos == 2:
			acknowledge(tb, s, packet.PUBREC, o.PacketID)
		}
		step()
	}
	scratch.settled = s.Settled(scratch.settled[:0])
}

// scratch is memory that a caller uses again.
type scratch struct {
	changes []journal.Change
	settled []Settlement[*int]
}

// prompt returns a durable session; with seen it still remembers what it was given.
func prompt(seen bool) (*Session[*int], *message.Message, *int, *scratch) {
	s := Resume[*int](Limits{QueueMessages: 1000, QueueBytes: 1 << 20, SendMaximum: 32}, journal.State{})
	if !seen {
		s.ForgetSeen()
	}
	_, m, ticket, settled := busy()
	m.Origin = "o"
	return s, m, ticket, &scratch{settled: settled}
}

func TestSteadyStateOfADurableSessionDoesNotAllocate(t *testing.T) {
	for qos := range byte(3) {
		for _, seen := range []bool{false, true} {
			t.Run(fmt.Sprintf("delivering at QoS %d, seen %v", qos, seen), func(t *testing.T) {
				s, m, ticket, scratch := prompt(seen)
				for range 2 * seenMost / 32 {
					durably(t, s, m, ticket, qos, 32, scratch)
				}
				if n := testing.AllocsPerRun(1000, func() { durably(t, s, m, ticket, qos, 32, scratch) }); n > 0 {
					t.Errorf("%v allocations for 32 deliveries", n)
				}
			})
		}
	}
}

func TestAPromptReceiverCostsNoWrite(t *testing.T) {
	s, m, ticket, scratch := prompt(false)
	for range 100 {
		durably(t, s, m, ticket, 1, 32, scratch)
		if len(scratch.changes) > 0 {
			t.Fatalf("written: %v", scratch.changes)
		}
	}
	if c := s.Counters(); c.Acknowledged != 3200 || c.Stored != 0 {
		t.Errorf("%+v", c)
	}
}

func BenchmarkDeliverDurable(b *testing.B) {
	for qos := range byte(3) {
		for _, n := range []int{1, 32} {
			b.Run(fmt.Sprintf("qos=%d/batch=%d", qos, n), func(b *testing.B) {
				s, m, ticket, scratch := prompt(false)
				b.ReportAllocs()
				for b.Loop() {
					durably(b, s, m, ticket, qos, n, scratch)
				}
				b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*n), "ns/delivery")
			})
		}
	}
}

// BenchmarkNothingToWrite is what every step of a durable session pays.
func BenchmarkNothingToWrite(b *testing.B) {
	s, m, ticket, _ := prompt(false)
	for range 100 {
		s.Offer(Delivery[*int]{Message: m, QoS: 1, Ticket: ticket, Until: UntilSafe}, noon)
	}
	for range 32 {
		s.Next(noon)
	}
	before := noon.Add(-50 * time.Millisecond)
	b.ReportAllocs()
	for b.Loop() {
		if len(s.Changes(noon, before, nil)) > 0 {
			b.Fatal("written")
		}
		if _, want := s.Wanted(); want {
			b.Fatal("wanted")
		}
	}
}
