package routes

import "iter"

// DigestOf returns the number of routes and the sum, modulo 2^64, of the 64-bit FNV-1a hash of each. The sum
// does not depend on their order; no route may occur twice. Shared subscriptions with neither
// members nor a durable session do not count.
//
// What is hashed of a route is, one after another: the filter's length as 4 bytes, the filter, the group's
// length as 4 bytes, the group, the number of members as 4 bytes (0 for an ordinary route), and one byte that is 1
// for a durable route, else 0. Numbers are big-endian. The encoding is part of the protocol between
// processes: it cannot change without a new version of it.
func DigestOf(routes iter.Seq[Route]) (count, hash uint64) {
	for r := range routes {
		if r.withdrawn() {
			continue
		}
		count++
		hash += hashOf(r.key(), terms{members: r.Members, durable: r.Durable})
	}
	return count, hash
}

// fnv1a is the state of a 64-bit FNV-1a hash. hash/fnv would need a copy of every string.
type fnv1a uint64

const (
	fnvOffset fnv1a = 14695981039346656037
	fnvPrime  fnv1a = 1099511628211
)

func hashOf(k key, t terms) uint64 {
	members := t.members
	if k.group == "" {
		members = 0
	}
	h := fnvOffset.number(uint32(len(k.filter))).text(k.filter)
	h = h.number(uint32(len(k.group))).text(k.group).number(members)
	if t.durable {
		return uint64(h.octet(1))
	}
	return uint64(h.octet(0))
}

func (h fnv1a) octet(b byte) fnv1a {
	return (h ^ fnv1a(b)) * fnvPrime
}

func (h fnv1a) number(n uint32) fnv1a {
	return h.octet(byte(n >> 24)).octet(byte(n >> 16)).octet(byte(n >> 8)).octet(byte(n))
}

func (h fnv1a) text(s string) fnv1a {
	for i := range len(s) {
		h = h.octet(s[i])
	}
	return h
}
