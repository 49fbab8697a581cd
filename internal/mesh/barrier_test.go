package mesh

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/beeline-mqtt/beeline/internal/turn"
)

// passed waits for a barrier for a client to which nothing is sent.
func passed(t *testing.T, l *Link) {
	t.Helper()
	over := make(chan struct{})
	l.Barrier("nobody", 1, func() { close(over) })
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
	l.Barrier("x", 1, func() { over <- w.told })
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
	l.Barrier("x", 1, over.Done)
	y.serving.Store(true)
	over.Wait()
	k.wait(t, 1)

	y.serving.Store(false)
	l.Send(publish("b", 0), nil)
	eventually(t, "the stream is down", down)
	over.Add(1)
	l.Barrier("x", 1, over.Done)
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
				l.Barrier("x", 1, func() {
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

// toClient is publish for one client that is held at an epoch.
func toClient(topic, client string, epoch uint64) Delivery {
	d := publish(topic, 1)
	d.Target = Target{Kind: TargetClient, ClientID: client, Epoch: epoch}
	return d
}

func TestABarrierWaitsForWhatWasAcceptedForItsClient(t *testing.T) {
	laters := make(map[string]Later)
	k := &taker{answer: func(d Delivery, later Later) Receipt {
		laters[d.Message.Topic] = later
		return Receipt{Outcome: Accepted}
	}}
	x, _ := two(t, k)
	l, w := x.link(t, "y"), newWaiters(6)
	for _, d := range []Delivery{
		publish("all", 1), toClient("first", "x", 1), toClient("second", "x", 2), toClient("newer", "x", 3), toClient("other", "z", 1),
	} {
		l.Send(d, w)
	}
	passed(t, l)
	over := make(chan string, 3)
	barrier := func(client string, epoch uint64, name string) {
		l.Barrier(client, epoch, func() {
			w.mu.Lock()
			defer w.mu.Unlock()
			over <- fmt.Sprint(name, " behind ", w.order)
		})
	}
	next := func(want string) {
		t.Helper()
		select {
		case got := <-over:
			if got != want {
				t.Errorf("passed: %s, want %s", got, want)
			}
		case <-time.After(patience):
			t.Fatalf("never: %s", want)
		}
	}
	barrier("x", 2, "both")
	barrier("x", 1, "the older")
	barrier("x", 0, "none")
	next("none behind []")
	l.Send(toClient("later", "x", 1), w) // sent after the barriers
	passed(t, l)
	k.wait(t, 6)
	laters["first"].Settle(Receipt{Outcome: NotHolder})
	next("the older behind [first]")
	laters["second"].Settle(Receipt{Outcome: Queued})
	next("both behind [first second]")
	barrier("x", 3, "the end")
	x.SetPeers(nil)
	next("the end behind [first second all newer other later]")
}
