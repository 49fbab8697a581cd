package mesh

import (
	"sync"
	"testing"
	"time"

	meshv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/mesh/v1"
)

// sendOn reads until the sender asks to send on, or has sent a batch, and past everything else; nil for a batch.
func (st rawStream) sendOn() *meshv1.SendOn {
	st.t.Helper()
	for {
		m := st.recv()
		if m.GetSendOn() != nil || m.GetBatch() != nil {
			return m.GetSendOn()
		}
	}
}

// asks reads what the sender asks next, and fails the test if it is not that.
func (st rawStream) asks(number uint64, client string) {
	st.t.Helper()
	if s := st.sendOn(); s.GetNumber() != number || s.GetClientId() != client {
		st.t.Errorf("asked %v, want %d for %q", s, number, client)
	}
}

// routed is a raw peer that has x's routes.
func routed(t *testing.T) (*rawServer, rawStream, *node) {
	t.Helper()
	raw, x := startRaw(t, nil)
	st, _ := raw.welcomed(0, 1)
	eventually(t, "it has the routes", x.link(t, "raw").announced.Load)
	return raw, st, x
}

func sentOn(number, through uint64) *meshv1.ConnectResponse {
	return sentOnFrame(&meshv1.SentOn{Number: number, ThroughSequence: through})
}

// finishes waits until something is done.
func finishes(t *testing.T, what string, done <-chan struct{}) {
	t.Helper()
	select {
	case <-done:
	case <-time.After(patience):
		t.Fatalf("%s: never done", what)
	}
}

func TestSendOnWaitsForEveryAnswerAndForWhatWasSentOn(t *testing.T) {
	raw, st, x := routed(t)
	k := &taker{}
	x.deps.Accept = func(string) Inbound { return k }
	own := make(chan func(), 2)
	x.deps.SendOn = func(to *Link, client string, done func()) {
		if to != nil || client == "" {
			t.Errorf("asked to send on to %v for %q", to, client)
		}
		own <- done
	}
	c, d := make(chan struct{}), make(chan struct{})
	x.SendOn("c", patience, func(bool) { close(c) })
	x.SendOn("d", patience, func(bool) { close(d) })
	st.asks(1, "c")
	st.asks(2, "d")
	st.end <- nil
	st, _ = raw.welcomed(0, 1)
	st.asks(1, "c") // again, on a new stream
	st.asks(2, "d")
	(<-own)()
	st.send(sentOn(2, 1))
	st.send(sentOn(2, 1)) // and what nobody has asked for
	st.send(sentOn(7, 0))

	in := connectRaw(t, x)
	in.send(helloFrame(helloTo("x")))
	in.recv()
	in.send(batchFrame(rawBatch(1, "a")))
	k.wait(t, 1)
	select {
	case <-d:
		t.Error("d is done though this process has not sent on")
	default:
	}
	(<-own)()
	finishes(t, "d", d)

	// c was answered by this process alone. The answer comes before what it speaks of.
	st.send(sentOn(1, 2))
	x.link(t, "raw").Send(publish("answered", 1), nil)
	if s := st.sendOn(); s != nil {
		t.Errorf("asked again: %v", s)
	}
	select {
	case <-c:
		t.Error("c is done before everything has been taken")
	default:
	}
	in.send(batchFrame(rawBatch(2, "b")))
	finishes(t, "c", c)
	x.mu.Lock()
	defer x.mu.Unlock()
	if n := len(x.sendOns); n > 0 {
		t.Errorf("%d are kept", n)
	}
}

