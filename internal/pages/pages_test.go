package pages_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/beeline-mqtt/beeline/internal/pages"
)

func TestARangeHasWhatLiesBehindAnIDUnderAPrefix(t *testing.T) {
	for name, c := range map[string]struct {
		r    pages.Range
		id   string
		want bool
	}{
		"everything":           {pages.Range{}, "a", true},
		"the id itself":        {pages.Range{After: "a"}, "a", false},
		"behind the id":        {pages.Range{After: "a"}, "a0", true},
		"before the id":        {pages.Range{After: "b"}, "a", false},
		"under the prefix":     {pages.Range{Prefix: "x/"}, "x/1", true},
		"not under the prefix": {pages.Range{Prefix: "x/"}, "x", false},
		"behind, and under":    {pages.Range{Prefix: "x/", After: "x/1"}, "x/2", true},
	} {
		t.Run(name, func(t *testing.T) {
			if got := c.r.Has(c.id); got != c.want {
				t.Errorf("Has(%q) = %v, want %v", c.id, got, c.want)
			}
		})
	}
}

func TestAPageIsWhatComesFirst(t *testing.T) {
	l := pages.NewLowest[int](3)
	for i, id := range []string{"d", "a", "e", "c", "b"} {
		l.Offer(id, i)
	}
	got, more := l.Take()
	want := []pages.Entry[int]{{ID: "a", Value: 1}, {ID: "b", Value: 4}, {ID: "c", Value: 3}}
	if !slices.Equal(got, want) || !more {
		t.Errorf("page %v, more %v, want %v and more", got, more, want)
	}
	if got, more := l.Take(); len(got) > 0 || more {
		t.Errorf("%v is left", got)
	}
}

func TestAPageThatIsJustFullIsTheLast(t *testing.T) {
	l := pages.NewLowest[int](2)
	l.Offer("a", 0)
	l.Offer("b", 0)
	if got, more := l.Take(); len(got) != 2 || more {
		t.Errorf("%d entries, more %v, want 2 and no more", len(got), more)
	}
}

func TestPagesTogetherAreEverythingInOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n, size := rapid.IntRange(0, 60).Draw(t, "entries"), rapid.IntRange(0, 10).Draw(t, "page size")
		var all []string
		for i := range n {
			all = append(all, fmt.Sprintf("%c/%d", 'a'+i%2, i))
		}
		r := pages.Range{Prefix: rapid.SampledFrom([]string{"", "a/", "c"}).Draw(t, "prefix")}
		var got []string
		for {
			l := pages.NewLowest[struct{}](size)
			for _, i := range rand.Perm(n) {
				if r.Has(all[i]) {
					l.Offer(all[i], struct{}{})
				}
			}
			p, more := l.Take()
			for _, e := range p {
				got = append(got, e.ID)
			}
			if !more {
				break
			}
			r.After = p[len(p)-1].ID
		}
		slices.Sort(all)
		want := slices.DeleteFunc(all, func(id string) bool { return !(pages.Range{Prefix: r.Prefix}).Has(id) })
		if !slices.Equal(got, want) {
			t.Fatalf("pages have %v, want %v", got, want)
		}
	})
}
