package session

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/beeline-mqtt/beeline/internal/cluster"
	"github.com/beeline-mqtt/beeline/services/session/internal/claims"
	"github.com/beeline-mqtt/beeline/services/session/internal/groups"
	"github.com/beeline-mqtt/beeline/services/session/internal/presence"
)

// sweepRetry is the pause after a sweep that broke off.
const sweepRetry = 5 * time.Second

// term is the state of an active instance.
type term struct {
	session   *Session
	instance  string
	recorder  *cluster.Recorder
	directory *cluster.Directory
	// kept is nil in tests of the term alone.
	kept kept
	// base and a revision of etcd make an epoch.
	base uint64
	// fail ends the term.
	fail context.CancelCauseFunc
	// users are the goroutines of streams.
	users sync.WaitGroup
	// over is closed when the term has ended.
	over chan struct{}
	// sweep, wake and bury are signals: they hold one.
	sweep chan struct{}
	wake  chan struct{}
	bury  chan struct{}
	// presence changes with mu held; recovered is closed when gateways have shown who is connected.
	presence  *board
	recovered chan struct{}

	// mu guards the following. Under it nothing waits: frames are appended to streams' outboxes, no more.
	mu      sync.Mutex
	queue   *claims.Queue // nil before the first view
	streams map[string]*stream
	view    cluster.View
	armed   time.Time // when run wakes up by itself; zero: not
	// publishes numbers what gateways are given to publish.
	publishes uint64
	// userNames are those of transient clients; members are changes of groups.
	userNames *groups.Users
	members   members
	ended     bool
}

func newTerm(s *Session, i *cluster.Incarnation) *term {
	return &term{
		session:   s,
		instance:  i.ID(),
		directory: cluster.NewDirectory(s.cluster, nil),
		sweep:     make(chan struct{}, 1),
		wake:      make(chan struct{}, 1),
		bury:      make(chan struct{}, 1),
		presence:  newBoard(i.ID(), s.config.PresenceHistory, s.metrics.presence),
		recovered: make(chan struct{}),
		streams:   map[string]*stream{},
		userNames: groups.NewUsers(),
		over:      make(chan struct{}),
		members:   members{waiting: map[uint64]*spreading{}},
	}
}

// serve opens what is kept, and runs the term until the context is done or the term fails, which is the error.
func (t *term) serve(ctx context.Context, i *cluster.Incarnation, c cluster.Term, keep keep) error {
	ctx, t.fail = context.WithCancelCause(ctx)
	defer t.fail(nil)
	var err error
	if t.kept, t.base, err = keep(ctx, t, c.Revision); err != nil {
		return fmt.Errorf("open what is stored: %w", err)
	}
	t.recorder = cluster.NewRecorder(i, c, cluster.RecorderConfig{Base: t.base})
	t.run(ctx, t.session.setTerm)
	err = context.Cause(ctx)
	if errors.Is(err, context.Canceled) {
		err = nil
	}
	t.users.Wait()
	return errors.Join(err, t.kept.Close())
}

// run serves until the context is done. publish is called with the term when gateways may attach, and with nil
// at the end.
func (t *term) run(ctx context.Context, publish func(*term)) {
	var wg sync.WaitGroup
	wg.Go(func() { _ = t.recorder.Run(ctx) })
	wg.Go(func() {
		_ = cluster.WatchMembers(ctx, t.session.cluster, cluster.Gateway, func(v cluster.View) { t.setView(v, publish) })
	})
	wg.Go(func() { t.keepSwept(ctx) })
	wg.Go(func() { t.keepBuried(ctx) })
	t.tick(ctx)
	publish(nil)

	t.mu.Lock()
	t.ended = true
	close(t.over)
	streams := t.streams
	t.streams = map[string]*stream{}
	t.mu.Unlock()
	for _, st := range streams {
		st.end(t.session.refusal())
	}
	wg.Wait()
	t.directory.Close()
}

