package arrivals

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/beeline-mqtt/beeline/internal/message"
)

func id(origin string, seq uint64) message.ID { return message.ID{Origin: origin, Seq: seq} }

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
				s.Add(m, 1, m)
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
	if held, duplicate := s.Add(id("a", 1), 10, "first"); duplicate || held != "first" {
		t.Errorf("got %q, duplicate %v, for the first", held, duplicate)
	}
	if held, duplicate := s.Add(id("a", 1), 10, "second"); !duplicate || held != "first" {
		t.Errorf("got %q, duplicate %v, for the second", held, duplicate)
	}
	if s.Bytes() != 10 || s.Len() != 1 {
		t.Errorf("holds %d messages of %d bytes", s.Len(), s.Bytes())
	}
	s.Release()
	if _, duplicate := s.Add(id("a", 1), 10, "third"); duplicate {
		t.Error("what was released is still remembered")
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
			if _, duplicate := s.Add(m, n, m); duplicate != want[m] {
				t.Fatalf("duplicate %v for %v", duplicate, m)
			} else if !duplicate {
				size += n
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
