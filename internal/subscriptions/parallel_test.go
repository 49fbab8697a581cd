package subscriptions_test

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/beeline-mqtt/beeline/internal/subscriptions"
)

// Whoever matches while others subscribe and unsubscribe sees every subscription that is there all the time,
// with options that belong together, and none that was never made.
func TestMatchInParallelWithSubscribe(t *testing.T) {
	const (
		changers = 4
		rounds   = 40
	)
	x := subscriptions.New[int]()
	steady := map[string]int{"a/b": 1, "a/+": 2, "#": 3}
	for filter, k := range steady {
		x.Subscribe(filter, k, options{QoS: 1, ID: 1})
	}
	var changing, matching sync.WaitGroup
	var done atomic.Bool
	for c := range changers {
		changing.Go(func() {
			filters := []string{"a/b", "a/+", "+/b", fmt.Sprintf("own/%d/#", c)}
			for r := range rounds {
				filter := filters[r%len(filters)]
				for k := 100 * (c + 1); k < 100*(c+1)+20; k++ {
					qos := byte(r % 3)
					x.Subscribe(filter, k, options{QoS: qos, RetainAsPublished: qos == 2, ID: uint32(qos) + 1})
				}
				for k := 100 * (c + 1); k < 100*(c+1)+20; k++ {
					if _, found := x.Unsubscribe(filter, k); !found {
						t.Errorf("key %d has lost %q", k, filter)
					}
				}
			}
		})
	}
	for range 2 {
		matching.Go(func() {
			var dst []subscriptions.Match[int]
			for !done.Load() {
				dst = x.Match("a/b", 0, dst[:0])
				found := 0
				for _, m := range dst {
					switch {
					case m.Key <= 3:
						found++
					case len(m.IDs) != 1 || m.IDs[0] != uint32(m.QoS)+1 || m.RetainAsPublished != (m.QoS == 2):
						t.Errorf("options of different subscriptions: %+v", m)
					}
				}
				if found != len(steady) {
					t.Errorf("%d of %d steady subscriptions were found", found, len(steady))
				}
			}
		})
	}
	changing.Wait()
	done.Store(true)
	matching.Wait()
	if x.Len() != len(steady) {
		t.Errorf("Len() = %d, want %d", x.Len(), len(steady))
	}
}

// Of many who subscribe to one filter at once exactly one is the first, and of those who leave one the last.
func TestOneFirstAndOneLast(t *testing.T) {
	for range 50 {
		x := subscriptions.New[int]()
		var firsts, lasts atomic.Int32
		var wg sync.WaitGroup
		for k := 1; k <= 8; k++ {
			wg.Go(func() {
				if first, _ := x.Subscribe("a/+", k, options{}); first {
					firsts.Add(1)
				}
			})
		}
		wg.Wait()
		for k := 1; k <= 8; k++ {
			wg.Go(func() {
				if last, _ := x.Unsubscribe("a/+", k); last {
					lasts.Add(1)
				}
			})
		}
		wg.Wait()
		if firsts.Load() != 1 || lasts.Load() != 1 {
			t.Fatalf("%d firsts and %d lasts", firsts.Load(), lasts.Load())
		}
	}
}
