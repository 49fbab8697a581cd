package mesh

import (
	"fmt"
	"slices"
	"testing"

	"github.com/beeline-mqtt/beeline/internal/message"
	"github.com/beeline-mqtt/beeline/internal/routes"
	"github.com/beeline-mqtt/beeline/internal/turn"
)

// durable makes ordinary routes with durable sessions behind them.
func durable(filters ...string) (rs []routes.Route) {
	for _, f := range filters {
		rs = append(rs, routes.Route{Filter: f, Members: 1, Durable: true})
	}
	return rs
}

// family is a sender, x, with peers. h is the one that dies, s and u adopt.
type family struct {
	x, h, s, u             *node
	atH, atS, atU          *taker
	gotByS, gotByU, gotByH []Delivery // guarded by the takers
}

// record is an answer for a taker that keeps what it gets.
func record(to *[]Delivery, answer func(d Delivery, later Later) Receipt) func(Delivery, Later) Receipt {
	return func(d Delivery, later Later) Receipt {
		*to = append(*to, d)
		if answer != nil {
			return answer(d, later)
		}
		return Receipt{Outcome: Stored}
	}
}

// fromX has k take what x sends.
func fromX(k *taker) func(string) Inbound {
	return func(peer string) Inbound {
		if peer == "x" {
			return k
		}
		return &taker{}
	}
}

// newFamily starts all of them. h has a durable route for d/# and transient ones, and accepts what it gets.
func newFamily(t *testing.T, config func(*Config)) *family {
	t.Helper()
	f := &family{}
	f.atH = &taker{answer: record(&f.gotByH, func(Delivery, Later) Receipt { return Receipt{Outcome: Accepted} })}
	f.atS = &taker{answer: record(&f.gotByS, nil)}
	f.atU = &taker{answer: record(&f.gotByU, nil)}
	f.h = startNode(t, "h", nodeOptions{revision: 1, accept: fromX(f.atH)})
	f.s = startNode(t, "s", nodeOptions{revision: 2, accept: fromX(f.atS)})
	f.u = startNode(t, "u", nodeOptions{revision: 3, accept: fromX(f.atU)})
	f.x = startNode(t, "x", nodeOptions{revision: 4, config: config})
	introduce(f.h, f.s, f.u, f.x)
	synced(t, f.h, f.s, f.u, f.x)
	rs := append(durable("d/#"), ordinary("t/#")...)
	rs = append(rs, routes.Route{Filter: "d/#", Group: "g", Members: 1, Durable: true})
	if err := announce(t, f.h, rs); err != nil {
		t.Fatal(err)
	}
	eventually(t, "x has h's routes", func() bool { return slices.Equal(wants(f.x, "d/1"), []string{"h"}) })
	return f
}

// dead takes nodes out of the sight of x, and waits until their links are at their ends.
func (f *family) dead(t *testing.T, ids ...string) {
	t.Helper()
	var peers []Peer
	for _, n := range []*node{f.h, f.s, f.u} {
		if f.x.Link(n.id) != nil && !slices.Contains(ids, n.id) {
			peers = append(peers, n.peer())
		}
	}
	var links []*Link
	for _, id := range ids {
		if l := f.x.Link(id); l != nil {
			links = append(links, l)
		}
	}
	f.x.SetPeers(peers)
	for _, l := range links {
		eventually(t, "its link is at its end", func() bool { l.mu.Lock(); defer l.mu.Unlock(); return l.estate.state != open })
	}
}

// adopts waits until x has answered n, which adopts the incarnation, and everything is taken.
func adopts(t *testing.T, n *node, incarnation string) {
	t.Helper()
	answered := make(chan struct{}, 10)
	n.Adopt(incarnation, func(peer string) {
		if peer == "x" {
			answered <- struct{}{}
		}
	}, func(error) {})
	within(t, "x answers", answered)
}

func within(t *testing.T, what string, c <-chan struct{}) {
	t.Helper()
	over := make(chan struct{})
	go func() { defer close(over); <-c }()
	eventually(t, what, func() bool {
		select {
		case <-over:
			return true
		default:
			return false
		}
	})
}

// told is a Waiter that takes down what it is told.
type told struct {
	*waiters
	links   []string
	targets []Target
}

