// Package storetest is the contract of the store as tests, which every engine passes.
package storetest

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/beeline-mqtt/beeline/internal/journal"
	"github.com/beeline-mqtt/beeline/internal/message"
	"github.com/beeline-mqtt/beeline/services/session/internal/store"
)

// Engine is one store with everything around it. What an engine does not offer is nil, and not tested.
type Engine struct {
	// Open opens the store: the first time a new one, then what Close or Crash has left.
	Open func() (store.Store, error)
	// Now is the clock by which the engine goes. Advance moves it, and returns when the engine has done what it does
	// from time to time.
	Now     func() time.Time
	Advance func(time.Duration)
	// Crash ends the open store, if there is one, as a power cut does.
	Crash func()
	// Hold keeps the disk from completing any sync until release is called.
	Hold func() (release func())
	// Fill makes the disk full, or gives it room again.
	Fill func(full bool)
	// Break makes every write to the disk fail from now on.
	Break func()
	// End gives up what the engine has around its store.
	End func()
}

// New makes an engine whose stores have the given limits.
type New func(limits store.Limits) *Engine

// Run runs the suite.
func Run(t *testing.T, engine New) {
	t.Helper()
	for _, group := range []struct {
		name  string
		tests []test
	}{
		{"sessions", sessionTests()},
		{"inbox", inboxTests()},
		{"bounds", boundTests()},
		{"retained", retainedTests()},
		{"groups", groupTests()},
		{"faults", faultTests()},
	} {
		for _, tt := range group.tests {
			t.Run(group.name+"/"+tt.name, func(t *testing.T) { tt.run(t, engine) })
		}
	}
	t.Run("random operations", func(t *testing.T) { randomOperations(t, engine) })
	t.Run("random filters", func(t *testing.T) { randomFilters(t, engine) })
}

type test struct {
	name string
	run  func(t *testing.T, engine New)
}

// T is what tests and rapid's checks have in common.
type tester interface {
	Helper()
	Fatalf(format string, args ...any)
	Errorf(format string, args ...any)
}

// bench is an open store under test.
type bench struct {
	tester
	*Engine
	store.Store
}

func start(t *testing.T, engine New, limits store.Limits) *bench {
	t.Helper()
	e := engine(limits)
	t.Cleanup(e.End)
	b := &bench{tester: t, Engine: e}
	b.open()
	t.Cleanup(func() {
		if b.Store != nil {
			_ = b.Close() // a test may have closed or broken it
		}
	})
	return b
}

func (b *bench) open() {
	b.Helper()
	s, err := b.Open()
	if err != nil {
		b.Fatalf("Open: %v", err)
	}
	b.Store = s
}

func (b *bench) reopen() {
	b.Helper()
	if err := b.Close(); err != nil {
		b.Fatalf("Close: %v", err)
	}
	b.open()
}

// patience is for what takes milliseconds.
const patience = 30 * time.Second

// wait returns what arrives.
func wait[V any](t tester, c <-chan V) V {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(patience):
		t.Fatalf("done is not called")
	}
	panic("unreachable")
}

// The operations, each with its answer.

func (b *bench) put(ifEpoch uint64, r store.Record) error {
	b.Helper()
	c := make(chan error, 1)
	b.Put(ifEpoch, r, func(err error) { c <- err })
	return wait(b, c)
}

func (b *bench) remove(ifEpoch uint64) error {
	b.Helper()
	c := make(chan error, 1)
	b.Delete("c", ifEpoch, func(err error) { c <- err })
	return wait(b, c)
}

type written struct {
	left []journal.LeftOut
	err  error
}

func (b *bench) write(w journal.Write) ([]journal.LeftOut, error) {
	b.Helper()
	c := make(chan written, 1)
	b.Write(w, func(left []journal.LeftOut, err error) { c <- written{left, err} })
	got := wait(b, c)
	return got.left, got.err
}

// must writes changes of a session whose epoch is 1.
func (b *bench) must(client string, session journal.SessionID, changes ...journal.Change) []journal.LeftOut {
	b.Helper()
	left, err := b.write(journal.Write{Client: client, Session: session, Epoch: 1, Changes: changes})
	if err != nil {
		b.Fatalf("Write: %v", err)
	}
	return left
}

type retained struct {
	version uint64
	err     error
}

func (b *bench) retain(m *message.Message) (uint64, error) {
	b.Helper()
	c := make(chan retained, 1)
	b.Retain(m, func(version uint64, err error) { c <- retained{version, err} })
	got := wait(b, c)
	return got.version, got.err
}

// session makes a new session of epoch 1.
func (b *bench) session(client string, id journal.SessionID) {
	b.Helper()
	if err := b.put(0, store.Record{Client: client, Session: id, Epoch: 1, Holder: "g1"}); err != nil {
		b.Fatalf("Put: %v", err)
	}
}

func (b *bench) page(client string, id journal.SessionID, after journal.Position, maxEntries, maxBytes int) []journal.Entry {
	b.Helper()
	page, err := b.Inbox(client, id, after, maxEntries, maxBytes)
	if err != nil {
		b.Fatalf("Inbox: %v", err)
	}
	return page
}

// all reads a whole inbox in one page.
func (b *bench) all(client string, id journal.SessionID) []journal.Entry {
	b.Helper()
	return b.page(client, id, 0, 1<<30, 1<<30)
}

func (b *bench) stats(client string) store.Stats {
	b.Helper()
	stats, err := b.Stats(client)
	if err != nil {
		b.Fatalf("Stats: %v", err)
	}
	return stats
}

func (b *bench) state(client string, id journal.SessionID) journal.State {
	b.Helper()
	state, err := b.State(client, id)
	if err != nil {
		b.Fatalf("State: %v", err)
	}
	return state
}

func positions(entries []journal.Entry) []journal.Position {
	all := []journal.Position{}
	for _, e := range entries {
		all = append(all, e.Position)
	}
	return all
}

func (b *bench) equal(what string, got, want any) {
	b.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		b.Fatalf("%s (-want +got):\n%s", what, diff)
	}
}

// text makes a message.
func text(n int, payload string) *message.Message {
	return &message.Message{
		ID: message.ID{Origin: "g1", Seq: uint64(n)}, Publisher: "p", Topic: fmt.Sprintf("t/%d", n), Payload: []byte(payload), QoS: 2,
	}
}

// entry makes an Append at a position of a message with the same number.
func entry(at journal.Position, qos byte) journal.Change {
	return journal.Change{Kind: journal.Append, Entry: journal.Entry{Position: at, QoS: qos, Message: text(int(at), "hello")}}
}

func change(kind journal.Kind, at journal.Position) journal.Change {
	return journal.Change{Kind: kind, Position: at}
}
