package rules

import (
	"fmt"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/beeline-mqtt/beeline/internal/topic"
	"github.com/beeline-mqtt/beeline/internal/topic/topictest"
)

func parse(t testing.TB, text string) *Set {
	t.Helper()
	s, err := ParseFile([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// list is a file with rules, one a line.
func list(rules ...string) string {
	return "rules:\n- {" + strings.Join(rules, "}\n- {") + "}\n"
}

func TestTheFirstRuleThatFitsDecides(t *testing.T) {
	ann := Client{ID: "phone", Username: "ann"}
	s := parse(t, list(
		`permission: allow, action: publish, topic: "up/${clientid}/#", qos: [0, 1]`,
		`permission: allow, action: publish, topic: "state/${username}", retain: true`,
		`permission: deny, action: subscribe, topic: [secret/#, "$SYS/#"]`,
		`permission: allow, action: all, topic: "#", username: admin`,
		`permission: allow, action: subscribe, topic: "news/#", client_id: [tablet, "pho*"]`,
		`permission: allow, action: subscribe, topic: "#", username: [bob, "an*"]`,
		`permission: deny, action: publish, topic: no/retained, retain: true`,
		`permission: allow, action: publish, topic: no/retained`,
		`permission: allow, action: publish, topic: eq a/+`,
	))
	for _, c := range []struct {
		name   string
		client Client
		q      Request
		want   Decision
	}{
		{"its own topic", ann, Request{Action: Publish, Topic: "up/phone/a/b"}, Allowed},
		{"the level above", ann, Request{Action: Publish, Topic: "up/phone", QoS: 1}, Allowed},
		{"that of another client", ann, Request{Action: Publish, Topic: "up/tablet/a"}, Undecided},
		{"at another QoS", ann, Request{Action: Publish, Topic: "up/phone/a", QoS: 2}, Undecided},
		{"another action", Client{ID: "phone"}, Request{Action: Subscribe, Topic: "up/phone/a"}, Undecided},
		{"retained", ann, Request{Action: Publish, Topic: "state/ann", Retain: true}, Allowed},
		{"not retained", ann, Request{Action: Publish, Topic: "state/ann"}, Undecided},
		{"what is forbidden", ann, Request{Action: Subscribe, Topic: "secret/a"}, Denied},
		{"what is forbidden, in a wildcard", ann, Request{Action: Subscribe, Topic: "#"}, Denied},
		{"what is forbidden, in another", ann, Request{Action: Subscribe, Topic: "+/a"}, Denied},
		{"beside it", ann, Request{Action: Subscribe, Topic: "other/+"}, Allowed},
		{"for everybody, who is named later", Client{ID: "x", Username: "admin"}, Request{Action: Subscribe, Topic: "secret/a"}, Denied},
		{"for one alone", Client{ID: "x", Username: "admin"}, Request{Action: Publish, Topic: "a"}, Allowed},
		{"not for another", ann, Request{Action: Publish, Topic: "a"}, Undecided},
		{"by its id", Client{ID: "phone-2"}, Request{Action: Subscribe, Topic: "news/a"}, Allowed},
		{"by none of the ids", Client{ID: "laptop"}, Request{Action: Subscribe, Topic: "news/a"}, Undecided},
		{"without a name", Client{ID: "laptop"}, Request{Action: Subscribe, Topic: "a"}, Undecided},
		{"retained, where it may not be", ann, Request{Action: Publish, Topic: "no/retained", Retain: true}, Denied},
		{"not retained there", ann, Request{Action: Publish, Topic: "no/retained"}, Allowed},
		{"retain is not asked of a filter", Client{Username: "admin"}, Request{Action: Subscribe, Topic: "a", Retain: true}, Allowed},
		{"exactly", ann, Request{Action: Publish, Topic: "a/+"}, Allowed},
		{"not exactly", ann, Request{Action: Publish, Topic: "a/b"}, Undecided},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := s.Decide(c.client, c.q); got != c.want {
				t.Errorf("%+v for %+v: %v, want %v", c.q, c.client, got, c.want)
			}
		})
	}
}

// A pattern with what it covers and overlaps, for a client phone of ann.
func TestPatterns(t *testing.T) {
	for _, c := range []struct {
		pattern, filter  string
		covers, overlaps bool
	}{
		{"a/b", "a/b", true, true},
		{"a/b", "a/c", false, false},
		{"a/b", "a", false, false},
		{"a", "a/b", false, false},
		{"a/b", "a/+", false, true},
		{"a/b", "a/#", false, true},
		{"a", "a/#", false, true},
		{"a/b", "a/b/#", false, true},
		{"a/b", "#", false, true},
		{"a/b", "+/b", false, true},
		{"a/b", "+/c", false, false},
		{"a/+", "a/+", true, true},
		{"a/+", "a/b", true, true},
		{"a/+", "a", false, false},
		{"a/#", "a", true, true},
		{"a/#", "a/b/+", true, true},
		{"a/#", "a/#", true, true},
		{"a/#", "+/b", false, true},
		{"a/#", "#", false, true},
		{"#", "#", true, true},
		{"a/", "a", false, false},
		{"a/", "a/", true, true},
		// Wildcards at the beginning.
		{"#", "$SYS/a", false, true},
		{"+/a", "$SYS/a", false, true},
		{"$SYS/#", "$SYS/a", true, true},
		{"$SYS/#", "#", false, false},
		{"$SYS/#", "+/a", false, false},
		{"#", "p2p/x/y", false, true},
		{"#", "group/g/y", false, true},
		{"#", "user/u/y", false, true},
		{"p2p/#", "p2p/x/y", true, true},
		{"p2p/#", "#", false, false},
		{"p2p/+/cmd", "p2p/x/cmd", true, true},
		{"p2p/+/cmd", "p2p/x/other", false, false},
		// Placeholders.
		{"${clientid}", "phone", true, true},
		{"${clientid}/#", "phone/a", true, true},
		{"d/${clientid}/#", "d/phone", true, true},
		{"d/${clientid}/#", "d/other", false, false},
		{"d/${clientid}/#", "d/+", false, true},
		{"d/${clientid}/#", "d/#", false, true},
		{"u/${username}/+", "u/ann/x", true, true},
		{"u/${username}/+", "u/phone/x", false, false},
		{"p2p/${clientid}/+", "p2p/phone/x", true, true},
		// As it is written.
		{"eq a/#", "a/#", true, true},
		{"eq a/#", "a/b", false, false},
		{"eq a/${clientid}", "a/phone", false, false},
	} {
		p, err := parsePattern(c.pattern)
		if err != nil {
			t.Fatal(err)
		}
		me := Client{ID: "phone", Username: "ann"}
		if covers, overlaps := p.covers(me, c.filter), p.overlaps(me, c.filter); covers != c.covers || overlaps != c.overlaps {
			t.Errorf("%q covers %q: %v, overlaps: %v", c.pattern, c.filter, covers, overlaps)
		}
	}
}

// A client may choose its id, and often its user name.
func TestNobodyGetsFurtherByItsName(t *testing.T) {
	for _, c := range []struct {
		pattern, name, topic string
	}{
		{"d/${clientid}/#", "+", "d/+"},
		{"d/${clientid}/#", "+", "d/+/x"},
		{"d/${clientid}/#", "#", "d/#"},
		{"d/${clientid}/#", "a/b", "d/a/b"},
		{"d/${clientid}/#", "", "d//x"},
		{"p2p/${clientid}/x", "50%25", "p2p/50%25/x"},
		{"${clientid}/#", "p2p", "p2p/other/x"},
		{"${clientid}/#", "group", "group/g/x"},
		{"${clientid}/#", "$SYS", "$SYS/a"},
	} {
		for _, placeholder := range []string{"${clientid}", "${username}"} {
			p, err := parsePattern(strings.Replace(c.pattern, "${clientid}", placeholder, 1))
			if err != nil {
				t.Fatal(err)
			}
			me := Client{ID: c.name, Username: c.name}
			if p.covers(me, c.topic) {
				t.Errorf("%q is allowed %q by %q", c.name, c.topic, c.pattern)
			}
			if !p.overlaps(me, c.topic) {
				t.Errorf("%q is not forbidden %q by %q", c.name, c.topic, c.pattern)
			}
		}
	}
}

// As in topic.Covers: the names decide.
func TestPatternsAgreeWithWhatTheyMatch(t *testing.T) {
	names, filter := topictest.Names(), topictest.Filter()
	rapid.Check(t, func(t *rapid.T) {
		pattern, asked := filter.Draw(t, "pattern"), filter.Draw(t, "asked")
		p, err := parsePattern(pattern)
		if err != nil {
			t.Fatal(err)
		}
		both, beside := "", ""
		for _, n := range names {
			switch in := topic.Match(pattern, n); {
			case !topic.Match(asked, n):
			case in:
				both = n
			default:
				beside = n
			}
		}
		if p.covers(Client{}, asked) && beside != "" {
			t.Errorf("%q is said to cover %q, but does not match %q", pattern, asked, beside)
		}
		if p.covers(Client{}, asked) != topic.Covers(pattern, asked) && pattern != "+/#" {
			t.Errorf("%q covers %q: not as topic.Covers has it", pattern, asked)
		}
		overlaps := p.overlaps(Client{}, asked)
		if !overlaps && both != "" {
			t.Errorf("%q is said not to overlap with %q, but both match %q", pattern, asked, both)
		}
		// Prohibitions with a wildcard at the beginning go further than those of filters, on purpose.
		if overlaps && both == "" && !strings.HasPrefix(asked, "$") && !strings.HasPrefix(pattern, "$") {
			t.Errorf("%q is said to overlap with %q, but nothing matches both", pattern, asked)
		}
	})
}

func TestRulesThatAreWrongAreRefused(t *testing.T) {
	for name, c := range map[string]struct{ text, why string }{
		"no YAML":             {"[", "yaml"},
		"unknown key":         {"roles: []", "roles"},
		"unknown key of one":  {list("permission: allow, action: all, topics: a"), "topics"},
		"no permission":       {list("action: all, topic: a"), `permission ""`},
		"no action":           {list("permission: allow, topic: a"), `action ""`},
		"no topic":            {list("permission: allow, action: all"), "topic is missing"},
		"a comment":           {"rules:\n- permission: allow\n  action: all\n  topic: #", "line 4"},
		"nobody":              {list("permission: allow, action: all, topic: a, username: []"), "would mean all"},
		"nobody by mistake":   {list("permission: allow, action: all, topic: a, client_id: "), "has no value"},
		"no QoS":              {list("permission: allow, action: all, topic: a, qos: 3"), "qos 3"},
		"half a wildcard":     {list("permission: allow, action: all, topic: a/b+"), "whole level"},
		"# in the middle":     {list(`permission: allow, action: all, topic: "a/#/b"`), "last level"},
		"half a placeholder":  {list("permission: allow, action: all, topic: 'a/x-${clientid}'"), "whole level"},
		"another placeholder": {list("permission: allow, action: all, topic: 'a/${cert}'"), "${username}"},
		"no topic at all":     {list("permission: allow, action: all, topic: ''"), "empty"},
		"no character":        {list(`permission: allow, action: all, topic: "a\0"`), "character"},
		"two documents":       {"rules: [{permission: deny, action: all, topic: a}]\n---\nrules: []\n", "more than one"},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := ParseFile([]byte(c.text)); err == nil || !strings.Contains(err.Error(), c.why) {
				t.Errorf("%v, want one about %s", err, c.why)
			}
		})
	}
}

