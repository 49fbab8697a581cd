package routes_test

import (
	"fmt"
	"runtime"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/beeline-mqtt/beeline/internal/routes"
)

type (
	table = routes.Table[string]
	route = routes.Route
)

func ordinary(filter string) route { return route{Filter: filter, Members: 1} }

func shared(group, filter string, members uint32) route {
	return route{Filter: filter, Group: group, Members: members}
}

// peers names those that match.
func peers(matches []routes.Match[string]) (names []string) {
	for _, m := range matches {
		names = append(names, m.Peer)
	}
	slices.Sort(names)
	return names
}

func checkMatch(t testing.TB, tab *table, name string, want ...string) {
	t.Helper()
	got := peers(tab.Match(name, nil))
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("Match(%q):\n%s", name, diff)
	}
}

// describe writes a shared subscription as group:filter.
func describe(shares []*routes.Share[string]) []string {
	var all []string
	for _, s := range shares {
		all = append(all, s.Group()+":"+s.Filter())
	}
	slices.Sort(all)
	return all
}

func checkShares(t testing.TB, tab *table, name string, want ...string) {
	t.Helper()
	if diff := cmp.Diff(want, describe(tab.Shares(name, nil))); diff != "" {
		t.Errorf("Shares(%q):\n%s", name, diff)
	}
}

func TestEmptyTableMatchesNothing(t *testing.T) {
	tab := routes.NewTable[string]()
	tab.Drop("north")
	tab.Withdraw("north", "a", "")
	tab.Replace("north", nil)
	checkMatch(t, tab, "a")
	checkShares(t, tab, "a")
	if count, hash := tab.Digest("north"); count != 0 || hash != 0 {
		t.Errorf("Digest = %d, %x, want 0, 0", count, hash)
	}
	if s := tab.Share("g", "a"); s != nil {
		t.Errorf("there is %v still", s)
	}
}

func TestEachPeerIsFoundOnceWhateverTheNumberOfItsRoutes(t *testing.T) {
	tab := routes.NewTable[string]()
	for _, f := range []string{"a/b", "a/+", "a/#", "#"} {
		tab.Announce("north", ordinary(f))
	}
	tab.Announce("south", ordinary("a/b"))
	tab.Announce("south", ordinary("+/b"))
	tab.Announce("west", ordinary("b/#"))
	checkMatch(t, tab, "a/b", "north", "south")
	checkMatch(t, tab, "b", "north", "west")
	checkMatch(t, tab, "$SYS/x")
	checkMatch(t, tab, "p2p/client/x")
}

func TestMatchAppendsToWhatIsThere(t *testing.T) {
	tab := routes.NewTable[string]()
	tab.Announce("north", ordinary("a"))
	tab.Announce("north", ordinary("#"))
	there := []routes.Match[string]{{Peer: "north"}, {Peer: "x"}}
	got := tab.Match("a", there)
	if diff := cmp.Diff(append(there, routes.Match[string]{Peer: "north"}), got); diff != "" {
		t.Error(diff)
	}
	shares := []*routes.Share[string]{nil}
	tab.Announce("north", shared("g", "a", 1))
	if shares = tab.Shares("a", shares); len(shares) != 2 || shares[0] != nil {
		t.Errorf("%d shares, want the one before and one more", len(shares))
	}
}

func TestAnnouncingAgainChangesNothingAboutMatching(t *testing.T) {
	tab := routes.NewTable[string]()
	tab.Announce("north", ordinary("a/+"))
	tab.Announce("north", route{Filter: "a/+", Members: 1, Durable: true})
	checkMatch(t, tab, "a/b", "north")
	tab.Withdraw("north", "a/+", "")
	checkMatch(t, tab, "a/b")
}

func TestWithdrawTakesOneRouteOfOnePeer(t *testing.T) {
	tab := routes.NewTable[string]()
	for _, p := range []string{"north", "south", "west"} {
		tab.Announce(p, ordinary("a"))
		tab.Announce(p, ordinary("+"))
		tab.Announce(p, shared("g", "a", 1))
	}
	tab.Withdraw("south", "a", "")
	checkMatch(t, tab, "a", "north", "south", "west")
	tab.Withdraw("south", "+", "")
	tab.Withdraw("south", "+", "") // again
	tab.Withdraw("south", "b", "") // never announced
	tab.Withdraw("east", "a", "")  // nobody
	checkMatch(t, tab, "a", "north", "west")
	checkShares(t, tab, "a", "g:a")
	tab.Withdraw("north", "a", "other group")
	checkShares(t, tab, "a", "g:a")
}

