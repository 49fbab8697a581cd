package cluster_test

import (
	"testing"

	"github.com/beeline-mqtt/beeline/internal/cluster"
	"github.com/beeline-mqtt/beeline/internal/cluster/clustertest"
)

// After etcd was restored its revisions begin below epochs that are known: the base lifts the new ones above them, and
// whoever reads a record sees the same epoch.
func TestEpochsAreAboveTheBase(t *testing.T) {
	const base = 1_000_000
	s := newStage(t, cluster.RecorderConfig{Base: base})
	first := claim(s.recorder, "x", s.a.ID())
	if first.Err != nil || first.Epoch <= base {
		t.Fatalf("claimed: %+v", first)
	}
	held := cluster.Lease{Holder: s.a.ID(), Epoch: first.Epoch}
	if got := s.record(t, "x"); got != held {
		t.Errorf("record is %+v, want %+v", got, held)
	}
	second := claim(s.recorder, "x", s.b.ID())
	if second.Epoch <= first.Epoch || second.Former != held {
		t.Errorf("claimed again: %+v", second)
	}
	// What was held before etcd was restored is not in force, though a revision looks like it.
	for _, old := range []uint64{1, second.Epoch - base, base} {
		if got := release(s.recorder, "x", s.b.ID(), old); got.Err != nil || s.record(t, "x").Epoch != second.Epoch {
			t.Errorf("epoch %d was released: %+v", old, got)
		}
	}
	if got := release(s.recorder, "x", s.b.ID(), second.Epoch); got.Err != nil || s.record(t, "x") != (cluster.Lease{}) {
		t.Errorf("not released: %+v", got)
	}
	claim(s.recorder, "x", s.b.ID())
	if got := release(s.recorder, "x", s.b.ID(), 0); got.Err != nil || s.record(t, "x") != (cluster.Lease{}) {
		t.Errorf("not released: %+v", got)
	}
}

// Who takes a released client over without a lease holds it at an epoch between that of the lease and the next one.
func TestAReleaseHasAnEpoch(t *testing.T) {
	s, wire := faulty(t)
	held := claim(s.recorder, "x", s.a.ID())
	done := release(s.recorder, "x", s.a.ID(), held.Epoch)
	if done.Err != nil || done.Epoch <= held.Epoch {
		t.Errorf("released: %+v after epoch %d", done, held.Epoch)
	}
	// It was not in force any more.
	again := release(s.recorder, "x", s.a.ID(), held.Epoch)
	if again.Err != nil || again.Epoch < done.Epoch {
		t.Errorf("released again: %+v after %+v", again, done)
	}
	held = claim(s.recorder, "x", s.a.ID())
	if held.Epoch <= again.Epoch {
		t.Errorf("claimed: %+v after %+v", held, again)
	}
	// Its answer is lost.
	wire.Deafen()
	answer := make(chan cluster.Claimed, 1)
	s.recorder.Release("x", s.a.ID(), held.Epoch, func(c cluster.Claimed) { answer <- c })
	clustertest.Wait(t, "the record is gone", func() bool { return s.record(t, "x") == cluster.Lease{} })
	wire.Mend()
	if done = <-answer; done.Err != nil || done.Epoch <= held.Epoch {
		t.Errorf("released: %+v after epoch %d", done, held.Epoch)
	}
}
