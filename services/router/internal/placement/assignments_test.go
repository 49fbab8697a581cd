package placement_test

import (
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/beeline-mqtt/beeline/services/router/internal/placement"
)

type assignment = placement.Assignment

func index(t testing.TB, all ...assignment) *placement.Assignments {
	t.Helper()
	a, err := placement.NewAssignments(all)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// triple assigns one client, given all of it.
func triple(t testing.TB, c placement.Triple, cluster string) assignment {
	t.Helper()
	return assignment{Rule: placement.ExactTriple, Value: secret(t).Key(c).String(), Cluster: cluster}
}

func id(value, cluster string) assignment {
	return assignment{Rule: placement.ClientID, Value: value, Cluster: cluster}
}

func prefix(value, cluster string) assignment {
	return assignment{Rule: placement.ClientIDPrefix, Value: value, Cluster: cluster}
}

func username(value, cluster string) assignment {
	return assignment{Rule: placement.Username, Value: value, Cluster: cluster}
}

func byDefault(cluster string, weight uint32) assignment {
	return assignment{Rule: placement.Default, Cluster: cluster, Weight: weight}
}

func TestTheMostExactRuleDecides(t *testing.T) {
	joe := user("meter-1", "joe", "pw")
	all := []assignment{
		triple(t, joe, "of triple"),
		id("meter-1", "of client id"),
		prefix("meter-", "of prefix"),
		username("joe", "of user name"),
		byDefault("of default", 1),
	}
	// Each rule decides when those before it are gone, in whatever order they are given.
	for i, want := range all {
		rest := append([]assignment{}, all[i:]...)
		for range rest {
			rest = append(rest[1:], rest[0])
			got, ok := index(t, rest...).Lookup(joe, secret(t).Key(joe), 0)
			if !ok || got != want {
				t.Errorf("of %v: %v, want %v", rest, got, want)
			}
		}
	}
	if got, ok := index(t).Lookup(joe, secret(t).Key(joe), 0); ok || got != (assignment{}) {
		t.Errorf("without assignments: %v", got)
	}
	if got, ok := new(placement.Assignments).Lookup(joe, secret(t).Key(joe), 0); ok || got != (assignment{}) {
		t.Errorf("the zero index: %v", got)
	}
}

func TestWhoAnAssignmentIsFor(t *testing.T) {
	joe, nameless := user("meter-1", "joe", "pw"), user("", "joe", "pw")
	bare := placement.Triple{Username: "joe", HasUsername: true}
	type these = []assignment
	for name, c := range map[string]struct {
		assigned these
		client   placement.Triple
		want     string
	}{
		"triple with another password":     {these{triple(t, joe, "x")}, user("meter-1", "joe", "other"), ""},
		"triple with another user name":    {these{triple(t, joe, "x")}, user("meter-1", "jim", "pw"), ""},
		"triple with another client id":    {these{triple(t, joe, "x")}, user("meter-2", "joe", "pw"), ""},
		"triple without a client id":       {these{triple(t, nameless, "x")}, nameless, "x"},
		"client id in another case":        {these{id("Meter-1", "x")}, joe, ""},
		"client id that is longer":         {these{id("meter-", "x")}, joe, ""},
		"prefix that is the client id":     {these{prefix("meter-1", "x")}, joe, "x"},
		"prefix that goes on":              {these{prefix("meter-10", "x")}, joe, ""},
		"prefix in the middle":             {these{prefix("eter", "x")}, joe, ""},
		"prefix and no client id":          {these{prefix("m", "x")}, placement.Triple{}, ""},
		"prefix of the user name":          {these{username("jo", "x")}, joe, ""},
		"user name that is not set":        {these{username("joe", "x")}, placement.Triple{Username: "joe"}, ""},
		"user name without a password":     {these{username("joe", "x")}, bare, "x"},
		"user name that is the client id":  {these{username("meter-1", "x")}, joe, ""},
		"default without anything":         {these{byDefault("x", 1)}, placement.Triple{}, "x"},
		"prefixes: the longer one":         {these{prefix("m", "x"), prefix("meter", "y")}, joe, "y"},
		"prefixes: the one that fits":      {these{prefix("m", "x"), prefix("meter-0", "y")}, joe, "x"},
		"prefixes: behind longer ones":     {these{prefix("m", "x"), prefix("mea", "y"), prefix("met0", "z")}, joe, "x"},
		"prefixes: the client id between":  {these{prefix("meter-0", "x"), prefix("meter-2", "y")}, joe, ""},
		"prefix before a user name":        {these{username("joe", "x"), prefix("m", "y")}, joe, "y"},
		"bytes that are no characters":     {these{prefix("\xff", "x"), prefix("\xfe", "y")}, user("\xff1", "", ""), "x"},
		"one value, two rules":             {these{id("joe", "x"), username("joe", "y")}, joe, "y"},
		"one cluster, by more than a rule": {these{id("meter-9", "x"), username("joe", "x")}, joe, "x"},
	} {
		got, ok := index(t, c.assigned...).Lookup(c.client, secret(t).Key(c.client), 0)
		if got.Cluster != c.want || ok != (c.want != "") {
			t.Errorf("%s: %v, %t, want %q", name, got, ok, c.want)
		}
	}
}

func TestWhatCannotBeAssigned(t *testing.T) {
	key := secret(t).Key(user("x", "joe", "pw")).String()
	type these = []assignment
	of := func(r placement.Rule, value, cluster string, weight uint32) assignment {
		return assignment{Rule: r, Value: value, Cluster: cluster, Weight: weight}
	}
	for name, c := range map[string]struct {
		all  these
		says string
	}{
		"no rule":                  {these{of(0, "x", "a", 0)}, "number 1, of rule 0: not a known rule"},
		"rule not known":           {these{of(6, "x", "a", 0)}, "number 1, of rule 6: not a known rule"},
		"no cluster":               {these{id("x", "")}, "number 1, of client_id: no cluster"},
		"default without cluster":  {these{byDefault("", 1)}, "of default: no cluster"},
		"empty client id":          {these{id("", "a")}, "of client_id: no value"},
		"empty prefix":             {these{prefix("", "a")}, "of client_id_prefix: no value"},
		"empty user name":          {these{username("", "a")}, "of username: no value"},
		"empty triple":             {these{of(placement.ExactTriple, "", "a", 0)}, "of triple: no value"},
		"triple that is no key":    {these{of(placement.ExactTriple, "x", "a", 0)}, "of triple: not 64 lower-case"},
		"default with a value":     {these{of(placement.Default, "x", "a", 1)}, `value "x", and a default has none`},
		"default without weight":   {these{byDefault("a", 0)}, "of default: weight 0"},
		"another rule with weight": {these{of(placement.ClientID, "x", "a", 2)}, "weight 2, and only a default has one"},
		"client id twice":          {these{id("x", "a"), id("y", "a"), id("x", "b")}, `3, of client_id: value "x" again`},
		"prefix twice":             {these{prefix("x", "a"), prefix("x", "a")}, `2, of client_id_prefix: value "x" again`},
		"user name twice":          {these{username("x", "a"), username("x", "b")}, `value "x" again`},
		"triple twice": {these{
			of(placement.ExactTriple, key, "a", 0), of(placement.ExactTriple, key, "b", 0),
		}, "of triple: value \"" + key + "\" again"},
		"default of a cluster twice": {these{byDefault("a", 1), byDefault("b", 1), byDefault("a", 2)}, `cluster "a" again`},
	} {
		a, err := placement.NewAssignments(c.all)
		if !errors.Is(err, placement.ErrAssignment) || !strings.Contains(err.Error(), c.says) || a != nil {
			t.Errorf("%s: %v, want %s", name, err, c.says)
		}
	}
}

func TestAnIndexDoesNotFollowTheCallersSlice(t *testing.T) {
	all := []assignment{id("x", "a"), byDefault("b", 1)}
	a := index(t, all...)
	all[0].Cluster, all[1].Cluster = "c", "c"
	for client, want := range map[string]string{"x": "a", "y": "b"} {
		if got, _ := a.Lookup(placement.Triple{ClientID: client}, placement.Key{}, 0); got.Cluster != want {
			t.Errorf("%s is assigned to %s, want %s", client, got.Cluster, want)
		}
	}
}

func TestRulesHaveATextEach(t *testing.T) {
	for r, want := range map[placement.Rule]string{
		placement.ExactTriple: "triple", placement.ClientID: "client_id", placement.ClientIDPrefix: "client_id_prefix",
		placement.Username: "username", placement.Default: "default",
	} {
		if r.String() != want {
			t.Errorf("%d is %s, want %s", r, r, want)
		}
	}
}

// The longest prefix is that of a scan over all of them.
func TestTheLongestPrefixIsFound(t *testing.T) {
	text := rapid.StringMatching(`[ab\xff]{1,6}`)
	rapid.Check(t, func(r *rapid.T) {
		texts := rapid.SliceOfDistinct(text, rapid.ID).Draw(r, "prefixes")
		var all []assignment
		for _, p := range texts {
			all = append(all, prefix(p, "of "+p))
		}
		a := index(t, all...)
		for _, client := range rapid.SliceOfN(text, 1, 20).Draw(r, "client ids") {
			want := ""
			for _, p := range texts {
				if strings.HasPrefix(client, p) && len(p) > len(want) {
					want = p
				}
			}
			got, ok := a.Lookup(placement.Triple{ClientID: client}, placement.Key{}, 0)
			if got.Value != want || ok != (want != "") {
				r.Fatalf("of %q, %q: %v, want %q", texts, client, got, want)
			}
		}
	})
}

// clients of the tests that count shares.
const clients = 100_000

// shared says to which default each client goes. One without a name has no id, and a random number instead.
func shared(t testing.TB, named bool, defaults ...assignment) []string {
	t.Helper()
	a, clusters := index(t, defaults...), make([]string, clients)
	for i := range clusters {
		c := placement.Triple{}
		if named {
			c.ClientID = fmt.Sprintf("client-%d", i)
		}
		// No key is needed, and that of the triple would take the longest.
		got, ok := a.Lookup(c, placement.Key{}, random(uint64(i)))
		if !ok {
			t.Fatalf("%v is not assigned", c)
		}
		clusters[i] = got.Cluster
	}
	return clusters
}

// near checks that shares are as weights, within a few percent.
func near(t testing.TB, got map[string]int, weights map[string]uint32) {
	t.Helper()
	var all, count float64
	for _, w := range weights {
		all += float64(w)
	}
	for _, n := range got {
		count += float64(n)
	}
	for name, w := range weights {
		if want := count * float64(w) / all; math.Abs(float64(got[name])/want-1) > 0.03 {
			t.Errorf("%s got %d, want about %.0f", name, got[name], want)
		}
	}
	if len(got) > len(weights) {
		t.Errorf("somebody else got something: %v", got)
	}
}

func counted(all []string) map[string]int {
	counts := map[string]int{}
	for _, name := range all {
		counts[name]++
	}
	return counts
}

func TestDefaultsShareClientsByWeight(t *testing.T) {
	for _, named := range []bool{true, false} {
		got := shared(t, named, byDefault("a", 1), byDefault("b", 2), byDefault("c", 7))
		near(t, counted(got), map[string]uint32{"a": 1, "b": 2, "c": 7})
	}
}

func TestAChangedWeightMovesOnlyWhoHasTo(t *testing.T) {
	before := []assignment{byDefault("a", 10), byDefault("b", 10), byDefault("c", 20)}
	was := shared(t, true, before...)
	for name, c := range map[string]struct {
		after  []assignment
		to     string
		moving float64
	}{
		"a gets more":    {[]assignment{byDefault("a", 20), byDefault("b", 10), byDefault("c", 20)}, "a", 0.4 - 0.25},
		"d is added":     {append([]assignment{byDefault("d", 10)}, before...), "d", 0.2},
		"another order":  {[]assignment{byDefault("c", 20), byDefault("b", 10), byDefault("a", 10)}, "", 0},
		"all are double": {[]assignment{byDefault("a", 20), byDefault("b", 20), byDefault("c", 40)}, "", 0},
	} {
		moved := 0
		for i, cluster := range shared(t, true, c.after...) {
			if cluster == was[i] {
				continue
			}
			moved++
			if cluster != c.to {
				t.Fatalf("%s: client %d moved from %s to %s", name, i, was[i], cluster)
			}
		}
		if math.Abs(float64(moved)/clients-c.moving) > 0.005 {
			t.Errorf("%s: %d moved, want about %.0f", name, moved, clients*c.moving)
		}
	}
}

func TestATokenAsPasswordDoesNotMoveAClientToAnotherDefault(t *testing.T) {
	a, s := index(t, byDefault("a", 1), byDefault("b", 1), byDefault("c", 1)), secret(t)
	first := user("meter-1", "joe", "token 0")
	want, _ := a.Lookup(first, s.Key(first), 0)
	for i := range 100 {
		again := user("meter-1", fmt.Sprint("joe", i%2), fmt.Sprint("token ", i))
		if got, _ := a.Lookup(again, s.Key(again), uint64(i)); got != want {
			t.Fatalf("with its token %d it goes to %s, before to %s", i, got.Cluster, want.Cluster)
		}
	}
}

func TestLookupDoesNotAllocate(t *testing.T) {
	joe := user("meter-1", "joe", "pw")
	key := secret(t).Key(joe)
	for _, last := range []assignment{
		triple(t, joe, "a"), id("meter-1", "a"), prefix("meter", "a"), username("joe", "a"), byDefault("a", 1),
	} {
		a := index(t, last)
		if n := testing.AllocsPerRun(100, func() {
			if got, ok := a.Lookup(joe, key, 1); !ok || got.Cluster != "a" {
				t.Fatalf("found %v", got)
			}
		}); n > 0 {
			t.Errorf("%v: %g allocations", last, n)
		}
	}
}
