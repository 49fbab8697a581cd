package bench

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"sync"
	"sync/atomic"
	"time"
)

// Move is the scenario in which clients, connected to one broker, connect to the next one with the same client id
// while their first connection is open.
type Move struct {
	Config

	Clients int
	Rate    int // a second; 0: as fast as they are answered
}

// moving is a run of Move.
type moving struct {
	Move
	first     []*first
	second    []*conn
	moved     histogram
	closed    histogram
	twoOwners atomic.Int64
	noOwner   atomic.Int64
	wg        sync.WaitGroup // the readers of first
}

// first is the first connection of a client, and what its reader has seen. The reader ends with it.
type first struct {
	c     *conn
	pong  chan struct{} // 1: it answered a ping
	ended chan struct{} // closed when the connection has ended
	at    time.Time     // when that was
}

// Run carries it out. When the context ends it returns what was measured until then.
func (m Move) Run(ctx context.Context) (*Result, error) {
	switch {
	case m.Clients < 1:
		return nil, errors.New("clients: at least 1")
	case m.Rate < 0:
		return nil, errors.New("rate: not negative")
	}
	if err := m.check(2 * m.Clients); err != nil {
		return nil, err
	}
	r := &moving{Move: m, first: make([]*first, m.Clients), second: make([]*conn, m.Clients)}
	defer r.close()
	return r.run(ctx)
}

func (m *moving) run(ctx context.Context) (*Result, error) {
	begin, err := takeAccount(m.Processes)
	if err != nil {
		return nil, err
	}
	if err := forEach(ctx, m.Clients, make(slots, atOnce), m.connectFirst); err != nil {
		return nil, err
	}
	before, err := takeAccount(m.Processes)
	if err != nil {
		return nil, err
	}
	began := make([]time.Time, m.Clients) // of those that have moved
	if err := m.moveAll(ctx, began); err != nil {
		return nil, err
	}
	after, err := takeAccount(m.Processes)
	if err != nil {
		return nil, err
	}
	n := m.moved.count()
	if n == 0 {
		return nil, errInterrupted
	}
	m.checkAll(began, after.at)
	seconds := after.at.Sub(before.at).Seconds()
	r := &Result{
		Scenario: "move", Seconds: math.Round(seconds*1000) / 1000,
		Sent: n, Delivered: n, DeliveryRate: tenths(float64(n) / seconds),
		Latency: latencies(&m.moved), Closed: latencies(&m.closed),
		Lost: uint64(m.noOwner.Load()), TwoOwners: uint64(m.twoOwners.Load()), Unclosed: n - m.closed.count(),
	}
	r.charge(m.Processes, begin, before, after, int64(n))
	return r, nil
}

func (m *moving) id(i int) string { return fmt.Sprintf("%sm%d", m.Prefix, i) }

// open connects client i to the broker so many behind its first one.
func (m *moving) open(ctx context.Context, i, behind int) (c *conn, began time.Time, err error) {
	c, err = dial(ctx, m.Brokers[(i+behind)%len(m.Brokers)], m.Login, smallBuffer)
	if err != nil {
		return nil, began, err
	}
	defer c.bound(ctx)()
	began = time.Now()
	if err := c.connect(m.id(i), m.Login); err != nil {
		c.close()
		return nil, began, err
	}
	return c, began, nil
}

func (m *moving) connectFirst(ctx context.Context, i int) error {
	c, _, err := m.open(ctx, i, 0)
	if err != nil {
		return err
	}
	f := &first{c: c, pong: make(chan struct{}, 1), ended: make(chan struct{})}
	m.first[i] = f
	m.wg.Go(f.read)
	return nil
}

// read looks out for the end of the connection.
func (f *first) read() {
	defer close(f.ended)
	for {
		err := f.c.fill()
		for err == nil {
			var p received
			var ok bool
			if p, ok, err = f.c.take(); !ok {
				break
			}
			if p.first == pingresp {
				select {
				case f.pong <- struct{}{}:
				default:
				}
			}
		}
		if err != nil {
			f.at = time.Now()
			return
		}
	}
}

// moveAll moves the clients and notes in began when each sent its second CONNECT. Being interrupted is no error.
func (m *moving) moveAll(ctx context.Context, began []time.Time) error {
	turns, end, err := newTurns(m.Rate, atOnce)
	if err != nil {
		return err
	}
	defer end()
	stop := everySecond(m.Progress, func(seconds int) string {
		return fmt.Sprintf("%4d s  %6d moved  p99 %s", seconds, m.moved.count(), milliseconds(m.moved.percentiles(0.99)[0]))
	})
	defer stop()
	err = forEach(ctx, m.Clients, turns, func(ctx context.Context, i int) error {
		c, at, err := m.open(ctx, i, 1)
		if err != nil {
			return err
		}
		m.second[i], began[i] = c, at
		m.moved.add(time.Since(at))
		return nil
	})
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// checkAll looks, when all had the time to settle since the last one moved, on which of its connections each client
// is.
func (m *moving) checkAll(began []time.Time, last time.Time) {
	<-time.After(time.Until(last.Add(cmp.Or(m.settle, defaultSettle))))
	_ = forEach(context.Background(), m.Clients, make(slots, m.Clients), func(_ context.Context, i int) error {
		if m.second[i] == nil {
			return nil
		}
		answers := m.second[i].ping() == nil
		if !answers {
			m.noOwner.Add(1)
		}
		if m.first[i].answers() && answers {
			m.twoOwners.Add(1)
		}
		select {
		case <-m.first[i].ended:
			m.closed.add(m.first[i].at.Sub(began[i]))
		default:
		}
		return nil
	})
}

// answers reports whether the connection is open and the broker answers a ping on it.
func (f *first) answers() bool {
	select {
	case <-f.ended:
		return false
	default:
	}
	if f.c.write([]byte{pingreq, 0}) != nil {
		return false
	}
	select {
	case <-f.pong:
		return true
	case <-f.ended:
	case <-time.After(pingPatience):
	}
	return false
}

func (m *moving) close() {
	for _, c := range m.second {
		if c != nil {
			c.leave()
		}
	}
	for _, f := range m.first {
		if f != nil {
			f.c.leave()
		}
	}
	m.wg.Wait()
}