func TestSharedAndOrdinaryRoutesAreKeptApart(t *testing.T) {
	tab := routes.NewTable[string]()
	tab.Announce("north", shared("g", "a/#", 2))
	tab.Announce("south", ordinary("a/#"))
	checkMatch(t, tab, "a/b", "south")
	checkShares(t, tab, "a/b", "g:a/#")
	tab.Withdraw("north", "a/#", "")
	tab.Withdraw("south", "a/#", "g")
	checkMatch(t, tab, "a/b", "south")
	checkShares(t, tab, "a/b", "g:a/#")
}

func TestSharedSubscriptionsAreToldApartByGroupAndFilter(t *testing.T) {
	tab := routes.NewTable[string]()
	tab.Announce("north", shared("g", "a/#", 1))
	tab.Announce("north", shared("g", "a/+", 1))
	tab.Announce("north", shared("h", "a/+", 1))
	tab.Announce("south", shared("h", "a/+", 1))
	tab.Announce("south", shared("h", "b", 1))
	checkShares(t, tab, "a/b", "g:a/#", "g:a/+", "h:a/+")
	tab.Withdraw("north", "a/+", "h")
	checkShares(t, tab, "a/b", "g:a/#", "g:a/+", "h:a/+")
	tab.Withdraw("north", "a/+", "g")
	tab.Withdraw("south", "a/+", "h")
	checkShares(t, tab, "a/b", "g:a/#")
}

func TestSharedSubscriptionToEverythingDoesNotGetDollarTopicsNorDirectMessages(t *testing.T) {
	tab := routes.NewTable[string]()
	tab.Announce("north", shared("g", "#", 1))
	tab.Announce("north", shared("g", "+/+/+", 1))
	checkShares(t, tab, "$SYS/broker/uptime")
	checkShares(t, tab, "p2p/client/x")
	checkShares(t, tab, "a/b/c", "g:#", "g:+/+/+")
}

func TestSharedSubscriptionWithoutMembersIsWithdrawn(t *testing.T) {
	tab := routes.NewTable[string]()
	tab.Announce("north", shared("g", "a", 3))
	tab.Announce("north", shared("g", "a", 0))
	tab.Announce("south", shared("g", "a", 0))
	checkShares(t, tab, "a")
	if count, hash := tab.Digest("north"); count != 0 || hash != 0 {
		t.Errorf("Digest = %d, %x, want 0, 0", count, hash)
	}
}

func TestDropTakesAllRoutesOfOnePeer(t *testing.T) {
	tab := routes.NewTable[string]()
	for i := range 1000 {
		for _, p := range []string{"north", "south"} {
			tab.Announce(p, ordinary(fmt.Sprint("a/", i)))
			tab.Announce(p, ordinary(fmt.Sprint("b/", i, "/#")))
			tab.Announce(p, shared("g", fmt.Sprint("a/", i), 1))
		}
	}
	tab.Drop("north")
	for i := range 1000 {
		checkMatch(t, tab, fmt.Sprint("a/", i), "south")
		checkMatch(t, tab, fmt.Sprint("b/", i), "south")
		p, ok := tab.Shares(fmt.Sprint("a/", i), nil)[0].Pick(nil)
		if p != "south" || !ok {
			t.Fatalf("picked %q, %v", p, ok)
		}
	}
	tab.Drop("south")
	checkMatch(t, tab, "a/1")
	checkMatch(t, tab, "b/1/x")
	checkShares(t, tab, "a/1")
}

func TestReplaceLeavesExactlyTheNewRoutes(t *testing.T) {
	tab := routes.NewTable[string]()
	tab.Announce("south", ordinary("old"))
	for _, r := range []route{ordinary("old"), ordinary("both"), shared("g", "old", 1), shared("g", "both", 1)} {
		tab.Announce("north", r)
	}
	snapshot := []route{
		ordinary("both"), ordinary("new/#"), shared("g", "both", 5), shared("g", "new", 1),
		shared("g", "none", 0), shared("g", "twice", 1), shared("g", "twice", 2),
	}
	tab.Replace("north", snapshot)
	checkMatch(t, tab, "old", "south")
	checkMatch(t, tab, "both", "north")
	checkMatch(t, tab, "new/x", "north")
	for name, want := range map[string][]string{
		"old": nil, "both": {"g:both"}, "new": {"g:new"}, "none": nil, "twice": {"g:twice"},
	} {
		checkShares(t, tab, name, want...)
	}
	count, hash := tab.Digest("north")
	wantCount, wantHash := routes.DigestOf(slices.Values(slices.Delete(snapshot, 5, 6)))
	if count != wantCount || hash != wantHash || count != 5 {
		t.Errorf("Digest = %d, %x, want %d, %x", count, hash, wantCount, wantHash)
	}
}

