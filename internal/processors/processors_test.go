package processors

import (
	"context"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"
)

func TestMoreProcessorsAtOnceFewerAfterAWhile(t *testing.T) {
	of := func(n int, busy ...float64) (all []load) {
		for _, b := range slices.Repeat(busy, n) {
			all = append(all, load{busy: b})
		}
		return all
	}
	tests := []struct {
		name string
		now  int
		load []load
		want int
	}{
		{"nothing to do", 8, of(calm, 0), 1},
		{"not quiet for long enough", 8, of(calm-1, 0), 8},
		{"half a processor", 8, of(calm, 0.5), 1},
		{"nearly one processor needs two", 1, of(1, 0.81), 2},
		{"what one can do, one does", 1, of(100, 0.79), 1},
		{"all that there are busy: more", 2, of(1, 2), 3},
		{"and more, as long as it is not enough", 2, of(1, 2, 3, 4, 5), 7},
		{"never more than there are", 2, of(10, 100), 8},
		{"down to what the load needs", 8, of(calm, 2), 3},
		{"the mean of the quiet time counts", 8, append(of(calm-1, 0), load{busy: 5}), 1},
		{"a peak begins the wait anew", 2, slices.Concat(of(calm-1, 0), of(1, 1.9), of(calm-1, 0)), 3},
		{"others have the machine, and work piles up", 1, []load{{busy: 0.2, waiting: 3}}, 2},
		{"it does not pile up", 1, []load{{busy: 0.2, waiting: 1.9}}, 1},
		{"it piles up although all are there", 8, []load{{busy: 3, waiting: 100}}, 8},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			g := governor{most: 8, now: tt.now}
			for _, l := range tt.load {
				g.measured(l)
			}
			if g.now != tt.want {
				t.Errorf("%d processors, want %d", g.now, tt.want)
			}
		})
	}
}

func TestAnIdleProcessHasOneProcessorAndABusyOneAll(t *testing.T) {
	if runtime.NumCPU() < 2 {
		t.Skip("this machine has one processor")
	}
	t.Setenv("GOMAXPROCS", "")
	end := start(t)
	wait(t, "it is idle", func() bool { return runtime.GOMAXPROCS(0) == 1 })
	busy, stop := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	defer wg.Wait()
	defer stop()
	for range runtime.NumCPU() {
		wg.Go(func() {
			for busy.Err() == nil {
				runtime.KeepAlive(busy)
			}
		})
	}
	wait(t, "it is busy", func() bool { return runtime.GOMAXPROCS(0) > 1 })
	stop()
	wait(t, "it is idle again", func() bool { return runtime.GOMAXPROCS(0) == 1 })
	end()
	if got := runtime.GOMAXPROCS(0); got < 2 {
		t.Errorf("%d processors at the end", got)
	}
}

func TestWhoeverSetsTheEnvironmentHasChosen(t *testing.T) {
	t.Setenv("GOMAXPROCS", "2")
	before := runtime.GOMAXPROCS(2)
	defer runtime.GOMAXPROCS(before)
	end := start(t)
	end()
	if got := runtime.GOMAXPROCS(0); got != 2 {
		t.Errorf("%d processors", got)
	}
}

// start runs the part until end is called.
func start(t *testing.T) (end func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended, started := make(chan error, 1), make(chan struct{})
	go func() { ended <- Part().Run(ctx, func() { close(started) }) }()
	<-started
	return func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
}

func wait(t *testing.T, what string, is func() bool) {
	t.Helper()
	deadline := time.After(30 * time.Second)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !is() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("%s: still %d processors", what, runtime.GOMAXPROCS(0))
		}
	}
}
