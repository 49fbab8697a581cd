package topic

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"unsafe"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// nodes returns all nodes of m but the root, each found from its parent.
func nodes(m *Map[string]) []*node[string] {
	var all []*node[string]
	var visit func(n *node[string])
	visit = func(n *node[string]) {
		for _, c := range []*node[string]{n.plus, n.inline} {
			if c != nil {
				all = append(all, c)
				visit(c)
			}
		}
		for e, c := range m.edges {
			if e.parent == n {
				all = append(all, c)
				visit(c)
			}
		}
	}
	visit(&m.root)
	return all
}

// checkPruned fails when m has a node that no filter needs.
func checkPruned(t rapid.TB, m *Map[string]) {
	t.Helper()
	for _, n := range nodes(m) {
		if n.isBare() {
			t.Errorf("the node for level %q stands for nothing", n.level)
		}
	}
	if m.Len() == 0 && (len(m.exact) != 0 || len(m.edges) != 0 || m.root != (node[string]{})) {
		t.Errorf("an empty map has %d edges and the root %+v", len(m.edges), m.root)
	}
}

// matches returns the values of all filters in m that match name, sorted.
func matches(m *Map[string], name string) []string {
	var got []string
	for _, v := range m.AppendMatches(nil, name) {
		got = append(got, *v)
	}
	slices.Sort(got)
	return got
}

// named returns the filters with which EachMatch names the values that match name, sorted; it has to be their own.
func named(m *Map[string], name string) []string {
	var got []string
	m.EachMatch(name, func(filter string, v *string) {
		if *v != filter {
			filter += " has the value of " + *v
		}
		got = append(got, filter)
	})
	slices.Sort(got)
	return got
}

func mapOf(filters ...string) *Map[string] {
	var m Map[string]
	for _, f := range filters {
		*m.Add(f) = f
	}
	return &m
}

func TestZeroMapIsEmpty(t *testing.T) {
	var m Map[string]
	if m.Len() != 0 || m.Get("a") != nil || m.Get("a/#") != nil || m.AppendMatches(nil, "a") != nil {
		t.Error("something is in it")
	}
	m.Delete("a")
	m.Delete("+/a")
	if m.Len() != 0 {
		t.Errorf("Len() = %d after deleting what was not there", m.Len())
	}
}

func TestMapFindsEveryFilterThatMatchesOnce(t *testing.T) {
	m := mapOf("a/b/c", "a/b", "a/+/c", "+/+/c", "a/#", "a/b/#", "a/b/c/#", "#", "+/b/#", "a/b/c/d", "b/#", "$SYS/#")
	want := []string{"#", "+/+/c", "+/b/#", "a/#", "a/+/c", "a/b/#", "a/b/c", "a/b/c/#"}
	if diff := cmp.Diff(want, matches(m, "a/b/c")); diff != "" {
		t.Error(diff)
	}
}

func TestMapAppendsToWhatIsThere(t *testing.T) {
	m := mapOf("a", "+")
	before := "before"
	got := m.AppendMatches([]*string{&before}, "a")
	if len(got) != 3 || got[0] != &before {
		t.Errorf("got %d values, want the one before and two more", len(got))
	}
}

func TestValueStaysWhereItIsUntilDeleted(t *testing.T) {
	for _, filter := range []string{"a/b", "a/+", "a/#", "#"} {
		var m Map[string]
		v := m.Add(filter)
		*v = "kept"
		for i := range 1000 {
			m.Add(fmt.Sprint("a/", i))
			m.Add(fmt.Sprint("a/", i, "/+"))
		}
		if m.Get(filter) != v || m.Add(filter) != v || *v != "kept" {
			t.Errorf("%q: the value has moved", filter)
		}
		m.Delete(filter)
		if m.Get(filter) != nil {
			t.Errorf("%q: still there after Delete", filter)
		}
		if again := m.Add(filter); *again != "" {
			t.Errorf("%q: added again it has the value %q", filter, *again)
		}
	}
}

func TestDeleteLeavesNothingBehind(t *testing.T) {
	filters := []string{"#", "+", "+/+/#", "a/+", "a/b/+/c/d", "a/b/+/c", "a/b/#", "$SYS/+/x", "/+//", "a/b/c"}
	for i := range filters {
		m := mapOf(filters...)
		for j := range filters {
			m.Delete(filters[(i+j)%len(filters)])
		}
		if m.Len() != 0 {
			t.Errorf("deleting from %q on leaves %d filters", filters[i], m.Len())
		}
		checkPruned(t, m)
	}
}

func TestDeletePrunesOnlyWhatNobodyElseNeeds(t *testing.T) {
	m := mapOf("a/b/+/c/d", "a/b/+", "a/x/#")
	m.Delete("a/b/+/c/d")
	if diff := cmp.Diff([]string{"a/b/+"}, matches(m, "a/b/z")); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"a/x/#"}, matches(m, "a/x")); diff != "" {
		t.Error(diff)
	}
	if got, want := len(nodes(m)), 4; got != want { // a, a/b, a/b/+, a/x
		t.Errorf("%d nodes are left, want %d", got, want)
	}
	checkPruned(t, m)
}

func TestDeleteOfAFilterThatIsOnlyOnTheWayDoesNothing(t *testing.T) {
	m := mapOf("a/+/b/#", "a/+/b/c")
	for _, f := range []string{"a/+", "a/+/b", "a/#", "#", "+", "a/+/b/c/#", "a/+/b/c/d", "a", "a/x/b/#"} {
		m.Delete(f)
	}
	if diff := cmp.Diff([]string{"a/+/b/#", "a/+/b/c"}, matches(m, "a/z/b/c")); diff != "" {
		t.Error(diff)
	}
	if m.Len() != 2 {
		t.Errorf("Len() = %d, want 2", m.Len())
	}
}

