//go:build linux

package faults

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/beeline-mqtt/beeline/test/faults/ledger"
	"github.com/beeline-mqtt/beeline/test/faults/processes"
	"github.com/beeline-mqtt/beeline/test/rawmqtt"
)

// crowd is publishers and subscribers that connect anywhere, and again somewhere else whenever they have to.
// Every connection of a publisher has a topic of its own.
type crowd struct {
	t         testing.TB
	addresses []string
	stop      chan struct{}
	wg        sync.WaitGroup

	mu          sync.Mutex // guards the following
	publishers  []*publisher
	subscribers []*subscriber
}

// subscriber is a connection that subscribes to everything that the crowd publishes.
type subscriber struct {
	*client
	since time.Time // of its SUBACK
}

func gather(t testing.TB, publishers, subscribers int, seed uint64, addresses []string) *crowd {
	w := &crowd{t: t, addresses: addresses, stop: make(chan struct{})}
	for i := range publishers {
		random := rand.New(rand.NewPCG(seed, uint64(1000+i)))
		w.wg.Go(func() { w.again(random, func(n int, addr string) { w.publish(i, n, addr) }) })
	}
	for i := range subscribers {
		random := rand.New(rand.NewPCG(seed, uint64(2000+i)))
		w.wg.Go(func() { w.again(random, func(n int, addr string) { w.subscribe(i, n, addr) }) })
	}
	return w
}

// again calls f, which returns when its connection is over, until the crowd is told to stop.
func (w *crowd) again(random *rand.Rand, f func(n int, addr string)) {
	for n := 0; ; n++ {
		f(n, w.addresses[random.IntN(len(w.addresses))])
		next := time.NewTimer(50*time.Millisecond + time.Duration(random.IntN(100))*time.Millisecond)
		select {
		case <-w.stop:
			next.Stop()
			return
		case <-next.C:
		}
	}
}

func (w *crowd) publish(i, n int, addr string) {
	c, err := dial(w.t, addr, version(i/2), fmt.Sprintf("publisher-%d", i), 3*time.Second)
	if err != nil {
		return
	}
	p := publish(c, fmt.Sprintf("crowd/%d/%d", i, n), byte(1+i%2), pace)
	w.mu.Lock()
	w.publishers = append(w.publishers, p)
	w.mu.Unlock()
	select {
	case <-c.done:
	case <-w.stop:
		p.finish(patience)
	}
}

func (w *crowd) subscribe(i, n int, addr string) {
	c, err := dial(w.t, addr, version(n), fmt.Sprintf("subscriber-%d", i), 3*time.Second)
	if err != nil {
		return
	}
	if code, err := c.trySubscribe("crowd/#", 2); err != nil || code != 2 {
		c.close()
		return
	}
	w.mu.Lock()
	w.subscribers = append(w.subscribers, &subscriber{client: c, since: time.Now()})
	w.mu.Unlock()
	select {
	case <-c.done:
	case <-w.stop:
	}
}

// finish stops all publishers and holds what the subscribers got against what was acknowledged.
func (w *crowd) finish() {
	w.t.Helper()
	close(w.stop)
	w.wg.Wait()
	messages, alive := 0, 0
	for _, p := range w.publishers {
		messages += p.acks()
	}
	for _, s := range w.subscribers {
		if s.alive() {
			alive++
		}
	}
	w.t.Logf("crowd: %d messages acknowledged to %d connections; %d connections have subscribed, %d live", messages, len(w.publishers),
		len(w.subscribers), alive)
	for _, s := range w.subscribers {
		w.check(s)
	}
}

