// Package subscriptions owns the index of who subscribes to what in one process: it answers, for every
// message that is published, which keys (sessions) get it and how.
//
// It holds ordinary subscriptions only. Shared subscriptions, the filters of other processes (package routes),
// permissions, retained messages and the validity of filters (package topic) are not its business.
//
// An Index is safe for concurrent use; matching runs in parallel with matching. No method calls out.
package subscriptions

import (
	"slices"
	"strings"
	"sync"

	"github.com/beeline-mqtt/beeline/internal/topic"
)

// Options are what a SUBSCRIBE asks for with one filter (MQTT 3.8.3.1), and its Subscription Identifier.
type Options struct {
	// QoS is the maximum QoS at which messages are sent: 0, 1 or 2.
	QoS byte
	// NoLocal keeps the subscriber's own messages from it (MQTT-3.8.3-3).
	NoLocal bool
	// RetainAsPublished keeps the RETAIN flag of forwarded messages (MQTT-3.3.1-12, MQTT-3.3.1-13).
	RetainAsPublished bool
	// RetainHandling is 0, 1 or 2; the index keeps it for Get.
	RetainHandling byte
	// ID is the Subscription Identifier, 0 for none.
	ID uint32
}

// Match is one key that gets a message, whatever the number of its subscriptions that match: one copy goes out
// with the highest QoS and the identifiers of all of them (MQTT-3.3.4-2, MQTT-3.3.4-3, MQTT-3.3.4-4).
type Match[K comparable] struct {
	Key K
	// QoS is the highest QoS of the subscriptions that match. The message goes out at this or its own,
	// whichever is lower.
	QoS byte
	// RetainAsPublished is set if any subscription that matches has it.
	RetainAsPublished bool
	// IDs are the Subscription Identifiers, in no order, nil for none. They are shared with the index: read
	// only, and valid for ever.
	IDs []uint32
}

// Index finds the subscriptions that match a topic name. K identifies a subscriber in this process, for
// instance a pointer to its session. The zero K cannot subscribe: in Match it stands for a publisher that is
// not here.
type Index[K comparable] struct {
	mu      sync.RWMutex
	filters topic.Map[subscribers[K]]
	count   int
}

// New returns an empty Index.
func New[K comparable]() *Index[K] {
	return &Index[K]{}
}

// Subscribe adds or replaces k's subscription to filter (MQTT-3.8.4-3). first: nobody in the index had this
// filter before; replaced: k had it. filter must be valid (topic.ValidateFilter); the index keeps its own copy.
//
// Who acts on first and on Unsubscribe's last, as by announcing routes, has to see to it that what it does for
// one filter happens in the order of these calls.
func (x *Index[K]) Subscribe(filter string, k K, o Options) (first, replaced bool) {
	sub := subscription[K]{key: k, qos: o.QoS, noLocal: o.NoLocal, retainAsPublished: o.RetainAsPublished, retainHandling: o.RetainHandling}
	if o.ID != 0 {
		sub.id = &[1]uint32{o.ID}
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	s := x.filters.Get(filter)
	if s == nil {
		// A copy, because filter may be part of a whole packet.
		s = x.filters.Add(strings.Clone(filter))
		first = true
	}
	replaced = s.put(sub)
	if !replaced {
		x.count++
	}
	return first, replaced
}

// Unsubscribe removes k's subscription to filter (MQTT-3.10.4-1). found: k had it, which decides between
// reason codes 0x00 and 0x11; last: now nobody in the index has this filter.
func (x *Index[K]) Unsubscribe(filter string, k K) (last, found bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	s := x.filters.Get(filter)
	if s == nil || !s.remove(k) {
		return false, false
	}
	x.count--
	if len(s.list) > 0 {
		return false, true
	}
	x.filters.Delete(filter)
	return true, true
}

// Has reports whether anybody has subscribed to filter.
func (x *Index[K]) Has(filter string) bool {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return x.filters.Get(filter) != nil
}

// Count returns how many have subscribed to filter.
func (x *Index[K]) Count(filter string) int {
	x.mu.RLock()
	defer x.mu.RUnlock()
	if s := x.filters.Get(filter); s != nil {
		return len(s.list)
	}
	return 0
}

// Get returns the options of k's subscription to filter, and whether it has one.
func (x *Index[K]) Get(filter string, k K) (Options, bool) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	s := x.filters.Get(filter)
	if s == nil {
		return Options{}, false
	}
	i := s.find(k)
	if i < 0 {
		return Options{}, false
	}
	return s.list[i].options(), true
}

// Filters returns the filters that match name, in no order. It explains what Match does, and is slower.
func (x *Index[K]) Filters(name string) (filters []string) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	x.filters.EachMatch(name, func(filter string, _ *subscribers[K]) { filters = append(filters, filter) })
	return filters
}

// Len returns the number of subscriptions.
func (x *Index[K]) Len() int {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return x.count
}

// Match appends to dst one Match for each key with a subscription that matches name, in no order. What dst
// holds already is left alone. Subscriptions with No Local of publisher itself are left out. Nothing matches a
// name under topic.DirectPrefix.
//
// With room in dst it does not allocate, two cases apart: a key has several Subscription Identifiers for this
// name, or many filters or many subscribers of several filters match it.
func (x *Index[K]) Match(name string, publisher K, dst []Match[K]) []Match[K] {
	// Enough for all but odd names, and it stays on the stack.
	var room [16]*subscribers[K]
	x.mu.RLock()
	defer x.mu.RUnlock()
	sets := x.filters.AppendMatches(room[:0], name)
	if len(sets) == 0 {
		return dst
	}
	// The longest set comes last. Each of its keys is looked for among those of the others, but none of its
	// own is ever looked for: the size of a fan-out does not matter to what merging costs.
	longest := 0
	for i, s := range sets {
		if len(s.list) > len(sets[longest].list) {
			longest = i
		}
	}
	last := len(sets) - 1
	sets[longest], sets[last] = sets[last], sets[longest]

	m := merger[K]{dst: slices.Grow(dst, len(sets[last].list)), base: len(dst), publisher: publisher}
	for _, s := range sets[:last] {
		m.merge(s.list)
	}
	m.finish(sets[last].list)
	return m.dst
}
