package subscriptions_test

import (
	"cmp"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/beeline-mqtt/beeline/internal/subscriptions"
)

type (
	index   = subscriptions.Index[string]
	options = subscriptions.Options
	match   = subscriptions.Match[string]
)

// sorted puts matches into an order in which they can be compared, and so their identifiers.
func sorted[K cmp.Ordered](got []subscriptions.Match[K]) []subscriptions.Match[K] {
	var out []subscriptions.Match[K]
	for _, m := range got {
		m.IDs = slices.Sorted(slices.Values(m.IDs))
		out = append(out, m)
	}
	slices.SortFunc(out, func(a, b subscriptions.Match[K]) int { return cmp.Compare(a.Key, b.Key) })
	return out
}

func checkMatch(t *testing.T, x *index, name, publisher string, want ...match) {
	t.Helper()
	if diff := gocmp.Diff(want, sorted(x.Match(name, publisher, nil))); diff != "" {
		t.Errorf("Match(%q, %q):\n%s", name, publisher, diff)
	}
}

func TestEmptyIndexMatchesNothing(t *testing.T) {
	x := subscriptions.New[string]()
	checkMatch(t, x, "a/b", "")
	if last, found := x.Unsubscribe("a/b", "alice"); last || found {
		t.Errorf("Unsubscribe = %v, %v, want false, false", last, found)
	}
	if x.Len() != 0 {
		t.Errorf("Len() = %d, want 0", x.Len())
	}
}

func TestSubscriberGetsWhatItsFilterMatches(t *testing.T) {
	x := subscriptions.New[string]()
	x.Subscribe("sport/+/score", "alice", options{QoS: 1})
	x.Subscribe("sport/tennis/score", "bob", options{QoS: 2, RetainAsPublished: true, ID: 7})
	x.Subscribe("news/#", "carol", options{})
	checkMatch(t, x, "sport/tennis/score", "",
		match{Key: "alice", QoS: 1},
		match{Key: "bob", QoS: 2, RetainAsPublished: true, IDs: []uint32{7}})
	checkMatch(t, x, "sport/golf/score", "", match{Key: "alice", QoS: 1})
	checkMatch(t, x, "news", "", match{Key: "carol"})
	checkMatch(t, x, "sport/tennis", "")
}

func TestFirstAndLastTellAboutTheFilterReplacedAndFoundAboutTheKey(t *testing.T) {
	for _, filter := range []string{"a/b", "a/+", "#"} {
		x := subscriptions.New[string]()
		subscribe := func(k string, wantFirst, wantReplaced bool) {
			t.Helper()
			if first, replaced := x.Subscribe(filter, k, options{}); first != wantFirst || replaced != wantReplaced {
				t.Errorf("%q: Subscribe(%q) = %v, %v, want %v, %v", filter, k, first, replaced, wantFirst, wantReplaced)
			}
		}
		unsubscribe := func(k string, wantLast, wantFound bool) {
			t.Helper()
			if last, found := x.Unsubscribe(filter, k); last != wantLast || found != wantFound {
				t.Errorf("%q: Unsubscribe(%q) = %v, %v, want %v, %v", filter, k, last, found, wantLast, wantFound)
			}
		}
		subscribe("alice", true, false)
		subscribe("alice", false, true)
		subscribe("bob", false, false)
		unsubscribe("carol", false, false)
		unsubscribe("alice", false, true)
		unsubscribe("alice", false, false)
		unsubscribe("bob", true, true)
		unsubscribe("bob", false, false)
		subscribe("bob", true, false)
	}
}

func TestUnsubscribingFromAFilterThatOnlyOthersHaveFindsNothing(t *testing.T) {
	x := subscriptions.New[string]()
	x.Subscribe("a/+", "alice", options{})
	if last, found := x.Unsubscribe("a/+", "bob"); last || found {
		t.Errorf("Unsubscribe = %v, %v, want false, false", last, found)
	}
	checkMatch(t, x, "a/b", "", match{Key: "alice"})
}

