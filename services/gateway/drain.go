package gateway

import (
	"context"
	"iter"
	"log/slog"
	"sync"
	"time"

	"github.com/beeline-mqtt/beeline/internal/cluster"
	"github.com/beeline-mqtt/beeline/internal/lifecycle"
	"github.com/beeline-mqtt/beeline/services/gateway/internal/client"
	"github.com/beeline-mqtt/beeline/services/gateway/internal/drain"
)

// DrainConfig sets how fast clients are moved away.
type DrainConfig = drain.Config

// drainer has what a gateway does to be drained. It outlives incarnations.
type drainer struct {
	mu      sync.Mutex
	machine drain.Machine // guarded by mu
	changed chan struct{} // closed when the machine has another phase or order, and then another one; guarded by mu
}

func newDrainer(c DrainConfig) *drainer {
	return &drainer{machine: drain.New(c), changed: make(chan struct{})}
}

// do changes the machine, and tells whoever waits if that has changed more than how far it is.
func (d *drainer) do(f func(m *drain.Machine) error) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	before := d.machine.Progress()
	err := f(&d.machine)
	if after := d.machine.Progress(); after.Phase != before.Phase || after.Order != before.Order {
		close(d.changed)
		d.changed = make(chan struct{})
	}
	return err
}

// look returns the machine as it is, and what is closed when it has changed.
func (d *drainer) look() (m drain.Machine, changed <-chan struct{}) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.machine, d.changed
}

func (d *drainer) draining() bool {
	m, _ := d.look()
	return m.Draining()
}

// state is what the others are to see.
func (d *drainer) state() (s cluster.State, changed <-chan struct{}) {
	m, changed := d.look()
	if m.Draining() {
		return cluster.Draining, changed
	}
	return cluster.Active, changed
}

// await returns when the order that is under way is over, or with the error of ctx.
func (d *drainer) await(ctx context.Context) (drain.Progress, error) {
	for {
		m, changed := d.look()
		if !m.Busy() {
			return m.Progress(), nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return m.Progress(), context.Cause(ctx)
		}
	}
}

// order has clients go to other gateways, as o says, and returns at once. The others see that the gateway is draining,
// and so does whoever asks whether it is ready. While the grace lasts it serves whoever comes; then it tells clients to
// go, at a rate, and refuses new ones if all are to go. No will is published.
func (g *Gateway) order(o drain.Order) error {
	return g.drainer.do(func(m *drain.Machine) error { return m.Begin(time.Now(), o) })
}

// resume has the gateway take clients again.
func (g *Gateway) resume() error {
	return g.drainer.do(func(m *drain.Machine) error { return m.Resume(time.Now()) })
}

// step is how often some are told: often enough that they are not many at once.
const step = 20 * time.Millisecond

// moveClients does what has been ordered, until ctx ends.
func (g *Gateway) moveClients(ctx context.Context) {
	for ctx.Err() == nil {
		m, changed := g.drainer.look()
		draining := 0.0
		if m.Draining() {
			draining = 1
		}
		g.metrics.draining.Set(draining)
		if m.Busy() {
			g.carryOut(ctx)
			continue
		}
		select {
		case <-changed:
		case <-ctx.Done():
		}
	}
}

