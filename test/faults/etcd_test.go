//go:build linux

package faults

import (
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/beeline-mqtt/beeline/test/faults/processes"
	"github.com/beeline-mqtt/beeline/test/rawmqtt"
)

// mustBeRefused has clients of both versions knock at some gateways, all at once, and fails the test unless each
// is told that the cluster takes nobody now. It returns the longest wait for that.
func mustBeRefused(t *testing.T, name string, gateways ...*processes.Gateway) time.Duration {
	t.Helper()
	began := time.Now()
	var wg sync.WaitGroup
	for i, g := range gateways {
		for _, v := range []byte{rawmqtt.V311, rawmqtt.V5} {
			wg.Go(func() {
				_, err := dial(t, g.MQTT, v, fmt.Sprintf("%s-%d-%d", name, i, v), patience)
				var r refused
				if !errors.As(err, &r) || r != unavailable(v) {
					t.Errorf("version %d at %s: %v, want %v", v, g.Name, err, unavailable(v))
				}
			})
		}
	}
	wg.Wait()
	return time.Since(began)
}

// outlast returns when a fault has lasted for d.
func outlast(since time.Time, d time.Duration) { <-time.After(time.Until(since.Add(d))) }

// mustBeTaken has clients of both versions connect to every gateway.
func mustBeTaken(t *testing.T, c *processes.Cluster, name string) {
	t.Helper()
	for i, g := range c.Gateways {
		for _, v := range []byte{rawmqtt.V311, rawmqtt.V5} {
			connect(t, g.MQTT, v, fmt.Sprintf("%s-%d-%d", name, i, v)).subscribe(name, 1)
		}
	}
}

// checkAll is check for a load that no gateway was lost of.
func (l *load) checkAll(t *testing.T) {
	t.Helper()
	for _, p := range l.publishers() {
		p.finish(patience)
		if !p.alive() {
			t.Errorf("%q has lost its connection: %v", p.id, p.err)
		}
	}
	for _, x := range l.clients() {
		if !x.alive() {
			t.Errorf("%q has lost its connection: %v", x.id, x.err)
		}
	}
	n := 0
	for _, x := range l.everywhere {
		for _, p := range l.toAll {
			checkReceived(t, p, x)
		}
	}
	for _, x := range l.near {
		for _, p := range l.toNear {
			checkReceived(t, p, x)
		}
	}
	for _, p := range l.toFar {
		checkReceived(t, p, l.far)
	}
	for _, p := range l.publishers() {
		n += p.acks()
	}
	t.Logf("load: %d messages acknowledged", n)
}

// clients are all of the load.
func (l *load) clients() []*client {
	all := append(append([]*client{l.far}, l.everywhere...), l.near...)
	return append(all, clientsOf(l.publishers())...)
}

// gap is the longest time without an acknowledgement that any publisher has seen between two moments.
func (l *load) gap(from, to time.Time) time.Duration {
	longest := time.Duration(0)
	for _, p := range l.publishers() {
		longest = max(longest, p.gap(from, to))
	}
	return longest
}

// incarnations returns those of all gateways.
func incarnations(t *testing.T, c *processes.Cluster) []string {
	t.Helper()
	ids := make([]string, len(c.Gateways))
	for i, g := range c.Gateways {
		m, lives := c.Member(t, i)
		if !lives {
			t.Fatalf("%s is no member", g.Name)
		}
		ids[i] = m.ID
	}
	return ids
}

// mustRecover waits until the cluster takes clients again.
func mustRecover(t *testing.T, c *processes.Cluster, since time.Time, limit time.Duration) {
	t.Helper()
	eventually(t, "a new client is taken", func() bool {
		_, err := dial(t, c.Gateways[0].MQTT, rawmqtt.V5, "first", patience)
		return err == nil
	})
	within(t, "a new client is taken", time.Since(since), limit)
	for _, g := range c.Gateways {
		g.WaitReady(t)
	}
	mustBeTaken(t, c, "taken")
}