func TestSubscribingAgainReplacesAllOptions(t *testing.T) {
	x := subscriptions.New[string]()
	x.Subscribe("a", "alice", options{QoS: 2, NoLocal: true, RetainAsPublished: true, ID: 1})
	before := x.Match("a", "", nil)
	x.Subscribe("a", "alice", options{QoS: 0, ID: 2})
	checkMatch(t, x, "a", "alice", match{Key: "alice", IDs: []uint32{2}})
	x.Subscribe("a", "alice", options{QoS: 1})
	checkMatch(t, x, "a", "alice", match{Key: "alice", QoS: 1})
	if want := []match{{Key: "alice", QoS: 2, RetainAsPublished: true, IDs: []uint32{1}}}; !gocmp.Equal(want, before) {
		t.Errorf("an earlier result has become %+v", before)
	}
}

func TestOverlappingSubscriptionsAreMerged(t *testing.T) {
	x := subscriptions.New[string]()
	x.Subscribe("a/b", "alice", options{QoS: 0, ID: 10})
	x.Subscribe("a/+", "alice", options{QoS: 2})
	x.Subscribe("a/#", "alice", options{QoS: 1, RetainAsPublished: true, ID: 20})
	x.Subscribe("#", "alice", options{QoS: 1, ID: 10})
	x.Subscribe("+/b", "bob", options{QoS: 1})
	x.Subscribe("a/b", "bob", options{QoS: 0, ID: 3})
	for range 2 { // merging leaves the identifiers in the index alone
		checkMatch(t, x, "a/b", "",
			match{Key: "alice", QoS: 2, RetainAsPublished: true, IDs: []uint32{10, 10, 20}},
			match{Key: "bob", QoS: 1, IDs: []uint32{3}})
	}
	checkMatch(t, x, "x", "", match{Key: "alice", QoS: 1, IDs: []uint32{10}})
}

func TestNoLocalIsLeftOutBeforeMerging(t *testing.T) {
	x := subscriptions.New[string]()
	x.Subscribe("a/b", "alice", options{QoS: 2, NoLocal: true, RetainAsPublished: true, ID: 1})
	x.Subscribe("a/+", "alice", options{QoS: 1, ID: 2})
	x.Subscribe("a/#", "bob", options{QoS: 1, NoLocal: true})
	checkMatch(t, x, "a/b", "alice",
		match{Key: "alice", QoS: 1, IDs: []uint32{2}},
		match{Key: "bob", QoS: 1})
	checkMatch(t, x, "a/b", "bob",
		match{Key: "alice", QoS: 2, RetainAsPublished: true, IDs: []uint32{1, 2}})
	checkMatch(t, x, "a/b", "",
		match{Key: "alice", QoS: 2, RetainAsPublished: true, IDs: []uint32{1, 2}},
		match{Key: "bob", QoS: 1})
}

func TestDollarTopicsAndDirectAddressesAreOutOfReachOfWildcards(t *testing.T) {
	x := subscriptions.New[string]()
	x.Subscribe("#", "alice", options{})
	x.Subscribe("+/#", "alice", options{})
	x.Subscribe("+/+/+", "bob", options{})
	x.Subscribe("$SYS/#", "carol", options{})
	x.Subscribe("p2p/alice/x", "dave", options{})
	checkMatch(t, x, "$SYS/broker/uptime", "", match{Key: "carol"})
	checkMatch(t, x, "p2p/alice/x", "")
	checkMatch(t, x, "p2p", "", match{Key: "alice"})
}

func TestMatchAppendsAndMergesOnlyItsOwnResults(t *testing.T) {
	x := subscriptions.New[string]()
	x.Subscribe("a", "alice", options{QoS: 1})
	x.Subscribe("+", "alice", options{QoS: 2})
	x.Subscribe("+", "bob", options{})
	before := []match{{Key: "alice", QoS: 0}, {Key: "zoe"}}
	got := x.Match("a", "", before)
	if diff := gocmp.Diff(before, got[:2]); diff != "" {
		t.Errorf("what was there has changed:\n%s", diff)
	}
	if diff := gocmp.Diff([]match{{Key: "alice", QoS: 2}, {Key: "bob"}}, sorted(got[2:])); diff != "" {
		t.Error(diff)
	}
}

