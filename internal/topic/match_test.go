package topic_test

import (
	"regexp"
	"strings"
	"testing"

	"github.com/beeline-mqtt/beeline/internal/topic"
)

// matchCase lists names that a filter matches and names that it does not.
type matchCase struct {
	filter  string
	matches []string
	not     []string
}

func TestMatchOfLevelsAndWildcards(t *testing.T) {
	checkMatches(t, map[string]matchCase{
		"a plain filter matches itself alone": {
			"sport/tennis",
			[]string{"sport/tennis"},
			[]string{"sport", "sport/tennis/", "/sport/tennis", "Sport/tennis", "sport/tenni", "sport/tennis/x"},
		},
		"# stands for any number of levels and for the one above it": {
			"sport/tennis/player1/#",
			[]string{
				"sport/tennis/player1", "sport/tennis/player1/", "sport/tennis/player1/ranking",
				"sport/tennis/player1/score/wimbledon",
			},
			[]string{"sport/tennis", "sport/tennis/player10", "sport/tennis/player2/x"},
		},
		"+ stands for exactly one level": {
			"sport/tennis/+",
			[]string{"sport/tennis/player1", "sport/tennis/"},
			[]string{"sport/tennis", "sport/tennis/player1/ranking"},
		},
		"+ alone matches names of one level": {
			"+",
			[]string{"finance", "a"},
			[]string{"/finance", "a/b", "/", "$SYS"},
		},
		"+ matches an empty level": {
			"+/+",
			[]string{"/finance", "/", "a/b"},
			[]string{"a", "a/b/c", "$SYS/x"},
		},
		"a leading empty level is a level": {
			"/+",
			[]string{"/finance", "/"},
			[]string{"finance", "a/finance"},
		},
		"wildcards combine": {
			"+/tennis/#",
			[]string{"sport/tennis", "sport/tennis/x/y", "/tennis"},
			[]string{"sport/golf", "tennis/x", "$x/tennis"},
		},
		"# below + matches the level of +": {
			"+/#",
			[]string{"a", "a/b", "/"},
			[]string{"$a", "$a/b"},
		},
	})
}

func TestMatchOfDollarTopicsAndDirectAddresses(t *testing.T) {
	checkMatches(t, map[string]matchCase{
		"# alone matches everything but $ topics (MQTT-4.7.2-1)": {
			"#",
			[]string{"a", "/", "a/b/c", "a/$SYS"},
			[]string{"$SYS", "$SYS/x", "$", "$share/g/x"},
		},
		"+ at the front does not match $ topics (MQTT-4.7.2-1)": {
			"+/monitor/Clients",
			[]string{"x/monitor/Clients"},
			[]string{"$SYS/monitor/Clients"},
		},
		"$ topics match when the filter spells the first level": {
			"$SYS/#",
			[]string{"$SYS", "$SYS/", "$SYS/monitor/Clients"},
			[]string{"$sys/x", "SYS/x"},
		},
		"only the first level of a $ topic is special": {
			"$SYS/monitor/+",
			[]string{"$SYS/monitor/Clients", "$SYS/monitor/$x"},
			[]string{"$SYS/monitor"},
		},
		"direct addresses match nothing": {
			"#", []string{"p2p", "p2pp/x", "a/p2p/x"}, []string{"p2p/client/x", "p2p/", "p2p/client"},
		},
		"direct addresses match not even themselves": {
			"p2p/client/x", nil, []string{"p2p/client/x"},
		},
		"direct addresses do not match +": {
			"+/+/+", []string{"p3p/client/x"}, []string{"p2p/client/x"},
		},
	})
}

// checkMatches asks Match, and a Map that holds the filter alone.
func checkMatches(t *testing.T, cases map[string]matchCase) {
	t.Helper()
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			check := func(name string, want bool) {
				t.Helper()
				if got := topic.Match(c.filter, name); got != want {
					t.Errorf("Match(%q, %q) = %v, want %v", c.filter, name, got, want)
				}
				var m topic.Map[int]
				m.Add(c.filter)
				if got := len(m.AppendMatches(nil, name)) == 1; got != want {
					t.Errorf("Map with %q matches %q: %v, want %v", c.filter, name, got, want)
				}
			}
			for _, n := range c.matches {
				check(n, true)
			}
			for _, n := range c.not {
				check(n, false)
			}
		})
	}
}

// matchByRegexp is Match in another language.
func matchByRegexp(filter, name string) bool {
	if strings.HasPrefix(name, "p2p/") {
		return false
	}
	if strings.HasPrefix(name, "$") && strings.ContainsAny(filter[:1], "+#") {
		return false
	}
	above, all := strings.CutSuffix("/"+filter, "/#")
	expression := strings.ReplaceAll(regexp.QuoteMeta(above), `\+`, `[^/]*`)
	if all {
		expression += `(/.*)?`
	}
	return regexp.MustCompile(`(?s)^` + expression + `$`).MatchString("/" + name)
}

func FuzzMatch(f *testing.F) {
	for _, filter := range []string{"#", "+", "a/+/#", "+/b", "/#", "a//+", "$SYS/#", "a.b/(", "p2p", "ä/+"} {
		for _, name := range []string{"a", "/", "a/b", "a/b/c", "$SYS/x", "a//b", "p2p/a/b", "a.b/(", "ä/\n"} {
			f.Add(filter, name)
		}
	}
	f.Fuzz(func(t *testing.T, filter, name string) {
		if topic.ValidateFilter(filter, unlimited) != nil || topic.ValidateName(name, unlimited) != nil {
			return
		}
		want := matchByRegexp(filter, name)
		if got := topic.Match(filter, name); got != want {
			t.Errorf("Match(%q, %q) = %v, want %v", filter, name, got, want)
		}
		var m topic.Map[int]
		m.Add(filter)
		if got := len(m.AppendMatches(nil, name)) == 1; got != want {
			t.Errorf("Map with %q matches %q: %v, want %v", filter, name, got, want)
		}
	})
}
