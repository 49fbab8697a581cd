package placement_test

import (
	"fmt"
	"testing"

	"github.com/beeline-mqtt/beeline/services/router/internal/placement"
)

// many assigns a quarter each by triple, client id, prefix and user name, and two defaults.
func many(tb testing.TB, n int) []assignment {
	tb.Helper()
	s, all := secret(tb), []assignment{byDefault("a", 1), byDefault("b", 3)}
	for i := range n / 4 {
		who := user(fmt.Sprintf("exact-%d", i), "joe", "pw")
		all = append(all,
			assignment{Rule: placement.ExactTriple, Value: s.Key(who).String(), Cluster: "a"},
			id(fmt.Sprintf("client-%d", i), "b"),
			prefix(fmt.Sprintf("site-%d-", i), "c"),
			username(fmt.Sprintf("user-%d", i), "d"),
		)
	}
	return all
}

func BenchmarkKey(b *testing.B) {
	s, who := secret(b), user("meter-4711", "joe", "correct horse battery staple")
	b.ReportAllocs()
	for b.Loop() {
		s.Key(who)
	}
}

func BenchmarkNewAssignments(b *testing.B) {
	all := many(b, 100_000)
	b.ReportAllocs()
	for b.Loop() {
		index(b, all...)
	}
}

func BenchmarkLookup(b *testing.B) {
	a, s := index(b, many(b, 100_000)...), secret(b)
	for _, c := range []struct {
		by  placement.Rule
		who placement.Triple
	}{
		{placement.ExactTriple, user("exact-4711", "joe", "pw")},
		{placement.ClientID, user("client-4711", "joe", "pw")},
		{placement.ClientIDPrefix, user("site-4711-meter-1", "joe", "pw")},
		{placement.Username, user("meter-4711", "user-4711", "pw")},
		{placement.Default, user("meter-4711", "joe", "pw")},
	} {
		b.Run(c.by.String(), func(b *testing.B) {
			k := s.Key(c.who)
			b.ReportAllocs()
			for b.Loop() {
				if got, ok := a.Lookup(c.who, k, 0); !ok || got.Rule != c.by {
					b.Fatalf("found %v", got)
				}
			}
		})
	}
}

func BenchmarkChoose(b *testing.B) {
	for _, n := range []int{3, 9, 50} {
		nodes := make([]node, n)
		for i := range nodes {
			nodes[i] = node{ID: fmt.Sprintf("gateway-%d", i), Weight: 100, Active: true, Load: 10_000 + i}
		}
		for _, c := range []struct {
			why placement.Reason
			q   placement.Question
		}{
			{placement.Holder, placement.Question{Nodes: nodes, Holder: nodes[n-1].ID}},
			{placement.Hash, placement.Question{Nodes: nodes, Holder: "gone", Recorded: "gone too"}},
			{placement.Spread, placement.Question{Nodes: nodes, Anonymous: true}},
		} {
			b.Run(fmt.Sprintf("nodes=%d/%s", n, c.why), func(b *testing.B) {
				b.ReportAllocs()
				for i := uint64(0); b.Loop(); i++ {
					c.q.Key[0], c.q.Random = byte(i), i
					if got := placement.Choose(c.q); got.Why != c.why {
						b.Fatalf("answer is %+v", got)
					}
				}
			})
		}
	}
}

func TestChooseDoesNotAllocate(t *testing.T) {
	q := placement.Question{Nodes: plain(9), Recorded: "gone"}
	for range 2 {
		if n := testing.AllocsPerRun(100, func() { placement.Choose(q) }); n > 0 {
			t.Errorf("anonymous: %t, %g allocations", q.Anonymous, n)
		}
		q.Anonymous = true
	}
}