func TestSendOnEndsWithoutTheAnswer(t *testing.T) {
	for _, tt := range []struct {
		name     string
		patience time.Duration
		end      func(x *node)
		complete bool
	}{
		{"the peer is dead", patience, func(x *node) { x.SetPeers(nil) }, true},
		{"patience is over", time.Millisecond, func(*node) {}, false},
		{"the mesh ends", patience, func(x *node) { x.close(t) }, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, _, x := routed(t)
			done := make(chan struct{})
			x.SendOn("c", tt.patience, func(complete bool) {
				if complete != tt.complete {
					t.Errorf("complete: %v, want %v", complete, tt.complete)
				}
				close(done)
			})
			tt.end(x)
			finishes(t, tt.name, done)
			x.mu.Lock()
			defer x.mu.Unlock()
			if n := len(x.sendOns); n > 0 {
				t.Errorf("%d are kept", n)
			}
		})
	}
	x := startNode(t, "x", nodeOptions{})
	x.SetPeers([]Peer{{ID: "quiet", Address: "127.0.0.1:1", Revision: 1, Quiet: true}, {ID: "new", Address: "127.0.0.1:1", Revision: 9}})
	x.link(t, "quiet").announced.Store(true)
	alone := make(chan struct{})
	x.SendOn("c", patience, func(bool) { close(alone) })
	finishes(t, "nobody to ask", alone)
	x.close(t)
	late := make(chan struct{})
	x.SendOn("c", patience, func(bool) { close(late) })
	finishes(t, "the mesh has ended", late)
}

func TestAPeerIsAnsweredWhenItHasBeenSentOnTo(t *testing.T) {
	type asked struct {
		to     *Link
		client string
		done   func()
	}
	asks := make(chan asked, 2)
	y := startNode(t, "y", nodeOptions{sendOn: func(to *Link, client string, done func()) { asks <- asked{to, client, done} }})
	y.SetPeers([]Peer{{ID: "raw", Address: "127.0.0.1:1", Revision: 1}})
	c := connectRaw(t, y)
	c.send(helloFrame(helloTo("y")))
	c.recv()
	l := y.link(t, "raw")
	c.send(sendOnFrame(5, "c"))
	c.send(sendOnFrame(6, "d"))
	first, second := <-asks, <-asks
	if first.to != l || first.client != "c" || second.client != "d" {
		t.Errorf("asked %v and %v", first, second)
	}
	l.Send(publish("sent on", 1), nil)
	second.done()
	if a := c.recv().GetSentOn(); a.GetNumber() != 6 || a.GetThroughSequence() != 1 {
		t.Errorf("answered %v", a)
	}
	l.Send(publish("later", 1), nil)
	first.done()
	if a := c.recv().GetSentOn(); a.GetNumber() != 5 || a.GetThroughSequence() != 2 {
		t.Errorf("answered %v", a)
	}
}

// Sessions come to two processes that publish to each other all the time: nothing waits for anything that waits for it.
func TestManySendOnsUnderTrafficAreDone(t *testing.T) {
	x, y := two(t, &taker{})
	var all sync.WaitGroup
	for _, n := range []*node{x, y} {
		for range 100 {
			all.Add(1)
			n.SendOn("c", patience, func(bool) { all.Done() })
			n.living()[0].Send(publish("a", 1), newWaiters(1))
		}
	}
	all.Wait()
}

func TestALinkIsReachableForAWhileAfterItsStream(t *testing.T) {
	raw, x := startRaw(t, nil)
	reachable := func(while time.Duration) int {
		links, all := x.Reachable(while)
		if all != (len(links) == 1) {
			t.Errorf("%d of one, all: %v", len(links), all)
		}
		return len(links)
	}
	if n := reachable(patience); n != 1 {
		t.Errorf("%d links are reachable at the beginning", n)
	}
	if n := reachable(0); n != 0 {
		t.Errorf("%d links are reachable without a stream", n)
	}
	st, _ := raw.welcomed(0, 0)
	eventually(t, "there is a stream", func() bool { return reachable(0) == 1 })
	st.end <- nil
	eventually(t, "there is none", func() bool { return reachable(0) == 0 })
	if n := reachable(patience); n != 1 {
		t.Errorf("%d links are reachable right afterwards", n)
	}
}