func (w *told) Settled(l *Link, d Delivery, r Receipt, t *turn.Turn) {
	w.mu.Lock()
	w.links, w.targets = append(w.links, l.Peer().ID), append(w.targets, d.Target)
	w.mu.Unlock()
	w.waiters.Settled(l, d, r, t)
}

func (w *waiters) of(topic string) (os []Outcome) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, r := range w.seen[topic] {
		os = append(os, r.Outcome)
	}
	return os
}

func names(ds []Delivery) (ns []string) {
	for _, d := range ds {
		ns = append(ns, d.Message.Topic)
	}
	return ns
}

func TestOfADeadPeerWhatIsForDurableSessionsStays(t *testing.T) {
	f := newFamily(t, nil)
	l, w := f.x.link(t, "h"), newWaiters(-1)
	l.Send(lasting("d/accepted", 1), w)
	l.Send(publish("t/accepted", 1), w)
	f.atH.wait(t, 2)
	f.h.serving.Store(false)
	client := lasting("d/client", 1)
	client.Target = Target{Kind: TargetClient, ClientID: "c", Epoch: 1}
	shared := lasting("d/share", 1)
	shared.Target = Target{Kind: TargetShare, Group: "g", Filter: "d/#"}
	for _, d := range []Delivery{lasting("d/qos 0", 0), lasting("d/qos 1", 1), client, shared, publish("t/qos 2", 2), lasting("d/qos 2", 2)} {
		if !l.Send(d, w) {
			t.Errorf("%s is not taken", d.Message.Topic)
		}
	}
	f.dead(t, "h")
	eventually(t, "the rest is told", func() bool { w.mu.Lock(); defer w.mu.Unlock(); return len(w.order) == 5 })
	w.once(t, Gone)
	for _, topic := range []string{"d/accepted", "d/qos 1", "d/qos 2"} {
		if got := w.of(topic); len(got) != 0 {
			t.Errorf("%s settled as %v", topic, got)
		}
	}
	if got := wants(f.x, "d/1"); !slices.Equal(got, []string{"h"}) {
		t.Errorf("its durable route leads to %v", got)
	}
	if got := wants(f.x, "t/1"); len(got) != 0 {
		t.Errorf("its transient routes are still there: %v", got)
	}
	share := f.x.table.Share("g", "d/#")
	if share == nil || share.Online() || share.Empty() {
		t.Error("its shared subscription has members online, or nobody who is away")
	}
	if s := f.x.Stats(); s.Orphaned != 1 || s.OrphanedBytes < 3*200 || s.Peers != 2 {
		t.Errorf("%+v", s)
	}
	passed(t, l) // nobody is to wait for what waits
}

// A session that moves on has its route withdrawn at once; what was sent before is still answered, unless the peer dies.
func TestWhatWasSentForADurableSessionStaysWhenItsRouteHasGone(t *testing.T) {
	f := newFamily(t, nil)
	l, w := f.x.link(t, "h"), newWaiters(1)
	l.Send(lasting("d/1", 1), w)
	f.atH.wait(t, 1)
	if err := announce(t, f.h, []routes.Route{{Filter: "d/#"}}); err != nil {
		t.Fatal(err)
	}
	f.dead(t, "h")
	adopts(t, f.s, "h")
	f.atS.wait(t, 1)
	w.wait(t)
	w.once(t, Stored)
	eventually(t, "its shared subscription is forgotten", func() bool { return f.x.table.Share("g", "d/#") == nil })
}

func TestADeadPeersLinkTakesWhatIsForItsDurableSessionsUpToTheBound(t *testing.T) {
	f := newFamily(t, func(c *Config) { c.LinkBytes = minLinkBytes })
	l := f.x.link(t, "h")
	f.dead(t, "h")
	if l.Send(lasting("d/1", 0), nil) {
		t.Error("QoS 0 is taken")
	}
	w := newWaiters(1)
	d := lasting("d/client", 1)
	d.Target = Target{Kind: TargetClient, ClientID: "c", Epoch: 1}
	l.Send(d, w)
	w.wait(t)
	w.once(t, Gone)

	w = newWaiters(-1)
	d = lasting("d/1", 1)
	d.Message.Payload = make([]byte, 4096)
	n := 0
	for l.Send(d, w) {
		n++
	}
	if s := f.x.Stats(); s.OrphanedBytes > minLinkBytes || n < 20 {
		t.Errorf("%d taken, %d bytes", n, s.OrphanedBytes)
	}
	adopts(t, f.s, "h")
	f.atS.wait(t, n)
	eventually(t, "all is told", func() bool { w.mu.Lock(); defer w.mu.Unlock(); return len(w.order) == n })
	if !f.x.Link("s").Send(d, nil) {
		t.Error("the bound remains")
	}
}

