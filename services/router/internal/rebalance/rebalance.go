// Package rebalance plans which gateways give how many of their clients to the others. It is pure: who the gateways are,
// and what becomes of a plan, is the caller's.
package rebalance

import (
	"cmp"
	"math/bits"
	"slices"
)

// Gateway is one that takes clients.
type Gateway struct {
	ID string
	// Weight is its share of clients, relative to the others; 0 counts as 1.
	Weight uint32
	// Clients it has, up to 2^31-1.
	Clients int
}

// Share is what a gateway is to have.
type Share struct {
	Gateway

	// Target is its part of all clients by weight: the mean, rounded up or down. All targets together are all clients.
	Target int
	// Move is how many it gives to others.
	Move int
}

// tolerance is how many more than its target a gateway may have without anybody being moved because of it: a twentieth of
// the target, and at least one. To move a client costs it a connection.
func tolerance(target int) int { return max(1, target/20) }

// Plan says what each gateway is to have, in the order in which they are given. If none has more than it should by more
// than a tolerance, nobody is moved; else every gateway moves all that it has above its target: one that is being relieved
// gets no new clients meanwhile, and those who leave the others are to go where there is room.
func Plan(gateways []Gateway) []Share {
	shares := targets(gateways)
	uneven := false
	for _, s := range shares {
		uneven = uneven || s.Clients-s.Target > tolerance(s.Target)
	}
	for i, s := range shares {
		if uneven {
			shares[i].Move = max(0, s.Clients-s.Target)
		}
	}
	return shares
}

// targets shares all clients out by weight. Of the means that are no whole numbers those are rounded up first whose
// gateways have that many: so the fewest have to move.
func targets(gateways []Gateway) []Share {
	shares, total, weight := make([]Share, len(gateways)), uint64(0), uint64(0)
	for i, g := range gateways {
		g.Weight, g.Clients = max(g.Weight, 1), max(g.Clients, 0)
		shares[i].Gateway = g
		total += uint64(g.Clients)
		weight += uint64(g.Weight)
	}
	rest := int(total)
	parts := make([]uint64, len(gateways)) // of the mean, beyond the whole number
	order := make([]int, len(gateways))
	for i := range shares {
		high, low := bits.Mul64(total, uint64(shares[i].Weight))
		var whole uint64
		whole, parts[i] = bits.Div64(high, low, weight)
		shares[i].Target, order[i] = int(whole), i
		rest -= shares[i].Target
	}
	has := func(i int) int {
		if shares[i].Clients > shares[i].Target {
			return 1
		}
		return 0
	}
	slices.SortStableFunc(order, func(a, b int) int {
		return cmp.Or(cmp.Compare(has(b), has(a)), cmp.Compare(parts[b], parts[a]))
	})
	for _, i := range order[:rest] {
		shares[i].Target++
	}
	return shares
}

// Rates shares a rate out, in clients a second, so that all gateways are done at the same time, at the rate of one a
// second at least: whoever is done takes new clients again.
func Rates(shares []Share, rate int) []int {
	total := 0
	for _, s := range shares {
		total += s.Move
	}
	rates := make([]int, len(shares))
	for i, s := range shares {
		if s.Move > 0 {
			rates[i] = (rate*s.Move + total - 1) / total
		}
	}
	return rates
}
