package bench

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync/atomic"
	"time"
)

// Inboxes are durable receivers that are away, and what publishers send to them meanwhile.
type Inboxes struct {
	Receivers  int
	Publishers int
	Messages   int  // of all publishers together
	QoS        byte // 1 or 2
	Size       int  // bytes of a payload, at least MinSize
	Window     int  // messages of a publisher that are not acknowledged
}

func (x *Inboxes) check() error {
	switch {
	case x.Receivers < 1:
		return errors.New("receivers: at least 1")
	case x.Publishers < 1:
		return errors.New("publishers: at least 1")
	case x.Messages < 1:
		return errors.New("messages: at least 1")
	case x.QoS != 1 && x.QoS != 2:
		return errors.New("qos: 1 or 2, as nothing is kept at 0")
	case x.Size < MinSize:
		return fmt.Errorf("size: at least %d bytes, which the checks need", MinSize)
	case x.Window < 1 || x.Window > 65535:
		return errors.New("window: 1 to 65535")
	}
	return nil
}

// A stream is what one publisher sends to one receiver: stream i is from publisher i%Publishers to receiver
// i%Receivers, and every one of them has a stream at least.
func (x *Inboxes) streams() int { return max(x.Receivers, x.Publishers) }

// of is how many messages a stream has.
func (x *Inboxes) of(stream int) int {
	n := x.Messages / x.streams()
	if stream < x.Messages%x.streams() {
		n++
	}
	return n
}

// sends is how many messages a publisher sends: to its streams in turn, which gives each what it is to have.
func (x *Inboxes) sends(publisher int) (n int) {
	for i := publisher; i < x.streams(); i += x.Publishers {
		n += x.of(i)
	}
	return n
}

// gets is how many messages a receiver gets.
func (x *Inboxes) gets(receiver int) (n int) {
	for i := receiver; i < x.streams(); i += x.Receivers {
		n += x.of(i)
	}
	return n
}

// durable are inboxes at brokers.
type durable struct {
	Config
	Inboxes

	accepted  histogram // from PUBLISH to PUBACK or PUBCOMP
	connected histogram
	served    histogram // from CONNECT to the last message
	forgotten atomic.Int64
	received  atomic.Int64
}

func (d *durable) check(connections int) error {
	return errors.Join(d.Config.check(connections), d.Inboxes.check())
}

func (d *durable) receiver(i int) string  { return fmt.Sprintf("%si%d", d.Prefix, i) }
func (d *durable) publisher(i int) string { return fmt.Sprintf("%sp%d", d.Prefix, i) }
func (d *durable) topic(receiver int) string {
	return fmt.Sprintf("bench/%s/i%d", d.Prefix, receiver)
}

// login is how a receiver connects.
func (d *durable) login(durable bool) Login {
	l := d.Login
	l.durable = durable
	return l
}

// open connects the i-th client of its kind.
func (d *durable) open(ctx context.Context, i int, clientID string, buffer int, l Login) (*conn, error) {
	c, err := dial(ctx, d.Brokers[i%len(d.Brokers)], l, buffer)
	if err != nil {
		return nil, err
	}
	defer c.bound(ctx)()
	if err := c.connect(clientID, l); err != nil {
		c.close()
		return nil, err
	}
	return c, nil
}

// prepare has all receivers connect, subscribe, and go.
func (d *durable) prepare(ctx context.Context) error {
	return forEach(ctx, d.Receivers, make(slots, atOnce), func(ctx context.Context, i int) error {
		c, err := d.open(ctx, i, d.receiver(i), smallBuffer, d.login(true))
		if err != nil {
			return err
		}
		defer c.leave()
		defer c.bound(ctx)()
		if c.limits.present {
			return c.wrap(fmt.Errorf("client %s has a session already: choose another prefix", d.receiver(i)))
		}
		return c.subscribe(d.topic(i), d.QoS)
	})
}

// forget ends the sessions of all receivers.
func (d *durable) forget(ctx context.Context) error {
	return forEach(ctx, d.Receivers, make(slots, atOnce), func(ctx context.Context, i int) error {
		c, err := d.open(ctx, i, d.receiver(i), smallBuffer, d.login(false))
		if err != nil {
			return fmt.Errorf("end session: %w", err)
		}
		c.leave()
		return nil
	})
}

// filler sends the messages of one publisher. One goroutine reads and writes.
type filler struct {
	d       *durable
	number  int
	c       *conn
	window  *window
	sentAt  []time.Time // by packet identifier
	next    int
	total   int
	streams int
	acked   int
	payload []byte
	out     []byte
}

// filled is what the publishers have done.
type filled struct {
	sent, accepted int
	before, after  account
}