func TestHasKnowsTheFiltersThatSomebodyHas(t *testing.T) {
	x := subscriptions.New[string]()
	x.Subscribe("a/+", "k", subscriptions.Options{})
	if !x.Has("a/+") || x.Has("a/b") || x.Has("a") {
		t.Error("want a/+ and no other")
	}
	x.Unsubscribe("a/+", "k")
	if x.Has("a/+") {
		t.Error("a/+ is left")
	}
}

func TestManySubscribersOfOneFilterComeAndGo(t *testing.T) {
	const many = 1000
	x := subscriptions.New[int]()
	for k := 1; k <= many; k++ {
		first, replaced := x.Subscribe("a/+", k, options{QoS: 1, ID: uint32(k)})
		if first != (k == 1) || replaced {
			t.Fatalf("Subscribe of key %d = %v, %v", k, first, replaced)
		}
	}
	for k := 2; k <= many; k += 2 { // from the front, so that others move
		if last, found := x.Unsubscribe("a/+", k); last || !found {
			t.Fatalf("Unsubscribe of key %d = %v, %v", k, last, found)
		}
	}
	for k := 1; k <= many; k += 4 {
		if _, replaced := x.Subscribe("a/+", k, options{QoS: 2, ID: uint32(k)}); !replaced {
			t.Fatalf("key %d is not there any more", k)
		}
	}
	var want []subscriptions.Match[int]
	for k := 1; k <= many; k += 2 {
		qos := byte(1)
		if k%4 == 1 {
			qos = 2
		}
		want = append(want, subscriptions.Match[int]{Key: k, QoS: qos, IDs: []uint32{uint32(k)}})
	}
	if diff := gocmp.Diff(want, sorted(x.Match("a/b", 0, nil))); diff != "" {
		t.Error(diff)
	}
	for k := 1; k <= many; k += 2 {
		if last, found := x.Unsubscribe("a/+", k); last != (k == many-1) || !found {
			t.Fatalf("Unsubscribe of key %d = %v, %v", k, last, found)
		}
	}
	if got := x.Match("a/b", 0, nil); len(got) != 0 || x.Len() != 0 {
		t.Errorf("%d matches and %d subscriptions are left", len(got), x.Len())
	}
}

func TestLargeOverlapsAreMerged(t *testing.T) {
	x := subscriptions.New[int]()
	for k := 1; k <= 300; k++ {
		x.Subscribe("a/b", k, options{QoS: 0})
		if k%2 == 0 {
			x.Subscribe("a/+", k, options{QoS: 1})
		}
		if k%3 == 0 {
			x.Subscribe("#", k+300, options{QoS: 2, NoLocal: true})
			x.Subscribe("#", k, options{QoS: 2, NoLocal: true})
		}
	}
	got := x.Match("a/b", 6, nil)
	if len(got) != 400 {
		t.Errorf("%d matches, want 400", len(got))
	}
	for _, m := range got {
		want := byte(0)
		switch {
		case m.Key%3 == 0 && m.Key != 6:
			want = 2
		case m.Key%2 == 0:
			want = 1
		}
		if m.QoS != want {
			t.Errorf("key %d has QoS %d, want %d", m.Key, m.QoS, want)
		}
	}
}

func TestMoreFiltersThanUsualMatchOneName(t *testing.T) {
	x := subscriptions.New[string]()
	levels := []string{"a", "+"}
	for i := range 1 << 6 {
		var filter []string
		for bit := range 6 {
			filter = append(filter, levels[i>>bit&1])
		}
		x.Subscribe(strings.Join(filter, "/"), fmt.Sprint(i%3), options{QoS: byte(i % 2), ID: uint32(i + 1)})
	}
	got := x.Match("a/a/a/a/a/a", "", nil)
	ids := 0
	for _, m := range got {
		ids += len(m.IDs)
		if m.QoS != 1 {
			t.Errorf("key %s has QoS %d, want 1", m.Key, m.QoS)
		}
	}
	if len(got) != 3 || ids != 64 {
		t.Errorf("%d keys with %d identifiers, want 3 with 64", len(got), ids)
	}
}

