package routes_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/beeline-mqtt/beeline/internal/routes"
)

// shareOf returns a shared subscription with members at the peers a, b, c, ...
func shareOf(members ...uint32) (*table, *routes.Share[string]) {
	tab := routes.NewTable[string]()
	for i, n := range members {
		tab.Announce(string(rune('a'+i)), shared("g", "t", n))
	}
	return tab, tab.Shares("t", nil)[0]
}

func picks(s *routes.Share[string], n int, exclude func(string) bool) string {
	var b strings.Builder
	for range n {
		p, ok := s.Pick(exclude)
		if !ok {
			p = "-"
		}
		b.WriteString(p)
	}
	return b.String()
}

func TestPeersTakeTurnsByTheNumberOfTheirMembers(t *testing.T) {
	cases := map[string]struct {
		members []uint32
		want    string
	}{
		"one peer":                      {[]uint32{3}, "aaaa"},
		"equal peers take turns":        {[]uint32{2, 2, 2}, "abcabcabc"},
		"more members come more often":  {[]uint32{1, 2}, "babbab"},
		"and are spread evenly":         {[]uint32{5, 1, 1}, "aabacaaaabacaa"},
		"the largest number of members": {[]uint32{1<<32 - 1, 1<<32 - 1}, "abab"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			_, s := shareOf(c.members...)
			if got := picks(s, len(c.want), nil); got != c.want {
				t.Errorf("picked %s, want %s", got, c.want)
			}
		})
	}
}

func TestExcludedPeersAreNotPicked(t *testing.T) {
	_, s := shareOf(2, 1, 1)
	notA := func(p string) bool { return p == "a" }
	if got := picks(s, 4, notA); got != "bcbc" {
		t.Errorf("without a: picked %s, want bcbc", got)
	}
	if got := picks(s, 4, nil); strings.Count(got, "a") != 2 {
		t.Errorf("afterwards picked %s, want a twice: being excluded earns no credit", got)
	}
	if got := picks(s, 2, func(string) bool { return true }); got != "--" {
		t.Errorf("without anybody: picked %s, want nobody", got)
	}
}

func TestExcludeIsAskedOnceForEachPeerAndMayUseTheShare(t *testing.T) {
	tab, s := shareOf(1, 1, 1)
	var asked []string
	_, ok := s.Pick(func(p string) bool {
		asked = append(asked, p)
		if p == "a" { // none of this may find a lock taken
			s.Pick(nil)
			tab.Withdraw("b", "t", "g")
			tab.Announce("d", shared("g", "t", 1))
		}
		return p != "c"
	})
	if !ok {
		t.Error("nobody was picked")
	}
	if diff := cmp.Diff([]string{"a", "b", "c"}, asked); diff != "" {
		t.Error(diff)
	}
}

func TestPeersThatComeAndGoJoinAndLeaveTheTurn(t *testing.T) {
	tab, s := shareOf(1, 1)
	picks(s, 1, nil)
	tab.Announce("c", shared("g", "t", 1))
	if got := picks(s, 30, nil); strings.Count(got, "a") < 9 || strings.Count(got, "b") < 9 || strings.Count(got, "c") < 9 {
		t.Errorf("picked %s, want each about ten times", got)
	}
	tab.Withdraw("a", "t", "g")
	if got := picks(s, 30, nil); strings.Contains(got, "a") || strings.Count(got, "b") < 14 || strings.Count(got, "c") < 14 {
		t.Errorf("picked %s, want b and c about fifteen times", got)
	}
	tab.Drop("b")
	tab.Drop("c")
	if got := picks(s, 2, nil); got != "--" {
		t.Errorf("picked %s when all had gone", got)
	}
	tab.Announce("d", shared("g", "t", 1))
	if got := picks(tab.Shares("t", nil)[0], 2, nil); got != "dd" {
		t.Errorf("picked %s, want the one that came after all had gone", got)
	}
}

func TestALargeGroupThatShrinksIsSharedFairlyAtOnce(t *testing.T) {
	tab, s := shareOf(1_000_000, 1_000_000)
	picks(s, 1, nil)
	tab.Announce("a", shared("g", "t", 1))
	tab.Announce("b", shared("g", "t", 1))
	if got := picks(s, 20, nil); strings.Count(got, "a") < 8 || strings.Count(got, "b") < 8 {
		t.Errorf("picked %s, want each about ten times", got)
	}
}

// Over one round, as many picks as there are members, everybody comes exactly as often as it has members.
func TestEveryRoundIsExactlyFair(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		members := rapid.SliceOfN(rapid.Uint32Range(1, 20), 1, 8).Draw(t, "members")
		out := rapid.IntRange(-1, len(members)-1).Draw(t, "excluded")
		_, s := shareOf(members...)
		exclude := func(p string) bool { return p == string(rune('a'+out)) }
		total := 0
		for i, n := range members {
			if i != out {
				total += int(n)
			}
		}
		for round := range 3 {
			got := picks(s, total, exclude)
			for i, n := range members {
				if i == out {
					n = 0
				}
				if c := strings.Count(got, string(rune('a'+i))); c != int(n) {
					t.Fatalf("round %d: %d picks of %c in %s, want %d", round, c, 'a'+i, got, n)
				}
			}
		}
	})
}

