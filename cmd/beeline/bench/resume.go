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

// Resume is the scenario in which the receivers of Away return and get what waits for them. Its Inboxes and Prefix
// are those of the Away before. It ends their sessions.
type Resume struct {
	Config
	Inboxes

	Rate int // receivers that return in a second; 0: all at once
}

// Storm is the scenario in which durable clients, for which messages wait, return within a time. It ends their
// sessions.
type Storm struct {
	Config
	Inboxes

	Within time.Duration
}

// Run carries it out. When the context ends it returns what was measured until then.
func (r Resume) Run(ctx context.Context) (*Result, error) {
	if r.Rate < 0 {
		return nil, errors.New("rate: not negative")
	}
	d := &durable{Config: r.Config, Inboxes: r.Inboxes}
	if err := d.check(d.Receivers); err != nil {
		return nil, err
	}
	return d.comeBack(ctx, "resume", r.Rate)
}

// Run carries it out. When the context ends while they return, it returns what was measured until then.
func (s Storm) Run(ctx context.Context) (*Result, error) {
	if s.Within <= 0 {
		return nil, errors.New("within: more than 0")
	}
	d := &durable{Config: s.Config, Inboxes: s.Inboxes}
	if err := d.check(max(d.Receivers, d.Publishers)); err != nil {
		return nil, err
	}
	if err := d.prepare(ctx); err != nil {
		return nil, err
	}
	if _, err := d.fill(ctx); err != nil {
		return nil, err
	}
	if ctx.Err() != nil {
		return nil, errInterrupted
	}
	return d.comeBack(ctx, "storm", max(int(float64(d.Receivers)/s.Within.Seconds()), 1))
}

// defaultDrought is how long nothing comes to anybody before what is missing counts as lost.
const defaultDrought = 10 * time.Second

// returning is a run in which the receivers come back.
type returning struct {
	*durable
	all    []*returner
	wg     sync.WaitGroup // the readers
	failed chan error     // 1: why it cannot go on
	ending atomic.Bool
	last   atomic.Int64 // when the last message came, since begin
	begin  time.Time
	open   atomic.Int64  // receivers that have not got everything
	done   chan struct{} // closed when that is none
}

// returner is one receiver. Its goroutine owns it, until that has ended.
type returner struct {
	r      *returning
	number int
	c      *conn // nil: it has not come back
	began  time.Time
	seq    []sequence // by stream: number, number+Receivers, ...
	want   int
	got    int
	bad    int // corrupt
	answer []byte
	pong   chan struct{} // 1
}

// comeBack has all receivers return, so many a second, and get everything.
func (d *durable) comeBack(ctx context.Context, scenario string, rate int) (*Result, error) {
	begin, err := takeAccount(d.Processes)
	if err != nil {
		return nil, err
	}
	r := &returning{durable: d, all: make([]*returner, d.Receivers), failed: make(chan error, 1), done: make(chan struct{}), begin: begin.at}
	r.open.Store(int64(d.Receivers))
	defer r.end()
	if err := r.connectAll(ctx, rate); err != nil {
		return nil, err
	}
	if err := r.await(ctx); err != nil {
		return nil, err
	}
	after, err := takeAccount(d.Processes)
	if err != nil {
		return nil, err
	}
	if d.connected.count() == 0 {
		return nil, errInterrupted
	}
	r.pingAll()
	r.end()
	// Whatever became of this one: the sessions are not to stay.
	if err := d.forget(context.WithoutCancel(ctx)); err != nil {
		return nil, err
	}
	res := r.result(scenario, begin, after)
	if ctx.Err() != nil {
		res.Lost = 0 // nobody has waited for it
	}
	return res, nil
}

