package bench

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// traffic is a run in which messages flow: publishers, their subscribers, and one pacer that has the publishers
// send what is due. Every connection has a goroutine that reads; end waits for all of them.
type traffic struct {
	cfg         Config
	load        Load
	pace        pace // with a rate
	publishers  []*publisher
	subscribers []*subscriber

	start       time.Time
	from, until time.Duration // what is due then counts
	stopped     atomic.Bool   // nothing is sent any more
	failed      chan error    // 1: why the run cannot go on
	ending      atomic.Bool   // connections are being closed: that they end is no failure
	wg          sync.WaitGroup

	total   totals
	latency histogram
	late    histogram // of sending
}

// totals are the sum of all tallies.
type totals struct{ delivered, doubled, late, corrupt, missing atomic.Int64 }

func (t *totals) add(n tally) {
	t.delivered.Add(n.delivered)
	if n == (tally{delivered: n.delivered}) {
		return
	}
	t.doubled.Add(n.doubled)
	t.late.Add(n.late)
	t.corrupt.Add(n.corrupt)
	t.missing.Add(n.missing)
}

func newTraffic(cfg Config, load Load) *traffic {
	t := &traffic{
		cfg: cfg, load: load, from: cfg.Warmup, until: cfg.Warmup + cfg.Duration,
		failed: make(chan error, 1),
	}
	if load.Rate > 0 {
		t.pace = newPace(load.Rate, load.Tick)
	}
	return t
}

func (t *traffic) now() time.Duration { return time.Since(t.start) }

// due is when a publisher's message is due: the publishers take turns.
func (t *traffic) due(publisher int, n uint64) time.Duration {
	return t.pace.due(n*uint64(len(t.publishers)) + uint64(publisher))
}

// stream adds a publisher and its subscribers. Nobody is connected yet.
func (t *traffic) stream(from Broker, to ...Broker) {
	n := len(t.publishers)
	p := newPublisher(t, n, from, fmt.Sprintf("bench/%s/%d", t.cfg.Prefix, n))
	p.receivers = len(to)
	t.publishers = append(t.publishers, p)
	for _, b := range to {
		t.subscribers = append(t.subscribers, &subscriber{t: t, broker: b, p: p, pong: make(chan struct{}, 1)})
	}
}

// carryOut connects all, lets the messages flow, and sums up.
func (t *traffic) carryOut(ctx context.Context, scenario string) (*Result, error) {
	begin, err := takeAccount(t.cfg.Processes)
	if err != nil {
		return nil, err
	}
	defer t.end()
	if err := t.connect(ctx); err != nil {
		return nil, err
	}
	m, err := t.run(ctx)
	if err != nil {
		return nil, err
	}
	t.end()
	return t.result(scenario, begin, m), nil
}

// connect connects the subscribers, and then the publishers.
func (t *traffic) connect(ctx context.Context) error {
	err := forEach(ctx, len(t.subscribers), make(slots, atOnce), func(ctx context.Context, i int) (err error) {
		s := t.subscribers[i]
		if s.c, err = dial(ctx, s.broker, t.cfg.Login, largeBuffer); err != nil {
			return err
		}
		defer s.c.bound(ctx)()
		login := t.cfg.Login
		login.durable = t.load.Durable
		if err := s.c.connect(fmt.Sprintf("%ss%d", t.cfg.Prefix, i), login); err != nil {
			return err
		}
		return s.c.subscribe(s.p.topic, t.load.QoS)
	})
	if err != nil {
		return err
	}
	return forEach(ctx, len(t.publishers), make(slots, atOnce), func(ctx context.Context, i int) (err error) {
		p := t.publishers[i]
		if p.c, err = dial(ctx, p.broker, t.cfg.Login, smallBuffer); err != nil {
			return err
		}
		defer p.c.bound(ctx)()
		if err := p.c.connect(fmt.Sprintf("%sp%d", t.cfg.Prefix, i), t.cfg.Login); err != nil {
			return err
		}
		return p.admitted()
	})
}

// goDo runs f, whose error ends the run.
func (t *traffic) goDo(f func() error) {
	t.wg.Go(func() {
		if err := f(); err != nil && !t.ending.Load() {
			select {
			case t.failed <- err:
			default:
			}
		}
	})
}

var errInterrupted = errors.New("interrupted")

