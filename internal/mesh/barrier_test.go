package mesh

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/beeline-mqtt/beeline/internal/turn"
)

// passed waits for a barrier.
func passed(t *testing.T, l *Link) {
	t.Helper()
	over := make(chan struct{})
	l.Barrier(func() { close(over) })
	select {
	case <-over:
	case <-time.After(patience):
		t.Fatal("the barrier is never passed")
	}
}

func TestABarrierIsPassedWhenEverythingSentBeforeHasBeenTaken(t *testing.T) {
	k := &taker{}
	x, _ := two(t, k)
	l := x.link(t, "y")
	passed(t, l) // of nothing
	for i := range 10 {
		// QoS 0 that nobody waits for: the credit would be held back until the next digest.
		l.Send(publish(numbered(i), 0), nil)
	}
	passed(t, l)
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.got) != 10 {
		t.Errorf("%d have been taken", len(k.got))
	}
}

// slowly is a Waiter that takes its time to be told.
type slowly struct {
	begun, goOn chan struct{}
	told        bool
}

func (s *slowly) Settled(*Link, Delivery, Receipt, *turn.Turn) {
	close(s.begun)
	<-s.goOn
	s.told = true
}

func TestABarrierDoesNotOvertakeTheSettlementsBeforeIt(t *testing.T) {
	k := &taker{answer: func(Delivery, Later) Receipt { return Receipt{Outcome: NotHolder} }}
	x, _ := two(t, k)
	l := x.link(t, "y")
	w := &slowly{begun: make(chan struct{}), goOn: make(chan struct{})}
	l.Send(publish("a", 0), w)
	<-w.begun // taken by the books, but not told to the end
	over := make(chan bool, 1)
	l.Barrier(func() { over <- w.told })
	// The mesh's own goroutine has been round once: a barrier that did not wait would have been called there.
	round := make(chan struct{})
	x.later(func() { close(round) })
	<-round
	if len(over) > 0 {
		t.Error("the barrier was passed while a waiter was being told")
	}
	close(w.goOn)
	if !<-over {
		t.Error("the barrier was passed before the waiter was told")
	}
}

func TestABarrierIsPassedAlsoAcrossBreaksAndAtTheEnd(t *testing.T) {
	k := &taker{}
	x, y := two(t, k)
	l := x.link(t, "y")
	down := func() bool { l.mu.Lock(); defer l.mu.Unlock(); return l.stream == nil }

	y.serving.Store(false)
	l.Send(publish("a", 0), nil)
	eventually(t, "the stream is down", down)
	var over sync.WaitGroup
	over.Add(1)
	l.Barrier(over.Done)
	y.serving.Store(true)
	over.Wait()
	k.wait(t, 1)

	y.serving.Store(false)
	l.Send(publish("b", 0), nil)
	eventually(t, "the stream is down", down)
	over.Add(1)
	l.Barrier(over.Done)
	x.SetPeers(nil)
	over.Wait()
	passed(t, l)
	x.close(t)
	passed(t, l)
}

func TestBarriersOfManySendersAreEachPassedInTime(t *testing.T) {
	k := &taker{}
	x, _ := two(t, k)
	l := x.link(t, "y")
	var all sync.WaitGroup
	for s := range 8 {
		all.Go(func() {
			for i := range 100 {
				topic := fmt.Sprintf("%d/%d", s, i)
				w := newWaiters(1)
				l.Send(publish(topic, 1), w)
				told := make(chan int, 1)
				l.Barrier(func() {
					w.mu.Lock()
					defer w.mu.Unlock()
					told <- len(w.order)
				})
				select {
				case n := <-told:
					if n != 1 {
						t.Errorf("the barrier behind %s is passed before it is settled", topic)
					}
				case <-time.After(patience):
					t.Errorf("the barrier behind %s is never passed", topic)
				}
			}
		})
	}
	all.Wait()
}