func TestFilterIsCopied(t *testing.T) {
	x := subscriptions.New[string]()
	packet := make([]byte, 1<<20)
	copy(packet, "a/b")
	before := heap()
	for i := range 32 {
		whole := string(packet)
		x.Subscribe(whole[:3], fmt.Sprint(i), options{})
		x.Unsubscribe("a/b", fmt.Sprint(i))
		x.Subscribe(fmt.Sprint(i), "alice", options{})
		x.Subscribe(whole[:3+i], "alice", options{})
	}
	if grown := heap() - before; grown > 8<<20 {
		t.Errorf("32 filters of 32 MiB of packets keep %d bytes", grown)
	}
	runtime.KeepAlive(x)
}

func heap() int64 {
	var s runtime.MemStats
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&s)
	return int64(s.HeapAlloc)
}

type session struct{ _ [64]byte }

// perSubscription is what n subscriptions, each of its own session to its own filter, cost in the index; the
// strings that the caller has are not counted.
func perSubscription(n int, filter func(i int) string) int64 {
	filters, sessions := make([]string, n), make([]session, n)
	for i := range filters {
		filters[i] = filter(i)
	}
	before := heap()
	x := subscriptions.New[*session]()
	for i := range filters {
		x.Subscribe(filters[i], &sessions[i], options{QoS: 1})
	}
	cost := (heap() - before) / int64(n)
	runtime.KeepAlive(x)
	runtime.KeepAlive(filters)
	runtime.KeepAlive(sessions)
	return cost
}

func TestMemoryOfASubscription(t *testing.T) {
	cases := map[string]struct {
		filter func(i int) string
		most   int64
	}{
		"own exact topic":         {func(i int) string { return fmt.Sprintf("devices/%08d/commands", i) }, 250},
		"own multi-level filter":  {func(i int) string { return fmt.Sprintf("devices/%08d/#", i) }, 400},
		"own single-level filter": {func(i int) string { return fmt.Sprintf("devices/%08d/+/state", i) }, 600},
		"one topic for all":       {func(int) string { return "news" }, 150},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			got := perSubscription(100_000, c.filter)
			t.Logf("%d bytes", got)
			if got <= 0 || got > c.most {
				t.Errorf("%d bytes per subscription, want at most %d", got, c.most)
			}
		})
	}
}

func TestMatchDoesNotAllocate(t *testing.T) {
	x := subscriptions.New[int]()
	for k := 1; k <= 100; k++ {
		x.Subscribe("a/b", k, options{QoS: 1, ID: uint32(k)})
		x.Subscribe("own/"+fmt.Sprint(k), k, options{ID: 1})
	}
	for k := 95; k <= 105; k++ {
		x.Subscribe("a/+", k, options{QoS: 2})
	}
	x.Subscribe("#", 3, options{NoLocal: true})
	dst := make([]subscriptions.Match[int], 0, 128)
	for name, want := range map[string]int{"a/b": 105, "own/7": 2, "nobody/else": 1, "$SYS/x": 0} {
		n := testing.AllocsPerRun(100, func() { dst = x.Match(name, 0, dst[:0]) })
		if n != 0 || len(dst) != want {
			t.Errorf("%q: %v allocations for %d matches, want 0 for %d", name, n, len(dst), want)
		}
	}
}

func TestTheOptionsOfASubscriptionAreKept(t *testing.T) {
	x := subscriptions.New[string]()
	want := options{QoS: 1, NoLocal: true, RetainAsPublished: true, RetainHandling: 2, ID: 7}
	x.Subscribe("a/+", "alice", want)
	x.Subscribe("a/b", "alice", options{})
	if got, ok := x.Get("a/+", "alice"); !ok || got != want {
		t.Errorf("Get = %+v, %v, want %+v", got, ok, want)
	}
	for filter, k := range map[string]string{"a/+": "bob", "a": "alice"} {
		if got, ok := x.Get(filter, k); ok {
			t.Errorf("Get(%q, %q) = %+v, though there is none", filter, k, got)
		}
	}
}

func TestFiltersSayWhatMatches(t *testing.T) {
	x := subscriptions.New[string]()
	for _, f := range []string{"a/b", "a/+", "#", "b/#", "+/b/c"} {
		x.Subscribe(f, "alice", options{})
		x.Subscribe(f, "bob", options{})
	}
	got := x.Filters("a/b")
	slices.Sort(got)
	if want := []string{"#", "a/+", "a/b"}; !slices.Equal(got, want) {
		t.Errorf("Filters = %v, want %v", got, want)
	}
}