func TestOrphansGoToTheAdopterInOrderAndBeforeAnythingNewer(t *testing.T) {
	f := newFamily(t, func(c *Config) { c.LinkBytes = minLinkBytes })
	const n = 200
	l, w := f.x.link(t, "h"), &told{waiters: newWaiters(n)}
	send := func(i int) {
		if !l.Send(lasting("d/"+numbered(i), 1), w) {
			t.Error("not taken")
		}
	}
	for i := range n / 4 {
		send(i)
	}
	f.atH.wait(t, n/4) // accepted, all of them
	f.h.serving.Store(false)
	for i := n / 4; i < n/2; i++ {
		send(i)
	}
	f.dead(t, "h")
	for i := n / 2; i < n; i++ {
		send(i)
	}
	f.s.SetPeers([]Peer{f.u.peer(), f.x.peer()})
	if err := announce(t, f.s, durable("d/#")); err != nil {
		t.Fatal(err)
	}
	adopts(t, f.s, "h")
	f.x.Link("s").Send(publish("newer", 1), nil)
	f.atS.wait(t, n+1)
	w.wait(t)
	w.once(t, Stored)
	f.atS.mu.Lock()
	defer f.atS.mu.Unlock()
	want := Target{Kind: TargetOrphans, Incarnation: "h"}
	for i, d := range f.gotByS[:n] {
		if d.Message.Topic != "d/"+numbered(i) || d.Target != want || w.links[i] != "s" || w.targets[i] != want {
			t.Fatalf("at %d %s for %+v, told by %s of %+v", i, d.Message.Topic, d.Target, w.links[i], w.targets[i])
		}
	}
	if got := wants(f.x, "d/1"); !slices.Equal(got, []string{"s"}) {
		t.Errorf("its route leads to %v", got)
	}
	if s := f.x.Stats(); s.Orphaned != 0 || s.OrphanedBytes != 0 {
		t.Errorf("%+v", s)
	}
}

func TestWhoLookedForRoutesJustBeforeTheAdoptionReachesTheAdopter(t *testing.T) {
	f := newFamily(t, nil)
	l := f.x.link(t, "h")
	f.dead(t, "h")
	adopts(t, f.s, "h")
	w := newWaiters(2)
	if !l.Send(lasting("d/late", 1), w) {
		t.Error("not taken")
	}
	var now turn.Turn
	if !l.SendInTurn(&now, lasting("d/late, too", 2), w) {
		t.Error("not taken in a turn")
	}
	now.End()
	f.atS.wait(t, 2)
	w.wait(t)
	w.once(t, Stored)
	if l.Send(lasting("d/late", message.AtMostOnce), nil) {
		t.Error("QoS 0 is taken")
	}
	w = newWaiters(1)
	d := lasting("d/late", 1)
	d.Target = Target{Kind: TargetShare, Group: "g", Filter: "d/#"}
	l.Send(d, w)
	w.wait(t)
	w.once(t, Gone)
}

func TestAnAdoptedIncarnationIsDeadWhateverTheRegistryHasShown(t *testing.T) {
	f := newFamily(t, nil)
	w := newWaiters(1)
	f.x.link(t, "h").Send(lasting("d/1", 1), w)
	f.atH.wait(t, 1)
	adopts(t, f.s, "h")
	f.atS.wait(t, 1)
	w.wait(t)
	w.once(t, Stored)
	f.x.SetPeers([]Peer{f.h.peer(), f.s.peer(), f.u.peer()})
	if f.x.Link("h") != nil {
		t.Error("it has come back")
	}
	adopts(t, f.s, "h") // again
	adopts(t, f.s, "never known")
	f.x.SetPeers([]Peer{{ID: "never known"}, f.s.peer(), f.u.peer()})
	if f.x.Link("never known") != nil {
		t.Error("a dead one that was not known is taken for alive")
	}
}

