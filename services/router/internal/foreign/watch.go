package foreign

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// showDelay is how long a change waits for the rest of a round, so that a round of quick checks is one change and a
// slow node does not hide what is known of the others.
const showDelay = 100 * time.Millisecond

// watch is the loop that keeps one cluster current. A round looks up all names, then connects to all nodes that are
// to be checked. Rounds do not overlap. Those of a static list follow each other at an interval; EMQX's follow its
// answers, and are made without them when those take long.
type watch struct {
	definition Definition
	deps       Deps
	on         func(View)

	interval, timeout time.Duration // of rounds and polls; of one check or look-up

	// The following belong to run.
	state  *state
	polls  <-chan answer  // nil for a static list
	work   <-chan outcome // of the step that is under way, closed at its end; nil between rounds
	step   int            // of the round
	again  bool           // an answer came during the round
	next   *time.Timer    // begins a round
	flush  *time.Timer    // shows what is known in the middle of a round
	queued bool           // flush runs
	shown  *View
}

// answer is what came of a poll.
type answer struct {
	nodes []listed
	err   error
}

// outcome tells the state what has been found out.
type outcome func(*state)

func newWatch(d Definition, deps Deps, on func(View)) *watch {
	w := &watch{definition: d, deps: deps, on: on, state: newState(d), timeout: time.Duration(defaultTimeout)}
	if d.Kind == KindEMQX {
		w.interval = time.Duration(d.EMQX.PollInterval)
	} else {
		w.interval, w.timeout = time.Duration(d.Static.CheckInterval), time.Duration(d.Static.CheckTimeout)
	}
	return w
}

func (w *watch) run(ctx context.Context) {
	var owned sync.WaitGroup
	defer owned.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	w.next, w.flush = stopped(), stopped()
	defer w.next.Stop()
	defer w.flush.Stop()
	if w.definition.Kind == KindEMQX {
		polls := make(chan answer)
		w.polls = polls
		owned.Go(func() { w.poll(ctx, polls) })
	} else {
		w.begin(ctx, &owned)
	}
	for {
		select {
		case <-ctx.Done():
			return
		case a := <-w.polls:
			w.state.polled(a.nodes, a.err)
			if w.again = w.work != nil; !w.again {
				w.begin(ctx, &owned)
			}
		case found, more := <-w.work:
			if !more {
				w.advance(ctx, &owned)
				continue
			}
			found(w.state)
			if !w.queued {
				w.queued = true
				w.flush.Reset(showDelay)
			}
		case <-w.next.C:
			w.begin(ctx, &owned)
		case <-w.flush.C:
			w.show(ctx)
		}
	}
}

func stopped() *time.Timer {
	t := time.NewTimer(time.Hour)
	t.Stop()
	return t
}

// poll asks EMQX, again and again.
func (w *watch) poll(ctx context.Context, polls chan<- answer) {
	p := &poller{config: *w.definition.EMQX, deps: w.deps}
	for ctx.Err() == nil {
		nodes, err := p.poll(ctx)
		if ctx.Err() != nil {
			return
		}
		w.deps.Metrics.polled(w.definition.Name, err)
		select {
		case polls <- answer{nodes, err}:
		case <-ctx.Done():
			return
		}
		t := time.NewTimer(w.deps.Jitter(w.interval))
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
		}
	}
}

// The steps of a round.
const (
	resolving = iota + 1
	checking
	resting
)

func (w *watch) begin(ctx context.Context, owned *sync.WaitGroup) {
	w.next.Stop()
	w.step = 0
	w.advance(ctx, owned)
}

// advance goes on to the next step of the round that has something to do, or ends the round.
func (w *watch) advance(ctx context.Context, owned *sync.WaitGroup) {
	for w.work = nil; w.work == nil; {
		w.step++
		switch w.step {
		case resolving:
			w.work = each(ctx, owned, w.state.hosts(), w.resolve)
		case checking:
			w.work = each(ctx, owned, w.state.due(), w.check)
		case resting:
			w.show(ctx)
			if w.again {
				w.again, w.step = false, 0
				continue
			}
			wait := w.deps.Jitter(w.interval)
			if w.polls != nil {
				wait = 2 * w.interval // EMQX should have answered by then, or refused to
			}
			w.next.Reset(wait)
			return
		}
	}
}

