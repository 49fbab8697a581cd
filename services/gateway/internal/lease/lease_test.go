package lease

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"sync"
	"testing"
	"time"

	sessionv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/session/v1"
	"github.com/beeline-mqtt/beeline/internal/cluster/clustertest"
)

func TestAClaimIsGrantedAtAnEpoch(t *testing.T) {
	s := newStage(t, nil)
	s.become()
	p := s.attach()
	if p.hello != "G" || !s.keeper.Available() {
		t.Errorf("attached as %q, available %v", p.hello, s.keeper.Available())
	}
	c := s.claim(t.Context(), "x")
	p.grant(p.wantClaim("x"), 7)
	if got := s.want(c); got != (outcome{epoch: 7}) {
		t.Errorf("claimed %+v", got)
	}
	s.keeper.Release("x", 7, Ending{})
	p.released(p.wantRelease("x", 7))
	s.keeper.Release("never held", 0, Ending{})
	p.wantNothing(s.keeper)
}

func TestRefusalsAreErrorsOfTheirOwn(t *testing.T) {
	s := newStage(t, nil)
	s.become()
	p := s.attach()
	for why, want := range map[sessionv1.Refusal]error{
		sessionv1.Refusal_REFUSAL_SUPERSEDED:       ErrSuperseded,
		sessionv1.Refusal_REFUSAL_INCARNATION_DEAD: ErrIncarnationDead,
		sessionv1.Refusal_REFUSAL_UNAVAILABLE:      ErrUnavailable,
		sessionv1.Refusal_REFUSAL_UNSPECIFIED:      ErrUnavailable,
	} {
		c := s.claim(t.Context(), "x")
		p.refuse(p.wantClaim("x"), why)
		if got := s.want(c); !errors.Is(got.err, want) || got.epoch != 0 {
			t.Errorf("%v: %+v, want %v", why, got, want)
		}
	}
	// Each is an outcome, and nothing is left to be done.
	if got := s.metric("beeline_gateway_claims_total"); got != 4 {
		t.Errorf("%v claims counted", got)
	}
	p.wantNothing(s.keeper)
}

func TestClaimsWaitForAnActiveInstance(t *testing.T) {
	s := newStage(t, nil)
	if s.keeper.Available() {
		t.Error("available without a session service")
	}
	c := s.claim(t.Context(), "x")
	s.become()
	p := s.attach()
	p.grant(p.wantClaim("x"), 7)
	if got := s.want(c); got != (outcome{epoch: 7}) {
		t.Errorf("claimed %+v", got)
	}
}

func TestAClaimDoesNotWaitForEver(t *testing.T) {
	s := newStage(t, func(c *Config) { c.ClaimTimeout = 50 * time.Millisecond })
	if got := s.want(s.claim(t.Context(), "x")); !errors.Is(got.err, ErrUnavailable) {
		t.Errorf("claimed %+v", got)
	}
	// It was never sent, and it never is.
	s.become()
	s.attach().wantNothing(s.keeper)
}

func TestAClaimThatNobodyWaitsForIsReleasedWhenItIsGranted(t *testing.T) {
	s := newStage(t, nil)
	s.become()
	p := s.attach()
	ctx, cancel := context.WithCancelCause(t.Context())
	c := s.claim(ctx, "x")
	id := p.wantClaim("x")
	gone := errors.New("the client has gone")
	cancel(gone)
	if got := s.want(c); !errors.Is(got.err, gone) {
		t.Fatalf("claimed %+v", got)
	}
	p.grant(id, 7)
	p.released(p.wantRelease("x", 7))
	p.wantNothing(s.keeper)
}

func TestAClaimThatNobodyWaitsForIsReleasedWhenItsStreamBreaks(t *testing.T) {
	s := newStage(t, nil)
	s.become()
	p := s.attach()
	ctx, cancel := context.WithCancel(t.Context())
	before := s.claim(ctx, "before")
	p.wantClaim("before")
	cancel()
	s.want(before)
	ctx, cancel = context.WithCancel(t.Context())
	after := s.claim(ctx, "after")
	p.wantClaim("after")
	again := s.claim(t.Context(), "again")
	p.wantClaim("again")
	p.cut()
	clustertest.Wait(t, "the stream is gone", func() bool { return !s.keeper.Available() })
	cancel()
	s.want(after)

	p = s.attach()
	got := map[string]uint64{}
	for range 3 {
		r := p.next()
		switch {
		case r.GetRelease() != nil && r.GetRelease().GetEpoch() == 0:
			got["release "+r.GetRelease().GetClientId()] = r.GetRelease().GetRequestId()
		case r.GetClaim() != nil:
			got["claim "+r.GetClaim().GetClientId()] = r.GetClaim().GetRequestId()
		}
	}
	for _, want := range []string{"release before", "release after", "claim again"} {
		if got[want] == 0 {
			t.Errorf("got %v, want a %s", got, want)
		}
	}
	p.grant(got["claim again"], 9)
	if o := s.want(again); o.epoch != 9 {
		t.Errorf("claimed %+v", o)
	}
}

