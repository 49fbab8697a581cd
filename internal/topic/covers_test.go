package topic_test

import (
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/beeline-mqtt/beeline/internal/topic"
)

func TestCovers(t *testing.T) {
	for _, c := range []struct {
		outer, inner string
		want         bool
	}{
		{"a/b", "a/b", true},
		{"a/b", "a/c", false},
		{"a/b", "a", false},
		{"a", "a/b", false},
		{"a/+", "a/b", true},
		{"a/+", "a/+", true},
		{"a/b", "a/+", false},
		{"a/+", "a/b/c", false},
		{"a/+", "a/#", false},
		{"a/#", "a", true},
		{"a/#", "a/b/c", true},
		{"a/#", "a/+/c", true},
		{"a/#", "a/#", true},
		{"a/#", "+/b", false},
		{"a/#", "#", false},
		{"a/#", "ab", false},
		{"a/+/#", "a/#", false},
		{"a/#", "a/+/#", true},
		{"+/#", "#", true},
		{"#", "+/#", true},
		{"#", "a", true},
		{"#", "$SYS/a", false},
		{"+/a", "$SYS/a", false},
		{"$SYS/#", "$SYS/a", true},
		{"$SYS/+", "$SYS/+", true},
		{"$SYS/#", "#", false},
		{"a//+", "a//b", true},
		{"+", "a/", false},
		{"+/+", "/", true},
		{"a/+/c", "a/b/#", false},
	} {
		if got := topic.Covers(c.outer, c.inner); got != c.want {
			t.Errorf("Covers(%q, %q) = %v", c.outer, c.inner, got)
		}
	}
}

// Names of which no level is in a filter stand for all of those that only wildcards match, and names with a level more than
// both filters for all that only # does: so a few names decide whether one filter covers another.
func TestAFilterCoversAnotherExactlyWhenItMatchesAllThatThatDoes(t *testing.T) {
	levels := []string{"a", "b", "$x", "other"}
	var names []string
	var add func(prefix []string)
	add = func(prefix []string) {
		if len(prefix) > 0 {
			names = append(names, strings.Join(prefix, "/"))
		}
		if len(prefix) < 5 {
			for _, l := range levels {
				add(append(prefix[:len(prefix):len(prefix)], l))
			}
		}
	}
	add(nil)
	filter := rapid.Custom(func(t *rapid.T) string {
		f := rapid.SliceOfN(rapid.SampledFrom([]string{"a", "b", "$x", "+"}), 0, 4).Draw(t, "levels")
		if len(f) == 0 || len(f) < 4 && rapid.Bool().Draw(t, "all below") {
			f = append(f, "#")
		}
		return strings.Join(f, "/")
	})
	rapid.Check(t, func(t *rapid.T) {
		outer, inner := filter.Draw(t, "outer"), filter.Draw(t, "inner")
		witness := ""
		for _, n := range names {
			if topic.Match(inner, n) && !topic.Match(outer, n) {
				witness = n
				break
			}
		}
		if got := topic.Covers(outer, inner); got != (witness == "") {
			t.Fatalf("Covers(%q, %q) = %v; %q", outer, inner, got, witness)
		}
	})
}

func FuzzCovers(f *testing.F) {
	f.Add("a/#", "a/+/c", "a/b/c")
	f.Add("+/#", "#", "x")
	f.Add("#", "$SYS/#", "$SYS/a")
	f.Fuzz(func(t *testing.T, outer, inner, name string) {
		l := topic.DefaultLimits()
		if topic.ValidateFilter(outer, l) != nil || topic.ValidateFilter(inner, l) != nil || topic.ValidateName(name, l) != nil {
			t.Skip("not what filters and names are")
		}
		if topic.Covers(outer, inner) && topic.Match(inner, name) && !topic.Match(outer, name) {
			t.Errorf("%q is said to cover %q, but does not match %q", outer, inner, name)
		}
		if !topic.Covers(inner, inner) {
			t.Errorf("%q does not cover itself", inner)
		}
	})
}
