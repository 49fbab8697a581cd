package topic_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/beeline-mqtt/beeline/internal/topic"
)

func TestDirectAndParseDirectAreInverse(t *testing.T) {
	cases := map[string]struct {
		clientID, rest, name string
	}{
		"plain client id":              {"phone-17", "chat", "p2p/phone-17/chat"},
		"rest of several levels":       {"c", "a/b/c", "p2p/c/a/b/c"},
		"rest with an empty level":     {"c", "/a", "p2p/c//a"},
		"client id with a slash":       {"site/7", "x", "p2p/site%2F7/x"},
		"client id with wildcards":     {"+#", "x", "p2p/%2B%23/x"},
		"client id with a percent":     {"50%", "x", "p2p/50%25/x"},
		"client id that looks escaped": {"a%2Fb", "x", "p2p/a%252Fb/x"},
		"client id with other signs":   {"a b:ä@$", "x", "p2p/a b:ä@$/x"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			if got := topic.Direct(c.clientID, c.rest); got != c.name {
				t.Errorf("Direct(%q, %q) = %q, want %q", c.clientID, c.rest, got, c.name)
			}
			got, err := topic.ParseDirect(c.name)
			if err != nil || got != c.clientID {
				t.Errorf("ParseDirect(%q) = %q, %v, want %q", c.name, got, err, c.clientID)
			}
			if !topic.IsDirect(c.name) {
				t.Errorf("IsDirect(%q) = false", c.name)
			}
			if err := topic.ValidateName(c.name, topic.DefaultLimits()); err != nil {
				t.Errorf("ValidateName(%q) = %v", c.name, err)
			}
		})
	}
}

func TestParseDirectRefusesAllOtherForms(t *testing.T) {
	cases := map[string]string{
		"another topic":                         "a/b/c",
		"the prefix without its slash":          "p2p",
		"no client id":                          "p2p/",
		"no rest":                               "p2p/c",
		"empty rest":                            "p2p/c/",
		"empty client id":                       "p2p//x",
		"lower-case escape":                     "p2p/a%2fb/x",
		"escape of what needs none":             "p2p/%41/x",
		"escape that is cut off":                "p2p/a%2/x",
		"percent at the end":                    "p2p/a%/x",
		"percent before another escape":         "p2p/%%2F/x",
		"wildcard in the client id":             "p2p/+/x",
		"multi-level wildcard in the client id": "p2p/a#%2F/x",
		"other case of the prefix":              "P2P/c/x",
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			if id, err := topic.ParseDirect(c); !errors.Is(err, topic.ErrDirect) || id != "" {
				t.Errorf("ParseDirect(%q) = %q, %v, want %v", c, id, err, topic.ErrDirect)
			}
		})
	}
}

func TestParseDirectOfPlainClientIDDoesNotAllocate(t *testing.T) {
	n := testing.AllocsPerRun(100, func() {
		if _, err := topic.ParseDirect("p2p/phone-17/chat"); err != nil {
			t.Fatal(err)
		}
	})
	if n != 0 {
		t.Errorf("%v allocations, want 0", n)
	}
}

func FuzzDirect(f *testing.F) {
	for _, id := range []string{"a", "a/b", "%", "%2F", "%25%", "+#", "ä", "\xff"} {
		f.Add(id, "x")
		f.Add(id, "/")
	}
	f.Fuzz(func(t *testing.T, s, rest string) {
		if s != "" && rest != "" {
			name := topic.Direct(s, rest)
			if got, err := topic.ParseDirect(name); err != nil || got != s {
				t.Errorf("client id %q is sent as %q and read as %q, %v", s, name, got, err)
			}
			if level, _, _ := strings.Cut(name[len("p2p/"):], "/"); strings.ContainsAny(level, "+#") {
				t.Errorf("client id %q brings a wildcard into %q", s, name)
			}
		}
		// The other way round: what is accepted is the one spelling of that address.
		name := "p2p/" + s + "/" + rest
		if id, err := topic.ParseDirect(name); err == nil {
			_, after, _ := strings.Cut(name[len("p2p/"):], "/")
			if back := topic.Direct(id, after); back != name {
				t.Errorf("%q is read as %q, whose address is %q", name, id, back)
			}
		}
	})
}
