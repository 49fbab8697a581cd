package publish

import (
	"context"
	"errors"
	"math/rand/v2"
	"testing"

	gatewayv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/gateway/v1"
)

func results(ids ...uint64) (all []*gatewayv1.Result) {
	for _, id := range ids {
		all = append(all, &gatewayv1.Result{RequestId: id})
	}
	return all
}

func wantIDs(t *testing.T, got []*gatewayv1.Result, want ...uint64) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%d results, want %d", len(got), len(want))
	}
	for i := range got {
		if got[i].GetRequestId() != want[i] {
			t.Fatalf("result %d is that of %d, want %d", i, got[i].GetRequestId(), want[i])
		}
	}
}

func TestResultsComeOutInTheOrderOfTheirMessages(t *testing.T) {
	r := NewResults(4)
	first, n, err := r.Take(t.Context(), 3)
	if first != 1 || n != 3 || err != nil {
		t.Fatalf("Take: %d, %d, %v", first, n, err)
	}
	wantIDs(t, r.Put(nil, results(3, 2)))
	wantIDs(t, r.Put(nil, results(99, 0, 4))) // of nobody
	wantIDs(t, r.Put(nil, results(1)), 1, 2, 3)
	// There is no room before they have been passed on.
	if first, n, _ := r.Take(t.Context(), 3); first != 4 || n != 1 {
		t.Errorf("Take: %d, %d", first, n)
	}
	over, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := r.Take(over, 1); !errors.Is(err, context.Canceled) {
		t.Errorf("Take without room: %v", err)
	}
	r.Done(3)
	if n := r.Outstanding(); n != 1 {
		t.Errorf("%d are outstanding", n)
	}
	if first, n, _ := r.Take(t.Context(), 9); first != 5 || n != 3 {
		t.Errorf("Take: %d, %d", first, n)
	}
}

func TestTakeWaitsForRoom(t *testing.T) {
	r := NewResults(1)
	if _, _, err := r.Take(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	taken := make(chan uint64)
	go func() {
		first, _, _ := r.Take(t.Context(), 1)
		taken <- first
	}()
	r.Done(len(r.Put(nil, results(1))))
	if first := <-taken; first != 2 {
		t.Errorf("took %d", first)
	}
}

func TestNoResultIsLostOrDoubled(t *testing.T) {
	const most, total = 64, 10_000
	r := NewResults(most)
	var open []uint64
	next := uint64(1)
	for next <= total {
		if r.Outstanding() < most {
			first, n, err := r.Take(t.Context(), 1+rand.IntN(most))
			if err != nil {
				t.Fatal(err)
			}
			for i := range n {
				open = append(open, first+uint64(i))
			}
		}
		if len(open) == 0 {
			t.Fatal("it is stuck")
		}
		rand.Shuffle(len(open), func(i, j int) { open[i], open[j] = open[j], open[i] })
		some := 1 + rand.IntN(len(open))
		got := r.Put(nil, results(open[:some]...))
		open = open[some:]
		for _, x := range got {
			if x.GetRequestId() != next {
				t.Fatalf("got %d, want %d", x.GetRequestId(), next)
			}
			next++
		}
		r.Done(len(got))
	}
}
