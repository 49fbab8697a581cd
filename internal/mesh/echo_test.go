package mesh

import (
	"errors"
	"testing"

	meshv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/mesh/v1"
)

// echo reads until the sender wants an echo, and past everything else.
func (st rawStream) echo() {
	st.t.Helper()
	for st.recv().GetEcho() == nil {
	}
}

// acceptedAtRaw is a link to a raw receiver that has accepted a delivery.
func acceptedAtRaw(t *testing.T) (*rawServer, rawStream, *node, *Link) {
	t.Helper()
	raw, x := startRaw(t, nil)
	st, _ := raw.welcomed(0, 0)
	l := x.link(t, "raw")
	l.Send(publish("a", 1), newWaiters(2))
	st.batch()
	st.send(receiptsOfRaw(1, 1, &meshv1.Receipt{Sequence: 1, Outcome: meshv1.Outcome_OUTCOME_ACCEPTED}))
	eventually(t, "it is accepted", func() bool { l.mu.Lock(); defer l.mu.Unlock(); return len(l.out.accepted) == 1 })
	return raw, st, x, l
}

func TestAnEchoIsCalledAtOnceWhenNothingIsAccepted(t *testing.T) {
	_, x := startRaw(t, nil)
	called := false
	x.link(t, "raw").Echo(func() { called = true })
	if !called {
		t.Error("not called")
	}
}

func TestEchoesAreAskedForOneAtATime(t *testing.T) {
	raw, st, x, l := acceptedAtRaw(t)
	calls := make(chan string, 3)
	echo := func(name string) { l.Echo(func() { calls <- name }) }
	echo("first")
	st.echo()
	echo("second")
	echo("third")
	st.end <- errors.New("broken")
	st, _ = raw.welcomed(1, 0)
	st.echo() // again, on a new stream
	if len(calls) > 0 {
		t.Error("called before the answer")
	}
	st.send(echoAckFrame())
	if got := <-calls; got != "first" {
		t.Errorf("called %q", got)
	}
	st.echo() // for both
	st.send(echoAckFrame())
	if got := <-calls + " " + <-calls; got != "second third" {
		t.Errorf("called %q", got)
	}
	echo("at the end")
	x.SetPeers(nil)
	if got := <-calls; got != "at the end" {
		t.Errorf("called %q", got)
	}
	l.Echo(func() { calls <- "afterwards" })
	if got := <-calls; got != "afterwards" {
		t.Errorf("called %q", got)
	}
}

func TestAnEchoThatWasNotWantedBreaksTheStream(t *testing.T) {
	_, st, x, _ := acceptedAtRaw(t)
	st.send(echoAckFrame())
	st.gone()
	if n := x.counters.broken.Load(); n != 1 {
		t.Errorf("%d protocol errors", n)
	}
}

// What the receiver has decided before it is asked has been told when it has echoed.
func TestAnEchoComesBehindTheReceiptsBeforeIt(t *testing.T) {
	laters := make(chan Later, 200)
	k := &taker{answer: func(_ Delivery, later Later) Receipt {
		laters <- later
		return Receipt{Outcome: Accepted}
	}}
	x, _ := two(t, k)
	l := x.link(t, "y")
	for n := range 100 {
		w := newWaiters(1)
		l.Send(publish("a", 1), w)
		l.Send(publish("b", 1), nil) // which y never settles
		later := <-laters
		<-laters
		eventually(t, "both are accepted", func() bool { l.mu.Lock(); defer l.mu.Unlock(); return len(l.out.accepted) == n+2 })
		later.Settle(Receipt{Outcome: Moved, Moved: []MovedClient{{ClientID: "c", Epoch: 1}}})
		told := make(chan int, 1)
		l.Echo(func() {
			w.mu.Lock()
			defer w.mu.Unlock()
			told <- len(w.order)
		})
		if got := <-told; got != 1 {
			t.Fatalf("round %d: echoed before the receipt was told", n)
		}
	}
}