func TestRulesMayBeJSONOrNone(t *testing.T) {
	me := Client{ID: "c"}
	s, err := ParseList([]byte(`[{"permission":"allow","action":"publish","topic":"a/${clientid}","qos":[1],"retain":false},{"permission":"deny","action":"all","topic":["#"]}]`))
	if err != nil {
		t.Fatal(err)
	}
	for q, want := range map[Request]Decision{
		{Action: Publish, Topic: "a/c", QoS: 1}:               Allowed,
		{Action: Publish, Topic: "a/c"}:                       Denied,
		{Action: Publish, Topic: "a/c", QoS: 1, Retain: true}: Denied,
		{Action: Subscribe, Topic: "x"}:                       Denied,
	} {
		if got := s.Decide(me, q); got != want {
			t.Errorf("%+v: %v, want %v", q, got, want)
		}
	}
	for _, none := range []string{"", "# nothing yet\n", "rules: []\n"} {
		if got := parse(t, none).Decide(me, Request{Action: Publish, Topic: "a"}); got != Undecided {
			t.Errorf("%q: %v", none, got)
		}
	}
	if _, err := ParseList([]byte(`{"permission":"allow"}`)); err == nil {
		t.Error("a rule is taken for a list")
	}
}

// many are n rules for others, and then one for the client.
func many(n int) string {
	var rules []string
	for i := range n {
		rules = append(rules, fmt.Sprintf(`permission: allow, action: all, topic: ["site-%d/${clientid}/#", "site-%d/+/state"], username: user-%d`, i, i, i%10))
	}
	return list(append(rules, `permission: allow, action: all, topic: "site/${username}/${clientid}/#"`)...)
}

