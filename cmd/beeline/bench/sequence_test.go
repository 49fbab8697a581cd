package bench

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func TestWhatASequenceHasSeen(t *testing.T) {
	for _, tt := range []struct {
		name                         string
		came                         []uint64
		late, doubled, missing, lost uint64 // lost of the first 10
	}{
		{"nothing", nil, 0, 0, 0, 10},
		{"all", []uint64{0, 1, 2, 3, 4, 5, 6, 7, 8, 9}, 0, 0, 0, 0},
		{"one lost", []uint64{0, 1, 3, 4, 5, 6, 7, 8, 9}, 0, 0, 1, 1},
		{"the first lost", []uint64{4, 5, 6, 7, 8, 9}, 0, 0, 4, 4},
		{"the last lost", []uint64{0, 1, 2, 3, 4, 5, 6}, 0, 0, 0, 3},
		{"two changed places", []uint64{0, 1, 3, 2, 4, 5, 6, 7, 8, 9}, 1, 0, 0, 0},
		{"one twice", []uint64{0, 1, 2, 2, 3, 4, 5, 6, 7, 8, 9}, 0, 1, 0, 0},
		{"a late one twice", []uint64{0, 1, 3, 2, 2, 4, 5, 6, 7, 8, 9}, 1, 1, 0, 0},
		{"backwards", []uint64{9, 8, 7, 6, 5, 4, 3, 2, 1, 0}, 9, 0, 0, 0},
		{"out of the middle of a gap", []uint64{0, 9, 5}, 1, 0, 7, 7},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var s sequence
			for _, n := range tt.came {
				s.add(n)
			}
			if s.late != tt.late || s.doubled != tt.doubled || s.missing != tt.missing || s.lost(0, 10) != tt.lost {
				t.Errorf("%+v, lost %d", s, s.lost(0, 10))
			}
		})
	}
}

// A model that remembers everything sees the same.
func TestASequenceIsExact(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var s sequence
		seen := make(map[uint64]bool)
		var highest, late, doubled, missing uint64 // highest is one more
		for _, n := range rapid.SliceOf(rapid.Uint64Max(40)).Draw(t, "numbers") {
			switch {
			case seen[n]:
				doubled++
			case n < highest:
				late++
			}
			if s.add(n) == seen[n] {
				t.Fatalf("add(%d): first time %v", n, seen[n])
			}
			seen[n], highest = true, max(highest, n+1)
		}
		begin := rapid.Uint64Max(50).Draw(t, "begin")
		end := rapid.Uint64Range(begin, 60).Draw(t, "end")
		var lost uint64
		for n := begin; n < end; n++ {
			if !seen[n] {
				lost++
			}
		}
		for n := range highest {
			if !seen[n] {
				missing++
			}
		}
		want := []uint64{late, doubled, missing, lost}
		if diff := cmp.Diff(want, []uint64{s.late, s.doubled, s.missing, s.lost(begin, end)}); diff != "" {
			t.Errorf("late, doubled, missing, lost (-want +got):\n%s", diff)
		}
	})
}
