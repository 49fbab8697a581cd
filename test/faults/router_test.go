//go:build linux

package faults

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/beeline-mqtt/beeline/internal/cluster"
	"github.com/beeline-mqtt/beeline/test/faults/processes"
)

// visitors are clients that come through the router and connect again whenever their connection is over.
type visitors struct {
	t       testing.TB
	address string
	over    chan struct{} // closed when all are to leave for good
	wg      sync.WaitGroup

	mu        sync.Mutex // guards the following
	here      map[*client]struct{}
	restless  bool          // they go, and come back, by themselves
	newcomers bool          // who comes back does so under another name
	came      int           // connections
	worst     time.Duration // from the end of a connection, or the first attempt, to the next one
	refusals  map[string]int
}

// visit has n clients come.
func visit(t testing.TB, address string, n int, seed uint64) *visitors {
	t.Helper()
	w := &visitors{t: t, address: address, over: make(chan struct{}), here: map[*client]struct{}{}, refusals: map[string]int{}}
	t.Cleanup(w.leave)
	for i := range n {
		random := rand.New(rand.NewPCG(seed, uint64(i)))
		w.wg.Go(func() { w.live(i, random) })
	}
	return w
}

// leave has all go, and waits until they are gone.
func (w *visitors) leave() {
	w.mu.Lock()
	select {
	case <-w.over:
	default:
		close(w.over)
	}
	w.mu.Unlock()
	w.wg.Wait()
}

// live is the life of one client.
func (w *visitors) live(i int, random *rand.Rand) {
	began := time.Now()
	for visit := 0; ; visit++ {
		x := w.come(i, visit)
		if x == nil {
			return
		}
		w.mu.Lock()
		w.here[x] = struct{}{}
		w.came++
		w.worst = max(w.worst, time.Since(began))
		restless := w.restless
		w.mu.Unlock()

		var enough <-chan time.Time // never, for those who are not restless
		stay := time.NewTimer(time.Duration(random.Int64N(int64(8 * time.Second))))
		if restless {
			enough = stay.C
		}
		select {
		case <-x.done:
		case <-enough:
			x.goodbye()
		case <-w.over:
			x.goodbye()
		}
		stay.Stop()
		w.mu.Lock()
		delete(w.here, x)
		w.mu.Unlock()
		began = time.Now()
	}
}

// come connects, however often that takes; nil: it is over.
func (w *visitors) come(i, visit int) *client {
	again := time.NewTicker(50 * time.Millisecond)
	defer again.Stop()
	for {
		w.mu.Lock()
		id := fmt.Sprintf("visitor-%d", i)
		if w.newcomers {
			id = fmt.Sprintf("newcomer-%d-%d", i, visit)
		}
		w.mu.Unlock()
		select {
		case <-w.over:
			return nil
		default:
		}
		x, err := dial(w.t, w.address, version(i), id, patience)
		if err == nil {
			return x
		}
		var code refused
		what := "connection"
		if errors.As(err, &code) {
			what = code.Error()
		}
		w.mu.Lock()
		w.refusals[what]++
		w.mu.Unlock()
		select {
		case <-again.C:
		case <-w.over:
			return nil
		}
	}
}

// goodbye ends a connection as MQTT has it.
func (c *client) goodbye() {
	_ = c.send(packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Disconnect}})
	c.close()
}

// stir has clients go and come by themselves from now on, or stay. newcomers come under another name each time.
func (w *visitors) stir(restless, newcomers bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.restless, w.newcomers = restless, newcomers
}

// present are the clients that are connected.
func (w *visitors) present() []*client {
	w.mu.Lock()
	defer w.mu.Unlock()
	all := make([]*client, 0, len(w.here))
	for x := range w.here {
		all = append(all, x)
	}
	return all
}

// visits is how many connections there were.
func (w *visitors) visits() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.came
}

// longest returns how long it took at most to be connected since the last time it was asked.
func (w *visitors) longest() time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	defer func() { w.worst = 0 }()
	return w.worst
}

// settle has all stay, and waits until all are there.
func (w *visitors) settle(n int) time.Duration {
	w.t.Helper()
	w.stir(false, false)
	began := time.Now()
	eventually(w.t, fmt.Sprintf("%d are connected", n), func() bool { return len(w.present()) == n })
	return time.Since(began)
}

// registry is what etcd says of the gateways, and since when.
type registry struct {
	mu      sync.Mutex
	members map[string]time.Time // by address for routers, guarded by mu
}

