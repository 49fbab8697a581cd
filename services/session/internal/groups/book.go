package groups

import (
	"fmt"
	"sync"

	"github.com/beeline-mqtt/beeline/services/session/internal/store"
)

// Book is the groups of a term, in the store and in memory. Its methods may be called from any goroutine, none of them
// waits but Store. Whoever changes something does so under Lock: first Check, then Store, then Apply.
type Book struct {
	sync.Mutex // one change at a time

	store store.Groups

	mu    sync.RWMutex
	index *Index // guarded by mu
}

// Open reads what is stored.
func Open(l Limits, s store.Groups) (*Book, error) {
	b := &Book{store: s, index: New(l)}
	err := s.LoadGroups(func(c store.GroupChange) error {
		b.index.Apply(c)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("load groups: %w", err)
	}
	return b, nil
}

// Check is Index.Check.
func (b *Book) Check(c store.GroupChange) (store.GroupChange, error) {
	b.mu.RLock()
	defer b.mu.RUnlock()
	return b.index.Check(c)
}

// Store has a change that was checked stored, and waits for that.
func (b *Book) Store(c store.GroupChange) error {
	done := make(chan error, 1)
	b.store.ChangeGroup(c, func(err error) { done <- err })
	if err := <-done; err != nil {
		return fmt.Errorf("store group %q: %w", c.Group, err)
	}
	return nil
}

// Apply has a change that was stored in force.
func (b *Book) Apply(c store.GroupChange) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.index.Apply(c)
}

// Filters is Index.Filters.
func (b *Book) Filters(client, user string) []Filter {
	b.mu.RLock()
	defer b.mu.RUnlock()
	return b.index.Filters(client, user)
}

// Read lets f read the index, which it must not keep. Paging sorts what it pages through.
func (b *Book) Read(f func(*Index)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	f(b.index)
}
