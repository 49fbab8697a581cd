package lease

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"
)

// A model: a list in which everything is looked for.
func TestRequestsAreInOrderAndGoneWhenTheyAreAnswered(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var q requests
		var want []uint64
		var told []uint64
		drop := func(id uint64) { want = slices.DeleteFunc(want, func(x uint64) bool { return x == id }) }
		anID := func(t *rapid.T) uint64 { return rapid.Uint64Max(q.last+1).Draw(t, "id") }
		t.Repeat(map[string]func(*rapid.T){
			"add": func(*rapid.T) { want = append(want, q.add(&release{})) },
			"tell": func(*rapid.T) {
				id := q.tell(settled{})
				want, told = append(want, id), append(told, id)
			},
			"remove": func(t *rapid.T) {
				id := anID(t)
				if slices.Contains(told, id) {
					t.Skip("has no answer of its own")
				}
				q.remove(id)
				drop(id)
			},
			"hear": func(t *rapid.T) {
				id := anID(t)
				q.heard(id)
				for _, x := range told {
					if x < id {
						drop(x)
					}
				}
				told = slices.DeleteFunc(told, func(x uint64) bool { return x < id })
			},
			"": func(t *rapid.T) {
				var got []uint64
				for id, what := range q.all() {
					got = append(got, id)
					_, isRelease := find[*release](&q, id)
					if _, isSettled := find[settled](&q, id); isRelease == isSettled || what == nil {
						t.Fatalf("request %d is a release: %v, and settled: %v", id, isRelease, isSettled)
					}
				}
				if d := cmp.Diff(want, got, cmpopts.EquateEmpty()); d != "" {
					t.Fatal(d)
				}
				if d := cmp.Diff(told, q.told, cmpopts.EquateEmpty()); d != "" {
					t.Fatal(d)
				}
				if len(q.byID) != len(want) || !slices.IsSorted(got) {
					t.Fatalf("%d of %d are known by id", len(q.byID), len(want))
				}
			},
		})
	})
}
