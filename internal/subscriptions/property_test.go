package subscriptions_test

import (
	"maps"
	"slices"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/beeline-mqtt/beeline/internal/subscriptions"
	"github.com/beeline-mqtt/beeline/internal/topic"
)

// model is an Index that asks topic.Match about every subscription.
type model map[string]map[int]options

func (m model) match(name string, publisher int) []subscriptions.Match[int] {
	merged := map[int]*subscriptions.Match[int]{}
	for filter, subscribers := range m {
		if !topic.Match(filter, name) {
			continue
		}
		for k, o := range subscribers {
			if o.NoLocal && k == publisher {
				continue
			}
			if merged[k] == nil {
				merged[k] = &subscriptions.Match[int]{Key: k}
			}
			merged[k].QoS = max(merged[k].QoS, o.QoS)
			merged[k].RetainAsPublished = merged[k].RetainAsPublished || o.RetainAsPublished
			if o.ID != 0 {
				merged[k].IDs = append(merged[k].IDs, o.ID)
			}
		}
	}
	var all []subscriptions.Match[int]
	for _, m := range merged {
		all = append(all, *m)
	}
	return sorted(all)
}

func (m model) len() (n int) {
	for _, subscribers := range m {
		n += len(subscribers)
	}
	return n
}

func drawTopic(levels ...string) *rapid.Generator[string] {
	return rapid.Custom(func(t *rapid.T) string {
		return strings.Join(rapid.SliceOfN(rapid.SampledFrom(levels), 1, 4).Draw(t, "levels"), "/")
	})
}

func drawOptions() *rapid.Generator[options] {
	return rapid.Custom(func(t *rapid.T) options {
		return options{
			QoS:               rapid.ByteMax(2).Draw(t, "qos"),
			NoLocal:           rapid.Bool().Draw(t, "no local"),
			RetainAsPublished: rapid.Bool().Draw(t, "retain as published"),
			RetainHandling:    rapid.ByteMax(2).Draw(t, "retain handling"),
			ID:                rapid.Uint32Max(3).Draw(t, "id"),
		}
	})
}

func TestIndexAgreesWithAskingEverySubscription(t *testing.T) {
	filters := drawTopic("a", "b", "", "$x", "p2p", "+", "+", "#").Filter(func(f string) bool {
		return topic.ValidateFilter(f, topic.DefaultLimits()) == nil
	})
	names := drawTopic("a", "b", "", "$x", "p2p")
	keys := rapid.IntRange(1, 60)
	rapid.Check(t, func(t *rapid.T) {
		x, m := subscriptions.New[int](), model{}
		subscribe := func(filter string, k int, o options) {
			_, had := m[filter][k]
			if first, replaced := x.Subscribe(filter, k, o); first != (len(m[filter]) == 0) || replaced != had {
				t.Fatalf("Subscribe(%q, %d) = %v, %v", filter, k, first, replaced)
			}
			if m[filter] == nil {
				m[filter] = map[int]options{}
			}
			m[filter][k] = o
		}
		unsubscribe := func(filter string, k int) {
			_, had := m[filter][k]
			delete(m[filter], k)
			if last, found := x.Unsubscribe(filter, k); last != (had && len(m[filter]) == 0) || found != had {
				t.Fatalf("Unsubscribe(%q, %d) = %v, %v", filter, k, last, found)
			}
		}
		t.Repeat(map[string]func(*rapid.T){
			"subscribe": func(t *rapid.T) {
				subscribe(filters.Draw(t, "filter"), keys.Draw(t, "key"), drawOptions().Draw(t, "options"))
			},
			"many subscribe": func(t *rapid.T) {
				filter, o := filters.Draw(t, "filter"), drawOptions().Draw(t, "options")
				for _, k := range rapid.SliceOfN(keys, 10, 50).Draw(t, "keys") {
					subscribe(filter, k, o)
				}
			},
			"unsubscribe": func(t *rapid.T) {
				unsubscribe(filters.Draw(t, "filter"), keys.Draw(t, "key"))
			},
			"many unsubscribe": func(t *rapid.T) {
				for filter := range m {
					for _, k := range rapid.SliceOfN(keys, 10, 50).Draw(t, "keys") {
						unsubscribe(filter, k)
					}
				}
			},
			"match": func(t *rapid.T) {
				name, publisher := names.Draw(t, "name"), rapid.IntRange(0, 60).Draw(t, "publisher")
				if diff := gocmp.Diff(m.match(name, publisher), sorted(x.Match(name, publisher, nil))); diff != "" {
					t.Fatalf("Match(%q, %d):\n%s", name, publisher, diff)
				}
			},
			"": func(t *rapid.T) {
				if x.Len() != m.len() {
					t.Fatalf("Len() = %d, want %d", x.Len(), m.len())
				}
			},
		})
	})
}

// FuzzIndex reads lines "+<key><filter>", "-<key><filter>" and "?<key><name>" and follows them.
func FuzzIndex(f *testing.F) {
	f.Add("+aa/b\n+ba/+\n+a#\n?ba/b\n-aa/b\n?aa/b")
	f.Add("+a$SYS/#\n+b#\n?c$SYS/x\n-a$SYS/#\n?c$SYS/x")
	f.Add("+ap2p\n+b+/a/b\n?cp2p/a/b\n?cp2p")
	f.Fuzz(func(t *testing.T, script string) {
		x, m := subscriptions.New[int](), model{}
		for line := range strings.SplitSeq(script, "\n") {
			if len(line) < 3 {
				continue
			}
			k, s := int(line[1]), line[2:]
			valid := topic.ValidateFilter(s, topic.DefaultLimits()) == nil
			switch {
			case line[0] == '+' && valid:
				o := options{QoS: line[1] % 3, NoLocal: line[1]%2 == 0, ID: uint32(line[1]) % 4}
				x.Subscribe(s, k, o)
				if m[s] == nil {
					m[s] = map[int]options{}
				}
				m[s][k] = o
			case line[0] == '-' && valid:
				_, had := m[s][k]
				delete(m[s], k)
				if _, found := x.Unsubscribe(s, k); found != had {
					t.Fatalf("%q: Unsubscribe finds: %v", line, found)
				}
			case line[0] == '?':
				if diff := gocmp.Diff(m.match(s, k), sorted(x.Match(s, k, nil))); diff != "" {
					t.Fatalf("%q:\n%s", line, diff)
				}
			}
		}
		for filter, subscribers := range m {
			for _, k := range slices.Sorted(maps.Keys(subscribers)) {
				x.Unsubscribe(filter, k)
			}
		}
		if x.Len() != 0 {
			t.Fatalf("%d subscriptions are left", x.Len())
		}
	})
}
