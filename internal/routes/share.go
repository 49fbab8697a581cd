package routes

import (
	"slices"
	"sync"
)

// Share is one shared subscription with the peers that have members of it, or keep messages for it. It stays usable when
// its routes change; when the last one is gone it has nobody left to pick.
type Share[P comparable] struct {
	group, filter string
	at            int // place among those of the same filter; belongs to the table

	mu sync.Mutex
	// members is replaced, never changed, when a peer comes or goes, so that Pick can look at it without mu.
	members []*member[P]
	// keepers have no member online, and durable ones that are away.
	keepers []P
}

// member is a peer in the turn of a shared subscription. Its numbers are guarded by Share.mu.
type member[P comparable] struct {
	peer   P
	weight int64
	// credit is what the peer has saved up: at each turn each gets its weight, and the richest pays the total.
	credit int64
}

// Group returns the ShareName.
func (s *Share[P]) Group() string { return s.group }

// Filter returns the topic filter, the part behind the group.
func (s *Share[P]) Filter() string { return s.filter }

// Pick chooses the peer whose turn it is: among those that exclude does not rule out, each as often as the
// number of its members demands, and spread evenly (smooth weighted round robin). A nil exclude rules nobody
// out; exclude is called without a lock held, once for each peer. It returns false when nobody is left.
//
// A peer that is dropped at the same moment may still be chosen.
func (s *Share[P]) Pick(exclude func(P) bool) (P, bool) {
	s.mu.Lock()
	members := s.members
	if exclude != nil {
		s.mu.Unlock()
		var room [64]*member[P] // more peers than that cost an allocation
		members = without(members, exclude, room[:0])
		s.mu.Lock()
	}
	defer s.mu.Unlock()
	var best *member[P]
	var total int64
	for _, m := range members {
		m.credit += m.weight
		total += m.weight
		if best == nil || m.credit > best.credit {
			best = m
		}
	}
	if best == nil {
		var nobody P
		return nobody, false
	}
	best.credit -= total
	return best.peer, true
}

// Keeper chooses a peer that keeps messages for members who are away, among those that exclude does not rule out: it is
// for messages that Pick finds nobody for. Of several, all but one are about to hand that over to another, or to get it.
// exclude is called with a lock held.
func (s *Share[P]) Keeper(exclude func(P) bool) (P, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range s.keepers {
		if !exclude(p) {
			return p, true
		}
	}
	var nobody P
	return nobody, false
}

// Online reports whether a peer has members online.
func (s *Share[P]) Online() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.members) > 0
}

// Empty reports whether no peer has members, nor keeps anything for them.
func (s *Share[P]) Empty() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.members)+len(s.keepers) == 0
}

// without appends to dst the members that exclude does not rule out.
func without[P comparable](members []*member[P], exclude func(P) bool, dst []*member[P]) []*member[P] {
	for _, m := range members {
		if !exclude(m.peer) {
			dst = append(dst, m)
		}
	}
	return dst
}

// set says how many members p has online; with none it keeps messages for those who are away.
func (s *Share[P]) set(p P, members uint32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	i := s.find(p)
	switch {
	case members == 0:
		s.part(i)
		if !slices.Contains(s.keepers, p) {
			s.keepers = append(s.keepers, p)
		}
		return
	case i >= 0:
		s.members[i].weight = int64(members)
	default:
		s.keepers = slices.DeleteFunc(s.keepers, func(k P) bool { return k == p })
		s.members = append(slices.Clip(s.members), &member[P]{peer: p, weight: int64(members)})
	}
	s.bound()
}

// each calls f, without a lock held, for each peer with the number of its members.
func (s *Share[P]) each(f func(p P, members uint32)) {
	s.mu.Lock()
	all := make([]member[P], 0, len(s.members)+len(s.keepers))
	for _, m := range s.members {
		all = append(all, *m)
	}
	for _, p := range s.keepers {
		all = append(all, member[P]{peer: p})
	}
	s.mu.Unlock()
	for _, m := range all {
		f(m.peer, uint32(m.weight))
	}
}

// remove takes p out and returns how many peers are left.
func (s *Share[P]) remove(p P) (left int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.part(s.find(p))
	s.keepers = slices.DeleteFunc(s.keepers, func(k P) bool { return k == p })
	return len(s.members) + len(s.keepers)
}

// part takes the i-th of members out, if there is one. With mu held.
func (s *Share[P]) part(i int) {
	if i >= 0 {
		s.members = slices.Concat(s.members[:i], s.members[i+1:])
		s.bound()
	}
}

// bound cuts credit and debt to what they can be with the present weights: what was saved up in a group of
// thousands would otherwise make one peer the only choice for long after the group has shrunk.
func (s *Share[P]) bound() {
	var total int64
	for _, m := range s.members {
		total += m.weight
	}
	for _, m := range s.members {
		m.credit = max(-total, min(m.credit, total))
	}
}

func (s *Share[P]) find(p P) int {
	return slices.IndexFunc(s.members, func(m *member[P]) bool { return m.peer == p })
}
