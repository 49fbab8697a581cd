package cluster_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/beeline-mqtt/beeline/internal/cluster"
)

func TestLeasesOfTheLivingAreFound(t *testing.T) {
	s := newStage(t, cluster.RecorderConfig{})
	x := claim(s.recorder, "x", s.a.ID())
	claim(s.recorder, "y", s.b.ID())
	s.b.stop()
	for name, alive := range map[string]func(string) bool{
		"a view that knows nobody": nil,
		"a view that knows a":      func(id string) bool { return id == s.a.ID() },
	} {
		d := cluster.NewDirectory(s.deps, alive)
		got, err := d.LookUp(bg(t), []string{"x", "y", "nobody"})
		if err != nil || len(got) != 1 || got["x"] != (cluster.Lease{Holder: s.a.ID(), Epoch: x.Epoch}) {
			t.Errorf("%s: %v, %v; want x with a alone", name, got, err)
		}
		d.Close()
	}
}

func TestManyLookUpsAtOnceAllGetTheirOwnAnswers(t *testing.T) {
	s := newStage(t, cluster.RecorderConfig{})
	fill(t, s.recorder, s.a.ID(), "x", 1000)
	d := cluster.NewDirectory(s.deps, nil)
	defer d.Close()
	var wg sync.WaitGroup
	for w := range 16 {
		wg.Go(func() {
			for i := range 20 {
				var ids []string
				for j := range 30 {
					ids = append(ids, fmt.Sprintf("x-%d", (w*61+i*30+j)%1100))
				}
				got, err := d.LookUp(bg(t), ids)
				if err != nil {
					t.Error(err)
					return
				}
				for _, id := range ids {
					var n int
					_, _ = fmt.Sscanf(id, "x-%d", &n)
					if _, found := got[id]; found != (n < 1000) {
						t.Errorf("%s found: %v", id, found)
					}
				}
			}
		})
	}
	wg.Wait()
}

func TestReadsBeginApartAndAnswerAll(t *testing.T) {
	s := newStage(t, cluster.RecorderConfig{})
	fill(t, s.recorder, s.a.ID(), "x", 100)
	d := cluster.NewDirectory(s.deps, func(string) bool { return true })
	defer d.Close()
	d.Pause = 20 * time.Millisecond
	began := time.Now()
	const rounds = 4
	for range rounds {
		var wg sync.WaitGroup
		for i := range 100 {
			wg.Go(func() {
				id := fmt.Sprintf("x-%d", i)
				if got, err := d.LookUp(bg(t), []string{id}); err != nil || len(got) != 1 {
					t.Errorf("%s: %v, %v", id, got, err)
				}
			})
		}
		wg.Wait()
	}
	if took := time.Since(began); took < (rounds-1)*d.Pause {
		t.Errorf("%d times the same took %v", rounds, took)
	}
}

func TestAnEtcdThatDoesNotAnswerIsNotTakenForNobody(t *testing.T) {
	s := newStage(t, cluster.RecorderConfig{})
	claim(s.recorder, "x", s.a.ID())
	d := cluster.NewDirectory(s.deps, nil)
	defer d.Close()
	s.etcd.Stop()
	if got, err := d.LookUp(bg(t), []string{"x"}); err == nil {
		t.Errorf("got %v", got)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if got, err := d.LookUp(ctx, []string{"x"}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v, %v", got, err)
	}
	s.etcd.Start()
	if got, err := d.LookUp(bg(t), []string{"x"}); err != nil || got["x"].Holder != s.a.ID() {
		t.Errorf("afterwards: %v, %v", got, err)
	}
	d.Close()
	if got, err := d.LookUp(bg(t), []string{"x"}); !errors.Is(err, cluster.ErrUnavailable) {
		t.Errorf("after Close: %v, %v", got, err)
	}
}

func TestARecordThatNobodyCanReadIsAnError(t *testing.T) {
	s := newStage(t, cluster.RecorderConfig{})
	if _, err := s.deps.Client.Put(bg(t), s.deps.Keys.Client("x"), "?"); err != nil {
		t.Fatal(err)
	}
	d := cluster.NewDirectory(s.deps, nil)
	defer d.Close()
	if got, err := d.LookUp(bg(t), []string{"x"}); err == nil {
		t.Errorf("got %v", got)
	}
	if got := claim(s.recorder, "x", s.a.ID()); got.Err != nil || got.Former != (cluster.Lease{}) {
		t.Errorf("claimed %+v", got)
	}
}
