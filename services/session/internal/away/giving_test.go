package away

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/beeline-mqtt/beeline/internal/journal"
)

// inboxOf is an inbox with entries at these positions.
func inboxOf(positions ...journal.Position) (entries []journal.Entry) {
	for _, p := range positions {
		entries = append(entries, journal.Entry{Position: p})
	}
	return entries
}

// behind reads entries as a store does.
func behind(all []journal.Entry, after journal.Position, most int) []journal.Entry {
	all = slices.DeleteFunc(slices.Clone(all), func(e journal.Entry) bool { return e.Position <= after })
	return all[:min(len(all), most)]
}

// readAll reads whatever is wanted, and says how often something was.
func (g *giving) readAll(inbox []journal.Entry) (reads int) {
	for after, most, wanted := g.wants(); wanted; after, most, wanted = g.wants() {
		g.page(behind(inbox, after, most), g.stored)
		reads++
	}
	return reads
}

func TestInWhichOrderEntriesAreGiven(t *testing.T) {
	cases := map[string]struct {
		inbox  []journal.Position
		stored journal.Position
		// steps: take, done n, back n.
		steps string
		given string
		empty bool
	}{
		"nothing":                      {nil, 0, "take", "-", true},
		"in order":                     {[]journal.Position{1, 2, 3}, 3, "take take take take", "1 2 3 -", false},
		"until all is done":            {[]journal.Position{1, 2}, 2, "take take done 1 done 2 take", "1 2 -", true},
		"expired ones are not there":   {[]journal.Position{2, 5}, 7, "take take done 5 done 2 take", "2 5 -", true},
		"only expired ones were there": {nil, 7, "take", "-", true},
		"what comes back comes first":  {[]journal.Position{1, 2, 3}, 3, "take take back 1 take take", "1 2 1 3", false},
		"in its order": {
			[]journal.Position{1, 2, 3, 4}, 4, "take take take back 2 back 1 take take take take", "1 2 3 1 2 4 -", false,
		},
		"what is done does not come back":       {[]journal.Position{1}, 1, "take done 1 back 1 take", "1 -", true},
		"what was never given does neither":     {[]journal.Position{1}, 1, "back 1 back 9 take take", "1 -", false},
		"what is not stored yet is not read":    {nil, 0, "take stored 1 take", "- -", true},
		"and what is stored meanwhile is found": {[]journal.Position{1}, 0, "take stored 1 take", "- 1", false},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			g, inbox := begin(1, 1), inboxOf(c.inbox...)
			g.stored = c.stored
			var given []string
			steps := strings.Fields(c.steps)
			for i := 0; i < len(steps); i++ {
				if steps[i] == "take" {
					g.readAll(inbox)
					e, ok := g.take()
					if !ok {
						given = append(given, "-")
						continue
					}
					given = append(given, strconv.Itoa(int(e.Position)))
					continue
				}
				n, _ := strconv.Atoi(steps[i+1])
				switch steps[i] {
				case "done":
					g.done(journal.Position(n))
					inbox = slices.DeleteFunc(inbox, func(e journal.Entry) bool { return e.Position == journal.Position(n) })
				case "back":
					g.back(journal.Position(n))
				case "stored":
					g.stored = journal.Position(n)
				}
				i++
			}
			g.readAll(inbox)
			if got := strings.Join(given, " "); got != c.given || g.empty() != c.empty {
				t.Errorf("given %s, empty: %v; want %s, %v", got, g.empty(), c.given, c.empty)
			}
		})
	}
}

func TestOnlySoManyAreGivenAtOnce(t *testing.T) {
	g := begin(1, 1001)
	var all []journal.Position
	for p := range journal.Position(1000) {
		all = append(all, p+1)
	}
	inbox := inboxOf(all...)
	take := func() (n int) {
		g.readAll(inbox)
		for _, ok := g.take(); ok; _, ok = g.take() {
			n++
			g.readAll(inbox)
		}
		return n
	}
	if n := take(); n != givenAtOnce {
		t.Fatalf("%d at once, want %d", n, givenAtOnce)
	}
	for p := range journal.Position(givenAtOnce/2 - 1) {
		g.done(p + 1)
	}
	if n := take(); n != 0 {
		t.Errorf("%d are read for less than half of the room", n)
	}
	g.done(givenAtOnce / 2)
	if n := take(); n != givenAtOnce/2 {
		t.Errorf("%d, want the half that has room", n)
	}
}

func TestWhatComesBackSlowsDown(t *testing.T) {
	var all []journal.Position
	for p := range journal.Position(1000) {
		all = append(all, p+1)
	}
	g, inbox := begin(1, 1001), inboxOf(all...)
	given := func() (out []journal.Position) {
		for {
			g.readAll(inbox)
			e, ok := g.take()
			if !ok {
				return out
			}
			out = append(out, e.Position)
		}
	}
	for _, p := range given() {
		g.back(p)
	}
	for range 3 {
		out := given()
		if len(out) != 1 || out[0] != 1 {
			t.Fatalf("%v are given while all come back, want the first", out)
		}
		g.back(1)
	}
	for _, want := range []int{1, 2, 8, givenAtOnce - 11} { // what is left of the page
		out := given()
		if len(out) != want {
			t.Errorf("%d are given, want %d", len(out), want)
		}
		for _, p := range out {
			g.done(p)
		}
	}
}

func TestAFormerInstancesInboxIsGivenFromItsFirstEntry(t *testing.T) {
	g := begin(5, 8)
	if after, most, wanted := g.wants(); after != 4 || most != givenAtOnce || !wanted {
		t.Errorf("wants %d behind %d: %v", most, after, wanted)
	}
	if g := begin(8, 8); !g.empty() || g.next != 8 {
		t.Errorf("an empty one: %+v", g)
	}
}

// Whatever members do, each entry is given until it is done, in order but for what came back, and never twice at a time.
func TestNothingThatIsKeptIsForgotten(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		g := begin(1, 1)
		var inbox []journal.Entry
		out := map[journal.Position]bool{}
		var last journal.Position // that was given for the first time
		pick := func(t *rapid.T) journal.Position {
			if len(out) == 0 {
				t.Skip("nothing is out")
			}
			var all []journal.Position
			for p := range out {
				all = append(all, p)
			}
			slices.Sort(all)
			return rapid.SampledFrom(all).Draw(t, "entry")
		}
		take := func(t *rapid.T) {
			g.readAll(inbox)
			e, ok := g.take()
			if !ok {
				return
			}
			if out[e.Position] || e.Position > last+1 {
				t.Fatalf("%d is given behind %d, out: %v", e.Position, last, out)
			}
			last = max(last, e.Position)
			out[e.Position] = true
		}
		done := func(p journal.Position) {
			g.done(p)
			delete(out, p)
			inbox = slices.DeleteFunc(inbox, func(e journal.Entry) bool { return e.Position == p })
		}
		t.Repeat(map[string]func(*rapid.T){
			"append": func(*rapid.T) {
				inbox = append(inbox, journal.Entry{Position: g.next})
				g.stored = g.next
				g.next++
			},
			"take": take,
			"done": func(t *rapid.T) { done(pick(t)) },
			"back": func(t *rapid.T) {
				p := pick(t)
				g.back(p)
				delete(out, p)
			},
		})
		for len(inbox) > 0 {
			before := len(out)
			take(t)
			for p := range out {
				done(p)
				break
			}
			if before == 0 && len(out) > 0 {
				t.Fatal("out of step")
			}
		}
		if g.readAll(inbox); !g.empty() {
			t.Fatal(fmt.Sprintf("it is not empty: %+v", g))
		}
	})
}
