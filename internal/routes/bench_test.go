package routes_test

import (
	"fmt"
	"testing"

	"github.com/beeline-mqtt/beeline/internal/routes"
)

const filters = 100_000

func own(i int) string    { return fmt.Sprintf("devices/%08d/commands", i) }
func ownAll(i int) string { return fmt.Sprintf("devices/%08d/#", i) }

// tableOf has 100,000 routes that belong to eight peers in turn.
func tableOf(filter func(i int) string) *routes.Table[*int] {
	tab := routes.NewTable[*int]()
	var peers [8]*int
	for i := range peers {
		peers[i] = new(int)
	}
	for i := range filters {
		tab.Announce(peers[i%len(peers)], ordinary(filter(i)))
	}
	return tab
}

func benchmarkMatch(b *testing.B, tab *routes.Table[*int], want int) {
	names := make([]string, 1<<14)
	for i := range names {
		names[i] = own(i * 6007 % filters)
	}
	dst := make([]routes.Match[*int], 0, 16)
	i := 0
	b.ReportAllocs()
	for b.Loop() {
		if dst = tab.Match(names[i&(1<<14-1)], dst[:0]); len(dst) != want {
			b.Fatalf("%d peers, want %d", len(dst), want)
		}
		i++
	}
}

func BenchmarkMatch(b *testing.B) {
	b.Run("exact_among_100k", func(b *testing.B) { benchmarkMatch(b, tableOf(own), 1) })
	b.Run("wildcard_among_100k", func(b *testing.B) { benchmarkMatch(b, tableOf(ownAll), 1) })
	b.Run("exact_and_8_peers_of_wildcard", func(b *testing.B) {
		tab := tableOf(own)
		for range 8 {
			tab.Announce(new(int), ordinary("devices/+/commands"))
		}
		benchmarkMatch(b, tab, 9)
	})
	b.Run("nobody", func(b *testing.B) {
		benchmarkMatch(b, tableOf(func(i int) string { return fmt.Sprint("others/", i, "/+") }), 0)
	})
}

func BenchmarkAnnounceWithdraw(b *testing.B) {
	tab := tableOf(own)
	p := new(int)
	b.ReportAllocs()
	for b.Loop() {
		tab.Announce(p, ordinary("devices/x/commands"))
		tab.Withdraw(p, "devices/x/commands", "")
	}
}

func BenchmarkReplace(b *testing.B) {
	all := make([]route, filters)
	for i := range all {
		all[i] = ordinary(own(i))
	}
	tab := routes.NewTable[*int]()
	p := new(int)
	tab.Replace(p, all)
	b.ReportAllocs()
	for b.Loop() {
		tab.Replace(p, all)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/filters, "ns/route")
}

func BenchmarkMemoryOfARoute(b *testing.B) {
	for name, r := range map[string]func(i int) route{
		"exact":    func(i int) route { return ordinary(own(i)) },
		"wildcard": func(i int) route { return ordinary(ownAll(i)) },
		"shared":   func(i int) route { return shared("g", own(i), 1) },
	} {
		b.Run(name, func(b *testing.B) {
			var cost int64
			for b.Loop() {
				cost = perRoute(filters, r)
			}
			b.ReportMetric(float64(cost), "B/route")
		})
	}
}