// A stray record must not be released any more once the client is claimed anew: it is that claim's record then.
func TestANewClaimTakesThePlaceOfAStrayRelease(t *testing.T) {
	s := newStage(t, nil)
	s.become()
	p := s.attach()
	ctx, cancel := context.WithCancel(t.Context())
	lost := s.claim(ctx, "x")
	p.wantClaim("x")
	p.cut()
	clustertest.Wait(t, "the stream is gone", func() bool { return !s.keeper.Available() })
	cancel()
	s.want(lost)
	c := s.claim(t.Context(), "x")
	p = s.attach()
	r := p.next()
	for r.GetRelease() != nil {
		// The keeper may have attached before the new claim: then the release comes first.
		r = p.next()
	}
	p.grant(r.GetClaim().GetRequestId(), 9)
	if got := s.want(c); got.epoch != 9 {
		t.Fatalf("claimed %+v", got)
	}
	p.cut()
	s.attach().wantNothing(s.keeper)
}

func TestGhostsAreShownWithTheHoldingsAndWhatHasSettled(t *testing.T) {
	s := newStage(t, func(c *Config) {
		c.Ghosts = func() iter.Seq2[string, uint64] { return maps.All(map[string]uint64{"ghost": 7}) }
	})
	s.held["settled"], s.held["opened"] = 3, 4
	s.become()
	p := <-s.service.attached
	h := p.next().GetHoldings()
	if !h.GetLast() || len(h.GetGhosts()) != 1 || h.GetGhosts()[0].GetClientId() != "ghost" || h.GetGhosts()[0].GetEpoch() != 7 {
		t.Errorf("ghosts are shown as %v", h)
	}
	for _, one := range h.GetHoldings() {
		if one.GetSettled() != (one.GetClientId() == "settled") {
			t.Errorf("shown: %v", one)
		}
	}
}

func TestAfterABreakHoldingsAreShownAndUnansweredRequestsRepeatedInOrder(t *testing.T) {
	s := newStage(t, nil)
	for n := range 2500 {
		s.held[fmt.Sprintf("held-%d", n)] = uint64(n + 1)
	}
	s.become()
	p := <-s.service.attached
	if held, frames := p.holdings(); len(held) != 2500 || held["held-77"] != 78 || frames != 3 {
		t.Errorf("%d holdings in %d frames", len(held), frames)
	}
	first := s.claim(t.Context(), "first")
	id := p.wantClaim("first")
	s.keeper.Release("second", 5, Ending{})
	p.wantRelease("second", 5)
	answered := s.claim(t.Context(), "answered")
	p.grant(p.wantClaim("answered"), 6)
	s.want(answered)
	p.cut()

	p = <-s.service.attached
	if held, _ := p.holdings(); len(held) != 2501 || held["answered"] != 6 {
		t.Errorf("%d holdings, answered at %d", len(held), held["answered"])
	}
	if got := p.wantClaim("first"); got != id {
		t.Errorf("repeated as %d, was %d", got, id)
	}
	p.released(p.wantRelease("second", 5))
	p.grant(id, 8)
	if got := s.want(first); got.epoch != 8 {
		t.Errorf("claimed %+v", got)
	}
	// A late answer to a request that was answered already is nothing.
	p.grant(id, 9)
	p.wantNothing(s.keeper)
}

func TestARefusedReleaseIsRepeated(t *testing.T) {
	s := newStage(t, nil)
	s.become()
	p := s.attach()
	s.keeper.Release("x", 5, Ending{})
	id := p.wantRelease("x", 5)
	p.refuse(id, sessionv1.Refusal_REFUSAL_UNAVAILABLE)
	if got := p.wantRelease("x", 5); got != id {
		t.Errorf("repeated as %d, was %d", got, id)
	}
	p.released(id)
	p.wantNothing(s.keeper)
}

func TestAnEvictionIsAnsweredWhenItIsDone(t *testing.T) {
	s := newStage(t, nil)
	s.become()
	p := s.attach()
	c := s.claim(t.Context(), "x")
	// Grant and eviction come together: the grant is told first.
	p.grant(p.wantClaim("x"), 7)
	p.evict("x", 8)
	if got := <-s.evicts; got != "x before 8, held at 7" {
		t.Fatalf("told %s", got)
	}
	s.want(c)
	p.wantNothing(s.keeper)
	s.mu.Lock()
	done := s.evicted[0]
	s.mu.Unlock()
	done()
	if got := p.next().GetEvicted(); got.GetClientId() != "x" || got.GetEpoch() != 8 {
		t.Errorf("answered %v", got)
	}
	if got := s.metric("beeline_gateway_evictions_total"); got != 1 {
		t.Errorf("%v evictions counted", got)
	}
}