func TestAskingAllocatesNothing(t *testing.T) {
	s := parse(t, many(20))
	me := Client{ID: "phone-17", Username: "user-3"}
	q := Request{Action: Publish, Topic: "site/user-3/phone-17/temperature", QoS: 1}
	n := testing.AllocsPerRun(100, func() {
		if s.Decide(me, q) != Allowed {
			t.Fatal("it is not allowed")
		}
	})
	if n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkDecide(b *testing.B) {
	me := Client{ID: "phone-17", Username: "user-3"}
	q := Request{Action: Publish, Topic: "site/user-3/phone-17/temperature", QoS: 1}
	for _, n := range []int{0, 10, 100} {
		b.Run(fmt.Sprintf("rules=%d", n+1), func(b *testing.B) {
			s := parse(b, many(n))
			b.ReportAllocs()
			for b.Loop() {
				if s.Decide(me, q) != Allowed {
					b.Fatal("it is not allowed")
				}
			}
		})
	}
}

func FuzzDecide(f *testing.F) {
	f.Add("a/${clientid}/#", "phone", "a/phone/x")
	f.Add("+/#", "p2p", "p2p/x/y")
	f.Fuzz(func(t *testing.T, pattern, id, asked string) {
		l := topic.DefaultLimits()
		p, err := parsePattern(pattern)
		if err != nil || topic.ValidateFilter(asked, l) != nil && topic.ValidateName(asked, l) != nil {
			t.Skip("not what is asked")
		}
		me := Client{ID: id, Username: id}
		if p.covers(me, asked) && !p.overlaps(me, asked) {
			t.Errorf("for %q, %q covers %q, and does not overlap with it", id, pattern, asked)
		}
	})
}