// check fails the test unless everything came to s once and in order, and, if s has lived until now, everything
// that was published after its SUBACK and acknowledged with success.
func (w *crowd) check(s *subscriber) {
	w.t.Helper()
	if s.alive() {
		for _, p := range w.publishers {
			s.await(p.topic, p.lastSuccessAfter(s.since))
		}
	}
	seen, last := map[string]map[int]bool{}, map[string]int{}
	for _, a := range s.arrivals("") {
		if seen[a.topic] == nil {
			seen[a.topic], last[a.topic] = map[int]bool{}, -1
		}
		if seen[a.topic][a.n] {
			w.t.Errorf("%q (since %v) got %d on %q twice", s.id, s.since.Format(clock), a.n, a.topic)
		} else if a.n < last[a.topic] {
			w.t.Errorf("%q (since %v) got %d on %q after %d", s.id, s.since.Format(clock), a.n, a.topic, last[a.topic])
		}
		seen[a.topic][a.n] = true
		last[a.topic] = max(last[a.topic], a.n)
	}
	if !s.alive() {
		return
	}
	for _, p := range w.publishers {
		for n, m := range p.history() {
			if m.sent.After(s.since) && !m.acked.IsZero() && m.code < 0x80 && !seen[p.topic][n] {
				w.t.Errorf("%q (since %v) has not got %d on %q, which was sent at %v and acknowledged with %#x at %v", s.id,
					s.since.Format(clock), n, p.topic, m.sent.Format(clock), m.code, m.acked.Format(clock))
				break
			}
		}
	}
}

// clock is how times are shown, like those in the logs.
const clock = "15:04:05.000"

// fault is something that goes wrong.
type fault struct {
	name string
	// target is what it happens to: no two faults have the same at once.
	target string
	// begin makes it happen; what it returns ends it.
	begin func(t *testing.T) (end func())
}

// faultsOf lists all faults that can happen to a cluster.
func faultsOf(c *processes.Cluster) []fault {
	process := func(p *processes.Process) []fault {
		return []fault{
			{p.Name + " is killed", p.Name, func(t *testing.T) func() {
				p.Kill(t)
				return func() { p.Start(t) }
			}},
			{p.Name + " is paused", p.Name, func(t *testing.T) func() {
				p.Pause(t)
				return func() { p.Continue(t) }
			}},
			{p.Name + " is told to stop", p.Name, func(t *testing.T) func() {
				if code, _ := p.Terminate(t, 30*time.Second); code != 0 {
					t.Errorf("%s: exit code %d", p.Name, code)
				}
				return func() { p.Start(t) }
			}},
		}
	}
	wire := func(name string, x *processes.Proxy) []fault {
		set := func(w processes.Wire) func(*testing.T) func() {
			return func(*testing.T) func() {
				x.Set(w)
				return func() { x.Set(processes.Open) }
			}
		}
		return []fault{
			{name + " cannot reach etcd: packets get lost", name, set(processes.Stalled)},
			{name + " cannot reach etcd: connections are refused", name, set(processes.Refused)},
		}
	}
	all := process(c.Etcd)
	for _, s := range c.Sessions {
		all = append(append(all, process(s.Process)...), wire(s.Name, s.Etcd)...)
	}
	for i, g := range c.Gateways {
		all = append(append(all, process(g.Process)...), wire(g.Name, g.Etcd)...)
		for k, s := range c.Sessions {
			between := g.Name + " and " + s.Name
			cut := func(w processes.Wire) func(*testing.T) func() {
				return func(*testing.T) func() {
					c.CutSession(i, k, w)
					return func() { c.CutSession(i, k, processes.Open) }
				}
			}
			all = append(all,
				fault{between + " cannot reach each other: packets get lost", between, cut(processes.Stalled)},
				fault{between + " cannot reach each other: connections are refused", between, cut(processes.Refused)},
			)
		}
		j := (i + 1) % len(c.Gateways)
		between := fmt.Sprintf("gateways %d and %d", i, j)
		cut := func(how func(i, j int, w processes.Wire), w processes.Wire) func(*testing.T) func() {
			return func(*testing.T) func() {
				how(i, j, w)
				return func() { how(i, j, processes.Open) }
			}
		}
		all = append(all,
			fault{between + " cannot reach each other: packets get lost", between, cut(c.Cut, processes.Stalled)},
			fault{between + " cannot reach each other: connections are refused", between, cut(c.Cut, processes.Refused)},
			fault{fmt.Sprintf("gateway %d cannot reach %d: packets get lost", i, j), between, cut(c.CutOneWay, processes.Stalled)},
		)
	}
	return all
}