func TestTrafficGoesOnWhileEtcdIsAway(t *testing.T) {
	// The longer the time to live, the less a machine that stands still for a moment is taken for one that is cut off.
	c := start(t, processes.Config{Sessions: 2, TTL: 8 * time.Second})
	l := startLoad(t, c)
	waitForAcks(t, 50, l.publishers()...)
	before := incarnations(t, c)

	killed := time.Now()
	c.Etcd.Kill(t)
	within(t, "a new client is refused at first", mustBeRefused(t, "early", c.Gateways...), 6*time.Second)
	outlast(killed, c.TTL*5/4)
	within(t, "a new client is refused later", mustBeRefused(t, "late", c.Gateways...), 6*time.Second)
	within(t, "longest time without an acknowledgement while etcd was away", l.gap(killed, time.Now().Add(-slack/2)), c.TTL*3/4)

	back := time.Now()
	c.Etcd.Start(t)
	mustRecover(t, c, back, 4*slack)
	// Whatever etcd had forgotten would show within a time to live.
	outlast(back, c.TTL+2*time.Second)
	for i, id := range incarnations(t, c) {
		if id != before[i] {
			t.Errorf("%s was incarnation %s and is %s", c.Gateways[i].Name, before[i], id)
		}
	}
	l.checkAll(t)
}

// An etcd of one member that is paused ends all leases when it goes on: by its own clock nobody has renewed them.
func TestTrafficGoesOnUntilAPausedEtcdEndsAllLeases(t *testing.T) {
	c := start(t, processes.Config{})
	contest := compete(t, 5, seed(t), mqtt(c)...)
	l := startLoad(t, c)
	waitForAcks(t, 50, l.publishers()...)
	before := incarnations(t, c)

	paused := time.Now()
	c.Etcd.Pause(t)
	outlast(paused, c.TTL*3/2)
	within(t, "a new client is refused", mustBeRefused(t, "refused", c.Gateways...), 6*time.Second)
	within(t, "longest time without an acknowledgement while etcd was paused", l.gap(paused, time.Now().Add(-slack/2)), c.TTL*3/4)

	back := time.Now()
	c.Etcd.Continue(t)
	slowest := time.Duration(0)
	for _, x := range l.clients() {
		at, reason := x.end(patience)
		slowest = max(slowest, at.Sub(back))
		if x.version == rawmqtt.V5 && reason != 0x8B {
			t.Errorf("%q got DISCONNECT %#x, want 0x8B", x.id, reason)
		}
	}
	within(t, "all gateways have given their clients up", slowest, 4*slack)
	mustRecover(t, c, back, c.TTL+4*slack)
	for i, id := range incarnations(t, c) {
		if id == before[i] {
			t.Errorf("%s is still incarnation %s", c.Gateways[i].Name, id)
		}
	}
	for _, p := range l.publishers() {
		for _, x := range append(append([]*client{l.far}, l.everywhere...), l.near...) {
			checkOrder(t, x, p.topic)
		}
	}
	contest.finish()
}

// An etcd of three members goes on without its leader, and so does the cluster.
func TestTheLeaderOfEtcdIsLost(t *testing.T) {
	tests := []struct {
		name  string
		fault func(t *testing.T, p *processes.Process) (end func())
		// spared: nobody is disconnected. A member that hangs is asked again and again, a third of the time, until
		// a ping of its connection has not been answered: a gateway may have bad luck with all its renewals.
		spared bool
		// taken is how long it takes until all gateways take new clients.
		taken time.Duration
	}{
		{"killed", func(t *testing.T, p *processes.Process) func() {
			p.Kill(t)
			return func() { p.Start(t) }
		}, true, 5 * time.Second},
		{"paused", func(t *testing.T, p *processes.Process) func() {
			p.Pause(t)
			return func() { p.Continue(t) }
		}, false, 25 * time.Second},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := start(t, processes.Config{Etcds: 3})
			contest := compete(t, 5, seed(t), mqtt(c)...)
			l := startLoad(t, c)
			waitForAcks(t, 20, l.publishers()...)
			before := incarnations(t, c)

			lost := time.Now()
			end := tt.fault(t, c.EtcdLeader(t))
			mustTakeEverywhere(t, c, lost, tt.taken)
			outlast(lost, c.TTL*3/2)
			end()
			mustTakeEverywhere(t, c, time.Now(), 2*c.TTL)
			if tt.spared {
				within(t, "longest time without an acknowledgement", l.gap(lost, time.Now().Add(-slack/2)), c.TTL*3/4)
				for i, id := range incarnations(t, c) {
					if id != before[i] {
						t.Errorf("%s was incarnation %s and is %s", c.Gateways[i].Name, before[i], id)
					}
				}
				l.checkAll(t)
			}
			contest.finish()
		})
	}
}

