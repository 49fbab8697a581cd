// Package trace shows what a process does with messages to whoever follows some of them at the moment. Nobody usually
// does: then a step costs one look at an atomic, and the place that takes it makes nothing for it.
//
// It decides nothing and keeps nothing. A Tap is safe for concurrent use; taking a step never blocks: a follower that
// does not keep up is told how many were left out.
package trace

import (
	"errors"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/beeline-mqtt/beeline/internal/message"
	"github.com/beeline-mqtt/beeline/internal/topic"
)

// Kind is what a process has done with a message.
type Kind byte

// The steps of a message.
const (
	// Received: taken from its publisher.
	Received Kind = iota + 1
	// Forwarded: put on the link to another process.
	Forwarded
	// Arrived: came over a link.
	Arrived
	// Delivered: handed to a client.
	Delivered
	// Receipt: another process has given its receipt.
	Receipt
	// Answered: its publisher was told the outcome.
	Answered
	// Dropped: it went no further.
	Dropped
)

// Step is one step of one message.
type Step struct {
	Time      time.Time
	Kind      Kind
	ID        message.ID
	Topic     string
	Publisher string
	// Other is the client of Delivered, and of Dropped where it was for one; the other process of Forwarded, Arrived and
	// Receipt.
	Other string
	// Detail is the outcome, or why a message was dropped.
	Detail string
	// LeftOut counts the steps before this one that its follower was too slow for.
	LeftOut uint64
}

// Filter is what is followed; the zero Filter is everything.
type Filter struct {
	// Client: messages that it publishes, that are addressed to it, or of which a step names it.
	Client string
	// Topic is a topic filter. It may match direct addresses, which no subscription does.
	Topic string
}

// wants reports whether a step is asked for.
func (f Filter) wants(k Kind, m *message.Message, other string) bool {
	if f.Topic != "" && !matches(f.Topic, m.Topic) {
		return false
	}
	if f.Client == "" || m.Publisher == f.Client {
		return true
	}
	if (k == Delivered || k == Dropped) && other == f.Client {
		return true
	}
	if !topic.IsDirect(m.Topic) {
		return false
	}
	to, err := topic.ParseDirect(m.Topic)
	return err == nil && to == f.Client
}

// matches is topic.Match, for addresses of clients and users, too.
func matches(filter, name string) bool {
	if !topic.IsAddressed(name) {
		return topic.Match(filter, name)
	}
	for _, prefix := range [...]string{topic.DirectPrefix, topic.UserPrefix} {
		rest, ok := strings.CutPrefix(filter, prefix)
		to, is := strings.CutPrefix(name, prefix)
		if ok && is {
			return topic.Match("x/"+rest, "x/"+to) // the rest may begin with anything
		}
	}
	return false
}

const (
	// mostFollowers follow at once.
	mostFollowers = 16
	// mostSteps wait for one follower, with texts of mostBytes.
	mostSteps = 4096
	mostBytes = 4 << 20
)

// Why nobody can follow.
var (
	// ErrTooMany: as many follow as may.
	ErrTooMany = errors.New("as many follow messages here as may")
	// ErrClosed: the process is about to end.
	ErrClosed = errors.New("the process is stopping")
)

// Tap is where the steps of one process go. A nil Tap has nobody who follows.
type Tap struct {
	followers   atomic.Pointer[[]*Follower] // nil: nobody
	incarnation atomic.Pointer[string]

	mu     sync.Mutex // guards changes of followers, and closed
	closed bool
}

// New returns a Tap that nobody follows.
func New() *Tap { return new(Tap) }

// Lives says which incarnation takes the steps from now on.
func (t *Tap) Lives(incarnation string) {
	if t != nil {
		t.incarnation.Store(&incarnation)
	}
}

// Incarnation is the one that takes the steps; empty before the first.
func (t *Tap) Incarnation() string {
	if i := t.incarnation.Load(); i != nil {
		return *i
	}
	return ""
}

// On reports whether anybody follows anything. It is to be asked before Step, on every path that many messages take.
func (t *Tap) On() bool { return t != nil && t.followers.Load() != nil }

// Step shows a step to those who follow m.
func (t *Tap) Step(k Kind, m *message.Message, other, detail string) {
	if t == nil {
		return
	}
	all := t.followers.Load()
	if all == nil {
		return
	}
	for _, f := range *all {
		if f.filter.wants(k, m, other) {
			f.put(k, m, other, detail)
		}
	}
}

// Follow begins to follow messages, until Leave. The error is ErrTooMany or ErrClosed.
func (t *Tap) Follow(f Filter) (*Follower, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	var all []*Follower
	if p := t.followers.Load(); p != nil {
		all = *p
	}
	switch {
	case t.closed:
		return nil, ErrClosed
	case len(all) >= mostFollowers:
		return nil, ErrTooMany
	}
	x := &Follower{tap: t, filter: f, filled: make(chan struct{}, 1), over: make(chan struct{})}
	all = append(slices.Clip(all), x)
	t.followers.Store(&all)
	return x, nil
}

// Close ends all following: nobody can follow any more.
func (t *Tap) Close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.closed = true
	if all := t.followers.Swap(nil); all != nil {
		for _, f := range *all {
			close(f.over)
		}
	}
}

// Follower gets the steps of some messages.
type Follower struct {
	tap    *Tap
	filter Filter
	filled chan struct{} // signal: there are steps
	over   chan struct{} // closed by the tap's Close

	mu      sync.Mutex // guards the following
	steps   []Step
	bytes   int
	leftOut uint64
}

func (f *Follower) put(k Kind, m *message.Message, other, detail string) {
	f.mu.Lock()
	if len(f.steps) >= mostSteps || f.bytes > mostBytes {
		f.leftOut++
		f.mu.Unlock()
		return
	}
	// Copies: the texts may be part of a whole packet.
	f.steps = append(f.steps, Step{
		Time: time.Now(), Kind: k, ID: m.ID, Topic: strings.Clone(m.Topic), Publisher: strings.Clone(m.Publisher),
		Other: other, Detail: detail, LeftOut: f.leftOut,
	})
	f.bytes += len(m.Topic) + len(m.Publisher)
	f.leftOut = 0
	f.mu.Unlock()
	select {
	case f.filled <- struct{}{}:
	default: // it has been told
	}
}

// Filled tells that there may be steps to Take; Over is closed when there will be none any more.
func (f *Follower) Filled() <-chan struct{} { return f.filled }

// Over is closed when the tap has been.
func (f *Follower) Over() <-chan struct{} { return f.over }

// Take returns what has happened since the last call, which is the caller's.
func (f *Follower) Take() []Step {
	f.mu.Lock()
	defer f.mu.Unlock()
	steps := f.steps
	f.steps, f.bytes = nil, 0
	return steps
}

// Leave ends the following.
func (f *Follower) Leave() {
	t := f.tap
	t.mu.Lock()
	defer t.mu.Unlock()
	p := t.followers.Load()
	if p == nil {
		return
	}
	all := slices.DeleteFunc(slices.Clone(*p), func(x *Follower) bool { return x == f })
	if len(all) == 0 {
		t.followers.Store(nil)
		return
	}
	t.followers.Store(&all)
}
