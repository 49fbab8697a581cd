package mesh

import (
	"errors"
	"sync"
	"testing"
	"time"

	meshv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/mesh/v1"
)

// adoptedAck makes the answer of a raw receiver.
func adoptedAck(incarnation string, through uint64) *meshv1.ConnectResponse {
	return adoptedAckFrame(&meshv1.AdoptedAck{Incarnation: incarnation, ThroughSequence: through})
}

// adopted reads until the sender says Adopted, and past everything else; it returns the routes that came before.
func (st rawStream) adopted() (incarnation string, routes []string) {
	st.t.Helper()
	for {
		m := st.recv()
		for _, r := range m.GetRouteUpdate().GetAnnounced() {
			routes = append(routes, r.GetFilter())
		}
		if a := m.GetAdopted(); a != nil {
			return a.GetIncarnation(), routes
		}
	}
}

// calls records what Adopt calls back.
type calls struct {
	mu       sync.Mutex
	answered []string
	done     chan error
}

func adoptRecorded(n *node, incarnation string) *calls {
	c := &calls{done: make(chan error, 2)}
	n.Adopt(incarnation, func(peer string) {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.answered = append(c.answered, peer)
	}, func(err error) { c.done <- err })
	return c
}

func (c *calls) peers() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.answered
}

func (c *calls) wait(t *testing.T, want error) {
	t.Helper()
	select {
	case err := <-c.done:
		if !errors.Is(err, want) {
			t.Errorf("done with %v, want %v", err, want)
		}
	case <-time.After(patience):
		t.Fatal("never done")
	}
}

func TestAPeerIsToldOfAnAdoptionOnEveryStreamUntilItHasAnsweredAndGivenAll(t *testing.T) {
	raw, x := startRaw(t, nil)
	k := &taker{}
	x.deps.Accept = func(string) Inbound { return k }
	st, _ := raw.welcomed(0, 0)
	x.Announce(durable("d/#"), func(error) {})
	c := adoptRecorded(x, "dead")
	id, routes := st.adopted()
	if id != "dead" || len(routes) != 1 {
		t.Errorf("adopted %q, behind the routes %v", id, routes)
	}
	st.end <- nil
	st, _ = raw.welcomed(0, 0)
	if id, _ := st.adopted(); id != "dead" {
		t.Errorf("then %q", id)
	}

	// The answer is here before what it speaks of.
	st.send(adoptedAck("another", 0))
	st.send(adoptedAck("dead", 2))
	in := connectRaw(t, x)
	in.send(helloFrame(helloTo("x")))
	in.recv()
	in.send(batchFrame(rawBatch(1, "a")))
	k.wait(t, 1)
	eventually(t, "the answer is here", func() bool { return len(x.unanswered(x.link(t, "raw"))) == 0 })
	if got := c.peers(); len(got) != 0 {
		t.Errorf("answered by %v", got)
	}
	in.send(batchFrame(rawBatch(2, "b", "c")))
	c.wait(t, nil)
	if got := c.peers(); len(got) != 1 || got[0] != "raw" {
		t.Errorf("answered by %v", got)
	}

	// Another time it is here afterwards, and twice; on a new stream nothing is said of what was answered.
	c = adoptRecorded(x, "dead")
	st.adopted()
	st.send(adoptedAck("dead", 3))
	st.send(adoptedAck("dead", 3))
	c.wait(t, nil)
	st.end <- nil
	st, _ = raw.welcomed(0, 0)
	x.link(t, "raw").Send(publish("after", 1), nil)
	for {
		m := st.recv()
		if a := m.GetAdopted(); a != nil {
			t.Errorf("said again: %v", a)
		}
		if m.GetBatch() != nil {
			break
		}
	}
	if len(c.done) != 0 || len(c.peers()) != 1 {
		t.Errorf("answered by %v", c.peers())
	}
}

func TestAnAdoptionWaitsForNobodyWhoIsDead(t *testing.T) {
	raw, x := startRaw(t, nil)
	st, _ := raw.welcomed(0, 0)
	c := adoptRecorded(x, "dead")
	st.adopted()
	st.send(adoptedAck("dead", 7)) // of which nothing comes
	x.SetPeers(nil)
	c.wait(t, nil)
	if got := c.peers(); len(got) != 0 {
		t.Errorf("answered by %v", got)
	}
	c = adoptRecorded(x, "dead")
	c.wait(t, nil) // of nobody
}

func TestAnAdoptionEndsWithTheMesh(t *testing.T) {
	raw, x := startRaw(t, nil)
	st, _ := raw.welcomed(0, 0)
	c := adoptRecorded(x, "dead")
	st.adopted()
	x.close(t)
	c.wait(t, ErrClosed)
	c = adoptRecorded(x, "dead")
	c.wait(t, ErrClosed)
}

func TestTheAdopterKeepsNothingItselfForTheDead(t *testing.T) {
	for _, known := range []bool{true, false} {
		f := newFamily(t, nil)
		f.s.SetPeers([]Peer{f.h.peer(), f.x.peer()})
		w := newWaiters(2)
		l := f.s.link(t, "h")
		eventually(t, "s has h's routes", func() bool { return len(wants(f.s, "d/1")) == 1 })
		f.h.serving.Store(false) // or it might answer before it dies
		l.Send(lasting("d/1", 1), w)
		if known {
			f.s.SetPeers([]Peer{f.x.peer()})
			eventually(t, "its link is orphaned", func() bool { return f.s.Stats().Orphaned == 1 })
		}
		adopts(t, f.s, "h")
		eventually(t, "its routes are dropped", func() bool { return len(wants(f.s, "d/1")) == 0 })
		l.Send(lasting("d/2", 1), w)
		w.wait(t)
		w.once(t, Gone)
		if f.s.Link("h") != nil {
			t.Error("h lives")
		}
	}
}

func TestWhatIsHeldIsAnsweredForAtAPeerOfGeneratedCode(t *testing.T) {
	raw, x := startRaw(t, nil)
	st, _ := raw.welcomed(0, 0)
	l := x.link(t, "raw")
	l.Send(publish("before", 1), nil)
	st.batch()
	in := connectRaw(t, x)
	in.send(helloFrame(helloTo("x")))
	in.recv()
	ask := func() *meshv1.AdoptedAck {
		in.send(adoptedFrame("dead"))
		for {
			if a := in.recv().GetAdoptedAck(); a != nil {
				return a
			}
		}
	}
	if a := ask(); a.GetIncarnation() != "dead" || a.GetThroughSequence() != 1 {
		t.Errorf("answered %v", a)
	}
	l.Send(publish("another", 1), nil)
	if a := ask(); a.GetThroughSequence() != 2 {
		t.Errorf("answered again %v", a)
	}
}