// run lets the messages flow and returns what was seen. All are connected.
func (t *traffic) run(ctx context.Context) (*measured, error) {
	tick, err := newTicker()
	if err != nil {
		return nil, err
	}
	defer tick.close()
	t.start = time.Now()
	if t.load.Rate > 0 {
		if err := tick.start(t.pace.tick); err != nil {
			return nil, err
		}
	}
	defer t.end()
	defer everySecond(t.cfg.Progress, t.progress())()
	if err := t.begin(tick); err != nil {
		return nil, err
	}
	m := &measured{}
	if err := t.watch(ctx, t.from); err != nil {
		return nil, fmt.Errorf("warm up: %w", err)
	}
	if m.before, err = t.snapshot(); err != nil {
		return nil, err
	}
	interrupted := t.watch(ctx, t.until)
	if interrupted != nil && !errors.Is(interrupted, errInterrupted) {
		return nil, interrupted
	}
	if m.after, err = t.snapshot(); err != nil {
		return nil, err
	}
	t.stopped.Store(true)
	if err := t.drain(); err != nil {
		return nil, err
	}
	return m, nil
}

// begin starts all goroutines.
func (t *traffic) begin(tick *ticker) error {
	for _, s := range t.subscribers {
		t.goDo(s.read)
	}
	for _, p := range t.publishers {
		t.goDo(p.read)
	}
	if t.load.Rate > 0 {
		t.goDo(func() error { return t.keepPace(tick) })
		return nil
	}
	for _, p := range t.publishers {
		if err := p.pump(); err != nil {
			return err
		}
	}
	return nil
}

// keepPace has the publishers send their messages when they are due.
func (t *traffic) keepPace(tick *ticker) error {
	var pumped uint64
	all := uint64(len(t.publishers))
	for !t.stopped.Load() {
		if err := tick.wait(); err != nil {
			return err
		}
		due := t.pace.count(t.now())
		pumped = max(pumped, due-min(due, all)) // no publisher twice
		for ; pumped < due; pumped++ {
			if err := t.publishers[pumped%all].pump(); err != nil {
				return err
			}
		}
	}
	return nil
}

// end closes all connections and waits for all goroutines. It may be called again.
func (t *traffic) end() {
	if t.ending.Swap(true) {
		return
	}
	t.stopped.Store(true)
	for _, s := range t.subscribers {
		if s.c != nil {
			s.c.leave()
		}
	}
	for _, p := range t.publishers {
		if p.c != nil {
			p.c.leave()
		}
	}
	t.wg.Wait()
}

// watch waits until a time since the start, a failure, or the end of the context.
func (t *traffic) watch(ctx context.Context, until time.Duration) error {
	over := time.NewTimer(until - t.now())
	defer over.Stop()
	select {
	case <-over.C:
		return nil
	case err := <-t.failed:
		return err
	case <-ctx.Done():
		return errInterrupted
	}
}

// progress is a line for everySecond.
func (t *traffic) progress() func(seconds int) string {
	last, at := int64(0), time.Duration(0)
	return func(seconds int) string {
		delivered, now := t.total.delivered.Load(), t.now()
		p99 := "(warming up)"
		if now > t.from {
			p99 = "p99 " + milliseconds(t.latency.percentiles(0.99)[0])
		}
		rate := float64(delivered-last) / (now - at).Seconds()
		last, at = delivered, now
		return fmt.Sprintf("%4d s  %8.0f delivered/s  missing %d  %s", seconds, rate, t.total.missing.Load(), p99)
	}
}

// snapshot is the state at one time.
type snapshot struct {
	account   account
	delivered int64
}

// measured is what was measured between two snapshots.
type measured struct{ before, after snapshot }

func (t *traffic) snapshot() (snapshot, error) {
	a, err := takeAccount(t.cfg.Processes)
	return snapshot{a, t.total.delivered.Load()}, err
}

// drain waits until all that was sent has come and is acknowledged, or nothing more comes. Then it has every
// subscriber answer a ping: what the broker had sent before has come by then as well.
func (t *traffic) drain() error {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	last, since := int64(0), time.Now()
	for {
		if now := t.total.delivered.Load(); now != last {
			last, since = now, time.Now()
		}
		if t.complete() || time.Since(since) > cmp.Or(t.cfg.quiet, defaultQuiet) {
			break
		}
		select {
		case err := <-t.failed:
			return err
		case <-tick.C:
		}
	}
	for _, s := range t.subscribers {
		if err := s.c.write([]byte{pingreq, 0}); err != nil {
			return err
		}
	}
	patience := time.NewTimer(pingPatience)
	defer patience.Stop()
	for _, s := range t.subscribers {
		select {
		case <-s.pong:
		case err := <-t.failed:
			return err
		case <-patience.C:
			return nil
		}
	}
	return nil
}

// complete reports whether nothing is under way any more.
func (t *traffic) complete() bool {
	var owed uint64
	for _, p := range t.publishers {
		if p.busy() || p.unacknowledged() > 0 {
			return false
		}
		owed += p.sent.Load() * uint64(p.receivers)
	}
	return uint64(t.total.delivered.Load()) == owed
}
