package mesh

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/beeline-mqtt/beeline/internal/turn"
)

// two starts x and y, which know each other and have each other's routes; y takes with k.
func two(t testing.TB, k *taker) (x, y *node) {
	t.Helper()
	y = startNode(t, "y", nodeOptions{revision: 1, accept: func(string) Inbound { return k }})
	x = startNode(t, "x", nodeOptions{revision: 2})
	introduce(x, y)
	synced(t, x)
	eventually(t, "nothing more is said about routes", y.link(t, "x").announced.Load)
	return x, y
}

func TestDeliveriesArriveInTheOrderOfSend(t *testing.T) {
	for qos := range byte(3) {
		t.Run(fmt.Sprintf("QoS %d", qos), func(t *testing.T) {
			const n = 5000
			k := &taker{}
			x, y := two(t, k)
			w := newWaiters(n)
			l := x.link(t, "y")
			var want []string
			for i := range n {
				var waiter Waiter
				if qos > 0 {
					waiter = w
				}
				want = append(want, numbered(i))
				if !l.Send(publish(numbered(i), qos), waiter) {
					t.Fatal("bound reached")
				}
			}
			if got := k.wait(t, n); !slices.Equal(got, want) {
				t.Error("out of order")
			}
			if qos > 0 {
				w.wait(t)
				w.once(t, Queued)
			}
			if s := y.Stats(); s.DeliveriesIn != n || s.PayloadBytesIn != n*uint64(len("payload")) || s.Duplicates != 0 {
				t.Errorf("at the receiver: %+v", s)
			}
			if s := x.Stats(); s.DeliveriesOut != n || s.Resent != 0 || s.FramesOut > n+50 {
				t.Errorf("at the sender: %+v", s)
			}
		})
	}
}

func TestOneReceiptsFrameAnswersManyDeliveriesOfQoS0(t *testing.T) {
	k := &taker{}
	x, y := two(t, k)
	before := y.Stats().FramesOut
	for i := range 640 {
		x.link(t, "y").Send(publish(numbered(i), 0), nil)
	}
	k.wait(t, 640)
	if frames := y.Stats().FramesOut - before; frames > 10 {
		t.Errorf("%d frames for 640 deliveries", frames)
	}
	eventually(t, "credit is returned for all but the last few", func() bool {
		return x.Stats().UnacknowledgedBytes < 64*300
	})
}

func TestATurnSendsWhatItHasGatheredInOneFrame(t *testing.T) {
	k := &taker{}
	x, _ := two(t, k)
	l := x.link(t, "y")
	before := x.Stats().FramesOut
	var now turn.Turn
	for i := range 100 {
		if !l.SendInTurn(&now, publish(numbered(i), 0), nil) {
			t.Fatal("bound reached")
		}
	}
	if frames := x.Stats().FramesOut - before; frames != 0 {
		t.Errorf("%d frames before the turn ends", frames)
	}
	now.End()
	k.wait(t, 100)
	if frames := x.Stats().FramesOut - before; frames != 1 {
		t.Errorf("%d frames", frames)
	}
	l.SendInTurn(&now, publish("again", 0), nil)
	now.End()
	k.wait(t, 101)
}

func TestAcceptedIsSettledLater(t *testing.T) {
	laters := make(chan Later, 3)
	k := &taker{answer: func(_ Delivery, later Later) Receipt {
		laters <- later
		return Receipt{Outcome: Accepted}
	}}
	x, y := two(t, k)
	w := newWaiters(3)
	l := x.link(t, "y")
	for i := range 3 {
		l.Send(publish(numbered(i), 1), w)
	}
	k.wait(t, 3)
	a, b, c := <-laters, <-laters, <-laters
	eventually(t, "accepting returns the credit", func() bool { return l.unacknowledged() == 0 })

	c.Settle(Receipt{Outcome: Acked})
	c.Settle(Receipt{Outcome: Refused}) // the first counts
	a.Settle(Receipt{Outcome: Acked})
	// The third is settled while the receiver does not read, so its stream is down.
	y.serving.Store(false)
	l.Send(publish("nudge", 0), nil)
	eventually(t, "the stream is down", func() bool { l.mu.Lock(); defer l.mu.Unlock(); return l.stream == nil })
	b.Settle(Receipt{Outcome: Acked})
	y.serving.Store(true)

	w.wait(t)
	w.once(t, Acked)
	if want := []string{numbered(2), numbered(0), numbered(1)}; !slices.Equal(w.order, want) {
		t.Errorf("settled in the order %v", w.order)
	}
}

