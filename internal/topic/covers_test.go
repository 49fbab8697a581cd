package topic_test

import (
	"testing"

	"pgregory.net/rapid"

	"github.com/beeline-mqtt/beeline/internal/topic"
	"github.com/beeline-mqtt/beeline/internal/topic/topictest"
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

// The names stand for all: so they decide whether one filter covers another.
func TestAFilterCoversAnotherExactlyWhenItMatchesAllThatThatDoes(t *testing.T) {
	names, filter := topictest.Names(), topictest.Filter()
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
