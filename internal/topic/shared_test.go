package topic_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/beeline-mqtt/beeline/internal/topic"
)

func TestParseSharedTakesGroupAndFilterApart(t *testing.T) {
	cases := map[string]topic.Shared{
		"$share/g/a":           {Group: "g", Filter: "a"},
		"$share/workers/a/+/#": {Group: "workers", Filter: "a/+/#"},
		"$share/g//a":          {Group: "g", Filter: "/a"},
		"$share/g//":           {Group: "g", Filter: "/"},
		"$share/g/#":           {Group: "g", Filter: "#"},
		"$share/g/$SYS/x":      {Group: "g", Filter: "$SYS/x"},
		"$share/日本/a":          {Group: "日本", Filter: "a"},
	}
	for filter, want := range cases {
		got, shared, err := topic.ParseShared(filter)
		if got != want || !shared || err != nil {
			t.Errorf("ParseShared(%q) = %+v, %v, %v, want %+v", filter, got, shared, err, want)
		}
		if got.String() != filter {
			t.Errorf("%+v is written %q, want %q", got, got.String(), filter)
		}
		if err := got.Validate(topic.DefaultLimits()); err != nil {
			t.Errorf("%q is refused: %v", filter, err)
		}
	}
}

func TestParseSharedLeavesOrdinaryFiltersAlone(t *testing.T) {
	for _, filter := range []string{"", "a", "$share", "$shared/g/a", "$Share/g/a", "/$share/g/a", "$SYS/#", "+/g/a"} {
		if s, shared, err := topic.ParseShared(filter); shared || err != nil || s != (topic.Shared{}) {
			t.Errorf("ParseShared(%q) = %+v, %v, %v, want no shared subscription", filter, s, shared, err)
		}
	}
}

func TestParseSharedRefusesWhatOnlyBeginsLikeOne(t *testing.T) {
	cases := map[string]struct {
		filter string
		want   error
	}{
		"nothing behind the prefix":       {"$share/", topic.ErrShared},
		"no filter":                       {"$share/g", topic.ErrShared},
		"empty filter":                    {"$share/g/", topic.ErrShared},
		"empty group":                     {"$share//a", topic.ErrShared},
		"group with +":                    {"$share/g+/a", topic.ErrShared},
		"group is a wildcard":             {"$share/#/a", topic.ErrShared},
		"group with null character":       {"$share/g\x00/a", topic.ErrNUL},
		"group with ill-formed UTF-8":     {"$share/\xff/a", topic.ErrUTF8},
		"group with an encoded surrogate": {"$share/\xed\xa0\x80/a", topic.ErrUTF8},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			_, shared, err := topic.ParseShared(c.filter)
			if !shared || !errors.Is(err, c.want) {
				t.Errorf("ParseShared(%q) = %v, %v, want true, %v", c.filter, shared, err, c.want)
			}
		})
	}
}

func TestSharedValidateBoundsGroupAndFilter(t *testing.T) {
	cases := map[string]struct {
		shared topic.Shared
		want   error
	}{
		"longest group":             {topic.Shared{Group: strings.Repeat("g", 256), Filter: "a"}, nil},
		"group too long":            {topic.Shared{Group: strings.Repeat("g", 257), Filter: "a"}, topic.ErrLevelTooLong},
		"filter with bad syntax":    {topic.Shared{Group: "g", Filter: "a#"}, topic.ErrSyntax},
		"filter for direct address": {topic.Shared{Group: "g", Filter: "p2p/x/y"}, topic.ErrDirect},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			if err := c.shared.Validate(topic.DefaultLimits()); !errors.Is(err, c.want) {
				t.Errorf("Validate() = %v, want %v", err, c.want)
			}
		})
	}
}

func TestSharedSubscriptionToEverythingDoesNotMatchDollarTopics(t *testing.T) {
	s, _, err := topic.ParseShared("$share/g/#")
	if err != nil {
		t.Fatal(err)
	}
	if topic.Match(s.Filter, "$SYS/broker/uptime") {
		t.Error("$share/g/# matches $SYS/broker/uptime")
	}
	if !topic.Match(s.Filter, "a/b") {
		t.Error("$share/g/# does not match a/b")
	}
}

func FuzzParseShared(f *testing.F) {
	for _, s := range []string{"$share/g/a", "$share/", "$share/g", "$share//a", "$share/g/#", "$share/+/a", "a"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, filter string) {
		s, shared, err := topic.ParseShared(filter)
		if shared != strings.HasPrefix(filter, "$share/") {
			t.Fatalf("ParseShared(%q): shared = %v", filter, shared)
		}
		if !shared || err != nil {
			if s != (topic.Shared{}) {
				t.Fatalf("ParseShared(%q) = %+v beside %v", filter, s, err)
			}
			return
		}
		if s.String() != filter {
			t.Fatalf("%q comes back as %q", filter, s.String())
		}
		if topic.ValidateName(s.Group, unlimited) != nil || strings.Contains(s.Group, "/") || s.Filter == "" {
			t.Fatalf("ParseShared(%q) accepts group %q, filter %q", filter, s.Group, s.Filter)
		}
	})
}
