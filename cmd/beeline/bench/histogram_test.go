package bench

import (
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestEveryDurationIsInABucketThatIsNotMuchWiderThanItIsExact(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		v := rapid.Uint64Max(math.MaxInt64).Draw(t, "v")
		b := bucket(v)
		if b < 0 || b >= buckets {
			t.Fatalf("bucket %d of %d", b, buckets)
		}
		top := highest(b)
		if top < v || float64(top-v) > float64(v)/64 {
			t.Errorf("%d is in bucket %d, whose highest is %d", v, b, top)
		}
		if b > 0 && highest(b-1) >= v {
			t.Errorf("%d would fit into the bucket before %d", v, b)
		}
	})
}

func TestPercentilesAreThoseOfTheSortedList(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		list := rapid.SliceOfN(rapid.Int64Range(0, int64(time.Minute)), 1, 300).Draw(t, "durations")
		var h histogram
		for _, d := range list {
			h.add(time.Duration(d))
		}
		slices.Sort(list)
		shares := []float64{0, 0.5, 0.9, 0.99, 1}
		for i, got := range h.percentiles(shares...) {
			rank := max(int(math.Ceil(shares[i]*float64(len(list)))), 1)
			want := list[rank-1]
			if int64(got) < want || float64(int64(got)-want) > float64(want)/64 {
				t.Errorf("%v of %v: %d, want %d", shares[i], list, got, want)
			}
		}
	})
}

func TestAHistogramWithoutAnythingHasNoPercentiles(t *testing.T) {
	var h histogram
	if got := h.percentiles(0.5, 1); got[0] != 0 || got[1] != 0 || h.count() != 0 {
		t.Errorf("percentiles %v of %d", got, h.count())
	}
}

func TestTheMaximumIsExactAndNegativeDurationsAreNone(t *testing.T) {
	var h histogram
	h.add(-time.Second)
	h.add(12_345_678)
	if got := h.percentiles(0.5, 1); got[0] != 0 || got[1] != 12_345_678 {
		t.Errorf("percentiles %v", got)
	}
}

func TestAHistogramCountsWhatSeveralGoroutinesAdd(t *testing.T) {
	var h histogram
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 10_000 {
				h.add(time.Duration(rand.Int64N(int64(time.Second))))
			}
		})
	}
	wg.Wait()
	if h.count() != 40_000 {
		t.Errorf("counts %d", h.count())
	}
}