// watch keeps a registry current until the test ends.
func watch(t testing.TB, c *processes.Cluster) *registry {
	t.Helper()
	r := &registry{members: map[string]time.Time{}}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		_ = cluster.WatchMembers(ctx, c.Deps, cluster.Gateway, func(v cluster.View) {
			r.mu.Lock()
			defer r.mu.Unlock()
			former := r.members
			r.members = map[string]time.Time{}
			for _, m := range v.Members {
				since, known := former[m.Address]
				if !known {
					since = time.Now()
				}
				r.members[m.Address] = since
			}
		})
	})
	t.Cleanup(func() { cancel(); wg.Wait() })
	return r
}

// since is when a gateway was registered; false: it is not.
func (r *registry) since(address string) (time.Time, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	at, ok := r.members[address]
	return at, ok
}

// files counts the open files of a process by their kind: "socket", "pipe".
func files(t testing.TB, pid int) map[string]int {
	t.Helper()
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	all, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	count := map[string]int{}
	for _, f := range all {
		if to, err := os.Readlink(filepath.Join(dir, f.Name())); err == nil {
			kind, _, _ := strings.Cut(to, ":")
			count[kind]++
		}
	}
	return count
}

// Gateways are added and killed while 2,000 clients come and go through the router. Whoever comes is with a gateway that
// lives, soon; and the router keeps nothing of those who have gone.
func TestGatewaysComeAndGoBehindTheRouter(t *testing.T) {
	const n = 2000
	c := startAlone(t, processes.Config{Router: true}) // others would have to wait for its clients
	known := watch(t, c)
	goroutines, open := c.Router.Metric(t, "go_goroutines"), files(t, c.Router.PID())
	w := visit(t, c.Router.MQTT, n, seed(t))
	within(t, "all have come", w.settle(n), patience)

	for round := range 2 {
		w.stir(true, true)
		before := w.visits()
		for _, x := range w.present() { // from their next connection on they are restless
			_ = x.raw.Conn().Close()
		}
		eventually(t, "all have come again", func() bool { return w.visits() >= before+n })
		w.longest()
		g := c.AddGateway(t)
		eventually(t, g.Name+" is registered", func() bool { _, ok := known.since(g.Address()); return ok })
		eventually(t, g.Name+" has a client", func() bool { return g.Metric(t, "beeline_gateway_connects_accepted_total") > 0 })
		since, _ := known.since(g.Address())
		within(t, fmt.Sprintf("%s, registered, has its first client", g.Name), time.Since(since), time.Second+slack)

		victim := c.Gateways[round]
		victim.Kill(t)
		killed := time.Now()
		eventually(t, victim.Name+" is not registered any more", func() bool { _, ok := known.since(victim.Address()); return !ok })
		within(t, victim.Name+" has left the registry", time.Since(killed), c.TTL+2*slack)
		within(t, fmt.Sprintf("each of %d that came meanwhile was connected", w.visits()-before), w.longest(), 5*time.Second)
		within(t, "all are there", w.settle(n), 10*time.Second)
	}

	// Nobody is taken to the dead: not one connection to them is tried while everybody comes back.
	failed := c.Router.Metric(t, "beeline_router_dials_failed_total")
	for _, x := range w.present() {
		x.goodbye()
	}
	within(t, "all are there again", w.settle(n), patience)
	if now := c.Router.Metric(t, "beeline_router_dials_failed_total"); now != failed {
		t.Errorf("%v connections to the dead were tried", now-failed)
	}
	// Those are where the cluster believes them to be, and alive.
	var ids []string
	for _, x := range w.present() {
		ids = append(ids, x.id)
	}
	living := map[string]bool{}
	for i, g := range c.Gateways {
		if g.Running() {
			m, _ := c.Member(t, i)
			living[m.ID] = true
		}
	}
	held := leases(t, c, ids...)
	for _, id := range ids {
		if !living[held[id].Holder] {
			t.Errorf("%q is held by %q, which does not live", id, held[id].Holder)
		}
	}
	if passed := c.Router.Metric(t, "beeline_router_connections"); passed != n {
		t.Errorf("the router passes %v connections on, want %d", passed, n)
	}
	t.Logf("refused, and tried again: %v", w.refusals)

	w.leave()
	eventually(t, "the router passes nothing on", func() bool { return c.Router.Metric(t, "beeline_router_connections") == 0 })
	eventually(t, "it has no more goroutines and sockets than before", func() bool {
		return c.Router.Metric(t, "go_goroutines") <= goroutines+few && files(t, c.Router.PID())["socket"] <= open["socket"]+few
	})
	// Pipes are kept, up to their bound.
	if pipes := files(t, c.Router.PID())["pipe"]; pipes > open["pipe"]+2*1024 {
		t.Errorf("it has %d ends of pipes", pipes)
	}
}

// few are the goroutines and sockets that come and go with what is asked by this test, and with etcd.
const few = 12
