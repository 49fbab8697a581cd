package arrivals

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/beeline-mqtt/beeline/internal/message"
)

func id(origin string, seq uint64) message.ID { return message.ID{Origin: origin, Seq: seq} }

func msg(id message.ID) *message.Message { return &message.Message{ID: id} }

// again is a message with an id that another process sends on for the second time.
func again(id, place message.ID) *message.Message { return &message.Message{ID: id, Order: &place} }

func TestReleaseOrdersEachOriginBySequence(t *testing.T) {
	tests := []struct {
		name string
		in   []message.ID
		want []message.ID
	}{
		{"nothing", nil, []message.ID{}},
		{"one", []message.ID{id("a", 1)}, []message.ID{id("a", 1)}},
		{"an older one comes later", []message.ID{id("a", 2), id("a", 3), id("a", 1)}, []message.ID{id("a", 1), id("a", 2), id("a", 3)}},
		{
			"origins in the order of their first arrival",
			[]message.ID{id("b", 7), id("a", 2), id("b", 5), id("a", 1)},
			[]message.ID{id("b", 5), id("b", 7), id("a", 1), id("a", 2)},
		},
		{"the second of two is not kept", []message.ID{id("a", 2), id("a", 1), id("a", 2)}, []message.ID{id("a", 1), id("a", 2)}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var s Set[message.ID]
			for _, m := range tt.in {
				s.Add(msg(m), m)
			}
			if diff := cmp.Diff(tt.want, s.Release()); diff != "" {
				t.Error(diff)
			}
			if s.Len() != 0 || s.Bytes() != 0 {
				t.Errorf("%d messages of %d bytes are left", s.Len(), s.Bytes())
			}
		})
	}
}

func TestADuplicateShowsWhatCameFirst(t *testing.T) {
	var s Set[string]
	if held, duplicate := s.Add(msg(id("a", 1)), "first"); duplicate || held != "first" {
		t.Errorf("got %q, duplicate %v, for the first", held, duplicate)
	}
	if held, duplicate := s.Add(msg(id("a", 1)), "second"); !duplicate || held != "first" {
		t.Errorf("got %q, duplicate %v, for the second", held, duplicate)
	}
	if s.Bytes() != msg(id("a", 1)).Size() || s.Len() != 1 {
		t.Errorf("holds %d messages of %d bytes", s.Len(), s.Bytes())
	}
	s.Release()
	if _, duplicate := s.Add(msg(id("a", 1)), "third"); duplicate {
		t.Error("what was released is still remembered")
	}
}

// A publisher that has come to b sends again what a has not acknowledged, and goes on.
func TestWhatIsSentAgainComesInItsNewPlace(t *testing.T) {
	second, first := again(id("a", 9), id("b", 2)), again(id("a", 8), id("b", 1))
	tests := []struct {
		name string
		in   []*message.Message
	}{
		{"new before what is sent again", []*message.Message{msg(id("b", 3)), second, first}},
		{"with what was sent at first in between", []*message.Message{msg(id("b", 3)), msg(id("a", 9)), first, second}},
		{"with what was sent at first in front", []*message.Message{msg(id("a", 9)), msg(id("a", 8)), msg(id("b", 3)), first, second}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var s Set[message.ID]
			for _, m := range tt.in {
				s.Add(m, m.ID)
			}
			if diff := cmp.Diff([]message.ID{id("a", 8), id("a", 9), id("b", 3)}, s.Release()); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// Whatever comes in whatever order: every message comes out once, and no message before an older one of its origin.
func TestEverythingComesOutOnceAndInOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var s Set[message.ID]
		var first []string
		size := 0
		want := map[message.ID]bool{}
		for _, n := range rapid.SliceOfN(rapid.IntRange(0, 39), 0, 60).Draw(t, "arrivals") {
			m := id(string(rune('a'+n/10)), uint64(n%10))
			if _, duplicate := s.Add(msg(m), m); duplicate != want[m] {
				t.Fatalf("duplicate %v for %v", duplicate, m)
			} else if !duplicate {
				size += msg(m).Size()
			}
			want[m] = true
			if !slices.Contains(first, m.Origin) {
				first = append(first, m.Origin)
			}
		}
		if s.Bytes() != size || s.Len() != len(want) {
			t.Fatalf("holds %d messages of %d bytes, want %d of %d", s.Len(), s.Bytes(), len(want), size)
		}
		out := s.Release()
		if len(out) != len(want) {
			t.Fatalf("%d came out of %d", len(out), len(want))
		}
		for i, m := range out {
			if !want[m] {
				t.Fatalf("%v came out twice, or never came in", m)
			}
			delete(want, m)
			if i == 0 {
				continue
			}
			before := slices.Index(first, out[i-1].Origin)
			if now := slices.Index(first, m.Origin); now < before || now == before && m.Seq <= out[i-1].Seq {
				t.Fatalf("%v comes after %v", m, out[i-1])
			}
		}
	})
}
