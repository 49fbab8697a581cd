package routes_test

import (
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/beeline-mqtt/beeline/internal/routes"
)

// While a peer's whole table is replaced again and again, a route that is in every snapshot is never missing.
func TestReplaceHasNoMomentWithoutCommonRoutes(t *testing.T) {
	tab := routes.NewTable[string]()
	common := []route{ordinary("common/x"), ordinary("common/+"), shared("g", "common/x", 1)}
	snapshot := func(n int) []route {
		all := slices.Clone(common)
		for i := range 300 {
			all = append(all, ordinary(fmt.Sprint("only/", n, "/", i)), shared("g", fmt.Sprint("only/", n, "/", i), 1))
		}
		return all
	}
	snapshots := [][]route{snapshot(0), snapshot(1), common}
	tab.Replace("north", common)
	tab.Announce("south", ordinary("common/#"))

	var done atomic.Bool
	var replacing, matching sync.WaitGroup
	replacing.Go(func() {
		for i := range 60 {
			tab.Replace("north", snapshots[i%len(snapshots)])
		}
	})
	replacing.Go(func() {
		for range 60 {
			for i := range 20 {
				tab.Announce("south", ordinary(fmt.Sprint("only/0/", i)))
			}
			tab.Drop("west")
			tab.Announce("west", shared("g", "common/x", 3))
			tab.Digest("north")
		}
	})
	for range 2 {
		matching.Go(func() {
			var found []routes.Match[string]
			var shares []*routes.Share[string]
			for !done.Load() {
				found = tab.Match("common/x", found[:0])
				if got := peers(found); !slices.Equal(got, []string{"north", "south"}) {
					t.Errorf("the common route leads to %v", got)
				}
				if shares = tab.Shares("common/x", shares[:0]); len(shares) != 1 {
					t.Errorf("%d shared subscriptions, want 1", len(shares))
					continue
				}
				if p, ok := shares[0].Pick(func(p string) bool { return p == "west" }); p != "north" || !ok {
					t.Errorf("picked %q, %v", p, ok)
				}
			}
		})
	}
	replacing.Wait()
	done.Store(true)
	matching.Wait()
}

// Picks from many goroutines come out as fair as from one.
func TestPickIsFairAcrossGoroutines(t *testing.T) {
	tab := routes.NewTable[int]()
	tab.Announce(1, shared("g", "t", 1))
	tab.Announce(2, shared("g", "t", 3))
	s := tab.Shares("t", nil)[0]
	var counts [3]atomic.Int32
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			var exclude func(int) bool
			if i%2 == 0 {
				exclude = func(int) bool { return false }
			}
			for range 1000 {
				p, _ := s.Pick(exclude)
				counts[p].Add(1)
			}
		})
	}
	wg.Wait()
	if one, two := counts[1].Load(), counts[2].Load(); one != 1000 || two != 3000 {
		t.Errorf("picked %d and %d times, want 1000 and 3000", one, two)
	}
}
