package placement_test

import (
	"fmt"
	"math"
	"math/big"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/beeline-mqtt/beeline/services/router/internal/placement"
)

// hashed is where each of the clients goes, of whom nothing is known.
func hashed(nodes []node) []string {
	ids := make([]string, clients)
	for i := range ids {
		ids[i] = placement.Choose(placement.Question{Nodes: nodes, Key: key(i)}).Node
	}
	return ids
}

func TestNodesGetClientsByWeight(t *testing.T) {
	nodes, weights := plain(9), map[string]uint32{}
	for i := range nodes {
		nodes[i].Weight = []uint32{100, 150, 300}[i%3]
		weights[nodes[i].ID] = nodes[i].Weight
	}
	near(t, counted(hashed(nodes)), weights)
}

func TestANodeThatComesTakesItsShareAndMovesNobodyElse(t *testing.T) {
	nodes := plain(9)
	before, after := hashed(nodes), hashed(append(nodes, node{ID: "new", Weight: 3, Active: true}))
	moved := 0
	for i := range before {
		if before[i] == after[i] {
			continue
		}
		moved++
		if after[i] != "new" {
			t.Fatalf("client %d moved from %s to %s", i, before[i], after[i])
		}
	}
	if want := clients * 3 / 12; math.Abs(float64(moved)/float64(want)-1) > 0.03 {
		t.Errorf("%d moved, want about %d", moved, want)
	}
}

func TestANodeThatGoesMovesOnlyItsClientsAndSpreadsThem(t *testing.T) {
	nodes := plain(9)
	before := hashed(nodes)
	for name, without := range map[string][]node{
		"it drains":      with(nodes, "d", draining),
		"it is gone":     slices.DeleteFunc(slices.Clone(nodes), func(n node) bool { return n.ID == "d" }),
		"it weighs zero": with(nodes, "d", weightless),
	} {
		var moved []string
		for i, id := range hashed(without) {
			if (id != before[i]) != (before[i] == "d") {
				t.Fatalf("%s: client %d was on %s, is on %s", name, i, before[i], id)
			}
			if before[i] == "d" {
				moved = append(moved, id)
			}
		}
		got := counted(moved)
		if len(got) != 8 || slices.ContainsFunc(moved, func(id string) bool { return got[id]*9 < len(moved) }) {
			t.Errorf("%s: its clients went to %v", name, got)
		}
	}
}

// Small sets of all kinds of nodes; two of them have the same ids but by chance.
func nodeSets(maxLoad int) *rapid.Generator[[]node] {
	return rapid.SliceOfNDistinct(rapid.Custom(func(r *rapid.T) node {
		return node{
			ID:     rapid.StringMatching(`[a-c]{1,2}`).Draw(r, "id"),
			Weight: rapid.OneOf(rapid.Uint32Range(0, 5), rapid.Uint32()).Draw(r, "weight"),
			Active: rapid.IntRange(0, 4).Draw(r, "active") > 0,
			Load:   rapid.IntRange(-1, maxLoad).Draw(r, "load"),
		}
	}), 0, 12, func(n node) string { return n.ID })
}

func questions(maxLoad int) *rapid.Generator[placement.Question] {
	return rapid.Custom(func(r *rapid.T) placement.Question {
		name := rapid.StringMatching(`[a-c]{0,2}`)
		return placement.Question{
			Nodes:     nodeSets(maxLoad).Draw(r, "nodes"),
			Key:       key(rapid.IntRange(0, 1<<20).Draw(r, "key")),
			Anonymous: rapid.Bool().Draw(r, "anonymous"),
			Random:    rapid.Uint64().Draw(r, "random"),
			Holder:    name.Draw(r, "holder"),
			Recorded:  name.Draw(r, "recorded"),
			Factor:    rapid.SampledFrom([]float64{0, 1, 1.25, 2}).Draw(r, "factor"),
		}
	})
}

func TestEqualQuestionsHaveEqualAnswers(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		q := questions(20).Draw(r, "question")
		given := slices.Clone(q.Nodes)
		want := placement.Choose(q)
		if got := placement.Choose(q); got != want {
			r.Fatalf("%+v, then %+v", want, got)
		}
		if !slices.Equal(q.Nodes, given) {
			r.Fatalf("nodes are changed: %+v", q.Nodes)
		}
		// The order of nodes is not in the question.
		q.Nodes = rapid.Permutation(q.Nodes).Draw(r, "order")
		if got := placement.Choose(q); got != want {
			r.Fatalf("%+v, in another order %+v", want, got)
		}
	})
}