// fill has the publishers send everything, as fast as it is acknowledged. An interrupted one is no error.
func (d *durable) fill(ctx context.Context) (*filled, error) {
	all := make([]*filler, d.Publishers)
	defer func() {
		for _, f := range all {
			if f != nil {
				f.c.leave()
			}
		}
	}()
	err := forEach(ctx, len(all), make(slots, atOnce), func(ctx context.Context, i int) (err error) {
		all[i], err = d.filler(ctx, i)
		return err
	})
	if err != nil {
		return nil, err
	}
	r := &filled{}
	if r.before, err = takeAccount(d.Processes); err != nil {
		return nil, err
	}
	last := uint64(0)
	stop := everySecond(d.Progress, func(seconds int) string {
		n := d.accepted.count()
		defer func() { last = n }()
		return fmt.Sprintf("%4d s  %8d accepted/s  of %d %d  p99 %s", seconds, n-last, d.Messages, n, milliseconds(d.accepted.percentiles(0.99)[0]))
	})
	err = forEach(ctx, len(all), make(slots, len(all)), func(ctx context.Context, i int) error { return all[i].run(ctx) })
	stop()
	if err != nil && ctx.Err() == nil {
		return nil, err
	}
	r.after, err = takeAccount(d.Processes)
	for _, f := range all {
		r.sent += f.next
		r.accepted += f.acked
	}
	return r, err
}

func (d *durable) filler(ctx context.Context, i int) (*filler, error) {
	c, err := d.open(ctx, i, d.publisher(i), smallBuffer, d.Login)
	if err != nil {
		return nil, err
	}
	if c.limits.maximumQoS < d.QoS {
		c.close()
		return nil, c.wrap(fmt.Errorf("takes no message with more than QoS %d", c.limits.maximumQoS))
	}
	size := min(d.Window, c.limits.receiveMaximum)
	return &filler{
		d: d, number: i, c: c, window: newWindow(size), sentAt: make([]time.Time, size+1),
		total: d.sends(i), streams: (d.streams()-i-1)/d.Publishers + 1, payload: blank(d.Size),
	}, nil
}

// run sends until everything is acknowledged.
func (f *filler) run(ctx context.Context) error {
	defer f.c.bound(ctx)()
	for f.acked < f.total {
		f.send()
		if len(f.out) > 0 {
			if err := f.c.write(f.out); err != nil {
				return fmt.Errorf("publish: %w", err)
			}
			f.out = f.out[:0]
		}
		if err := f.c.nc.SetReadDeadline(time.Now().Add(patience)); err != nil {
			return f.c.wrap(err)
		}
		if err := f.c.fill(); err != nil {
			return fmt.Errorf("wait for acknowledgements: %w", err)
		}
		for {
			p, ok, err := f.c.take()
			if err == nil && ok {
				err = f.answer(p)
			}
			if err != nil {
				return f.c.wrap(err)
			}
			if !ok {
				break
			}
		}
	}
	return nil
}

// send appends to out what the window lets it send.
func (f *filler) send() {
	now := time.Now()
	for f.next < f.total && len(f.out) < maxBatch {
		id := f.window.take(f.d.QoS)
		if id == 0 {
			return
		}
		f.sentAt[id] = now
		stream := f.number + f.next%f.streams*f.d.Publishers
		stamp{publisher: uint32(stream), seq: uint64(f.next / f.streams)}.put(f.payload)
		f.out = appendPublish(f.out, f.c.v, f.d.topic(stream%f.d.Receivers), f.d.QoS, id, f.payload)
		f.next++
	}
}

// answer handles one packet.
func (f *filler) answer(p received) error {
	switch p.first {
	case puback, pubrec, pubcomp:
	default:
		return unexpected(p)
	}
	id, code, err := parseAck(f.c.v, p)
	if err != nil {
		return err
	}
	if code >= 0x80 {
		return &refusedError{"PUBLISH", code}
	}
	if _, err := f.window.ack(p.first, id); err != nil {
		return err
	}
	if p.first == pubrec {
		f.out = appendAck(f.out, pubrel, id)
		return nil
	}
	f.acked++
	f.d.accepted.add(time.Since(f.sentAt[id]))
	return nil
}

// Away is the scenario in which durable receivers are absent while publishers send to them as fast as they are
// acknowledged. It leaves the sessions behind, for Resume with the same Prefix.
type Away struct {
	Config
	Inboxes
}

// Run carries it out. When the context ends it returns what was measured until then.
func (a Away) Run(ctx context.Context) (*Result, error) {
	d := &durable{Config: a.Config, Inboxes: a.Inboxes}
	if err := d.check(d.Publishers); err != nil {
		return nil, err
	}
	begin, err := takeAccount(d.Processes)
	if err != nil {
		return nil, err
	}
	if err := d.prepare(ctx); err != nil {
		return nil, err
	}
	f, err := d.fill(ctx)
	if err != nil {
		return nil, err
	}
	if f.accepted == 0 {
		return nil, errInterrupted
	}
	seconds := f.after.at.Sub(f.before.at).Seconds()
	r := &Result{
		Scenario: "away", Seconds: math.Round(seconds*1000) / 1000,
		Sent: uint64(f.sent), Delivered: uint64(f.accepted), DeliveryRate: tenths(float64(f.accepted) / seconds),
		Unsent: uint64(d.Messages - f.sent), Unacknowledged: uint64(f.sent - f.accepted), Latency: latencies(&d.accepted),
	}
	r.charge(d.Processes, begin, f.before, f.after, int64(f.accepted))
	return r, nil
}