func TestAnExceptionCarriesClientAndEpoch(t *testing.T) {
	want := Receipt{Outcome: NotHolder, ClientID: "client", Epoch: 42}
	var got Delivery
	k := &taker{answer: func(d Delivery, _ Later) Receipt { got = d; return want }}
	x, _ := two(t, k)
	w := newWaiters(1)
	d := publish("p2p/client/x", 0)
	d.Target = Target{Kind: TargetClient, ClientID: "client", Epoch: 41}
	x.link(t, "y").Send(d, w)
	w.wait(t)
	if diff := gocmp.Diff([]Receipt{want}, w.seen[d.Message.Topic]); diff != "" {
		t.Errorf("receipts (-want +got):\n%s", diff)
	}
	if got.Target != d.Target || got.Message.Origin != "a" || got.Message.Seq != 1 {
		t.Errorf("delivered %+v of %+v", got.Target, got.Message.ID)
	}
}

func TestASlowReceiverBoundsItsLinkAndNoOther(t *testing.T) {
	release := make(chan struct{})
	slow := &taker{answer: func(Delivery, Later) Receipt { <-release; return Receipt{Outcome: Queued} }}
	quick := &taker{}
	y := startNode(t, "y", nodeOptions{revision: 1, accept: func(string) Inbound { return slow }})
	z := startNode(t, "z", nodeOptions{revision: 2, accept: func(string) Inbound { return quick }})
	x := startNode(t, "x", nodeOptions{revision: 3, config: func(c *Config) { c.LinkBytes = minLinkBytes }})
	introduce(x, y, z)
	synced(t, x)

	w := newWaiters(-1)
	d := publish("t", 1)
	d.Message.Payload = make([]byte, 4096)
	taken := 0
	for x.link(t, "y").Send(d, w) {
		taken++
	}
	if s := x.Stats(); s.UnacknowledgedBytes > minLinkBytes || taken < 20 {
		t.Errorf("%d taken, %d bytes", taken, s.UnacknowledgedBytes)
	}
	for range 10 {
		quickly := newWaiters(100)
		for i := range 100 {
			if !x.link(t, "z").Send(publish(numbered(i), 1), quickly) {
				t.Error("the other link is full")
			}
		}
		quickly.wait(t)
	}
	close(release)
	slow.wait(t, taken)
	eventually(t, "the slow link is empty", func() bool { return x.Stats().UnacknowledgedBytes == 0 })
	if !x.link(t, "y").Send(d, w) {
		t.Error("the bound remains")
	}
}

func TestOneMessageMayExceedTheBoundButNotAFrame(t *testing.T) {
	k := &taker{}
	x, _ := two(t, k)
	l := x.link(t, "y")
	l.out.limit = minLinkBytes
	w := newWaiters(1)
	d := publish("large", 1)
	d.Message.Payload = make([]byte, 4<<20)
	if !l.Send(d, w) {
		t.Fatal("a message above the bound is refused")
	}
	w.wait(t)
	w.once(t, Queued)

	w = newWaiters(1)
	d = publish("too large", 1)
	d.Message.Payload = make([]byte, MaxMessageBytes)
	if !l.Send(d, w) {
		t.Fatal("not taken")
	}
	w.wait(t)
	w.once(t, Refused)
}

func TestADeadPeersDeliveriesSettleAsGone(t *testing.T) {
	k := &taker{answer: func(d Delivery, _ Later) Receipt {
		if d.Message.Topic == "accepted" {
			return Receipt{Outcome: Accepted}
		}
		return Receipt{Outcome: Queued}
	}}
	x, y := two(t, k)
	if err := announce(t, y, ordinary("a/#")); err != nil {
		t.Fatal(err)
	}
	l := x.link(t, "y")
	w := newWaiters(101)
	l.Send(publish("accepted", 1), w)
	eventually(t, "it is accepted", func() bool { return l.unacknowledged() == 0 })
	y.serving.Store(false)
	for i := range 100 {
		l.Send(publish(numbered(i), 1), w)
	}
	x.SetPeers(nil)
	w.wait(t)
	w.once(t, Gone)
	eventually(t, "its routes are dropped", func() bool { return len(wants(x, "a/b")) == 0 })

	w = newWaiters(1)
	if !l.Send(publish("late", 1), w) {
		t.Error("not taken")
	}
	w.wait(t)
	w.once(t, Gone)
	if s := x.Stats(); s.Receipts[Gone] != 102 || s.Peers != 0 {
		t.Errorf("%+v", s)
	}
}