// connectAll connects the receivers. Being interrupted is no error.
func (r *returning) connectAll(ctx context.Context, rate int) error {
	turns, end, err := newTurns(rate, atOnce)
	if err != nil {
		return err
	}
	defer end()
	err = forEach(ctx, r.Receivers, turns, func(ctx context.Context, i int) error {
		x := &returner{r: r, number: i, want: r.gets(i), began: time.Now(), pong: make(chan struct{}, 1)}
		x.seq = make([]sequence, (r.streams()-i-1)/r.Receivers+1)
		buffer := min(largeBuffer, max(smallBuffer, (64<<20)/r.Receivers))
		c, err := r.durable.open(ctx, i, r.receiver(i), buffer, r.login(true))
		if err != nil {
			return err
		}
		r.connected.add(time.Since(x.began))
		if !c.limits.present {
			r.forgotten.Add(1)
		}
		x.c, r.all[i] = c, x
		r.wg.Go(func() {
			if err := x.read(); err != nil && !r.ending.Load() {
				select {
				case r.failed <- err:
				default:
				}
			}
		})
		return nil
	})
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// await waits until everybody has got everything, nothing more comes, or the context ends.
func (r *returning) await(ctx context.Context) error {
	last := int64(0)
	defer everySecond(r.Progress, func(seconds int) string {
		n := r.received.Load()
		defer func() { last = n }()
		return fmt.Sprintf("%4d s  %8d received/s  %d of %d served", seconds, n-last, r.served.count(), r.Receivers)
	})()
	drought := cmp.Or(r.quiet, defaultDrought)
	tick := time.NewTicker(drought / 100)
	defer tick.Stop()
	for since := time.Now(); ; {
		before := r.received.Load()
		select {
		case <-r.done:
			return nil
		case <-ctx.Done():
			return nil
		case err := <-r.failed:
			return err
		case <-tick.C:
		}
		if r.received.Load() > before {
			since = time.Now()
		}
		if time.Since(since) > drought {
			return nil
		}
	}
}

// read handles what comes, burst by burst, until the connection ends.
func (x *returner) read() error {
	if x.want == 0 {
		x.isServed()
	}
	for {
		// Messages may have come together with the CONNACK.
		if err := x.burst(); err != nil {
			return err
		}
		if err := x.c.fill(); err != nil {
			return err
		}
	}
}

// burst handles what has been read.
func (x *returner) burst() error {
	x.answer = x.answer[:0]
	before := x.got
	for {
		p, ok, err := x.c.take()
		if err == nil && ok {
			err = x.handle(p)
		}
		if err != nil {
			return x.c.wrap(err)
		}
		if !ok {
			break
		}
	}
	if x.got > before {
		x.r.received.Add(int64(x.got - before))
		x.r.last.Store(int64(time.Since(x.r.begin)))
		if x.got == x.want {
			x.isServed()
		}
	}
	if len(x.answer) == 0 {
		return nil
	}
	return x.c.write(x.answer)
}

func (x *returner) isServed() {
	x.r.served.add(time.Since(x.began))
	if x.r.open.Add(-1) == 0 {
		close(x.r.done)
	}
}

func (x *returner) handle(p received) error {
	switch kind(p.first) {
	case publish:
		m, err := parsePublish(x.c.v, p)
		if err != nil {
			return err
		}
		return x.message(m)
	case pubrel:
		id, _, err := parseAck(x.c.v, p)
		if err != nil {
			return err
		}
		x.answer = appendAck(x.answer, pubcomp, id)
	case pingresp:
		select {
		case x.pong <- struct{}{}:
		default:
		}
	default:
		return unexpected(p)
	}
	return nil
}

func (x *returner) message(m message) error {
	d := x.r.durable
	if m.qos != d.QoS {
		return fmt.Errorf("message with QoS %d, published and subscribed with %d", m.qos, d.QoS)
	}
	x.answer = appendReceipt(x.answer, m)
	st, ok := readStamp(m.payload)
	stream := int(st.publisher)
	if !ok || len(m.payload) != d.Size || string(m.topic) != d.topic(x.number) || stream >= d.streams() ||
		stream%d.Receivers != x.number || st.seq >= uint64(d.of(stream)) {
		x.bad++
		return nil
	}
	if x.seq[stream/d.Receivers].add(st.seq) {
		x.got++
	}
	return nil
}

// pingAll has everybody answer a ping: what had been sent before has come by then.
func (r *returning) pingAll() {
	for _, x := range r.all {
		if x != nil {
			_ = x.c.write([]byte{pingreq, 0}) // that it fails shows in the read
		}
	}
	patience := time.NewTimer(pingPatience)
	defer patience.Stop()
	for _, x := range r.all {
		if x == nil {
			continue
		}
		select {
		case <-x.pong:
		case <-patience.C:
			return
		}
	}
}

// end closes all connections and waits for all goroutines. It may be called again.
func (r *returning) end() {
	if r.ending.Swap(true) {
		return
	}
	for _, x := range r.all {
		if x != nil {
			x.c.leave()
		}
	}
	r.wg.Wait()
}

// result sums up. All readers have ended.
func (r *returning) result(scenario string, begin, after account) *Result {
	seconds := time.Duration(r.last.Load()).Seconds()
	n := r.received.Load()
	res := &Result{
		Scenario: scenario, Seconds: math.Round(seconds*1000) / 1000,
		Sent: uint64(r.Messages), Delivered: uint64(n), Lost: uint64(r.Messages) - uint64(n), Forgotten: uint64(r.forgotten.Load()),
		Latency: latencies(&r.connected), Served: latencies(&r.served), Clients: r.served.count(),
	}
	if seconds > 0 {
		res.DeliveryRate = tenths(float64(n) / seconds)
	}
	for _, x := range r.all {
		if x == nil {
			continue
		}
		res.Corrupt += uint64(x.bad)
		for i := range x.seq {
			res.Doubled += x.seq[i].doubled
			res.OutOfOrder += x.seq[i].late
		}
	}
	operations := n
	if scenario == "storm" {
		operations = int64(res.Clients)
	}
	res.charge(r.Processes, begin, begin, after, operations)
	return res
}
