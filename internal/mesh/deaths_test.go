package mesh

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/beeline-mqtt/beeline/internal/message"
	"github.com/beeline-mqtt/beeline/internal/routes"
	"github.com/beeline-mqtt/beeline/internal/turn"
)

// inbox is the stored inbox of one durable session. One holder at a time may write to it; it remembers ids.
type inbox struct {
	mu     sync.Mutex
	holder *holder
	stored []int
	known  map[int]bool
}

// holder is a process that holds the session: what it has not stored is lost when it dies.
type holder struct {
	id  string
	box *inbox

	mu      sync.Mutex
	rand    *rand.Rand
	waits   int // for so many answers of the sender, before what it matches itself counts
	held    []arrivalOf
	arrived []arrivalOf // not stored
	orphans []string    // as they came
}

type arrivalOf struct {
	n     int
	later Later
}

func numberOf(topic string) int {
	n, err := strconv.Atoi(topic[strings.LastIndex(topic, "/")+1:])
	if err != nil {
		panic(err)
	}
	return n
}

func (h *holder) Deliver(d Delivery, later Later) Receipt {
	h.mu.Lock()
	defer h.mu.Unlock()
	a := arrivalOf{n: numberOf(d.Message.Topic), later: later}
	switch {
	case d.Target.Kind == TargetOrphans:
		h.orphans = append(h.orphans, d.Target.Incarnation+" "+d.Message.Topic)
		h.arrived = append(h.arrived, a)
	case h.waits > 0:
		h.held = append(h.held, a)
	default:
		h.arrived = append(h.arrived, a)
	}
	if h.rand.IntN(40) == 0 {
		h.store()
	}
	return Receipt{Outcome: Accepted}
}

func (h *holder) Flush() {}
func (h *holder) Close() {}

// store writes what has arrived, in order, and says so; if it is the holder still. mu is held.
func (h *holder) store() {
	h.box.mu.Lock()
	defer h.box.mu.Unlock()
	if h.box.holder != h {
		return
	}
	for _, a := range h.arrived {
		if !h.box.known[a.n] {
			h.box.known[a.n] = true
			h.box.stored = append(h.box.stored, a.n)
		}
		a.later.Settle(Receipt{Outcome: Stored})
	}
	h.arrived = nil
}

func (h *holder) flush() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.store()
}

// answered: the sender has given what it held for one of the dead.
func (h *holder) answered(peer string) {
	if peer != "a" {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.waits--; h.waits == 0 {
		h.arrived = append(h.arrived, h.held...)
		h.held = nil
	}
}

// once is a Waiter that counts how often each message settled, by outcome.
type once struct {
	mu      sync.Mutex
	sent    int
	settled map[string]int
	bad     []string
}

func (w *once) Settled(_ *Link, d Delivery, r Receipt, _ *turn.Turn) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.settled[d.Message.Topic]++
	if r.Outcome != Stored {
		w.bad = append(w.bad, fmt.Sprintf("%s settled as %v", d.Message.Topic, r.Outcome))
	}
}

func (w *once) open() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := w.sent
	for _, c := range w.settled {
		n -= c
	}
	return n
}

// deaths is one run: a sends to a session that b holds; b dies, c adopts; c dies as well, d adopts.
type deaths struct {
	t    *testing.T
	rand *rand.Rand
	cut  *cutter
	box  *inbox
	node map[string]*node
	hold map[string]*holder
	wait *once
}

func newDeaths(t *testing.T, seed uint64) *deaths {
	x := &deaths{
		t: t, rand: rand.New(rand.NewPCG(seed, 5)), box: &inbox{known: make(map[int]bool)},
		cut:  &cutter{rand: rand.New(rand.NewPCG(seed, 6)), most: 20_000},
		node: make(map[string]*node), hold: make(map[string]*holder),
		wait: &once{settled: make(map[string]int)},
	}
	for i, id := range []string{"b", "c", "d", "a"} {
		h := &holder{id: id, box: x.box, rand: rand.New(rand.NewPCG(seed, uint64(10+i)))}
		x.hold[id] = h
		x.node[id] = startNode(t, id, nodeOptions{revision: int64(i + 1), dialer: x.cut.dial, accept: func(peer string) Inbound {
			if peer == "a" {
				return h
			}
			return &taker{}
		}})
	}
	x.box.holder = x.hold["b"]
	introduce(x.node["a"], x.node["b"], x.node["c"], x.node["d"])
	synced(t, x.node["a"], x.node["b"], x.node["c"], x.node["d"])
	if err := announce(t, x.node["b"], durable("m/#")); err != nil {
		t.Fatal(err)
	}
	x.cut.on.Store(true)
	return x
}

