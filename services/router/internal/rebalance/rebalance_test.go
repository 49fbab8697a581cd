package rebalance

import (
	"fmt"
	"math"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// of makes gateways of one weight.
func of(clients ...int) []Gateway {
	var all []Gateway
	for i, n := range clients {
		all = append(all, Gateway{ID: fmt.Sprint(i), Weight: 1, Clients: n})
	}
	return all
}

func weighted(gateways []Gateway, weights ...uint32) []Gateway {
	for i, w := range weights {
		gateways[i].Weight = w
	}
	return gateways
}

func TestPlans(t *testing.T) {
	tests := []struct {
		name     string
		gateways []Gateway
		targets  []int
		moves    []int
	}{
		{"nobody", nil, nil, nil},
		{"one", of(100), []int{100}, []int{0}},
		{"no clients", of(0, 0), []int{0, 0}, []int{0, 0}},
		{"even", of(100, 100), []int{100, 100}, []int{0, 0}},
		{"a new one beside one", of(100, 0), []int{50, 50}, []int{50, 0}},
		{"a new one beside three", of(100, 100, 100, 0), []int{75, 75, 75, 75}, []int{25, 25, 25, 0}},
		{"one is too full", of(200, 100, 0), []int{100, 100, 100}, []int{100, 0, 0}},
		{"those just above the mean give, too", of(200, 101, 0), []int{101, 100, 100}, []int{99, 1, 0}},
		{"what cannot be shared stays where it is", of(1, 2, 1), []int{1, 2, 1}, []int{0, 0, 0}},
		{"in the tolerance", of(105, 95), []int{100, 100}, []int{0, 0}},
		{"just beyond", of(106, 94), []int{100, 100}, []int{6, 0}},
		{"a difference of two is none", of(2, 0), []int{1, 1}, []int{0, 0}},
		{"one of four", of(4, 0), []int{2, 2}, []int{2, 0}},
		{"by weight", weighted(of(100, 100), 1, 3), []int{50, 150}, []int{50, 0}},
		{"as the weights say", weighted(of(50, 150), 1, 3), []int{50, 150}, []int{0, 0}},
		{"no weight counts as one", weighted(of(100, 0), 0, 1), []int{50, 50}, []int{50, 0}},
		{
			"as many as there can be", weighted(of(math.MaxInt32, 0), math.MaxUint32, math.MaxUint32),
			[]int{math.MaxInt32/2 + 1, math.MaxInt32 / 2},
			[]int{math.MaxInt32 / 2, 0},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var targets, moves []int
			for i, s := range Plan(tt.gateways) {
				if s.ID != tt.gateways[i].ID || s.Clients != tt.gateways[i].Clients {
					t.Errorf("share %d is of %+v", i, s.Gateway)
				}
				targets, moves = append(targets, s.Target), append(moves, s.Move)
			}
			if diff := cmp.Diff([][]int{tt.targets, tt.moves}, [][]int{targets, moves}); diff != "" {
				t.Errorf("targets and moves (-want +got)\n%s", diff)
			}
		})
	}
}

func TestPlansOfAnything(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		gateways := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) Gateway {
			return Gateway{Weight: rapid.Uint32Range(0, 1000).Draw(t, "weight"), Clients: rapid.IntRange(0, 5000).Draw(t, "clients")}
		}), 1, 12).Draw(t, "gateways")
		before := slices.Clone(gateways)
		shares := Plan(gateways)
		if diff := cmp.Diff(before, gateways); diff != "" {
			t.Fatalf("it changes what it is given\n%s", diff)
		}
		total, weight, targets, moved, room := 0, 0.0, 0, 0, 0
		for _, g := range gateways {
			total += g.Clients
			weight += float64(max(g.Weight, 1))
		}
		for _, s := range shares {
			mean := float64(total) * float64(s.Weight) / weight
			if float64(s.Target) <= mean-1-1e-6 || float64(s.Target) >= mean+1+1e-6 {
				t.Fatalf("%+v: the mean is %v", s, mean)
			}
			if s.Move > 0 && s.Clients-s.Move != s.Target || s.Move < 0 {
				t.Fatalf("%+v keeps %d", s, s.Clients-s.Move)
			}
			targets += s.Target
			moved += s.Move
			room += max(0, s.Target-s.Clients)
		}
		if targets != total {
			t.Fatalf("the targets are %d together, the clients %d", targets, total)
		}
		if moved != 0 && moved != room {
			t.Fatalf("%d are moved, there is room for %d", moved, room)
		}
		for i := range shares {
			if over := shares[i].Clients - shares[i].Target; moved == 0 && over > max(1, shares[i].Target/20) {
				t.Fatalf("%+v has too many, and nobody is moved", shares[i])
			}
			gateways[i].Clients = shares[i].Target
		}
		for _, s := range Plan(gateways) {
			if s.Move > 0 {
				t.Fatalf("%+v gives again when all have what they should have", s)
			}
		}
		rate := rapid.IntRange(1, 5000).Draw(t, "rate")
		for i, r := range Rates(shares, rate) {
			took := float64(shares[i].Move) / float64(max(r, 1))
			if most := float64(moved) / float64(rate); (r == 0) != (shares[i].Move == 0) || took > most+1e-6 {
				t.Fatalf("%+v at %d a second takes %v s, all of it %v s", shares[i], r, took, most)
			}
		}
	})
}
