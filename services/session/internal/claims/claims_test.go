package claims

import (
	"fmt"
	"testing"
	"time"
)

func config() Config {
	return Config{
		EvictTimeout: time.Second, FlapLimit: 3, FlapWindow: 10 * time.Second, FlapDelay: time.Second,
		Tracked: 100, Owed: 100,
	}
}

func TestOwedEvictionsAreBounded(t *testing.T) {
	c := config()
	c.Owed = 2
	q := New(time.Unix(0, 0), c, nil, 1)
	for i := range 5 {
		id := fmt.Sprintf("client-%d", i)
		q.Claim(time.Unix(0, 0), id, Request{Gateway: "B", ID: uint64(i)})
		q.Recorded(time.Unix(0, 0), id, Outcome{Epoch: 10, Former: "A", FormerEpoch: 9})
	}
	q.Effects()
	q.Attached("A")
	if got := len(q.Effects()); got != 2 {
		t.Errorf("repeats %d evictions, want the 2 that are kept", got)
	}
	q.Tick(time.Unix(1, 0))
	if got := q.Counters().EvictTimeouts; got != 5 {
		t.Errorf("%d claims went on after the time, want all 5", got)
	}
}

func TestOnlySoManyClientsAreWatchedForFlapping(t *testing.T) {
	f := flaps{limit: 1, window: 10 * time.Second, tracked: 2, of: map[string]*flap{}}
	now := time.Unix(100, 0)
	for range 3 {
		for _, id := range []string{"a", "b", "c"} {
			f.replaced(now, id)
		}
	}
	if !f.hot(now, "a") || !f.hot(now, "b") || f.hot(now, "c") {
		t.Error("want a and b watched, c not")
	}
	later := now.Add(25 * time.Second)
	f.replaced(later, "c")
	f.replaced(later, "c")
	if f.hot(later, "a") || !f.hot(later, "c") {
		t.Error("want a forgotten and c watched")
	}
}

func TestTheFlapWindowSlides(t *testing.T) {
	f := flaps{limit: 10, window: 10 * time.Second, tracked: 1, of: map[string]*flap{}}
	start := time.Unix(100, 0)
	for range 11 {
		f.replaced(start, "a")
	}
	for _, c := range []struct {
		after time.Duration
		hot   bool
	}{{0, true}, {9 * time.Second, true}, {12 * time.Second, false}, {30 * time.Second, false}} {
		if got := f.hot(start.Add(c.after), "a"); got != c.hot {
			t.Errorf("%v after eleven replacements: hot %v, want %v", c.after, got, c.hot)
		}
	}
}

func BenchmarkClaim(b *testing.B) {
	q := New(time.Unix(0, 0), Config{EvictTimeout: time.Second, FlapLimit: 100, FlapWindow: 10 * time.Second, FlapDelay: time.Second, Tracked: 1000, Owed: 1000}, nil, 1)
	now := time.Unix(0, 0)
	b.ReportAllocs()
	epoch := uint64(0)
	for b.Loop() {
		epoch++
		now = now.Add(time.Microsecond)
		q.Claim(now, "x", Request{Gateway: "A", ID: epoch})
		q.Recorded(now, "x", Outcome{Epoch: epoch})
		if n := len(q.Effects()); n != 2 {
			b.Fatalf("%d effects", n)
		}
	}
}
