package lease

import (
	"testing"
	"time"

	"github.com/beeline-mqtt/beeline/internal/cluster/clustertest"
)

func TestAtTheEndAnswersAreWaitedFor(t *testing.T) {
	s := newStage(t, func(c *Config) { c.Linger = time.Hour })
	s.become()
	p := s.attach()
	a := s.write("x", 1)
	s.keeper.Release("x", 5, Ending{})
	s.keeper.Settled("y", 1) // has no answer: it is not waited for
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		s.stop()
	}()
	clustertest.Wait(t, "the keeper is about to end", func() bool {
		s.keeper.mu.Lock()
		defer s.keeper.mu.Unlock()
		return s.keeper.rested != nil
	})
	p.written(p.wantWrite("x").GetRequestId())
	s.wantAnswer(a, nil)
	p.released(p.wantRelease("x", 5))
	<-ended
}

func TestAtTheEndNobodyIsWaitedForWhoIsNotThere(t *testing.T) {
	s := newStage(t, func(c *Config) { c.Linger = time.Hour })
	s.become()
	p := s.attach()
	a := s.writeAll("x", appended(1, sized(partBytes)), appended(2, sized(partBytes)))
	kept := make(answers, 2)
	s.keeper.Retain(sized(1), func(_ uint64, err error) { kept <- err })
	p.written(p.wantWrite("x").GetRequestId())
	p.wantWrite("x")
	s.service.mute.Store(true)
	s.cutOff(p)
	s.stop()
	s.wantAnswer(a, ErrUnavailable)
	s.wantAnswer(kept, ErrUnavailable)
	if s.keeper.Backlog() != 0 || s.keeper.Room() {
		t.Errorf("a backlog of %d bytes, room %v", s.keeper.Backlog(), s.keeper.Room())
	}
	// Nothing is kept any more.
	s.wantNone(s.write("x", 1))
	s.keeper.Retain(sized(1), func(uint64, error) { t.Error("answered after the end") })
	if s.keeper.Backlog() != 0 {
		t.Errorf("a backlog of %d bytes", s.keeper.Backlog())
	}
}