func TestOrphansSettleAsGoneOnlyWhenTheProcessCloses(t *testing.T) {
	f := newFamily(t, nil)
	l, w := f.x.link(t, "h"), newWaiters(1)
	l.Send(lasting("d/1", 1), w)
	f.dead(t, "h")
	f.x.close(t)
	w.wait(t)
	w.once(t, Gone)
	if got := wants(f.x, "d/1"); len(got) != 0 {
		t.Errorf("after the end its route leads to %v", got)
	}
	w = newWaiters(0)
	if l.Send(lasting("d/2", 1), w) {
		t.Error("taken after the end")
	}
}

// The adopter dies before it has settled the orphans. It has durable routes of its own, or none.
func TestWhenTheAdopterDiesItsOrphansGoToItsSuccessorUnchanged(t *testing.T) {
	for _, c := range []struct {
		name  string
		own   bool
		order []string // in which the successor adopts
	}{
		{"its predecessor first", true, []string{"s", "h"}},
		{"its predecessor last", true, []string{"h", "s"}},
		{"a predecessor without sessions", false, []string{"s", "h"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := newFamily(t, nil)
			f.atS.answer = record(&f.gotByS, func(d Delivery, _ Later) Receipt { return Receipt{Outcome: Accepted} })
			w := newWaiters(-1)
			l := f.x.link(t, "h")
			l.Send(lasting("d/1", 1), w)
			l.Send(lasting("d/2", 2), w)
			f.dead(t, "h")
			want := []string{"h d/1", "h d/2"}
			if c.own {
				if err := announce(t, f.s, durable("d/#")); err != nil {
					t.Fatal(err)
				}
			}
			adopts(t, f.s, "h")
			f.atS.wait(t, 2)
			third := publish("d/3", 1)
			third.Durable = c.own
			f.x.Link("s").Send(third, w)
			f.atS.wait(t, 3)
			if c.own {
				want = append(want, "s d/3")
			}
			f.dead(t, "s")
			f.u.SetPeers([]Peer{f.x.peer()})
			answered := make(chan struct{}, 2)
			for _, id := range c.order {
				f.u.Adopt(id, func(string) { answered <- struct{}{} }, func(error) {})
			}
			within(t, "x answers", answered)
			within(t, "x answers for both", answered)
			f.atU.mu.Lock()
			var got []string
			for _, d := range f.gotByU {
				got = append(got, d.Target.Incarnation+" "+d.Message.Topic)
			}
			f.atU.mu.Unlock()
			if !slices.Equal(got, want) {
				t.Errorf("the successor gets %v, want %v", got, want)
			}
			eventually(t, "all is told", func() bool { w.mu.Lock(); defer w.mu.Unlock(); return len(w.order) == 3 })
			for i, topic := range []string{"d/1", "d/2", "d/3"} {
				outcome := Stored
				if i == 2 && !c.own {
					outcome = Gone
				}
				if got := w.of(topic); !slices.Equal(got, []Outcome{outcome}) {
					t.Errorf("%s settled as %v", topic, got)
				}
			}
		})
	}
}

func TestAnAdopterThatIsFoundDeadInheritsNothing(t *testing.T) {
	f := newFamily(t, nil)
	w := newWaiters(1)
	l := f.x.link(t, "h")
	l.Send(lasting("d/1", 1), w)
	f.dead(t, "h")
	s := f.x.link(t, "s")
	f.dead(t, "s")
	f.x.inherit(claim{incarnation: "h", heir: s}) // its stream had carried Adopted just before
	if n := f.x.Stats().Orphaned; n != 1 {
		t.Errorf("%d orphaned links", n)
	}
	f.u.SetPeers([]Peer{f.x.peer()})
	adopts(t, f.u, "h")
	w.wait(t)
	w.once(t, Stored)
	f.atU.mu.Lock()
	defer f.atU.mu.Unlock()
	if got := fmt.Sprint(names(f.gotByU)); got != "[d/1]" {
		t.Errorf("taken: %v", got)
	}
}