func TestARemovedIncarnationIsRefusedForGood(t *testing.T) {
	accepted := 0
	k := &taker{}
	y := startNode(t, "y", nodeOptions{revision: 1, accept: func(string) Inbound { accepted++; return k }})
	x := startNode(t, "x", nodeOptions{revision: 2})
	introduce(x, y)
	synced(t, x)
	x.link(t, "y").Send(publish("first", 0), nil)
	k.wait(t, 1)
	y.SetPeers(nil)
	eventually(t, "its taker is closed", func() bool { k.mu.Lock(); defer k.mu.Unlock(); return k.closed })
	x.link(t, "y").Send(publish("second", 0), nil) // a Deliver after Close would panic

	y.SetPeers([]Peer{x.peer()})
	if n := len(y.living()); n != 0 {
		t.Errorf("%d links", n)
	}
	if _, err := y.admit(t.Context(), "x"); !errors.Is(err, errPeerGone) {
		t.Errorf("admitted: %v", err)
	}
	if accepted != 1 {
		t.Errorf("accepted %d times", accepted)
	}
}

// cutter makes connections that break after a random number of bytes, while it is on.
type cutter struct {
	on   atomic.Bool
	mu   sync.Mutex
	rand *rand.Rand
	cuts int
	most int64 // bytes between two cuts; 0 stands for 300,000
}

func (c *cutter) dial(ctx context.Context, address string) (net.Conn, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	cut := &cutConn{Conn: conn, c: c}
	cut.left.Store(1000 + c.rand.Int64N(cmp.Or(c.most, 300_000)))
	return cut, nil
}

type cutConn struct {
	net.Conn
	c    *cutter
	left atomic.Int64
	once sync.Once
}

func (c *cutConn) pass(n int) {
	if c.left.Add(-int64(n)) < 0 && c.c.on.Load() {
		c.cut()
	}
}

func (c *cutConn) cut() {
	c.once.Do(func() {
		c.c.mu.Lock()
		c.c.cuts++
		c.c.mu.Unlock()
		_ = c.Close()
	})
}

// Read counts what comes in, Write what goes out; a cut may come in the middle of a frame, either way.
func (c *cutConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b[:min(len(b), 1+int(max(c.left.Load(), 0)))])
	c.pass(n)
	return n, err
}

func (c *cutConn) Write(b []byte) (int, error) {
	if left := c.left.Load(); c.c.on.Load() && int64(len(b)) > left {
		n, _ := c.Conn.Write(b[:max(left, 0)])
		c.cut() // also when the cutter has been switched off just now: half a frame is on its way
		return n, net.ErrClosed
	}
	n, err := c.Conn.Write(b)
	c.pass(n)
	return n, err
}

func TestNothingIsLostDoubledOrReorderedWhileConnectionsAreCut(t *testing.T) {
	const cuts = 100
	for seed := range uint64(2) {
		t.Run(fmt.Sprintf("seed %d", seed), func(t *testing.T) {
			c := &cutter{rand: rand.New(rand.NewPCG(seed, 1))}
			c.on.Store(true)
			var laters sync.WaitGroup
			defer laters.Wait()
			answer := func(d Delivery, later Later) Receipt {
				if d.Message.QoS < 2 {
					return Receipt{Outcome: Queued}
				}
				laters.Go(func() { later.Settle(Receipt{Outcome: Queued}) })
				return Receipt{Outcome: Accepted}
			}
			atX, atY := &taker{answer: answer}, &taker{answer: answer}
			x := startNode(t, "x", nodeOptions{revision: 1, dialer: c.dial, accept: func(string) Inbound { return atX }})
			y := startNode(t, "y", nodeOptions{revision: 2, dialer: c.dial, accept: func(string) Inbound { return atY }})
			introduce(x, y)

			var both sync.WaitGroup
			both.Go(func() { c.traffic(t, x.link(t, "y"), atY, cuts) })
			both.Go(func() { c.traffic(t, y.link(t, "x"), atX, cuts) })
			both.Wait()
			for _, n := range []*node{x, y} {
				s := n.Stats()
				if s.Broken != 0 || s.Reconnects == 0 {
					t.Errorf("%s: %+v", n.id, s)
				}
			}
		})
	}
}

