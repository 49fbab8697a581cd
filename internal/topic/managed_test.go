package topic

import (
	"errors"
	"testing"
)

func TestTopicsOfGroupsReachMembersAlone(t *testing.T) {
	name := Group("team", "news/today")
	for filter, want := range map[string]bool{
		GroupFilter("team"):  true,
		GroupFilter("other"): false,
		"#":                  false,
		"+/team/#":           false,
		"+/+/news/today":     false,
	} {
		if got := Match(filter, name); got != want {
			t.Errorf("%q matches %q: %v, want %v", filter, name, got, want)
		}
		var m Map[int]
		m.Add(filter)
		if got := len(m.AppendMatches(nil, name)) == 1; got != want {
			t.Errorf("a map with %q finds it for %q: %v, want %v", filter, name, got, want)
		}
	}
}

func TestNobodySubscribesToWhatTheClusterManages(t *testing.T) {
	for _, filter := range []string{"group/#", "group/team/#", "group/+/x", "user/ann/#", "user/+"} {
		if err := ValidateFilter(filter, DefaultLimits()); !errors.Is(err, ErrManaged) {
			t.Errorf("%q: %v, want ErrManaged", filter, err)
		}
	}
	for _, filter := range []string{"group", "user", "groups/#", "a/group/b", "+/x"} {
		if err := ValidateFilter(filter, DefaultLimits()); err != nil {
			t.Errorf("%q: %v", filter, err)
		}
	}
}

func TestNothingMatchesTheTopicOfAUser(t *testing.T) {
	name := User("ann/b", "note")
	if name != "user/ann%2Fb/note" {
		t.Errorf("topic is %q", name)
	}
	for _, filter := range []string{"#", "+/+/note", "user/ann%2Fb/note"} {
		if Match(filter, name) {
			t.Errorf("%q matches %q", filter, name)
		}
	}
}

func TestAGroupHasAName(t *testing.T) {
	for name, want := range map[string]string{
		"group/team/x": "team", "group/team/x/y": "team", "group/team": "", "group/team/": "", "group//x": "", "other/team/x": "",
	} {
		got, err := ParseGroup(name)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("%q: %q, %v, want %q", name, got, err, want)
		}
	}
}

func TestAUserHasAName(t *testing.T) {
	for name, want := range map[string]string{
		"user/ann/x": "ann", "user/ann%2Fb/x/y": "ann/b", "user/ann": "", "user/ann/": "", "user//x": "", "user/%zz/x": "", "other/ann/x": "",
	} {
		got, err := ParseUser(name)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("%q: %q, %v, want %q", name, got, err, want)
		}
	}
}

func TestManagedTopicsKeepNoMessage(t *testing.T) {
	for name, want := range map[string]bool{"a/b": true, "p2p/x/y": false, "group/g/x": false, "user/u/x": false} {
		if IsRetained(name) != want {
			t.Errorf("%q: %v, want %v", name, !want, want)
		}
	}
}