// publish sends n messages, as a publisher does: it looks for routes, and sends. reached is closed at those numbers.
func (x *deaths) publish(n int, reached map[int]chan struct{}) {
	pace := rand.New(rand.NewPCG(1, x.rand.Uint64()))
	var peers []routes.Match[*Link]
	for i := range n {
		d := publish("m/"+numbered(i), message.AtLeastOnce+byte(i%2))
		if peers = x.node["a"].table.Match(d.Message.Topic, peers[:0]); len(peers) == 0 {
			x.t.Errorf("nobody wants %s", d.Message.Topic)
		}
		for _, to := range peers {
			d.Durable = to.Durable
			x.wait.mu.Lock()
			x.wait.sent++
			x.wait.mu.Unlock()
			if pace.IntN(50) == 0 {
				runtime.Gosched() // between the look and the sending everything may happen
			}
			if !to.Peer.Send(d, x.wait) {
				x.t.Errorf("%s is not taken", d.Message.Topic)
			}
		}
		if c := reached[i]; c != nil {
			close(c)
		}
		time.Sleep(time.Duration(pace.IntN(100)) * time.Microsecond)
	}
}

func (x *deaths) peers(of string, dead ...string) (peers []Peer) {
	for id, n := range x.node {
		if id != of && !strings.Contains(strings.Join(dead, ""), id) {
			peers = append(peers, n.peer())
		}
	}
	return peers
}

// kill ends the last of dead without a word, and next takes over.
func (x *deaths) kill(next string, dead ...string) {
	last := x.node[dead[len(dead)-1]]
	last.serving.Store(false)
	last.server.Stop()
	n, h := x.node[next], x.hold[next]
	h.mu.Lock()
	h.waits = len(dead)
	h.mu.Unlock()
	x.box.mu.Lock()
	x.box.holder = h
	x.box.mu.Unlock()

	// The sender learns of the death by the registry, or by the adopter.
	var seen sync.WaitGroup
	defer seen.Wait()
	if x.rand.IntN(3) > 0 {
		delay := time.Duration(x.rand.IntN(20)) * time.Millisecond
		seen.Go(func() {
			time.Sleep(delay)
			x.node["a"].SetPeers(x.peers("a", dead...))
		})
	}
	n.SetPeers(x.peers(next, dead...))
	n.Announce(durable("m/#"), func(err error) {
		if err != nil {
			return // it died
		}
		for _, id := range dead {
			n.Adopt(id, h.answered, func(error) {})
		}
	})
}

func TestWhateverDiesWhateverBreaksASessionGetsEverythingOnceAndInOrder(t *testing.T) {
	const n = 600
	seeds := uint64(24)
	if testing.Short() {
		seeds = 4
	}
	for seed := range seeds {
		t.Run(fmt.Sprintf("seed %d", seed), func(t *testing.T) {
			x := newDeaths(t, seed)
			first := x.rand.IntN(n / 2)
			second := first + 1 + x.rand.IntN(n/2-1)
			if seed%3 == 0 {
				second = first + 1 + x.rand.IntN(40) // in the midst of the adoption
			}
			reached := map[int]chan struct{}{first: make(chan struct{}), second: make(chan struct{})}
			var sending sync.WaitGroup
			sending.Go(func() { x.publish(n, reached) })
			<-reached[first]
			x.kill("c", "b")
			last := x.hold["c"]
			<-reached[second]
			if seed%4 != 1 {
				x.kill("d", "b", "c")
				last = x.hold["d"]
			}
			sending.Wait()
			x.cut.on.Store(false)
			eventually(t, "all is settled", func() bool {
				last.flush()
				return x.wait.open() == 0
			})
			x.check(n)
		})
	}
}

func (x *deaths) check(n int) {
	x.t.Helper()
	if len(x.wait.bad) > 0 {
		x.t.Errorf("%d settled as they must not, the first: %s", len(x.wait.bad), x.wait.bad[0])
	}
	if len(x.box.stored) != n {
		x.t.Errorf("%d of %d are stored", len(x.box.stored), n)
	}
	for i, got := range x.box.stored {
		if got != i {
			x.t.Fatalf("%d is stored at place %d", got, i)
		}
	}
	orphans := 0
	for _, id := range []string{"c", "d"} {
		seen := make(map[string]bool)
		h := x.hold[id]
		h.mu.Lock()
		defer h.mu.Unlock()
		for _, o := range h.orphans {
			if seen[o] {
				x.t.Errorf("%s got %s twice", id, o)
			}
			seen[o] = true
		}
		orphans += len(seen)
	}
	x.t.Logf("%d orphans, %d cuts", orphans, x.cut.cuts)
}
