package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// journal records what the parts of a test did, in order.
type journal struct {
	mu    sync.Mutex
	lines []string
}

func (j *journal) add(format string, args ...any) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.lines = append(j.lines, fmt.Sprintf(format, args...))
}

// part starts at once and takes stopping to stop.
func (j *journal) part(name string, stopping time.Duration) Part {
	return Part{Name: name, Run: func(ctx context.Context, started func()) error {
		j.add("start %s", name)
		started()
		<-ctx.Done()
		j.add("stop %s", name)
		time.Sleep(stopping)
		j.add("stopped %s", name)
		return ctx.Err()
	}}
}

func (j *journal) want(t *testing.T, lines ...string) {
	t.Helper()
	j.mu.Lock()
	defer j.mu.Unlock()
	if diff := cmp.Diff(lines, j.lines); diff != "" {
		t.Errorf("what happened (-want +got):\n%s", diff)
	}
}

var errBroken = errors.New("broken")

func TestPartsStartInOrderAndStopInReverseEachAfterTheOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		var j journal
		err := Run(ctx, 10*time.Second, j.part("store", time.Second), j.part("mesh", 2*time.Second), j.part("listener", time.Second))
		if err != nil {
			t.Errorf("a stop on request is an error: %v", err)
		}
		j.want(t,
			"start store", "start mesh", "start listener",
			"stop listener", "stopped listener", "stop mesh", "stopped mesh", "stop store", "stopped store")
	})
}

func TestAPartIsStartedOnlyWhenTheOneBeforeHasStarted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		begin := time.Now()
		slow := Part{Name: "slow", Run: func(ctx context.Context, started func()) error {
			time.Sleep(3 * time.Second)
			started()
			started() // a second call changes nothing
			<-ctx.Done()
			return nil
		}}
		var after time.Duration
		next := Simple("next", func(ctx context.Context) error {
			after = time.Since(begin)
			<-ctx.Done()
			return nil
		})
		if err := Run(ctx, time.Second, slow, next); err != nil {
			t.Fatal(err)
		}
		if after != 3*time.Second {
			t.Errorf("the second part was started after %v, want 3s", after)
		}
	})
}

func TestAPartThatEndsEarlyStopsAllOthers(t *testing.T) {
	tests := []struct {
		name   string
		ending error
		want   error
	}{
		{"with an error", errBroken, errBroken},
		{"without an error", nil, ErrEnded},
		{"with the error of a context that is not its own", context.Canceled, context.Canceled},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var j journal
				failing := Simple("failing", func(context.Context) error {
					time.Sleep(time.Second)
					j.add("failing ends")
					return tt.ending
				})
				err := Run(t.Context(), time.Minute, j.part("first", 0), failing, j.part("last", 0))
				if !errors.Is(err, tt.want) || !strings.HasPrefix(err.Error(), "failing: ") {
					t.Errorf("Run = %v, want %v of the part failing", err, tt.want)
				}
				j.want(t, "start first", "start last", "failing ends", "stop last", "stopped last", "stop first", "stopped first")
			})
		})
	}
}

func TestAPartThatDoesNotStartKeepsTheOthersFromStarting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var j journal
		broken := Part{Name: "broken", Run: func(context.Context, func()) error { return errBroken }}
		err := Run(t.Context(), time.Minute, j.part("first", 0), broken, j.part("never", 0))
		if !errors.Is(err, errBroken) {
			t.Errorf("Run = %v, want %v", err, errBroken)
		}
		j.want(t, "start first", "stop first", "stopped first")
	})
}

func TestAPartThatStopsWhileAnotherStartsEndsTheStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dying := Simple("dying", func(context.Context) error {
			time.Sleep(time.Second)
			return errBroken
		})
		never := Part{Name: "never up", Run: func(ctx context.Context, _ func()) error {
			<-ctx.Done()
			return ctx.Err()
		}}
		begin := time.Now()
		if err := Run(t.Context(), time.Minute, dying, never); !errors.Is(err, errBroken) {
			t.Errorf("Run = %v, want %v", err, errBroken)
		}
		if took := time.Since(begin); took != time.Second {
			t.Errorf("Run took %v, want 1s", took)
		}
	})
}

func TestTheEndOfTheContextInterruptsTheStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		var j journal
		never := Part{Name: "never up", Run: func(ctx context.Context, _ func()) error {
			<-ctx.Done()
			j.add("stop never up")
			return context.Cause(ctx)
		}}
		if err := Run(ctx, time.Minute, j.part("first", 0), never, j.part("later", 0)); err != nil {
			t.Errorf("Run = %v, want nil", err)
		}
		j.want(t, "start first", "stop never up", "stop first", "stopped first")
	})
}

func TestAContextThatHasEndedStartsNothing(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var j journal
	if err := Run(ctx, time.Second, j.part("a", 0)); err != nil {
		t.Errorf("Run = %v, want nil", err)
	}
	j.want(t)
}

func TestErrorsOfAllPartsAreJoinedTheFirstFailureFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		errLeave, errFlush := errors.New("leave"), errors.New("flush")
		ending := func(name string, err error) Part {
			return Simple(name, func(ctx context.Context) error {
				<-ctx.Done()
				return err
			})
		}
		failing := Simple("failing", func(context.Context) error {
			time.Sleep(time.Second)
			return errBroken
		})
		err := Run(t.Context(), time.Second, ending("members", errLeave), failing, ending("store", errFlush))
		if want := "failing: broken\nmembers: leave\nstore: flush"; err == nil || err.Error() != want {
			t.Errorf("Run = %q, want %q", err, want)
		}
		for _, want := range []error{errBroken, errLeave, errFlush} {
			if !errors.Is(err, want) {
				t.Errorf("%v cannot be found in the error", want)
			}
		}
	})
}

func TestStoppingIsBoundedByGraceAndNamesWhatDidNotStop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		const grace = 10 * time.Second
		var j journal
		release := make(chan struct{})
		stuck := Simple("stuck", func(context.Context) error {
			<-release
			return nil
		})
		begin := time.Now()
		err := Run(ctx, grace, j.part("quick", 0), stuck, j.part("last", 0))
		if !errors.Is(err, ErrAbandoned) || err.Error() != "stuck: did not stop in time" {
			t.Errorf("Run = %v, want only the part stuck as abandoned", err)
		}
		if took := time.Since(begin); took != time.Second+grace+grace/10 {
			t.Errorf("Run took %v", took)
		}
		j.want(t, "start quick", "start last", "stop last", "stopped last", "stop quick", "stopped quick")
		close(release)
		synctest.Wait()
	})
}