// carryOut returns when there is nothing to do any more, or with ctx.
func (g *Gateway) carryOut(ctx context.Context) {
	round := drain.NewRound(g.clientsHere)
	defer round.Stop()
	tick := time.NewTicker(step)
	defer tick.Stop()
	began := time.Now()
	for busy := true; busy; {
		scene := drain.Scene{Left: g.clientsLeft(), Somewhere: g.somewhere(), Shown: g.shown.Load()}
		var tell int
		_ = g.drainer.do(func(m *drain.Machine) error {
			tell = m.Step(time.Now(), scene)
			return nil
		})
		told := round.Tell(tell, g.moveAway)
		var p drain.Progress
		_ = g.drainer.do(func(m *drain.Machine) error {
			m.Told(told)
			p, busy = m.Progress(), m.Busy()
			return nil
		})
		if !busy {
			g.deps.Logger.InfoContext(ctx, "drain is over", slog.Int("moved", p.Told), slog.Int("clients", g.clientsLeft()),
				slog.Duration("took", time.Since(began)), slog.Bool("takes_clients", p.Phase == drain.Serving), slog.Any("error", p.Err))
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// leave is the orderly way to the end: clients first. What is left of them when it returns is ended with the
// incarnation.
func (g *Gateway) leave(ctx context.Context) {
	if g.cfg.Drain.Timeout == 0 || g.order(drain.Order{Then: drain.End}) != nil {
		return
	}
	_, _ = g.drainer.await(ctx)
}

func (g *Gateway) clientsLeft() int {
	if l := g.life.Load(); l != nil {
		return l.broker.Len()
	}
	return 0
}

func (g *Gateway) clientsHere() iter.Seq[*client.Client] {
	if l := g.life.Load(); l != nil {
		return l.broker.Clients()
	}
	return func(func(*client.Client) bool) {}
}

func (g *Gateway) moveAway(c *client.Client) bool {
	reference := turnOf(g.others(), g.turns.Add(1))
	first := c.Stop(client.Moved(reference))
	if first {
		g.metrics.moved.Inc()
	}
	return first
}

// others are the gateways where clients may go.
func (g *Gateway) others() []cluster.Member {
	if l := g.life.Load(); l != nil {
		return l.peers.others()
	}
	return nil
}

func (g *Gateway) somewhere() bool { return len(g.others()) > 0 }

// refusing is client.Deps.Draining.
func (g *Gateway) refusing() (reference string, yes bool) {
	if m, _ := g.drainer.look(); !m.Refuses() {
		return "", false
	}
	others := g.others()
	if len(others) == 0 {
		return "", false
	}
	return turnOf(others, g.turns.Add(1)), true
}

// turnOf returns the public address whose turn it is: each comes as often as its weight says, all as often when none
// has one. It is empty when nobody has an address.
func turnOf(members []cluster.Member, turn uint64) string {
	var public []cluster.Member
	total := uint64(0)
	for _, m := range members {
		if m.Public != "" {
			public = append(public, m)
			total += uint64(m.Weight)
		}
	}
	switch {
	case len(public) == 0:
		return ""
	case total == 0:
		return public[turn%uint64(len(public))].Public
	}
	turn %= total
	for _, m := range public {
		if turn < uint64(m.Weight) {
			return m.Public
		}
		turn -= uint64(m.Weight)
	}
	return ""
}

// showState shows the others whether the gateway takes clients, or drains, until ctx ends. While etcd does not answer it
// tries again. Until taking is closed it does not take clients.
func (g *Gateway) showState(ctx context.Context, inc *cluster.Incarnation, taking <-chan struct{}) error {
	shown := inc.Member().State
	defer g.shown.Store(false)
	for ctx.Err() == nil {
		g.shown.Store(shown == cluster.Draining)
		want, changed := g.drainer.state()
		if want == cluster.Active && taking != nil {
			want = cluster.Joining
		}
		if shown == want {
			select {
			case <-taking:
				taking = nil
			case <-changed:
			case <-ctx.Done():
			}
			continue
		}
		asking, cancel := context.WithTimeout(ctx, showTimeout)
		err := inc.UpdateState(asking, want)
		cancel()
		if err == nil {
			shown = want
			continue
		}
		shown = "" // either
		if ctx.Err() == nil {
			g.deps.Logger.WarnContext(ctx, "state is not shown", slog.String("state", string(want)), slog.Any("error", err))
		}
		lifecycle.Pause(ctx, incarnationPause)
	}
	return nil
}

// showTimeout is how long etcd may take to show a state.
const showTimeout = 2 * time.Second
