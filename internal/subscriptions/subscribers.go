package subscriptions

import "slices"

// subscription is one key's subscription to one filter.
type subscription[K comparable] struct {
	key K
	// id is a whole array, so that Match can hand out a slice of it. It is never changed: a subscription
	// that is replaced gets another. nil: no Subscription Identifier.
	id                *[1]uint32
	qos               byte
	noLocal           bool
	retainAsPublished bool
	retainHandling    byte
}

// options are what it was made with.
func (s *subscription[K]) options() Options {
	o := Options{QoS: s.qos, NoLocal: s.noLocal, RetainAsPublished: s.retainAsPublished, RetainHandling: s.retainHandling}
	if s.id != nil {
		o.ID = s.id[0]
	}
	return o
}

// subscribers are the subscriptions to one filter, in no order, at most one for each key.
type subscribers[K comparable] struct {
	list []subscription[K]
	// at is the position of each key in list. It exists only for a long list: most filters have one
	// subscriber, and a map costs more than the rest of the entry.
	at map[K]int32
}

// manySubscribers is the length of a list that is no longer searched from end to end; a list that has become
// much shorter gives its map up again.
const (
	manySubscribers = 16
	fewSubscribers  = manySubscribers / 4
)

// find returns the position of k, or -1.
func (s *subscribers[K]) find(k K) int {
	if s.at != nil {
		if i, ok := s.at[k]; ok {
			return int(i)
		}
		return -1
	}
	return slices.IndexFunc(s.list, func(sub subscription[K]) bool { return sub.key == k })
}

// put adds sub, or replaces the one of the same key.
func (s *subscribers[K]) put(sub subscription[K]) (replaced bool) {
	if i := s.find(sub.key); i >= 0 {
		s.list[i] = sub
		return true
	}
	s.list = append(s.list, sub)
	switch {
	case s.at != nil:
		s.at[sub.key] = int32(len(s.list) - 1)
	case len(s.list) > manySubscribers:
		s.at = make(map[K]int32, len(s.list))
		for i, sub := range s.list {
			s.at[sub.key] = int32(i)
		}
	}
	return false
}

// remove takes k out; the last one takes its place.
func (s *subscribers[K]) remove(k K) (found bool) {
	i := s.find(k)
	if i < 0 {
		return false
	}
	last := len(s.list) - 1
	moved := s.list[last]
	s.list[i] = moved
	s.list[last] = subscription[K]{}
	s.list = s.list[:last]
	if s.at != nil {
		s.at[moved.key] = int32(i)
		delete(s.at, k) // after the line above: moved may be k itself
	}
	if len(s.list) <= fewSubscribers {
		s.at = nil
	}
	if 4*len(s.list) <= cap(s.list) && cap(s.list) > manySubscribers {
		s.list = append(make([]subscription[K], 0, 2*len(s.list)), s.list...)
	}
	return true
}
