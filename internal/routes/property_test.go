package routes_test

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/beeline-mqtt/beeline/internal/routes"
	"github.com/beeline-mqtt/beeline/internal/topic"
)

// model is a Table that asks topic.Match about every route: peer -> filter and group -> route.
type model map[string]map[[2]string]route

func (m model) put(p string, r route) {
	if m[p] == nil {
		m[p] = map[[2]string]route{}
	}
	if r.Group != "" && r.Members == 0 && !r.Durable {
		delete(m[p], [2]string{r.Filter, r.Group})
		return
	}
	m[p][[2]string{r.Filter, r.Group}] = r
}

// match returns the peers with ordinary routes, and who has how many members of which shared subscription.
func (m model) match(name string) (peers []string, shares map[string]map[string]uint32) {
	shares = map[string]map[string]uint32{}
	for p, all := range m {
		has := false
		for _, r := range all {
			if !topic.Match(r.Filter, name) {
				continue
			}
			if r.Group == "" {
				has = true
				continue
			}
			s := r.Group + ":" + r.Filter
			if shares[s] == nil {
				shares[s] = map[string]uint32{}
			}
			shares[s][p] = r.Members
		}
		if has {
			peers = append(peers, p)
		}
	}
	slices.Sort(peers)
	return peers, shares
}

// durable reports whether p has a durable ordinary route that matches.
func (m model) durable(p, name string) bool {
	for _, r := range m[p] {
		if r.Durable && r.Group == "" && topic.Match(r.Filter, name) {
			return true
		}
	}
	return false
}

func drawTopic(levels ...string) *rapid.Generator[string] {
	return rapid.Custom(func(t *rapid.T) string {
		return strings.Join(rapid.SliceOfN(rapid.SampledFrom(levels), 1, 3).Draw(t, "levels"), "/")
	})
}

func TestTableAgreesWithAskingEveryRoute(t *testing.T) {
	filters := drawTopic("a", "b", "$x", "+", "#").Filter(func(f string) bool {
		return topic.ValidateFilter(f, topic.DefaultLimits()) == nil
	})
	names := drawTopic("a", "b", "$x", "p2p")
	drawPeer := rapid.SampledFrom([]string{"north", "south", "west"})
	groups := rapid.SampledFrom([]string{"", "", "g", "h"})
	drawRoute := rapid.Custom(func(t *rapid.T) route {
		return route{
			Filter:  filters.Draw(t, "filter"),
			Group:   groups.Draw(t, "group"),
			Members: rapid.Uint32Max(3).Draw(t, "members"),
			Durable: rapid.Bool().Draw(t, "durable"),
		}
	})
	rapid.Check(t, func(t *rapid.T) {
		tab, m := routes.NewTable[string](), model{}
		t.Repeat(map[string]func(*rapid.T){
			"announce": func(t *rapid.T) {
				p, r := drawPeer.Draw(t, "peer"), drawRoute.Draw(t, "route")
				tab.Announce(p, r)
				m.put(p, r)
			},
			"withdraw": func(t *rapid.T) {
				p, filter, group := drawPeer.Draw(t, "peer"), filters.Draw(t, "filter"), groups.Draw(t, "group")
				tab.Withdraw(p, filter, group)
				delete(m[p], [2]string{filter, group})
			},
			"replace": func(t *rapid.T) {
				p, all := drawPeer.Draw(t, "peer"), rapid.SliceOfN(drawRoute, 0, 100).Draw(t, "routes")
				tab.Replace(p, all)
				delete(m, p)
				for _, r := range all {
					m.put(p, r)
				}
			},
			"drop transient": func(t *rapid.T) {
				p := drawPeer.Draw(t, "peer")
				maps.DeleteFunc(m[p], func(_ [2]string, r route) bool { return !r.Durable })
				for k, r := range m[p] {
					if r.Group != "" {
						r.Members = 0
						m[p][k] = r
					}
				}
				if left := tab.DropTransient(p); left != len(m[p]) {
					t.Fatalf("DropTransient(%q) leaves %d routes, want %d", p, left, len(m[p]))
				}
			},
			"drop": func(t *rapid.T) {
				p := drawPeer.Draw(t, "peer")
				tab.Drop(p)
				delete(m, p)
			},
			"match": func(t *rapid.T) {
				name := names.Draw(t, "name")
				wantPeers, wantShares := m.match(name)
				got := tab.Match(name, nil)
				if diff := cmp.Diff(wantPeers, peers(got)); diff != "" {
					t.Fatalf("Match(%q):\n%s", name, diff)
				}
				for _, to := range got {
					if want := m.durable(to.Peer, name); to.Durable != want {
						t.Fatalf("Match(%q): %q durable %v", name, to.Peer, to.Durable)
					}
				}
				shares := tab.Shares(name, nil)
				if diff := cmp.Diff(slices.Sorted(maps.Keys(wantShares)), describe(shares)); diff != "" {
					t.Fatalf("Shares(%q):\n%s", name, diff)
				}
				for _, s := range shares {
					for p, n := range wantShares[s.Group()+":"+s.Filter()] {
						other := func(other string) bool { return other != p }
						if _, ok := s.Pick(other); ok != (n > 0) {
							t.Fatalf("%s:%s has members at %q: %v, want %d", s.Group(), s.Filter(), p, ok, n)
						}
						if _, ok := s.Keeper(other); ok != (n == 0) {
							t.Fatalf("%s:%s is kept by %q: %v, with %d members", s.Group(), s.Filter(), p, ok, n)
						}
						if s.Empty() || tab.Share(s.Group(), s.Filter()) != s {
							t.Fatalf("%s:%s counts for nothing", s.Group(), s.Filter())
						}
					}
				}
			},
			"": func(t *rapid.T) {
				for _, p := range []string{"north", "south", "west"} {
					count, hash := tab.Digest(p)
					wantCount, wantHash := digest(slices.Collect(maps.Values(m[p]))...)
					if count != wantCount || hash != wantHash {
						t.Fatalf("Digest(%q) = %d, %x, want %d, %x", p, count, hash, wantCount, wantHash)
					}
				}
			},
		})
	})
}
