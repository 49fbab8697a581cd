package bench

import (
	"context"
	"errors"
)

// Pairs is the scenario in which each publisher has a subscriber of its own.
type Pairs struct {
	Config
	Load

	Pairs int
	Shift int      // the subscriber of the publisher on broker i is on broker i+Shift
	To    []Broker // where the subscribers are instead, when there are any
}

// Run carries it out. When the context ends it returns what was measured until then.
func (p Pairs) Run(ctx context.Context) (*Result, error) {
	if err := errors.Join(p.Config.check(2*p.Pairs), p.Load.check()); err != nil {
		return nil, err
	}
	if p.Pairs < 1 {
		return nil, errors.New("pairs: at least 1")
	}
	to, shift := p.To, 0
	if len(to) == 0 {
		to, shift = p.Brokers, p.Shift%len(p.Brokers)+len(p.Brokers)
	}
	t := newTraffic(p.Config, p.Load)
	for i := range p.Pairs {
		t.stream(p.Brokers[i%len(p.Brokers)], to[(i+shift)%len(to)])
	}
	return t.carryOut(ctx, "pairs")
}

// Fanout is the scenario in which all subscribers get the messages of one publisher, which is on the first broker.
type Fanout struct {
	Config
	Load

	Subscribers int
}

// Run carries it out. When the context ends it returns what was measured until then.
func (f Fanout) Run(ctx context.Context) (*Result, error) {
	if err := errors.Join(f.Config.check(1+f.Subscribers), f.Load.check()); err != nil {
		return nil, err
	}
	if f.Subscribers < 1 {
		return nil, errors.New("subscribers: at least 1")
	}
	var to []Broker
	for i := range f.Subscribers {
		to = append(to, f.Brokers[i%len(f.Brokers)])
	}
	t := newTraffic(f.Config, f.Load)
	t.stream(f.Brokers[0], to...)
	return t.carryOut(ctx, "fanout")
}