func TestAnEvictionThatIsDoneAfterABreakIsAnsweredOnTheNewStream(t *testing.T) {
	s := newStage(t, nil)
	s.become()
	p := s.attach()
	p.evict("x", 8)
	<-s.evicts
	p.cut()
	clustertest.Wait(t, "the stream is gone", func() bool { return !s.keeper.Available() })
	p = s.attach()
	s.evicted[0]()
	if got := p.next().GetEvicted(); got.GetClientId() != "x" || got.GetEpoch() != 8 {
		t.Errorf("answered %v", got)
	}
}

func TestTheKeeperMovesToTheInstanceThatBecomesActive(t *testing.T) {
	s := newStage(t, nil)
	s.become()
	old := s.attach()
	c := s.claim(t.Context(), "x")
	id := old.wantClaim("x")
	// The old one is paused: its stream stays open and answers nothing.
	s.become()
	p := s.attach()
	if got := p.wantClaim("x"); got != id {
		t.Errorf("repeated as %d, was %d", got, id)
	}
	p.grant(id, 7)
	if got := s.want(c); got.epoch != 7 {
		t.Errorf("claimed %+v", got)
	}
}

func TestAnInstanceThatDoesNotWelcomeIsTriedAgain(t *testing.T) {
	s := newStage(t, nil)
	silent := &service{t: t, attached: make(chan *peer, 10)}
	silent.mute.Store(true)
	s.becomeWith(silent)
	c := s.claim(t.Context(), "x")
	clustertest.Wait(t, "the keeper waits for a welcome", func() bool { return silent.ignored.Load() > 0 })
	if s.keeper.Available() {
		t.Error("available without a welcome")
	}
	silent.mute.Store(false)
	p := s.attach()
	p.grant(p.wantClaim("x"), 7)
	if got := s.want(c); got.epoch != 7 {
		t.Errorf("claimed %+v", got)
	}
}

func TestOnlySoManyRequestsMayWait(t *testing.T) {
	s := newStage(t, func(c *Config) { c.Waiting = 3 })
	for range 3 {
		s.claim(t.Context(), "x")
	}
	clustertest.Wait(t, "three claims wait", func() bool {
		s.keeper.mu.Lock()
		defer s.keeper.mu.Unlock()
		return len(s.keeper.claims) == 3
	})
	if got := s.want(s.claim(t.Context(), "y")); !errors.Is(got.err, ErrUnavailable) {
		t.Errorf("the fourth: %+v", got)
	}
	// Of what a gateway has held, every release is kept; of the rest, as many as there may be claims.
	s.keeper.mu.Lock()
	for n := range 5 {
		s.keeper.releaseStray(fmt.Sprintf("stray-%d", n))
	}
	s.keeper.mu.Unlock()
	for n := range 5 {
		s.keeper.Release("z", uint64(n+1), Ending{})
	}
	if got := s.metric("beeline_gateway_lost_releases_total"); got != 2 {
		t.Errorf("%v releases left out, want 2", got)
	}
	s.become()
	p := s.attach()
	for range 3 {
		p.wantClaim("x")
	}
	for n := range 3 {
		p.wantRelease(fmt.Sprintf("stray-%d", n), 0)
	}
	for n := range 5 {
		p.wantRelease("z", uint64(n+1))
	}
}

func TestWaitingClaimsFailAtTheEnd(t *testing.T) {
	s := newStage(t, nil)
	s.become()
	p := s.attach()
	c := s.claim(t.Context(), "x")
	p.wantClaim("x")
	s.stop()
	if got := s.want(c); !errors.Is(got.err, ErrUnavailable) {
		t.Errorf("claimed %+v", got)
	}
	if got := s.want(s.claim(t.Context(), "y")); !errors.Is(got.err, ErrUnavailable) {
		t.Errorf("after the end: %+v", got)
	}
}

func TestManyClaimsAtOnceGetTheirOwnEpochs(t *testing.T) {
	s := newStage(t, nil)
	s.become()
	p := s.attach()
	const n = 1000
	go func() {
		for range n {
			c := p.next().GetClaim()
			var number uint64
			_, _ = fmt.Sscanf(c.GetClientId(), "client-%d", &number)
			p.grant(c.GetRequestId(), number+1)
		}
	}()
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			var epoch uint64
			err := s.keeper.Claim(t.Context(), Request{ClientID: fmt.Sprintf("client-%d", i)}, func(g Grant) { epoch = g.Epoch })
			if err != nil || epoch != uint64(i+1) {
				t.Errorf("client %d: epoch %d, %v", i, epoch, err)
			}
		})
	}
	wg.Wait()
}

func BenchmarkClaim(b *testing.B) {
	s := newStage(b, nil)
	s.become()
	p := s.attach()
	done := make(chan struct{})
	go func() {
		defer close(done)
		for r := range p.in {
			if c := r.GetClaim(); c != nil {
				p.grant(c.GetRequestId(), 1)
			}
		}
	}()
	b.ReportAllocs()
	b.SetParallelism(64)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if err := s.keeper.Claim(b.Context(), Request{ClientID: "x"}, func(Grant) {}); err != nil {
				b.Error(err)
			}
		}
	})
	b.StopTimer()
	s.stop()
	<-done
}