// Who is online comes first; then who keeps messages for those who are away; then nobody.
func TestWhoIsChosen(t *testing.T) {
	kept := func(members uint32, durable bool) route {
		return route{Filter: "t", Group: "g", Members: members, Durable: durable}
	}
	cases := map[string]struct {
		routes         []route // of the peers a, b, c
		out            string  // peers that have been tried
		online, keeper string
	}{
		"somebody is online":                         {[]route{kept(1, false), kept(0, true)}, "", "a", "b"},
		"the one who is online has refused":          {[]route{kept(1, true), kept(0, true)}, "a", "-", "b"},
		"a durable member online keeps nothing":      {[]route{kept(2, true)}, "a", "-", "-"},
		"all are away":                               {[]route{kept(0, true)}, "", "-", "a"},
		"the session service is about to take over":  {[]route{kept(0, true), kept(0, true)}, "a", "-", "b"},
		"who keeps has been asked":                   {[]route{kept(0, true)}, "a", "-", "-"},
		"a transient member that has gone is nobody": {[]route{kept(0, true), kept(0, false)}, "a", "-", "-"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			tab := routes.NewTable[string]()
			for i, r := range c.routes {
				tab.Announce(string(rune('a'+i)), r)
			}
			s := tab.Share("g", "t")
			tried := func(p string) bool { return strings.Contains(c.out, p) }
			if got := picks(s, 1, tried); got != c.online {
				t.Errorf("picked %s, want %s", got, c.online)
			}
			keeper, ok := s.Keeper(tried)
			if !ok {
				keeper = "-"
			}
			if keeper != c.keeper {
				t.Errorf("kept by %s, want %s", keeper, c.keeper)
			}
		})
	}
}

func TestAPeerIsOnlineOrKeepsNeverBoth(t *testing.T) {
	tab, s := shareOf(1, 1)
	away := route{Filter: "t", Group: "g", Durable: true}
	none := func(string) bool { return false }
	for range 2 {
		tab.Announce("a", away)
		if got := picks(s, 2, nil); got != "bb" {
			t.Errorf("picked %s while a is away", got)
		}
		if p, ok := s.Keeper(none); !ok || p != "a" {
			t.Errorf("kept by %q", p)
		}
		tab.Announce("a", shared("g", "t", 1))
		if p, ok := s.Keeper(none); ok {
			t.Errorf("kept by %q, who is online", p)
		}
	}
	tab.Announce("a", away)
	tab.Drop("b")
	if s.Online() || s.Empty() {
		t.Errorf("online: %v, empty: %v, with one that keeps", s.Online(), s.Empty())
	}
	tab.Withdraw("a", "t", "g")
	if !s.Empty() || tab.Share("g", "t") != nil {
		t.Error("something is left")
	}
}

func TestOfADeadPeerDurableMembersAreAway(t *testing.T) {
	tab := routes.NewTable[string]()
	tab.Announce("a", route{Filter: "t", Group: "g", Members: 3, Durable: true})
	tab.Announce("a", route{Filter: "t", Group: "transient", Members: 3})
	tab.Announce("a", route{Filter: "t", Members: 1, Durable: true})
	if left := tab.DropTransient("a"); left != 2 {
		t.Errorf("%d routes are left, want 2", left)
	}
	checkShares(t, tab, "t", "g:t")
	s := tab.Share("g", "t")
	if p, ok := s.Keeper(func(string) bool { return false }); s.Online() || !ok || p != "a" {
		t.Errorf("online: %v, kept by %q", s.Online(), p)
	}
	count, hash := tab.Digest("a")
	wantCount, wantHash := digest(route{Filter: "t", Group: "g", Durable: true}, route{Filter: "t", Members: 1, Durable: true})
	if count != wantCount || hash != wantHash {
		t.Errorf("digest %d %x, want %d %x", count, hash, wantCount, wantHash)
	}
}

func BenchmarkPick(b *testing.B) {
	for _, peers := range []int{1, 3, 10, 100} {
		tab := routes.NewTable[int]()
		for p := 1; p <= peers; p++ {
			tab.Announce(p, shared("g", "t", uint32(p%7+1)))
		}
		s := tab.Shares("t", nil)[0]
		b.Run(fmt.Sprintf("%d_peers", peers), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, ok := s.Pick(nil); !ok {
					b.Fatal("nobody")
				}
			}
		})
		b.Run(fmt.Sprintf("%d_peers_and_exclude", peers), func(b *testing.B) {
			b.ReportAllocs()
			exclude := func(p int) bool { return p == 2 }
			for b.Loop() {
				if _, ok := s.Pick(exclude); !ok {
					b.Fatal("nobody")
				}
			}
		})
	}
}
