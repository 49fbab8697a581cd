package topic_test

import (
	"errors"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/beeline-mqtt/beeline/internal/topic"
)

var unlimited = topic.Limits{Bytes: 1 << 20, Levels: 1 << 20, LevelBytes: 1 << 20}

func TestValidateNameAcceptsWhatMayBePublishedTo(t *testing.T) {
	for _, name := range []string{
		"a", "/", "//", "/finance", "finance/", "a//b", " ", "Accounts payable", "sensors/1/temperature",
		"$SYS/broker", "$", "ä/日本/🐝", "\ufeffbom", "control\x01character", "p2p/client/x", "p2p", "$share/g/x",
	} {
		if err := topic.ValidateName(name, topic.DefaultLimits()); err != nil {
			t.Errorf("ValidateName(%q) = %v, want nil", name, err)
		}
	}
}

func TestValidateNameRefusesWhatMayNot(t *testing.T) {
	l := topic.Limits{Bytes: 20, Levels: 4, LevelBytes: 8}
	cases := map[string]struct {
		topic string
		want  error
	}{
		"no character at all":              {"", topic.ErrEmpty},
		"one byte too many":                {"1234567/1234567/12345", topic.ErrTooLong},
		"one level too many":               {"a/b/c/d/e", topic.ErrTooManyLevels},
		"one empty level too many":         {"////", topic.ErrTooManyLevels},
		"first level too long":             {"123456789/a", topic.ErrLevelTooLong},
		"last level too long":              {"a/123456789", topic.ErrLevelTooLong},
		"single-level wildcard":            {"a/+/b", topic.ErrWildcard},
		"multi-level wildcard":             {"a/#", topic.ErrWildcard},
		"wildcard inside a level":          {"a+b", topic.ErrWildcard},
		"null character":                   {"a\x00b", topic.ErrNUL},
		"stray continuation byte":          {"a\x80", topic.ErrUTF8},
		"encoded surrogate":                {"a\xed\xa0\x80", topic.ErrUTF8},
		"overlong null character":          {"a\xc0\x80", topic.ErrUTF8},
		"character cut off by the end":     {"a/\xe6\x97", topic.ErrUTF8},
		"character cut off by a new level": {"\xe6\x97/a", topic.ErrUTF8},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			if err := topic.ValidateName(c.topic, l); !errors.Is(err, c.want) {
				t.Errorf("ValidateName(%q) = %v, want %v", c.topic, err, c.want)
			}
		})
	}
}

func TestLimitsAreTheLargestValuesAllowed(t *testing.T) {
	l := topic.Limits{Bytes: 20, Levels: 4, LevelBytes: 8}
	for _, s := range []string{"12345678/12345678/12", "a/b/c/d", "///"} {
		if err := topic.ValidateName(s, l); err != nil {
			t.Errorf("ValidateName(%q) = %v, want nil", s, err)
		}
		if err := topic.ValidateFilter(s, l); err != nil {
			t.Errorf("ValidateFilter(%q) = %v, want nil", s, err)
		}
	}
}

func TestNoLimitAllowsMoreThanMQTTCanEncode(t *testing.T) {
	if err := topic.ValidateName(strings.Repeat("a", 65535), unlimited); err != nil {
		t.Errorf("65,535 bytes: %v, want nil", err)
	}
	if err := topic.ValidateName(strings.Repeat("a", 65536), unlimited); !errors.Is(err, topic.ErrTooLong) {
		t.Errorf("65,536 bytes: %v, want %v", err, topic.ErrTooLong)
	}
}

func TestValidateFilterAcceptsWildcardsWhereMQTTDoes(t *testing.T) {
	for _, filter := range []string{
		"#", "+", "/#", "/+", "+/", "+/+", "+/tennis/#", "sport/+", "sport/+/player1", "sport/tennis/player1/#",
		"$SYS/#", "a//#", "/", "p2p", "p2p2/#", "+/p2p/x", "plain/name",
	} {
		if err := topic.ValidateFilter(filter, topic.DefaultLimits()); err != nil {
			t.Errorf("ValidateFilter(%q) = %v, want nil", filter, err)
		}
	}
}

