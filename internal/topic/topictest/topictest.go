// Package topictest has topic names and filters that show what filters match. It is imported by tests only.
package topictest

import (
	"strings"

	"pgregory.net/rapid"
)

// Names are the topic names of one to five levels out of a few. Those with a level that no Filter has stand for all names that
// only wildcards match, and those of five levels for all that only # does.
func Names() []string {
	levels := []string{"a", "b", "$x", "other"}
	var names []string
	var add func(prefix []string)
	add = func(prefix []string) {
		if len(prefix) > 0 {
			names = append(names, strings.Join(prefix, "/"))
		}
		if len(prefix) < 5 {
			for _, l := range levels {
				add(append(prefix[:len(prefix):len(prefix)], l))
			}
		}
	}
	add(nil)
	return names
}

// Filter makes topic filters of at most four levels, # among them.
func Filter() *rapid.Generator[string] {
	return rapid.Custom(func(t *rapid.T) string {
		f := rapid.SliceOfN(rapid.SampledFrom([]string{"a", "b", "$x", "+"}), 0, 4).Draw(t, "levels")
		if len(f) == 0 || len(f) < 4 && rapid.Bool().Draw(t, "all below") {
			f = append(f, "#")
		}
		return strings.Join(f, "/")
	})
}