func TestTreeIsNotWalkedWithoutWildcards(t *testing.T) {
	m := mapOf("a/b", "a/+")
	m.Delete("a/+")
	if m.wildcard != 0 {
		t.Errorf("%d wildcard filters are counted, want none", m.wildcard)
	}
	if diff := cmp.Diff([]string{"a/b"}, matches(m, "a/b")); diff != "" {
		t.Error(diff)
	}
}

func TestMatchingDoesNotAllocate(t *testing.T) {
	m := mapOf("a/b/c", "a/+/c", "#", "+/b/#", "$SYS/#")
	dst := make([]*string, 0, 8)
	n := testing.AllocsPerRun(100, func() {
		dst = m.AppendMatches(dst[:0], "a/b/c")
		dst = m.AppendMatches(dst, "$SYS/x")
	})
	if n != 0 || len(dst) != 5 {
		t.Errorf("%v allocations for %d values, want 0 for 5", n, len(dst))
	}
}

// The levels a tree keeps must not keep the filter alive that they came with: it may be long, and gone.
func TestTreeCopiesTheLevelsItKeeps(t *testing.T) {
	filter := strings.Repeat("level/", 10) + "#"
	m := mapOf(filter)
	begin := uintptr(unsafe.Pointer(unsafe.StringData(filter)))
	for _, n := range nodes(m) {
		at := uintptr(unsafe.Pointer(unsafe.StringData(n.level)))
		if at >= begin && at < begin+uintptr(len(filter)) {
			t.Fatalf("level %q is part of the filter", n.level)
		}
	}
	if got := len(nodes(m)); got != 10 {
		t.Errorf("%d nodes, want 10", got)
	}
}

// Filters and names of few levels out of few letters, so that they meet; some of them are not valid, which a
// Map has to survive, and even then it agrees with Match.
func drawTopic(letters ...string) *rapid.Generator[string] {
	return rapid.Custom(func(t *rapid.T) string {
		return strings.Join(rapid.SliceOfN(rapid.SampledFrom(letters), 1, 5).Draw(t, "levels"), "/")
	})
}

func TestMapAgreesWithMatch(t *testing.T) {
	filters := drawTopic("a", "b", "", "$x", "p2p", "+", "+", "#")
	names := drawTopic("a", "b", "", "$x", "p2p")
	rapid.Check(t, func(t *rapid.T) {
		var m Map[string]
		model := map[string]bool{}
		t.Repeat(map[string]func(*rapid.T){
			"add": func(t *rapid.T) {
				f := filters.Draw(t, "filter")
				*m.Add(f) = f
				model[f] = true
			},
			"delete": func(t *rapid.T) {
				f := filters.Draw(t, "filter")
				m.Delete(f)
				delete(model, f)
			},
			"match": func(t *rapid.T) {
				name := names.Draw(t, "name")
				var want []string
				for f := range model {
					if Match(f, name) {
						want = append(want, f)
					}
				}
				slices.Sort(want)
				if diff := cmp.Diff(want, matches(&m, name)); diff != "" {
					t.Fatalf("%q among %v: %s", name, model, diff)
				}
				if diff := cmp.Diff(want, named(&m, name)); diff != "" {
					t.Fatalf("EachMatch(%q) among %v: %s", name, model, diff)
				}
			},
			"": func(t *rapid.T) {
				if m.Len() != len(model) {
					t.Fatalf("Len() = %d, want %d", m.Len(), len(model))
				}
				checkPruned(t, &m)
			},
		})
		for f := range model {
			if v := m.Get(f); v == nil || *v != f {
				t.Fatalf("Get(%q) = %v", f, v)
			}
			m.Delete(f)
		}
		checkPruned(t, &m)
	})
}

func BenchmarkMap(b *testing.B) {
	const filters = 100_000
	bench := func(filter func(i int) string, name func(i int) string, want int) func(*testing.B) {
		return func(b *testing.B) {
			var m Map[int]
			for i := range filters {
				m.Add(filter(i))
			}
			names := make([]string, 1<<14)
			for i := range names {
				names[i] = name(i * 6007 % filters)
			}
			dst := make([]*int, 0, 16)
			i := 0
			b.ReportAllocs()
			for b.Loop() {
				dst = m.AppendMatches(dst[:0], names[i&(1<<14-1)])
				i++
			}
			if len(dst) != want {
				b.Fatalf("%d matches, want %d", len(dst), want)
			}
		}
	}
	plain := func(i int) string { return fmt.Sprint("devices/", i, "/sensors/temperature") }
	b.Run("exact", bench(plain, plain, 1))
	b.Run("single_level", bench(func(i int) string { return fmt.Sprint("devices/", i, "/+/temperature") }, plain, 1))
	b.Run("multi_level", bench(func(i int) string { return fmt.Sprint("devices/", i, "/#") }, plain, 1))
	b.Run("no_match", bench(func(i int) string { return fmt.Sprint("others/", i, "/#") }, plain, 0))
}

func BenchmarkMapDepth(b *testing.B) {
	for _, levels := range []int{32, 1000, 32000} {
		b.Run(fmt.Sprint(levels), func(b *testing.B) {
			filter := strings.Repeat("+/", levels-1) + "#"
			name := strings.Repeat("a/", levels-1) + "a"
			b.ReportAllocs()
			for b.Loop() {
				var m Map[int]
				m.Add(filter)
				if len(m.AppendMatches(nil, name)) != 1 {
					b.Fatal("no match")
				}
				m.Delete(filter)
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(levels), "ns/level")
		})
	}
}
