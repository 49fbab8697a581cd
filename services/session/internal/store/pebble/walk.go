package pebble

import (
	"bytes"
	"strings"

	"github.com/beeline-mqtt/beeline/internal/topic"
)

// walk finds the keys of retained messages whose topics match a filter, in their order. Whole subtrees that cannot
// match are passed by, one seek each.
type walk struct {
	// levels are those of the filter without a # at the end, which is in rest.
	levels []string
	rest   bool
	// lower and upper bound the keys that can match.
	lower, upper []byte
	next         []byte
}

// newWalk returns ok false if the filter matches nothing.
func newWalk(filter string) (w walk, ok bool) {
	if filter == "" || topic.IsDirect(filter) {
		return walk{}, false
	}
	w.levels = strings.Split(filter, "/")
	if n := len(w.levels) - 1; w.levels[n] == "#" {
		w.levels, w.rest = w.levels[:n], true
	}
	w.lower = []byte{spaceRetained}
	for _, level := range w.levels {
		if level == "+" {
			break
		}
		w.lower = append(append(w.lower, level...), 0)
	}
	w.upper = after(w.lower)
	return w, true
}

// step reports whether a key matches, and where to go on: at next, or if that is nil at the key behind this one.
// next is valid until the next step.
func (w *walk) step(key []byte) (matches bool, next []byte) {
	if skip := w.skipSpecial(key); skip != nil {
		return false, skip
	}
	at, wild := 1, -1 // wild is where the level begins that the last + stands for
	for _, level := range w.levels {
		if at == len(key) {
			// A topic of too few levels. What begins with it follows, and may match from the literal level on.
			if level == "+" {
				return false, nil
			}
			return false, w.to(key, level)
		}
		end := at + bytes.IndexByte(key[at:], 0)
		have := key[at:end]
		if level == "+" {
			wild = at
		} else if c := strings.Compare(level, string(have)); c > 0 {
			return false, w.to(key[:at], level)
		} else if c < 0 {
			return false, w.behind(key, wild)
		}
		at = end + 1
	}
	if at == len(key) || w.rest {
		return true, nil
	}
	return false, w.behind(key, wild)
}

// skipSpecial passes by what a wildcard in the first level does not stand for: topics that begin with $, and direct
// addresses.
func (w *walk) skipSpecial(key []byte) []byte {
	if len(w.levels) > 0 && w.levels[0] != "+" || len(key) < 2 {
		return nil
	}
	if key[1] == '$' {
		return append(w.next[:0], spaceRetained, '$'+1)
	}
	direct := keyRetained(nil, strings.TrimSuffix(topic.DirectPrefix, "/"))
	if bytes.HasPrefix(key, direct) && len(key) > len(direct) {
		w.next = append(append(w.next[:0], direct[:len(direct)-1]...), 1)
		return w.next
	}
	return nil
}

// to returns the first key with a level behind a prefix.
func (w *walk) to(prefix []byte, level string) []byte {
	w.next = append(append(append(w.next[:0], prefix...), level...), 0)
	return w.next
}

// behind returns the first key behind all that have the same level at wild; behind everything if no level is wild.
func (w *walk) behind(key []byte, wild int) []byte {
	if wild < 0 {
		w.next = append(w.next[:0], spaceRetained+1)
		return w.next
	}
	end := wild + bytes.IndexByte(key[wild:], 0)
	w.next = append(append(w.next[:0], key[:end]...), 1)
	return w.next
}
