package bench

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync/atomic"
	"time"
)

// Connect is the scenario in which clients connect, subscribe to a topic of their own, and stay.
type Connect struct {
	Config

	Clients  int
	Rate     int // CONNECTs a second; 0: as fast as they are answered
	Parallel int // clients that connect at once, with rate 0
	Hold     time.Duration
}

// connecting is a run of Connect.
type connecting struct {
	Connect
	clients    []*conn // nil: refused
	connected  histogram
	subscribed histogram
	refused    atomic.Int64
	why        atomic.Pointer[error] // of the first that was refused
	dead       atomic.Int64
}

// Run carries it out. When the context ends it returns what was measured until then.
func (c Connect) Run(ctx context.Context) (*Result, error) {
	switch {
	case c.Clients < 1:
		return nil, errors.New("clients: at least 1")
	case c.Rate < 0:
		return nil, errors.New("rate: not negative")
	case c.Parallel < 1:
		return nil, errors.New("parallel: at least 1")
	case c.Hold < 0:
		return nil, errors.New("hold: not negative")
	}
	if err := c.check(c.Clients); err != nil {
		return nil, err
	}
	r := &connecting{Connect: c, clients: make([]*conn, c.Clients)}
	defer r.close()
	return r.run(ctx)
}

func (c *connecting) run(ctx context.Context) (*Result, error) {
	before, err := takeAccount(c.Processes)
	if err != nil {
		return nil, err
	}
	if err := c.connectAll(ctx); err != nil {
		return nil, err
	}
	after, err := takeAccount(c.Processes)
	if err != nil {
		return nil, err
	}
	n := c.subscribed.count()
	if n == 0 {
		return nil, c.noneAtAll()
	}
	select {
	case <-time.After(c.Hold):
	case <-ctx.Done():
	}
	held, err := takeAccount(c.Processes)
	if err != nil {
		return nil, err
	}
	c.pingAll()
	seconds := after.at.Sub(before.at).Seconds()
	r := &Result{
		Scenario: "connect", Seconds: math.Round(seconds*1000) / 1000,
		Sent: n + uint64(c.refused.Load()), Delivered: n, DeliveryRate: tenths(float64(n) / seconds),
		Refused: uint64(c.refused.Load()), Lost: uint64(c.dead.Load()),
		Latency: latencies(&c.connected), Subscribed: latencies(&c.subscribed),
	}
	if why := c.why.Load(); why != nil {
		r.RefusedBecause = (*why).Error()
	}
	r.charge(c.Processes, before, before, after, int64(n))
	r.remember(before, after, held, c.Hold, n)
	return r, nil
}

func (c *connecting) noneAtAll() error {
	if why := c.why.Load(); why != nil {
		return *why
	}
	return errInterrupted
}

// connectAll connects the clients. Only what is wrong with this process is an error.
func (c *connecting) connectAll(ctx context.Context) error {
	turns, end, err := newTurns(c.Rate, c.Parallel)
	if err != nil {
		return err
	}
	defer end()
	stop := everySecond(c.Progress, func(seconds int) string {
		return fmt.Sprintf("%4d s  %6d connected  %d refused  p99 %s", seconds,
			c.subscribed.count(), c.refused.Load(), milliseconds(c.connected.percentiles(0.99)[0]))
	})
	defer stop()
	err = forEach(ctx, c.Clients, turns, func(ctx context.Context, i int) error {
		if err := c.connectOne(ctx, i); err != nil && ctx.Err() == nil {
			c.refused.Add(1)
			c.why.CompareAndSwap(nil, &err)
		}
		return nil
	})
	if ctx.Err() != nil {
		return nil
	}
	return err
}

func (c *connecting) connectOne(ctx context.Context, i int) error {
	client, err := dial(ctx, c.Brokers[i%len(c.Brokers)], c.Login, smallBuffer)
	if err != nil {
		return err
	}
	defer client.bound(ctx)()
	begin := time.Now()
	if err := client.connect(fmt.Sprintf("%sc%d", c.Prefix, i), c.Login); err != nil {
		client.close()
		return err
	}
	c.connected.add(time.Since(begin))
	if err := client.subscribe(fmt.Sprintf("bench/%s/c%d", c.Prefix, i), 0); err != nil {
		client.close()
		return err
	}
	c.subscribed.add(time.Since(begin))
	c.clients[i] = client
	return nil
}

// pingAll counts the clients whose connection is not there any more.
func (c *connecting) pingAll() {
	_ = forEach(context.Background(), c.Clients, make(slots, atOnce), func(_ context.Context, i int) error {
		if client := c.clients[i]; client != nil && client.ping() != nil {
			c.dead.Add(1)
		}
		return nil
	})
}

func (c *connecting) close() {
	for _, client := range c.clients {
		if client != nil {
			client.leave()
		}
	}
}
