package drain

import (
	"iter"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestARoundTellsEachOnceAndThoseWhoComeMeanwhile(t *testing.T) {
	here := []int{0, 1, 2, 3}
	told := map[int]bool{}
	tell := func(i int) bool {
		first := !told[i]
		told[i] = true
		return first
	}
	rounds := 0
	r := NewRound(func() iter.Seq[int] { rounds++; return slices.Values(slices.Clone(here)) })
	defer r.Stop()
	if n := r.Tell(0, tell); n != 0 || len(told) != 0 {
		t.Errorf("%d were told, nobody was to be", n)
	}
	if n := r.Tell(3, tell); n != 3 {
		t.Errorf("%d were told, want 3", n)
	}
	here = append(here, 4)
	if n := r.Tell(1, tell); n != 1 || rounds != 1 {
		t.Errorf("%d more were told, in %d rounds", n, rounds)
	}
	if n := r.Tell(10, tell); n != 1 || rounds != 2 {
		t.Errorf("%d more were told, in %d rounds: want the one who came", n, rounds)
	}
	if n := r.Tell(10, tell); n != 0 {
		t.Errorf("%d were told twice", n)
	}
	if diff := cmp.Diff(map[int]bool{0: true, 1: true, 2: true, 3: true, 4: true}, told); diff != "" {
		t.Error(diff)
	}
}

func TestARoundOfNobodyEnds(t *testing.T) {
	r := NewRound(func() iter.Seq[int] { return func(func(int) bool) {} })
	defer r.Stop()
	if n := r.Tell(5, func(int) bool { return true }); n != 0 {
		t.Errorf("%d were told", n)
	}
}
