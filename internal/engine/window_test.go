package engine

import (
	"maps"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/beeline-mqtt/beeline/internal/message"
)

func TestWindowFindsWhatIsInFlightAndNothingElse(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := window[int]{last: rapid.Uint16().Draw(t, "last identifier")}
		flying := map[uint16]int{}
		added, bytes := 0, 0
		add := func(t *rapid.T) {
			added++
			id := w.add(entry[int]{ticket: added, number: uint32(added), size: uint32(added)})
			if _, taken := flying[id]; taken || id == 0 {
				t.Fatalf("identifier %d is zero or in flight", id)
			}
			flying[id] = added
			bytes += added
		}
		t.Repeat(map[string]func(*rapid.T){
			"add":  add,
			"add2": add,
			"remove": func(t *rapid.T) {
				if len(flying) == 0 {
					t.Skip("empty")
				}
				id := rapid.SampledFrom(slices.Sorted(maps.Keys(flying))).Draw(t, "id")
				w.remove(w.find(id))
				bytes -= flying[id]
				delete(flying, id)
			},
			"": func(t *rapid.T) {
				if w.n != len(flying) || w.bytes != bytes {
					t.Fatalf("%d in flight, %d bytes, want %d, %d", w.n, w.bytes, len(flying), bytes)
				}
				for id, ticket := range flying {
					if f := w.find(id); f == nil || f.ticket != ticket {
						t.Fatalf("find(%d): %v, want ticket %d", id, f, ticket)
					}
				}
				if id := rapid.Uint16().Draw(t, "some id"); flying[id] == 0 && w.find(id) != nil {
					t.Fatalf("find(%d) found something", id)
				}
				last := uint32(0)
				for _, f := range w.oldestFirst() {
					if f.number <= last {
						t.Fatalf("%d after %d", f.number, last)
					}
					last = f.number
				}
			},
		})
	})
}

// A client that never acknowledges its first message makes every round of identifiers pass over that one.
func TestIdentifiersGoRoundWithoutTheOneThatIsHeld(t *testing.T) {
	var w window[int]
	held := w.add(entry[int]{})
	for range 200_000 {
		id := w.add(entry[int]{})
		if id == held || id == 0 {
			t.Fatalf("identifier %d given, %d is in flight", id, held)
		}
		w.remove(w.find(id))
	}
	if len(w.slots) != smallest {
		t.Errorf("%d slots for two deliveries", len(w.slots))
	}
}

func TestAnIdentifierIsNotUsedAgainSoon(t *testing.T) {
	var w window[int]
	seen := map[uint16]bool{}
	for range 65535 {
		id := w.add(entry[int]{})
		if seen[id] {
			t.Fatalf("identifier %d came again after %d others", id, len(seen))
		}
		seen[id] = true
		w.remove(w.find(id))
	}
}

func TestTheWindowCanBeFull(t *testing.T) {
	s := New[int](Limits{QueueMessages: 1 << 17, QueueBytes: 1 << 30, SendMaximum: 65535})
	m := &message.Message{}
	for range 40_000 {
		s.Offer(Delivery[int]{Message: m, QoS: 1}, noon)
	}
	for {
		if _, ok := s.Next(noon); !ok {
			break
		}
	}
	if s.InFlight() != maxInFlight {
		t.Errorf("%d in flight, want %d", s.InFlight(), maxInFlight)
	}
}

func TestAnEmptyWindowLetsGoOfItsMemory(t *testing.T) {
	var w window[int]
	var ids []uint16
	for range keep {
		ids = append(ids, w.add(entry[int]{message: &message.Message{}}))
	}
	for _, id := range ids {
		w.remove(w.find(id))
	}
	if w.slots != nil {
		t.Errorf("an empty window holds on to %d slots", len(w.slots))
	}
}

func TestWindowTakesIdentifiersThatOthersHaveGiven(t *testing.T) {
	var w window[int]
	for i, id := range []uint16{1, 1 + smallest, 65535, 7} {
		w.put(entry[int]{ticket: i, size: 10}, id)
	}
	for i, id := range []uint16{1, 1 + smallest, 65535, 7} {
		if f := w.find(id); f == nil || f.ticket != i {
			t.Errorf("find(%d): %v, want %d", id, f, i)
		}
	}
	if w.n != 4 || w.bytes != 40 {
		t.Errorf("%d in flight, %d bytes", w.n, w.bytes)
	}
	if id := w.add(entry[int]{}); id <= 7 {
		t.Errorf("%d is used again soon", id)
	}
}