func (t *term) setView(v cluster.View, publish func(*term)) {
	ids := make([]string, len(v.Members))
	for i, m := range v.Members {
		ids[i] = m.ID
	}
	epoch := t.base + uint64(v.Revision)
	t.mu.Lock()
	first := t.queue == nil
	if first {
		t.queue = claims.New(time.Now(), t.claims(), ids, int64(epoch))
	}
	died := first
	for _, m := range t.view.Members {
		if _, lives := v.Find(m.ID); !lives {
			died = true
		}
	}
	t.view = v
	t.presence.change(func(b *presence.Board) {
		if b.View(ids, epoch) {
			signal(t.bury)
		}
	})
	t.userNames.Living(ids)
	t.members.living(v)
	for _, st := range t.streams {
		if t.outlived(st) {
			died = true
			st.end(errDead)
		}
	}
	if t.kept != nil {
		// Before the queue goes on to what a death allows, so that what is to be opened waits for the adoption.
		t.kept.View(ids, epoch)
	}
	t.mu.Unlock()
	t.step(func(q *claims.Queue, now time.Time) { q.View(now, ids, int64(epoch)) })
	if first {
		publish(t)
	}
	if died {
		signal(t.sweep)
	}
}

func (t *term) claims() claims.Config {
	c := t.session.config.claims()
	if t.kept != nil {
		c.Look = t.kept.Look
	}
	return c
}

// outlived reports whether the gateway of st has died. A view is behind at times: it knows only about gateways that
// were seen alive before it was taken, and one that joined and died between two views is in neither. With mu held.
func (t *term) outlived(st *stream) bool {
	_, lives := t.view.Find(st.gateway)
	return !lives && t.view.Revision >= st.aliveAt
}

// step tells the queue something and does what it wants done.
func (t *term) step(tell func(*claims.Queue, time.Time)) {
	t.mu.Lock()
	if t.queue == nil || t.ended {
		t.mu.Unlock()
		return
	}
	tell(t.queue, time.Now())
	effects := t.queue.Effects()
	for _, e := range effects {
		t.send(e)
	}
	if !t.queue.Recovering() && !closed(t.recovered) {
		close(t.recovered)
	}
	t.session.metrics.count(t.queue.Counters())
	next, due := t.queue.Next()
	if due && (t.armed.IsZero() || next.Before(t.armed)) {
		t.armed = next
		signal(t.wake)
	}
	t.mu.Unlock()

	for _, e := range effects {
		t.begin(e)
	}
}

// send tells gateways. It needs mu.
func (t *term) send(e claims.Effect) {
	m := t.session.metrics
	switch e.Kind {
	case claims.Claimed:
		m.latency.Observe(e.Took.Seconds())
		t.seen(e)
	case claims.Superseded:
		m.refusals.WithLabelValues("superseded").Inc()
	case claims.HolderDead:
		m.refusals.WithLabelValues("incarnation_dead").Inc()
	case claims.Unavailable:
		m.refusals.WithLabelValues("unavailable").Inc()
	case claims.Evict, claims.Left:
	case claims.Release:
		t.userNames.Gone(e.Client, e.Gateway)
		return
	case claims.Record, claims.Open, claims.Away:
		return
	}
	st := t.streams[e.Gateway]
	if st == nil || e.Kind != claims.Evict && st.number != e.Request.Stream {
		return
	}
	if e.Kind == claims.Claimed {
		t.connected(e)
	}
	st.push(t.response(e))
}

// tick calls the queue when something is due.
func (t *term) tick(ctx context.Context) {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.wake:
		case <-timer.C:
			t.mu.Lock()
			t.armed = time.Time{}
			t.mu.Unlock()
			t.step(func(q *claims.Queue, now time.Time) { q.Tick(now) })
		}
		t.mu.Lock()
		armed := t.armed
		t.mu.Unlock()
		if armed.IsZero() {
			timer.Reset(time.Hour)
		} else {
			timer.Reset(time.Until(armed))
		}
	}
}

// keepSwept deletes dead gateways' records: once at first, then after each death.
func (t *term) keepSwept(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.sweep:
		}
		n, err := t.recorder.Sweep(ctx, t.dead, t.session.config.SweepRate)
		if ctx.Err() != nil {
			return
		}
		if err == nil {
			t.session.deps.Logger.InfoContext(ctx, "swept records of dead gateways", slog.Int("records", n))
			continue
		}
		t.session.deps.Logger.WarnContext(ctx, "sweep broke off", slog.Int("records", n), slog.Any("error", err))
		wait := time.NewTimer(sweepRetry)
		select {
		case <-ctx.Done():
		case <-wait.C:
		}
		wait.Stop()
		signal(t.sweep)
	}
}

func (t *term) dead(holder string, epoch uint64) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	_, alive := t.view.Find(holder)
	return !alive && int64(epoch) <= t.view.Revision
}

func signal(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
