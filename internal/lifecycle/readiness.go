package lifecycle

import (
	"context"
	"sync"
	"time"
)

// Readiness knows what a process still waits for. The zero value has no conditions and is ready.
type Readiness struct {
	mu         sync.Mutex
	conditions []namedCheck
}

type namedCheck struct {
	name  string
	check func() error
}

// Reason names a condition that is not met, and says why.
type Reason struct {
	Condition string
	Why       error
}

// String is the line that /readyz shows.
func (r Reason) String() string { return r.Condition + ": " + r.Why.Error() }

// Add adds a condition that is met while check returns nil. The check is called whenever somebody asks: it must
// be quick and safe for use by several goroutines.
func (r *Readiness) Add(name string, check func() error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.conditions = append(r.conditions, namedCheck{name, check})
}

// Condition adds a condition that is set by its owner. It is not met to begin with.
func (r *Readiness) Condition(name string) *Condition {
	c := &Condition{err: errNotYet}
	r.Add(name, c.check)
	return c
}

// NotReady returns the conditions that are not met, in the order in which they were added; none means ready.
func (r *Readiness) NotReady() []Reason {
	r.mu.Lock()
	conditions := r.conditions[:len(r.conditions):len(r.conditions)]
	r.mu.Unlock()
	var reasons []Reason
	for _, c := range conditions {
		if err := c.check(); err != nil {
			reasons = append(reasons, Reason{c.name, err})
		}
	}
	return reasons
}

const (
	errNotYet   = state("not yet")
	errStopping = state("stopping")
)

// state is an error that is a constant.
type state string

func (s state) Error() string { return string(s) }

// Condition is something that a process waits for before it is ready.
type Condition struct {
	mu  sync.Mutex
	err error
}

// Met says that the condition is met.
func (c *Condition) Met() { c.set(nil) }

// NotMet says that the condition is not met (any more), and why.
func (c *Condition) NotMet(why string) { c.set(state(why)) }

func (c *Condition) set(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.err = err
}

func (c *Condition) check() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// Part makes a part of the condition: met while the part runs. As the last part of a process it makes the
// process ready when everything has started, and not ready before anything stops; it then lets drain pass, so
// that those who look at readiness stop sending new work.
func (c *Condition) Part(name string, drain time.Duration) Part {
	return Simple(name, func(ctx context.Context) error {
		c.Met()
		<-ctx.Done()
		c.set(errStopping)
		time.Sleep(drain)
		return nil
	})
}
