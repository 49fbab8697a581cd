package lifecycle

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// lines returns what /readyz would show.
func lines(r *Readiness) []string {
	var got []string
	for _, reason := range r.NotReady() {
		got = append(got, reason.String())
	}
	return got
}

func wantNotReady(t *testing.T, r *Readiness, want ...string) {
	t.Helper()
	if diff := cmp.Diff(want, lines(r)); diff != "" {
		t.Errorf("not ready (-want +got):\n%s", diff)
	}
}

func TestReadinessWithoutConditionsIsReady(t *testing.T) {
	var r Readiness
	wantNotReady(t, &r)
}

func TestReadinessNamesWhatIsNotReadyInTheOrderOfAdding(t *testing.T) {
	var r Readiness
	listening := r.Condition("listener")
	inForce := errors.New("lease of the incarnation has run out")
	r.Add("incarnation", func() error { return inForce })
	synced := r.Condition("mesh")

	wantNotReady(t, &r, "listener: not yet", "incarnation: lease of the incarnation has run out", "mesh: not yet")

	listening.Met()
	inForce = nil
	synced.NotMet("2 of 3 peers")
	wantNotReady(t, &r, "mesh: 2 of 3 peers")

	synced.Met()
	wantNotReady(t, &r)

	listening.NotMet("closed")
	wantNotReady(t, &r, "listener: closed")
}

func TestTheReasonKeepsTheErrorOfTheCheck(t *testing.T) {
	var r Readiness
	r.Add("etcd", func() error { return errBroken })
	reasons := r.NotReady()
	if len(reasons) != 1 || reasons[0].Condition != "etcd" || !errors.Is(reasons[0].Why, errBroken) {
		t.Errorf("reasons = %v, want the check's own error under etcd", reasons)
	}
}

func TestACheckMayAddConditions(t *testing.T) {
	var r Readiness
	var once sync.Once
	r.Add("outer", func() error {
		once.Do(func() { r.Condition("inner") })
		return nil
	})
	wantNotReady(t, &r)
	wantNotReady(t, &r, "inner: not yet")
}

func TestReadinessIsSafeForConcurrentUse(t *testing.T) {
	var r Readiness
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			c := r.Condition("c")
			for range 100 {
				c.NotMet("busy")
				r.NotReady()
				c.Met()
			}
		})
	}
	wg.Wait()
	wantNotReady(t, &r)
}

func TestAProcessIsReadyAfterTheLastStartAndNotReadyForTheDrainBeforeAnythingStops(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var r Readiness
		serving := r.Condition("process")
		ctx, cancel := context.WithCancel(t.Context())
		begin := time.Now()
		var stopped time.Duration
		server := Part{Name: "server", Run: func(ctx context.Context, started func()) error {
			wantNotReady(t, &r, "process: not yet")
			started()
			<-ctx.Done()
			stopped = time.Since(begin)
			wantNotReady(t, &r, "process: stopping")
			return nil
		}}
		done := make(chan error)
		go func() { done <- Run(ctx, time.Minute, server, serving.Part("readiness", 5*time.Second)) }()

		synctest.Wait()
		wantNotReady(t, &r)
		cancel()
		synctest.Wait()
		wantNotReady(t, &r, "process: stopping")
		if err := <-done; err != nil {
			t.Errorf("Run = %v", err)
		}
		if stopped != 5*time.Second {
			t.Errorf("the server was stopped %v after readiness went, want the drain of 5s", stopped)
		}
	})
}