func TestShareOutlivesTheReplacementOfItsRoutes(t *testing.T) {
	tab := routes.NewTable[string]()
	tab.Announce("north", shared("g", "a", 1))
	tab.Announce("south", shared("g", "a", 1))
	before := tab.Shares("a", nil)[0]
	first, _ := before.Pick(nil)
	tab.Replace("north", []route{shared("g", "a", 1)})
	tab.Replace("south", []route{shared("g", "a", 1)})
	if after := tab.Shares("a", nil)[0]; after != before {
		t.Error("the shared subscription is another one")
	}
	if second, _ := before.Pick(nil); second == first {
		t.Errorf("%q was picked twice: the turn was lost", first)
	}
}

func TestTableKeepsNoPartOfTheFrameThatARouteCameIn(t *testing.T) {
	tab := routes.NewTable[string]()
	before := heap()
	for i := range 32 {
		frame := string(make([]byte, 1<<20))
		tab.Announce("north", ordinary(frame[:1+i]))
		tab.Announce("north", shared(frame[:1+i], frame[:1+i], 1))
	}
	if grown := heap() - before; grown > 8<<20 {
		t.Errorf("64 routes out of 32 MiB of frames keep %d bytes", grown)
	}
	runtime.KeepAlive(tab)
}

func heap() int64 {
	var s runtime.MemStats
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&s)
	return int64(s.HeapAlloc)
}

// perRoute is what n routes of one peer cost, each for a filter of its own; the caller's strings are not
// counted.
func perRoute(n int, r func(i int) route) int64 {
	all := make([]route, n)
	for i := range all {
		all[i] = r(i)
	}
	before := heap()
	tab := routes.NewTable[*int]()
	p := new(int)
	for i := range all {
		tab.Announce(p, all[i])
	}
	cost := (heap() - before) / int64(n)
	runtime.KeepAlive(tab)
	runtime.KeepAlive(all)
	return cost
}

func TestMemoryOfARoute(t *testing.T) {
	cases := map[string]struct {
		route func(i int) route
		most  int64
	}{
		"exact topic":         {func(i int) route { return ordinary(own(i)) }, 300},
		"wildcard filter":     {func(i int) route { return ordinary(ownAll(i)) }, 450},
		"shared subscription": {func(i int) route { return shared("g", own(i), 1) }, 700},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			got := perRoute(100_000, c.route)
			t.Logf("%d bytes", got)
			if got <= 0 || got > c.most {
				t.Errorf("%d bytes per route, want at most %d", got, c.most)
			}
		})
	}
}

func TestMatchingDoesNotAllocate(t *testing.T) {
	tab := routes.NewTable[string]()
	for _, p := range []string{"north", "south", "west"} {
		for _, f := range []string{"a/b", "a/+", "#", "+/b/#"} {
			tab.Announce(p, ordinary(f))
			tab.Announce(p, shared("g", f, 1))
		}
	}
	found, shares := make([]routes.Match[string], 0, 4), make([]*routes.Share[string], 0, 4)
	n := testing.AllocsPerRun(100, func() {
		found = tab.Match("a/b", found[:0])
		shares = tab.Shares("a/b", shares[:0])
		if _, ok := shares[0].Pick(nil); !ok {
			t.Fatal("nobody picked")
		}
		if _, ok := shares[0].Pick(func(p string) bool { return p == found[0].Peer }); !ok {
			t.Fatal("nobody picked")
		}
	})
	if n != 0 || len(found) != 3 || len(shares) != 4 {
		t.Errorf("%v allocations for %d peers and %d shares, want 0 for 3 and 4", n, len(found), len(shares))
	}
}

func TestExplainNamesEachRouteThatMatches(t *testing.T) {
	tab := routes.NewTable[string]()
	tab.Announce("a", ordinary("x/+"))
	tab.Announce("a", ordinary("y"))
	tab.Announce("b", route{Filter: "x/+", Members: 1, Durable: true})
	tab.Announce("b", ordinary("#"))
	tab.Announce("c", shared("g", "x/1", 3))
	tab.Announce("a", shared("g", "x/1", 2))
	tab.Announce("a", shared("h", "z", 2))
	got := make(map[routes.PeerRoute[string]]bool)
	for _, r := range tab.Explain("x/1", 100) {
		got[r] = true
	}
	want := map[routes.PeerRoute[string]]bool{
		{Peer: "a", Route: ordinary("x/+")}: true, {Peer: "b", Route: route{Filter: "x/+", Members: 1, Durable: true}}: true,
		{Peer: "b", Route: ordinary("#")}: true, {Peer: "c", Route: shared("g", "x/1", 3)}: true, {Peer: "a", Route: shared("g", "x/1", 2)}: true,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if n := len(tab.Explain("x/1", 2)); n != 2 {
		t.Errorf("%d routes, want no more than 2", n)
	}
}