// mustTakeEverywhere waits until each gateway has taken a client that subscribes.
func mustTakeEverywhere(t *testing.T, c *processes.Cluster, since time.Time, limit time.Duration) {
	t.Helper()
	var wg sync.WaitGroup
	for i, g := range c.Gateways {
		wg.Go(func() {
			for n := 0; time.Since(since) < limit; n++ {
				x, err := dial(t, g.MQTT, version(n), fmt.Sprintf("taken-%d", i), patience)
				if err != nil {
					continue
				}
				if code, err := x.trySubscribe(fmt.Sprintf("taken/%d/%d", i, n), 1); err == nil && code == 1 {
					return
				}
			}
			t.Errorf("%s has taken no client within %v", g.Name, limit)
		})
	}
	wg.Wait()
	within(t, "all gateways take clients", time.Since(since), limit)
}

func TestAGatewayThatIsCutOffFromEtcdStopsByItself(t *testing.T) {
	c := start(t, processes.Config{})
	cut := c.Gateways[2]
	contest := compete(t, 5, seed(t), mqtt(c)...)
	l := startLoad(t, c)
	mine, ids := numbered(t, 6, cut.MQTT, "mine")
	waitForAcks(t, 50, l.publishers()...)
	before, _ := c.Member(t, 2)

	began := time.Now()
	cut.Etcd.Set(processes.Stalled)
	// The session service still reaches it: taking over one of its clients is as quick as ever.
	moved := []*client{connect(t, c.Gateways[0].MQTT, rawmqtt.V5, ids[0])}
	within(t, "a client of the gateway that is cut off is taken over", time.Since(began), slack)
	if _, reason := mine[0].end(patience); reason != 0x8E {
		t.Errorf("its old connection got DISCONNECT %#x, want 0x8E", reason)
	}
	last := time.Duration(0)
	for _, x := range mine[1:] {
		at, reason := x.end(patience)
		last = max(last, at.Sub(began))
		if x.version == rawmqtt.V5 && reason != 0x8B {
			t.Errorf("%q got DISCONNECT %#x, want 0x8B", x.id, reason)
		}
	}
	within(t, "it has given its clients up, by its own clock", last, c.TTL)
	for i, id := range ids[1:] {
		moved = append(moved, connect(t, c.Gateways[i%2].MQTT, version(i), id))
	}
	within(t, "a new client is refused", mustBeRefused(t, "refused", cut), slack)
	waitForAcks(t, 20, append(l.on(false, l.toFar), l.on(false, l.toAll)...)...)
	slowest := time.Duration(0)
	for _, p := range l.on(false, l.toNear) {
		slowest = max(slowest, p.gap(began, time.Now().Add(-slack/2)))
	}
	within(t, "longest time without an acknowledgement elsewhere", slowest, c.TTL*3/4)
	mended := time.Now()
	cut.Etcd.Set(processes.Open)
	cut.WaitReady(t)
	within(t, "it serves again", time.Since(mended), 4*slack)
	if after, _ := c.Member(t, 2); after.ID == before.ID {
		t.Errorf("it has come back as the same incarnation, %s", after.ID)
	}
	connect(t, cut.MQTT, rawmqtt.V5, "newcomer").subscribe("far/new", 1)
	for _, x := range moved {
		x.mustServe()
	}
	l.check(t)
	contest.finish()
}