func (w *watch) resolve(ctx context.Context, host string) outcome {
	ctx, cancel := context.WithTimeout(ctx, w.timeout)
	defer cancel()
	addrs, err := w.deps.Resolver.LookupNetIP(ctx, "ip", host)
	w.deps.Metrics.resolved(w.definition.Name, err)
	addrs = slices.Clone(addrs)
	return func(s *state) { s.resolved(host, addrs, err) }
}

func (w *watch) check(ctx context.Context, address string) outcome {
	limited, cancel := context.WithTimeout(ctx, w.timeout)
	defer cancel()
	conn, err := w.deps.Dial(limited, "tcp", address)
	if err == nil {
		_ = conn.Close()
	} else if ctx.Err() == nil {
		w.deps.Logger.DebugContext(ctx, "node of a foreign cluster does not answer",
			slog.String("cluster", w.definition.Name), slog.String("address", address), slog.Any("error", err))
	}
	w.deps.Metrics.checked(w.definition.Name, err)
	return func(s *state) { s.checked(address, err == nil) }
}

// show hands the view out if it is another than the last.
func (w *watch) show(ctx context.Context) {
	w.flush.Stop()
	w.queued = false
	if ctx.Err() != nil {
		return // what failed lately may have failed for that reason
	}
	v := w.state.view()
	last := View{}
	if w.shown != nil {
		last = *w.shown
	}
	if w.shown != nil && slices.Equal(v.Nodes, last.Nodes) && v.Known == last.Known && text(v.Err) == text(last.Err) {
		return
	}
	v.Since = last.Since
	if w.shown == nil || (v.Err == nil) != (last.Err == nil) {
		v.Since = time.Now()
	}
	w.shown = &v
	w.log(ctx, last, v)
	w.on(v)
}

func (w *watch) log(ctx context.Context, last, v View) {
	logger := w.deps.Logger.With(slog.String("cluster", w.definition.Name))
	switch {
	case v.Err != nil && text(v.Err) != text(last.Err):
		logger.WarnContext(ctx, "foreign cluster cannot be asked, what was known of it stands", slog.Any("error", v.Err))
	case v.Err == nil && last.Err != nil:
		logger.InfoContext(ctx, "foreign cluster can be asked again")
	}
	before := make(map[string]bool, len(last.Nodes))
	for _, n := range last.Nodes {
		before[n.ID] = n.Active
	}
	for _, n := range v.Nodes {
		was, known := before[n.ID]
		switch {
		case !n.Active && (was || !known):
			logger.WarnContext(ctx, "node of a foreign cluster is not active", slog.String("node", n.ID))
		case n.Active && !was:
			logger.InfoContext(ctx, "node of a foreign cluster is active", slog.String("node", n.ID))
		}
		delete(before, n.ID)
	}
	for id := range before {
		logger.InfoContext(ctx, "node of a foreign cluster is gone", slog.String("node", id))
	}
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// each calls do for every item, some at a time, and sends what it returns; the channel is closed when all is sent or
// the context is done. It is nil when there is nothing to do.
func each(
	ctx context.Context, owned *sync.WaitGroup, items []string, do func(context.Context, string) outcome,
) <-chan outcome {
	if len(items) == 0 {
		return nil
	}
	out := make(chan outcome)
	var begun, ended atomic.Int64
	workers := min(atOnce, len(items))
	for range workers {
		owned.Go(func() {
			defer func() {
				if ended.Add(1) == int64(workers) {
					close(out)
				}
			}()
			for i := begun.Add(1) - 1; i < int64(len(items)); i = begun.Add(1) - 1 {
				select {
				case out <- do(ctx, items[i]):
				case <-ctx.Done():
					return
				}
			}
		})
	}
	return out
}

func jitter(d time.Duration) time.Duration { return d*3/4 + rand.N(d/2+1) }
