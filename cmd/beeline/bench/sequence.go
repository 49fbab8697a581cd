package bench

import (
	"cmp"
	"slices"
)

// sequence checks the numbers of one publisher's messages as they come at one subscriber: exactly, in memory that
// grows only with what is missing.
type sequence struct {
	next    uint64 // one more than the highest that came
	gaps    []gap  // what is missing below next, in order
	late    uint64 // came after a later one
	doubled uint64 // came again
	missing uint64 // how many numbers the gaps have
}

// gap are the numbers from begin up to, and without, end.
type gap struct{ begin, end uint64 }

// add reports whether n comes for the first time.
func (s *sequence) add(n uint64) bool {
	if n >= s.next {
		if n > s.next {
			s.gaps = append(s.gaps, gap{s.next, n})
			s.missing += n - s.next
		}
		s.next = n + 1
		return true
	}
	i, found := slices.BinarySearchFunc(s.gaps, n, func(g gap, n uint64) int {
		if n >= g.begin && n < g.end {
			return 0
		}
		return cmp.Compare(g.begin, n)
	})
	if !found {
		s.doubled++
		return false
	}
	s.late++
	s.missing--
	switch g := s.gaps[i]; {
	case g.begin+1 == g.end:
		s.gaps = slices.Delete(s.gaps, i, i+1)
	case n == g.begin:
		s.gaps[i].begin++
	case n+1 == g.end:
		s.gaps[i].end--
	default:
		s.gaps[i].end = n
		s.gaps = slices.Insert(s.gaps, i+1, gap{n + 1, g.end})
	}
	return true
}

// lost is how many of the numbers from begin up to, and without, end never came.
func (s *sequence) lost(begin, end uint64) (n uint64) {
	for _, g := range append(s.gaps[:len(s.gaps):len(s.gaps)], gap{s.next, max(s.next, end)}) {
		if g.begin, g.end = max(g.begin, begin), min(g.end, end); g.begin < g.end {
			n += g.end - g.begin
		}
	}
	return n
}
