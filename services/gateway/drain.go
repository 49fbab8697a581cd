package gateway

import (
	"context"
	"errors"
	"iter"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/beeline-mqtt/beeline/internal/cluster"
	"github.com/beeline-mqtt/beeline/internal/lifecycle"
	"github.com/beeline-mqtt/beeline/services/gateway/internal/client"
	"github.com/beeline-mqtt/beeline/services/gateway/internal/drain"
)

// DrainConfig sets how fast clients are moved away.
type DrainConfig = drain.Config

// ErrNowhere says that no other gateway takes clients.
var ErrNowhere = drain.ErrNowhere

// draining is what a gateway that is being drained knows about that. It outlives incarnations, and has no way back.
type draining struct {
	once   sync.Once
	begun  chan struct{} // closed when it begins
	refuse atomic.Bool   // the grace is over: no new clients, if they can go elsewhere
	turns  atomic.Uint64 // clients that were given directions
}

func (d *draining) has() bool {
	select {
	case <-d.begun:
		return true
	default:
		return false
	}
}

// state is what the others are to see.
func (d *draining) state() cluster.State {
	if d.has() {
		return cluster.Draining
	}
	return cluster.Active
}

// Drain has the gateway's clients go to other gateways, and waits until they are gone; Config.Drain bounds that. The
// others see at once that it is draining, and so does whoever asks whether it is ready. While the grace lasts it serves
// whoever comes; then it refuses new clients, and tells those who are there to go, at a rate. No will is published.
//
// ErrNowhere: no other gateway takes clients, and those that are left are served, new ones too. It may be called again.
// Whatever is returned, the gateway stays draining until its process ends, which Drain leaves to the caller.
func (g *Gateway) Drain(ctx context.Context) error {
	g.draining.once.Do(func() {
		close(g.draining.begun)
		g.metrics.draining.Set(1)
	})
	crowd := drain.Crowd[*client.Client]{Left: g.clientsLeft, All: g.clientsHere, Tell: g.moveAway, Somewhere: g.somewhere}
	if g.clientsLeft() > 0 && !g.somewhere() {
		return ErrNowhere
	}
	if !g.draining.refuse.Load() {
		if err := drain.Wait(ctx, g.cfg.Drain, crowd); err != nil {
			return err
		}
		g.draining.refuse.Store(true)
	}
	return drain.Move(ctx, g.cfg.Drain, crowd)
}

// leave is the orderly way to the end: clients first. What is left of them when it returns is ended with the
// incarnation.
func (g *Gateway) leave(ctx context.Context) {
	if g.cfg.Drain.Timeout == 0 {
		return
	}
	n, began := g.clientsLeft(), time.Now()
	err := g.Drain(ctx)
	switch {
	case errors.Is(err, ErrNowhere):
		g.deps.Logger.InfoContext(ctx, "clients are not moved away", slog.Any("because", err), slog.Int("clients", g.clientsLeft()))
	case err == nil && n > 0:
		g.deps.Logger.InfoContext(ctx, "clients moved away", slog.Int("clients", n), slog.Int("left", g.clientsLeft()),
			slog.Duration("took", time.Since(began)))
	}
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
	reference := turnOf(g.others(), g.draining.turns.Add(1))
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
	if !g.draining.refuse.Load() {
		return "", false
	}
	others := g.others()
	if len(others) == 0 {
		return "", false
	}
	return turnOf(others, g.draining.turns.Add(1)), true
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

// showDraining shows the others that the gateway drains, when it does, until ctx ends. While etcd does not answer it
// tries again.
func (g *Gateway) showDraining(ctx context.Context, inc *cluster.Incarnation) error {
	select {
	case <-ctx.Done():
		return nil
	case <-g.draining.begun:
	}
	for inc.Member().State != cluster.Draining {
		asking, cancel := context.WithTimeout(ctx, showTimeout)
		err := inc.UpdateState(asking, cluster.Draining)
		cancel()
		if err == nil {
			break
		}
		if ctx.Err() == nil {
			g.deps.Logger.WarnContext(ctx, "not shown as draining", slog.Any("error", err))
		}
		if !lifecycle.Pause(ctx, incarnationPause) {
			return nil
		}
	}
	<-ctx.Done()
	return nil
}

// showTimeout is how long etcd may take to show a state.
const showTimeout = 2 * time.Second
