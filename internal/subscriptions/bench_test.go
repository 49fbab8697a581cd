package subscriptions_test

import (
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/beeline-mqtt/beeline/internal/subscriptions"
)

const filters = 100_000

func own(i int) string    { return fmt.Sprintf("devices/%08d/commands", i) }
func ownAll(i int) string { return fmt.Sprintf("devices/%08d/#", i) }

func indexOf(filter func(i int) string) *subscriptions.Index[*session] {
	x := subscriptions.New[*session]()
	for i := range filters {
		x.Subscribe(filter(i), new(session), options{QoS: 1})
	}
	return x
}

// names are so many that most look-ups miss the processor's caches.
func names() []string {
	all := make([]string, 1<<14)
	for i := range all {
		all[i] = own(i * 6007 % filters)
	}
	return all
}

func benchmarkMatch(b *testing.B, x *subscriptions.Index[*session], names []string, want int) {
	dst := make([]subscriptions.Match[*session], 0, max(16, want))
	i := 0
	b.ReportAllocs()
	for b.Loop() {
		if dst = x.Match(names[i], nil, dst[:0]); len(dst) != want {
			b.Fatalf("%d matches, want %d", len(dst), want)
		}
		if i++; i == len(names) {
			i = 0
		}
	}
}

func BenchmarkMatch(b *testing.B) {
	b.Run("exact_among_100k", func(b *testing.B) { benchmarkMatch(b, indexOf(own), names(), 1) })
	b.Run("exact_same_name_again", func(b *testing.B) { benchmarkMatch(b, indexOf(own), names()[:1], 1) })
	b.Run("wildcard_among_100k", func(b *testing.B) { benchmarkMatch(b, indexOf(ownAll), names(), 1) })
	b.Run("exact_and_wildcard", func(b *testing.B) {
		x := indexOf(own)
		x.Subscribe("devices/+/commands", new(session), options{})
		benchmarkMatch(b, x, names(), 2)
	})
	b.Run("nobody_among_100k", func(b *testing.B) { benchmarkMatch(b, indexOf(ownAll), []string{"x/y/z"}, 0) })
	for _, n := range []int{1000, 100_000} {
		b.Run(fmt.Sprintf("%d_subscribers", n), func(b *testing.B) {
			x := subscriptions.New[*session]()
			for range n {
				x.Subscribe("news", new(session), options{QoS: 1})
			}
			benchmarkMatch(b, x, []string{"news"}, n)
		})
	}
	b.Run("1000_subscribers_and_one_of_all", func(b *testing.B) {
		x := subscriptions.New[*session]()
		for range 1000 {
			x.Subscribe("news", new(session), options{QoS: 1})
		}
		x.Subscribe("#", new(session), options{})
		benchmarkMatch(b, x, []string{"news"}, 1001)
	})
}

func BenchmarkMatchParallel(b *testing.B) {
	x, all := indexOf(own), names()
	b.ReportAllocs()
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		dst := make([]subscriptions.Match[*session], 0, 16)
		for i := 0; pb.Next(); i++ {
			if dst = x.Match(all[i&(1<<14-1)], nil, dst[:0]); len(dst) != 1 {
				b.Error("no match")
				return
			}
		}
	})
}

func BenchmarkSubscribeUnsubscribe(b *testing.B) {
	bench := func(x *subscriptions.Index[*session], filter string) func(*testing.B) {
		return func(b *testing.B) {
			s := new(session)
			b.ReportAllocs()
			for b.Loop() {
				x.Subscribe(filter, s, options{QoS: 1})
				if _, found := x.Unsubscribe(filter, s); !found {
					b.Fatal("not found")
				}
			}
		}
	}
	b.Run("own_exact_topic", bench(indexOf(own), "devices/x/commands"))
	b.Run("own_wildcard_filter", bench(indexOf(ownAll), "devices/x/+/y"))
	b.Run("one_topic_of_100k", bench(indexOf(func(int) string { return "news" }), "news"))
}

// Subscribing while as many goroutines as there are processors do nothing but match.
func BenchmarkSubscribeWhileOthersMatch(b *testing.B) {
	x, all := indexOf(own), names()
	var done atomic.Bool
	var matching sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		matching.Go(func() {
			dst := make([]subscriptions.Match[*session], 0, 16)
			for i := 0; !done.Load(); i++ {
				dst = x.Match(all[i&(1<<14-1)], nil, dst[:0])
			}
		})
	}
	s := new(session)
	b.ReportAllocs()
	for b.Loop() {
		x.Subscribe("devices/x/commands", s, options{QoS: 1})
		x.Unsubscribe("devices/x/commands", s)
	}
	done.Store(true)
	matching.Wait()
}

func BenchmarkMemoryOfASubscription(b *testing.B) {
	for name, filter := range map[string]func(i int) string{"exact": own, "wildcard": ownAll} {
		b.Run(name, func(b *testing.B) {
			var cost int64
			for b.Loop() {
				cost = perSubscription(filters, filter)
			}
			b.ReportMetric(float64(cost), "B/subscription")
		})
	}
}
