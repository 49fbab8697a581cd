package bench

import (
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestAMessageIsCountedFromTheMomentItIsDue(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := newPace(rapid.IntRange(1, 2_000_000).Draw(t, "rate"), rapid.SampledFrom([]time.Duration{10_000, 250_000, 1_000_000}).Draw(t, "least"))
		n := rapid.Uint64Max(1<<30).Draw(t, "n")
		if due := p.due(n); p.count(due) <= n || p.count(due-1) > n {
			t.Errorf("%+v: message %d is due at %v, when %d are, before that %d", p, n, due, p.count(due), p.count(due-1))
		}
	})
}

func TestOverTimeTheRateIsWhatWasAskedFor(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		rate := rapid.IntRange(1, 2_000_000).Draw(t, "rate")
		got := newPace(rate, 250*time.Microsecond).due(uint64(rate)*100).Seconds() / 100
		if got < 0.999 || got > 1.001 {
			t.Errorf("%d messages take %v s", rate, got)
		}
	})
}

func TestBelowOneInATickEveryMessageIsDueByItself(t *testing.T) {
	for _, tt := range []struct {
		rate int
		want pace
	}{
		{1, pace{time.Second, 1}},
		{3000, pace{333_333, 1}},
		{4000, pace{250_000, 1}},
		{15000, pace{200_000, 3}},
		{1_000_000, pace{250_000, 250}},
	} {
		if got := newPace(tt.rate, 250*time.Microsecond); got != tt.want {
			t.Errorf("%d/s: %+v, want %+v", tt.rate, got, tt.want)
		}
	}
}

func TestNothingIsDueBeforeTheBegin(t *testing.T) {
	if n := newPace(1000, time.Millisecond).count(-1); n != 0 {
		t.Errorf("%d are", n)
	}
}

func TestATickIsNeverEarly(t *testing.T) {
	const every = 3 * time.Millisecond
	tick, err := newTicker()
	if err != nil {
		t.Fatal(err)
	}
	defer tick.close()
	begin := time.Now()
	if err := tick.start(every); err != nil {
		t.Fatal(err)
	}
	for n := range 10 {
		if err := tick.wait(); err != nil {
			t.Fatal(err)
		}
		if passed := time.Since(begin); passed < time.Duration(n+1)*every {
			t.Errorf("tick %d after %v", n+1, passed)
		}
	}
}
