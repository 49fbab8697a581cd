package cluster

import (
	"context"
	"sync/atomic"
	"time"
)

// Probe asks etcd again and again whether it answers, with a quorum.
type Probe struct {
	deps     Deps
	every    time.Duration
	freshFor time.Duration
	base     time.Time
	answered atomic.Int64 // nanoseconds since base; 0 = never
}

// NewProbe returns a probe that asks at an interval; an answer counts for freshFor.
func NewProbe(d Deps, every, freshFor time.Duration) *Probe {
	return &Probe{deps: d, every: every, freshFor: freshFor, base: time.Now()}
}

// Reachable says whether etcd has answered within the last freshFor.
func (p *Probe) Reachable() bool {
	at := p.answered.Load()
	return at > 0 && time.Since(p.base)-time.Duration(at) < p.freshFor
}

// Run asks until the context is done and returns nil.
func (p *Probe) Run(ctx context.Context) error {
	for {
		if p.ask(ctx) {
			p.answered.Store(int64(time.Since(p.base)))
		}
		if !pause(ctx, p.every) {
			return nil
		}
	}
}

func (p *Probe) ask(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, p.every)
	defer cancel()
	_, err := p.deps.Client.Get(ctx, p.deps.Keys.Active())
	return err == nil
}
