package placement

import "math"

// FNV-1a, 64 bits.
const (
	fnvOffset uint64 = 14695981039346656037
	fnvPrime  uint64 = 1099511628211
)

// fnv1a goes on with an FNV-1a hash.
func fnv1a[T string | []byte](h uint64, v T) uint64 {
	for i := range len(v) {
		h = (h ^ uint64(v[i])) * fnvPrime
	}
	return h
}

// mix is the finalizer of MurmurHash3: FNV alone leaves the high bits of names that differ at their end too alike.
func mix(h uint64) uint64 {
	h ^= h >> 33
	h *= 0xff51afd7ed558ccd
	h ^= h >> 33
	h *= 0xc4ceb9fe1a85ec53
	return h ^ h>>33
}

// score is what a name with a weight bids for a client, by weighted rendezvous hashing. The highest bid gets it:
//
//	h = mix(FNV-1a of the client's bytes, then of the name's)
//	u = (h >> 12 + 1/2) / 2^52, which is in (0, 1)
//	score = weight / -ln(u)
//
// -ln(u)/weight is exponentially distributed with the rate weight, and the least of such is a name's with the
// probability of its share of all weights. A bid does not depend on the others, so a name that comes, goes or changes
// its weight moves no client between two others.
//
// Clients return to where they were because this function stays as it is, in all releases. The last bit of the
// logarithm may differ between processor architectures; no two bids of a client are that close in practice.
//
// seed is an FNV-1a hash of the client's bytes, weight is above 0.
func score(seed uint64, name string, weight uint32) float64 {
	// 53 bits would round up to 1.
	u := (float64(mix(fnv1a(seed, name))>>12) + 0.5) / (1 << 52)
	return float64(weight) / -math.Log(u)
}

// bid is the best of those that were offered.
type bid struct {
	// at is -1 before the first offer.
	at    int
	name  string
	score float64
}

func nobody() bid { return bid{at: -1} }

// offer keeps the higher score; of equal ones the lesser name, so that the order of offers does not matter.
func (b *bid) offer(at int, name string, score float64) {
	if b.at < 0 || score > b.score || score == b.score && name < b.name {
		*b = bid{at: at, name: name, score: score}
	}
}
