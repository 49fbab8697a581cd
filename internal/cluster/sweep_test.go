package cluster_test

import (
	"fmt"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/beeline-mqtt/beeline/internal/cluster"
)

func countRecords(t *testing.T, d cluster.Deps) int64 {
	t.Helper()
	r, err := d.Client.Get(bg(t), d.Keys.Clients(), clientv3.WithPrefix(), clientv3.WithCountOnly())
	if err != nil {
		t.Fatal(err)
	}
	return r.Count
}

func fill(t *testing.T, r *cluster.Recorder, holder, prefix string, n int) {
	t.Helper()
	var wg sync.WaitGroup
	slots := make(chan struct{}, 240)
	for i := range n {
		wg.Add(1)
		slots <- struct{}{}
		r.Claim(fmt.Sprintf("%s-%d", prefix, i), holder, func(c cluster.Claimed) {
			if c.Err != nil {
				t.Error(c.Err)
			}
			<-slots
			wg.Done()
		})
	}
	wg.Wait()
}

func TestASweepDeletesTheRecordsOfTheDeadOnly(t *testing.T) {
	s := newStage(t, cluster.RecorderConfig{})
	fill(t, s.recorder, s.a.ID(), "of-a", 10_000)
	fill(t, s.recorder, s.b.ID(), "of-b", 2_500)
	s.a.stop()
	// One of a's clients has come back in the meantime.
	back := claim(s.recorder, "of-a-77", s.b.ID())
	// To the view everybody is dead; etcd knows better.
	n, err := s.recorder.Sweep(bg(t), func(string, uint64) bool { return true }, 1_000_000)
	if err != nil || n != 9_999 {
		t.Fatalf("swept %d, %v; want 9,999", n, err)
	}
	if got := countRecords(t, s.deps); got != 2_501 {
		t.Errorf("%d records are left, want 2,501", got)
	}
	if got := s.record(t, "of-a-77"); got != (cluster.Lease{Holder: s.b.ID(), Epoch: back.Epoch}) {
		t.Errorf("record is %+v", got)
	}
}

func TestASweepLeavesThoseThatTheViewKnows(t *testing.T) {
	s := newStage(t, cluster.RecorderConfig{})
	fill(t, s.recorder, s.a.ID(), "x", 10)
	s.a.stop()
	n, err := s.recorder.Sweep(bg(t), func(string, uint64) bool { return false }, 1_000_000)
	if err != nil || n != 0 || countRecords(t, s.deps) != 10 {
		t.Errorf("swept %d, %v", n, err)
	}
}

func TestASweepKeepsToItsRate(t *testing.T) {
	s := newStage(t, cluster.RecorderConfig{})
	fill(t, s.recorder, s.a.ID(), "x", 1000)
	s.a.stop()
	start := time.Now()
	if n, err := s.recorder.Sweep(bg(t), func(string, uint64) bool { return true }, 2000); err != nil || n != 1000 {
		t.Fatalf("swept %d, %v", n, err)
	}
	// The pauses vary by a quarter.
	if took := time.Since(start); took < 350*time.Millisecond {
		t.Errorf("1,000 records at 2,000 a second took %v", took)
	}
}
