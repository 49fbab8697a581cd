package broker

import (
	"context"
	"slices"
	"sync"

	"github.com/beeline-mqtt/beeline/internal/journal"
	"github.com/beeline-mqtt/beeline/internal/message"
	"github.com/beeline-mqtt/beeline/internal/topic"
	"github.com/beeline-mqtt/beeline/services/gateway/internal/lease"
)

// store is the session service to one gateway. Like the real one it answers writes in order, on a goroutine of its own.
type store struct{ g *gateway }

func (s store) Room() bool { return !s.g.full.Load() }

func (s store) Write(w journal.Write, done func([]journal.LeftOut, error)) {
	r := s.g.registry
	r.mu.Lock()
	defer r.mu.Unlock()
	k := r.sessions[w.Client]
	if k == nil || k.id != w.Session || k.holder != s.g.id || k.epoch != w.Epoch {
		s.g.clerk.do(func() { done(nil, lease.ErrFenced) })
		return
	}
	r.written += len(w.Changes)
	var leftOut []journal.LeftOut
	for _, c := range w.Changes {
		if c.Kind == journal.Append && r.diskFull {
			leftOut = append(leftOut, journal.LeftOut{Position: c.Entry.Position})
		} else if k.apply(c) {
			leftOut = append(leftOut, journal.LeftOut{Position: c.Entry.Position, Duplicate: true})
		}
	}
	s.g.clerk.do(func() { done(leftOut, nil) })
}

func (s store) ReadInbox(
	_ context.Context, id string, session journal.SessionID, epoch uint64, after journal.Position, most, _ uint32,
) ([]journal.Entry, error) {
	r := s.g.registry
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := s.g.failing; err != nil {
		return nil, err
	}
	k := r.sessions[id]
	if k == nil || k.id != session || k.holder != s.g.id || k.epoch != epoch {
		return nil, lease.ErrFenced
	}
	var page []journal.Entry
	for _, e := range k.entries {
		if e.Position > after && len(page) < int(most) {
			page = append(page, e)
		}
	}
	return page, nil
}

func (s store) Retain(m *message.Message, done func(uint64, error)) {
	r := s.g.registry
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, had := r.retained[m.Topic]; !had && len(r.retained) >= r.mostRetained {
		s.g.clerk.do(func() { done(0, lease.ErrQuota) })
		return
	}
	r.version++
	version := r.version
	if len(m.Payload) == 0 {
		delete(r.retained, m.Topic)
	} else {
		r.retained[m.Topic] = lease.Retained{Message: m, Version: version}
	}
	s.g.clerk.do(func() { done(version, nil) })
}

func (s store) ReadRetained(_ context.Context, filter string, cursor []byte, most uint32) ([]lease.Retained, []byte, error) {
	r := s.g.registry
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := s.g.failing; err != nil {
		return nil, nil, err
	}
	var names []string
	for name := range r.retained {
		if topic.Match(filter, name) && name > string(cursor) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	var next []byte
	if len(names) > int(most) {
		names = names[:most]
		next = []byte(names[most-1])
	}
	var page []lease.Retained
	for _, name := range names {
		page = append(page, r.retained[name])
	}
	return page, next, nil
}

// clerk calls functions one after another on a goroutine of its own; while it is held it does not.
type clerk struct {
	wake chan struct{}

	mu   sync.Mutex
	todo []func()
	held bool
}

func (c *clerk) do(f func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.todo = append(c.todo, f)
	c.nudge()
}

func (c *clerk) nudge() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

func (c *clerk) hold(yes bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.held = yes
	c.nudge()
}

func (c *clerk) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-c.wake:
		}
		c.mu.Lock()
		var todo []func()
		if !c.held {
			todo, c.todo = c.todo, nil
		}
		c.mu.Unlock()
		for _, f := range todo {
			f()
		}
	}
}
