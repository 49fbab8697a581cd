package bench

import (
	"math"
	"math/bits"
	"sync/atomic"
	"time"
)

const (
	// subBits makes a bucket at most 1/64 of its value wide: percentiles are exact to 1.6 %.
	subBits = 6
	buckets = (63 - subBits + 1) << subBits
)

// histogram counts durations in buckets whose width grows with them. It may be added to by any number of
// goroutines, and read meanwhile.
type histogram struct {
	counts [buckets]atomic.Uint64
	max    atomic.Int64
}

// add counts d n times; a negative d is 0.
func (h *histogram) add(d time.Duration) {
	d = max(d, 0)
	h.counts[bucket(uint64(d))].Add(1)
	for {
		old := h.max.Load()
		if int64(d) <= old || h.max.CompareAndSwap(old, int64(d)) {
			return
		}
	}
}

func bucket(v uint64) int {
	shift := max(bits.Len64(v)-subBits-1, 0)
	return shift<<subBits + int(v>>shift)
}

// highest is the largest value in a bucket.
func highest(bucket int) uint64 {
	shift := max(bucket>>subBits-1, 0)
	return uint64(bucket-shift<<subBits+1)<<shift - 1
}

func (h *histogram) count() (n uint64) {
	for i := range h.counts {
		n += h.counts[i].Load()
	}
	return n
}

// percentiles returns, for each share from 0 to 1 in ascending order, the duration that this share of all is not
// above; 0 when there are none.
func (h *histogram) percentiles(shares ...float64) []time.Duration {
	all, most := h.count(), time.Duration(h.max.Load())
	result := make([]time.Duration, len(shares))
	if all == 0 {
		return result
	}
	var seen uint64
	i := -1
	for k, share := range shares {
		rank := max(uint64(math.Ceil(share*float64(all))), 1)
		for seen < rank && i+1 < buckets {
			i++
			seen += h.counts[i].Load()
		}
		result[k] = min(time.Duration(highest(i)), most)
	}
	return result
}