func TestRandomFaults(t *testing.T) {
	duration := 15 * time.Second
	if text := os.Getenv("BEELINE_TEST_FAULTS"); text != "" {
		var err error
		if duration, err = time.ParseDuration(text); err != nil {
			t.Fatalf("BEELINE_TEST_FAULTS: %v", err)
		}
	}
	c := start(t, processes.Config{Sessions: 2, Limits: "receipt_timeout: 5s", Gateway: "route_ack_timeout: 3s"})
	settles := 2*c.TTL + 4*slack
	chance := seed(t)
	random := rand.New(rand.NewPCG(chance, 0))
	contest := compete(t, 5, chance, mqtt(c)...)
	w := gather(t, 6, 4, chance, mqtt(c))
	r := attend(t, 8, 6, chance, mqtt(c))
	all := faultsOf(c)
	apart := map[*processes.Gateway]time.Time{} // since when the session service may not have reached them
	began := time.Now()
	for n := 1; time.Since(began) < duration && !t.Failed(); n++ {
		// Every third time, two things go wrong together.
		first := all[random.IntN(len(all))]
		now := []fault{first}
		if second := all[random.IntN(len(all))]; random.IntN(3) == 0 && second.target != first.target {
			now = append(now, second)
		}
		lasts := c.TTL/4 + time.Duration(random.Int64N(int64(c.TTL)*2))
		var ends []func()
		since := time.Now()
		for _, f := range now {
			t.Logf("%s: %s", time.Now().UTC().Format(clock), f.name)
			ends = append(ends, f.begin(t))
		}
		outlast(since, lasts)
		for _, end := range ends {
			end()
		}
		t.Logf("%s: mended", time.Now().UTC().Format(clock))
		for _, f := range now {
			for _, g := range c.Gateways {
				if f.target != g.Name && !strings.HasPrefix(f.target, g.Name+" and ") {
					continue
				}
				if _, already := apart[g]; !already {
					apart[g] = since
				}
			}
		}
		calm := time.Now()
		outlast(calm, time.Duration(random.Int64N(int64(c.TTL))))
		reunite(t, c, contest, apart)
		if n%5 == 0 {
			within(t, fmt.Sprintf("after %d faults everything has come", n), r.settle(settles), settles)
		}
	}
	mended := time.Now()
	c.WaitReady(t)
	reunite(t, c, contest, apart)
	within(t, "all processes are ready after the last fault", time.Since(mended), 3*c.TTL)
	mustWorkEverywhere(t, c)
	r.settle(settles)
	r.finish(patience, ledger.Reordered, ledger.Overtaken) // gateways die: see endure
	w.finish()
	contest.finish()
}

// reunite excuses the gateways that were apart and are attached again: whom the session service cannot reach it cannot tell
// either, and the next fault may have come before they were.
func reunite(t *testing.T, c *processes.Cluster, contest *ownership, apart map[*processes.Gateway]time.Time) {
	t.Helper()
	for g, since := range apart {
		if g.Metric(t, "beeline_gateway_session_attached") == 1 {
			contest.excuse(g.MQTT, since, time.Now().Add(c.TTL))
			delete(apart, g)
		}
	}
}

// mustWorkEverywhere has a client at each gateway hear one at each other.
func mustWorkEverywhere(t *testing.T, c *processes.Cluster) {
	t.Helper()
	for i, from := range mqtt(c) {
		for j, to := range mqtt(c) {
			topic := fmt.Sprintf("works/%d/%d", i, j)
			x := connect(t, to, rawmqtt.V311, "hears "+topic).subscribe(topic, 2)
			p := publish(connect(t, from, rawmqtt.V5, "says "+topic), topic, 2, time.Millisecond)
			waitForAcks(t, 3, p)
			p.finish(patience)
			checkReceived(t, p, x)
		}
	}
}