func TestValidateFilterRefusesTheRest(t *testing.T) {
	cases := map[string]struct {
		filter string
		want   error
	}{
		"empty":                                 {"", topic.ErrEmpty},
		"# behind other characters of a level":  {"a#", topic.ErrSyntax},
		"# at the end of a deeper level":        {"a/b#", topic.ErrSyntax},
		"# before other characters":             {"#a", topic.ErrSyntax},
		"# with a level below it":               {"#/a", topic.ErrSyntax},
		"# with an empty level below it":        {"a/#/", topic.ErrSyntax},
		"# twice":                               {"##", topic.ErrSyntax},
		"+ behind other characters of a level":  {"a+/b", topic.ErrSyntax},
		"+ before other characters of a level":  {"+a", topic.ErrSyntax},
		"+ before other characters of the last": {"b/+a", topic.ErrSyntax},
		"+ twice":                               {"++", topic.ErrSyntax},
		"+ and # in one level":                  {"+#", topic.ErrSyntax},
		"null character":                        {"a/\x00/#", topic.ErrNUL},
		"ill-formed UTF-8":                      {"\xff/#", topic.ErrUTF8},
		"too many levels":                       {strings.Repeat("+/", 32) + "#", topic.ErrTooManyLevels},
		"too long":                              {strings.Repeat("a", 1025), topic.ErrTooLong},
		"a level too long":                      {strings.Repeat("a", 257) + "/#", topic.ErrLevelTooLong},
		"a direct address":                      {"p2p/client/x", topic.ErrDirect},
		"all direct addresses":                  {"p2p/#", topic.ErrDirect},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			if err := topic.ValidateFilter(c.filter, topic.DefaultLimits()); !errors.Is(err, c.want) {
				t.Errorf("ValidateFilter(%q) = %v, want %v", c.filter, err, c.want)
			}
		})
	}
}

func TestValidatingDoesNotAllocate(t *testing.T) {
	l := topic.DefaultLimits()
	n := testing.AllocsPerRun(100, func() {
		_ = topic.ValidateName("sensors/berlin/ä/17", l)
		_ = topic.ValidateName("sensors/+", l)
		_ = topic.ValidateFilter("sensors/+/temperature/#", l)
		_ = topic.ValidateFilter("sensors/a#", l)
	})
	if n != 0 {
		t.Errorf("%v allocations, want 0", n)
	}
}

// A name of tens of thousands of levels must cost as much per level as one of a thousand: brokers have been
// brought down by one SUBSCRIBE of 64 KiB.
func TestCostPerLevelDoesNotGrowWithDepth(t *testing.T) {
	perLevel := func(levels int) time.Duration {
		name := strings.Repeat("a/", levels-1) + "a"
		filter := strings.Repeat("+/", levels-1) + "#"
		best := time.Hour
		for range 7 {
			start := time.Now()
			_ = topic.ValidateName(name, unlimited)
			_ = topic.ValidateFilter(filter, unlimited)
			var m topic.Map[int]
			m.Add(filter)
			m.Add(name)
			if n := len(m.AppendMatches(nil, name)); n != 2 {
				t.Fatalf("%d matches at %d levels, want 2", n, levels)
			}
			m.Delete(filter)
			best = min(best, time.Since(start))
		}
		return best / time.Duration(levels)
	}
	shallow, deep := perLevel(1000), perLevel(32000)
	// Quadratic work would make it 32 times as much; caches and the collector account for some.
	if deep > 12*max(shallow, time.Nanosecond) {
		t.Errorf("%v per level at 32,000 levels, %v at 1,000", deep, shallow)
	}
}

// plainlyValid says the same as ValidateName and ValidateFilter, level by level and in no particular order.
func plainlyValid(s string, l topic.Limits, isFilter bool) bool {
	levels := strings.Split(s, "/")
	ok := s != "" && len(s) <= l.Bytes && len(levels) <= l.Levels && utf8.ValidString(s) && !strings.Contains(s, "\x00")
	if isFilter && strings.HasPrefix(s, "p2p/") {
		return false
	}
	for i, level := range levels {
		ok = ok && len(level) <= l.LevelBytes
		if strings.ContainsAny(level, "+#") {
			ok = ok && isFilter && (level == "+" || level == "#" && i == len(levels)-1)
		}
	}
	return ok
}

func FuzzValidate(f *testing.F) {
	for _, s := range []string{
		"", "a", "a/b", "a#", "a/b#", "a+/b", "+a", "#", "+", "/#", "#/a", "+/+/#", "p2p/x/y", "\xff", "a\x00",
		"日本/🐝", "12345678/12345678/12345678", "////////",
	} {
		f.Add(s)
	}
	l := topic.Limits{Bytes: 24, Levels: 6, LevelBytes: 9}
	f.Fuzz(func(t *testing.T, s string) {
		if got, want := topic.ValidateName(s, l) == nil, plainlyValid(s, l, false); got != want {
			t.Errorf("ValidateName(%q) accepts: %v, want %v", s, got, want)
		}
		if got, want := topic.ValidateFilter(s, l) == nil, plainlyValid(s, l, true); got != want {
			t.Errorf("ValidateFilter(%q) accepts: %v, want %v", s, got, want)
		}
	})
}

func BenchmarkValidateName(b *testing.B) {
	l := topic.DefaultLimits()
	b.ReportAllocs()
	for b.Loop() {
		if err := topic.ValidateName("devices/7f3a91c2/sensors/temperature", l); err != nil {
			b.Fatal(err)
		}
	}
}