// room says, in whole numbers, that one more client is within ceil(factor * (all + 1) * weight / weights).
func room(q placement.Question, n node) bool {
	all, weights := new(big.Int), new(big.Int)
	load := func(n node) *big.Int { return big.NewInt(int64(min(max(n.Load, 0), math.MaxInt32))) }
	for _, n := range q.Nodes {
		if n.Active && n.Weight > 0 {
			all.Add(all, load(n))
			weights.Add(weights, big.NewInt(int64(n.Weight)))
		}
	}
	quarters := int64(4 * q.Factor)
	if quarters == 0 {
		quarters = 5
	}
	// load + 1 <= ceil(x / y), in whole numbers, is load * y < x.
	x := new(big.Int).Mul(all.Add(all, big.NewInt(1)), big.NewInt(quarters*int64(n.Weight)))
	return new(big.Int).Mul(load(n), weights.Mul(weights, big.NewInt(4))).Cmp(x) < 0
}

func TestAnswersKeepTheRules(t *testing.T) {
	for _, maxLoad := range []int{0, 3, 1000, math.MaxInt} {
		rapid.Check(t, func(r *rapid.T) {
			q := questions(maxLoad).Draw(r, "question")
			got := placement.Choose(q)
			var chosen node
			taking := 0
			for _, n := range q.Nodes {
				if n.ID == got.Node {
					chosen = n
				}
				if n.Active && n.Weight > 0 {
					taking++
				}
			}
			member := got.Why == placement.Holder || got.Why == placement.Recorded
			switch {
			case got.Why == placement.None:
				if got != (placement.Answer{}) || taking > 0 {
					r.Fatalf("%+v, and %d nodes take clients", got, taking)
				}
			case !chosen.Active:
				r.Fatalf("%+v does not take clients", chosen)
			case q.Anonymous != (got.Why == placement.Spread), member && q.Anonymous:
				r.Fatalf("anonymous: %t, and %+v", q.Anonymous, got)
			case member:
			case chosen.Weight == 0:
				r.Fatalf("%+v has no weight", chosen)
			case !room(q, chosen):
				r.Fatalf("%+v is over its bound", chosen)
			}
			if got.Record != (!q.Anonymous && got.Why != placement.None && got.Node != q.Recorded) {
				r.Fatalf("%+v, recorded: %q", got, q.Recorded)
			}
		})
	}
}

// Clients that come one by one, with an id or without, never bring a node above its bound.
func TestLoadsStayInBounds(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		q := placement.Question{Nodes: nodeSets(0).Draw(r, "nodes")}
		n := rapid.IntRange(1, 300).Draw(r, "clients")
		for i := range n {
			q.Key, q.Random, q.Anonymous = key(i), random(uint64(i)), i%3 == 0
			got := placement.Choose(q)
			at := slices.IndexFunc(q.Nodes, func(n node) bool { return n.ID == got.Node })
			if at < 0 {
				return
			}
			if !room(q, q.Nodes[at]) {
				r.Fatalf("client %d is one too many for %+v", i, q.Nodes[at])
			}
			q.Nodes[at].Load = max(q.Nodes[at].Load, 0) + 1
		}
	})
}

func TestManyClientsAreEven(t *testing.T) {
	for _, anonymous := range []bool{false, true} {
		nodes := plain(9)
		at := map[string]int{}
		for i, n := range nodes {
			at[n.ID] = i
		}
		for i := range clients {
			q := placement.Question{Nodes: nodes, Key: key(i), Random: random(uint64(i)), Anonymous: anonymous, Factor: 1.01}
			nodes[at[placement.Choose(q).Node]].Load++
		}
		for _, n := range nodes {
			if most := math.Ceil(1.01 * clients / 9); float64(n.Load) > most {
				t.Errorf("anonymous: %t, %s has %d, above %g", anonymous, n.ID, n.Load, most)
			}
		}
	}
}

// Explain never fails to name what was chosen, whatever it is asked.
func TestEveryAnswerIsExplained(t *testing.T) {
	a := id("x", "main")
	rapid.Check(t, func(r *rapid.T) {
		q := questions(5).Draw(r, "question")
		got := placement.Choose(q)
		want := fmt.Sprintf("node %s of cluster main: ", got.Node)
		if got.Why == placement.None {
			want = "no node of cluster main: "
		}
		if text := placement.Explain(a, q, got); len(text) < len(want) || text[:len(want)] != want {
			r.Fatalf("%+v: %s", got, text)
		}
	})
}