// traffic sends in bursts until there were enough cuts, and looks at what arrived and at what settled.
func (c *cutter) traffic(t *testing.T, l *Link, k *taker, cuts int) {
	w := newWaiters(-1)
	var want []string
	for enough := false; !enough; {
		for range 50 {
			d := publish(numbered(len(want)), byte(len(want)%3))
			if !l.Send(d, w) {
				break
			}
			want = append(want, d.Message.Topic)
		}
		k.wait(t, len(want)-2000)
		c.mu.Lock()
		enough = c.cuts >= cuts
		c.mu.Unlock()
	}
	c.on.Store(false)
	if got := k.wait(t, len(want)); !slices.Equal(got, want) {
		t.Errorf("%d sent, %d arrived, not the same in the same order", len(want), len(got))
	}
	eventually(t, "all is settled", func() bool { w.mu.Lock(); defer w.mu.Unlock(); return len(w.order) >= len(want) })
	w.once(t, Queued)
}

func TestManySendersKeepTheirOrderEach(t *testing.T) {
	const senders, each = 20, 500
	k := &taker{}
	x, _ := two(t, k)
	l := x.link(t, "y")
	w := newWaiters(senders * each)
	var all sync.WaitGroup
	for s := range senders {
		all.Go(func() {
			for i := range each {
				if !l.Send(publish(fmt.Sprintf("%02d/%05d", s, i), 1), w) {
					t.Error("bound reached")
				}
			}
		})
	}
	all.Wait()
	got := slices.Clone(k.wait(t, senders*each))
	w.wait(t)
	w.once(t, Queued)
	last := make(map[string]string)
	for _, topic := range got {
		if topic <= last[topic[:2]] {
			t.Fatalf("%s after %s", topic, last[topic[:2]])
		}
		last[topic[:2]] = topic
	}
}

func TestNothingIsHandedOnWhileTheIncarnationIsNotInForce(t *testing.T) {
	k := &taker{}
	x, y := two(t, k)
	w := newWaiters(1)
	y.serving.Store(false)
	x.link(t, "y").Send(publish("a", 1), w)
	eventually(t, "the stream is down", func() bool {
		l := x.link(t, "y")
		l.mu.Lock()
		defer l.mu.Unlock()
		return l.stream == nil
	})
	k.mu.Lock()
	if len(k.got) != 0 {
		t.Errorf("taken: %v", k.got)
	}
	k.mu.Unlock()
	y.serving.Store(true)
	k.wait(t, 1)
	w.wait(t)
	w.once(t, Queued)
}

func TestNothingIsToldWhileTheSendersIncarnationIsNotInForce(t *testing.T) {
	laters := make(chan Later, 1)
	k := &taker{answer: func(_ Delivery, later Later) Receipt {
		laters <- later
		return Receipt{Outcome: Accepted}
	}}
	x, _ := two(t, k)
	l := x.link(t, "y")
	w := newWaiters(1)
	l.Send(publish("a", 1), w)
	later := <-laters
	eventually(t, "it is accepted", func() bool { return l.unacknowledged() == 0 })
	x.serving.Store(false)
	later.Settle(Receipt{Outcome: Acked})
	eventually(t, "the stream is down", func() bool { l.mu.Lock(); defer l.mu.Unlock(); return l.stream == nil })
	w.mu.Lock()
	if len(w.order) != 0 {
		t.Errorf("told: %v", w.seen)
	}
	w.mu.Unlock()
	x.serving.Store(true)
	w.wait(t)
	w.once(t, Acked)
}

func TestSendDoesNotBlockWhenThePeerDoesNotRead(t *testing.T) {
	const n = 10_000
	release := make(chan struct{})
	k := &taker{answer: func(Delivery, Later) Receipt { <-release; return Receipt{Outcome: Queued} }}
	y := startNode(t, "y", nodeOptions{revision: 1, accept: func(string) Inbound { return k }})
	x := startNode(t, "x", nodeOptions{revision: 2, config: func(c *Config) { c.LinkBytes = 16 * window }})
	introduce(x, y)
	synced(t, x)
	l := x.link(t, "y")
	d := publish("t", 0)
	d.Message.Payload = make([]byte, 2*window/n) // more than flow control lets through
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		for range n {
			if !l.Send(d, nil) {
				t.Error("bound reached")
			}
		}
	}()
	select {
	case <-sent:
	case <-time.After(patience):
		t.Error("Send blocks")
	}
	close(release)
	k.wait(t, n)
	<-sent
}
