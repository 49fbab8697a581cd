// Package lifecycle starts the parts of a process in order, stops them in the reverse order, and says what of
// the process is not ready yet.
//
// It owns the goroutine of every part, and waits for it. It does not take signals: main turns those into the
// end of the context that it hands to Run. Run is called once by one goroutine; Readiness and Condition may be
// used from any.
package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// Errors that Run returns, wrapped with the name of the part.
var (
	// ErrEnded says that a part ended without an error although nobody had told it to.
	ErrEnded = errors.New("ended before it was told to")
	// ErrAbandoned says that a part was still running when the time for stopping was over.
	ErrAbandoned = errors.New("did not stop in time")
)

// Part is one thing that runs as long as the process does.
type Part struct {
	// Name is used in errors.
	Name string
	// Run does the work of the part until ctx ends, then cleans up and returns. It calls started when the
	// parts after it may rely on it; only the first call counts. When it returns before ctx has ended, all
	// parts are stopped. The error of a context that ended because the part was told to stop is none.
	Run func(ctx context.Context, started func()) error
}

// Simple makes a part of a function that has no start-up for others to wait for.
func Simple(name string, run func(ctx context.Context) error) Part {
	return Part{Name: name, Run: func(ctx context.Context, started func()) error {
		started()
		return run(ctx)
	}}
}

// Run starts the parts in order, each when the one before has started, and runs them until ctx ends or one of
// them does. Then it stops them in reverse order, each when the one after it has returned, so that a part can
// use those before it to the end.
//
// Stopping takes at most grace, and a tenth of it more: when grace is over, all parts that still run are told
// to stop together, and those that have not returned after the tenth are named in the error and left behind.
// The error is nil when ctx ended and every part stopped without one; otherwise it joins those of all parts,
// the part that ended first coming first.
func Run(ctx context.Context, grace time.Duration, parts ...Part) error {
	r := &run{ended: make(chan *running, len(parts))}
	for _, p := range parts {
		if ctx.Err() != nil || !r.start(ctx, p) {
			break
		}
	}
	if r.first == nil {
		select {
		case <-ctx.Done():
		case r.first = <-r.ended:
		}
	}
	return r.stop(ctx, grace)
}

// run is the state of one call of Run.
type run struct {
	parts []*running
	first *running      // the part that ended without being told to
	ended chan *running // has room for every part: nobody waits to say that it has ended
}

// running is a part that has been started.
type running struct {
	name   string
	cancel context.CancelFunc
	done   chan struct{}
	err    error // set before done is closed
}

// start starts p and waits until it has started. It reports whether the next part may start.
func (r *run) start(ctx context.Context, p Part) bool {
	// The parts must not end all at once when ctx does.
	partCtx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	s := &running{name: p.Name, cancel: cancel, done: make(chan struct{})}
	r.parts = append(r.parts, s)
	up := make(chan struct{})
	go func() {
		err := p.Run(partCtx, sync.OnceFunc(func() { close(up) }))
		switch told := partCtx.Err() != nil; {
		case told && errors.Is(err, context.Canceled):
			err = nil
		case !told && err == nil:
			err = ErrEnded
		}
		s.err = err
		r.ended <- s
		close(s.done)
	}()
	select {
	case <-up:
	case <-ctx.Done():
	case r.first = <-r.ended:
	}
	return r.first == nil
}

// stop stops what runs, in reverse order, and joins the errors.
func (r *run) stop(ctx context.Context, grace time.Duration) error {
	deadline, cancel := context.WithTimeout(context.WithoutCancel(ctx), grace)
	defer cancel()
	for i := len(r.parts) - 1; i >= 0 && deadline.Err() == nil; i-- {
		r.parts[i].cancel()
		select {
		case <-r.parts[i].done:
		case <-deadline.Done():
		}
	}
	last, cancelLast := context.WithTimeout(context.WithoutCancel(ctx), grace/10)
	defer cancelLast()
	for _, p := range r.parts {
		p.cancel()
	}
	var errs []error
	if r.first != nil {
		errs = append(errs, fmt.Errorf("%s: %w", r.first.name, r.first.err))
	}
	for _, p := range r.parts {
		if p == r.first {
			continue
		}
		if err := p.result(last); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", p.name, err))
		}
	}
	return errors.Join(errs...)
}

// result waits for the part's error until last ends.
func (p *running) result(last context.Context) error {
	select {
	case <-p.done:
		return p.err
	default:
	}
	select {
	case <-p.done:
		return p.err
	case <-last.Done():
		return ErrAbandoned
	}
}
