package placement

import (
	"hash/fnv"
	"math"
	"testing"

	"pgregory.net/rapid"
)

func TestHashIsFNV1a(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		client, name := rapid.SliceOf(rapid.Byte()).Draw(r, "client"), rapid.String().Draw(r, "name")
		want := fnv.New64a()
		want.Write(client)
		want.Write([]byte(name))
		if got := fnv1a(fnv1a(fnvOffset, client), name); got != want.Sum64() {
			r.Fatalf("%x, want %x", got, want.Sum64())
		}
	})
}

// Clients do not find back to where they were if this fails: do not adapt the test.
func TestScoresAreTheSameInAllReleases(t *testing.T) {
	for _, c := range []struct {
		client, name string
		weight       uint32
		hash         uint64
		score        float64
	}{
		{client: "", name: "", weight: 1, hash: 0xefd01f60ba992926, score: 15.309696802765},
		{client: "meter-1", name: "gateway-1", weight: 1, hash: 0x76344b9f1ce978f, score: 0.28205945106078},
		{client: "meter-1", name: "gateway-2", weight: 1, hash: 0x6afcce3e7175f3e0, score: 1.1461774770958},
		{client: "meter-2", name: "gateway-1", weight: 100, hash: 0xd8b0c5a2d21ea014, score: 599.85374155965},
	} {
		seed := fnv1a(fnvOffset, c.client)
		if got := mix(fnv1a(seed, c.name)); got != c.hash {
			t.Errorf("hash of %q and %q is %#x, want %#x", c.client, c.name, got, c.hash)
		}
		// Processor architectures may differ in the last bit.
		if got := score(seed, c.name, c.weight); math.Abs(got/c.score-1) > 1e-11 {
			t.Errorf("score of %q for %q is %.14g, want %.14g", c.name, c.client, got, c.score)
		}
	}
}

func TestScoresAreFiniteAndAboveZero(t *testing.T) {
	// unmixed is the seed with which an empty name has the hash h.
	unmixed := func(h uint64) uint64 {
		h ^= h >> 33
		h *= 0x9cb4b2f8129337db
		h ^= h >> 33
		h *= 0x4f74430c22a54005
		return h ^ h>>33
	}
	for _, h := range []uint64{0, 1, 1 << 12, 1 << 63, math.MaxUint64 - 1<<12, math.MaxUint64} {
		if mix(unmixed(h)) != h {
			t.Fatalf("%#x is not the hash", h)
		}
		for _, weight := range []uint32{1, math.MaxUint32} {
			if got := score(unmixed(h), "", weight); !(got > 0) || math.IsInf(got, 0) {
				t.Errorf("hash %#x, weight %d: score %g", h, weight, got)
			}
		}
	}
}

func TestTheHighestBidWins(t *testing.T) {
	type offer struct {
		name  string
		score float64
	}
	for name, c := range map[string]struct {
		offers []offer
		want   string
	}{
		"none":                       {},
		"one":                        {[]offer{{"a", 1}}, "a"},
		"the first":                  {[]offer{{"b", 2}, {"a", 1}}, "b"},
		"the last":                   {[]offer{{"a", 1}, {"b", 2}}, "b"},
		"lesser name, in order":      {[]offer{{"a", 1}, {"b", 1}}, "a"},
		"lesser name, out of order":  {[]offer{{"b", 1}, {"a", 1}}, "a"},
		"higher score, greater name": {[]offer{{"b", 1}, {"a", 1}, {"c", 2}}, "c"},
	} {
		best := nobody()
		for i, o := range c.offers {
			best.offer(i, o.name, o.score)
		}
		if best.name != c.want || (best.at < 0) != (len(c.offers) == 0) {
			t.Errorf("%s: %+v, want %q", name, best, c.want)
		}
	}
}
