package topic

import "strings"

// Covers reports whether outer matches every name that inner matches. Both are expected to be valid filters, without
// $share/<group>/; as to names under DirectPrefix, which no filter matches, they are taken as if they were like any other.
func Covers(outer, inner string) bool {
	if outer == "+/#" && inner == "#" {
		return true // both are all names of at least one level
	}
	dollar := strings.HasPrefix(inner, "$") // inner matches names that no wildcard at the beginning does (MQTT-4.7.2-1)
	for first := true; ; first = false {
		var want, have string
		var moreOuter, moreInner bool
		want, outer, moreOuter = strings.Cut(outer, "/")
		if want == "#" && !moreOuter {
			return !first || !dollar
		}
		have, inner, moreInner = strings.Cut(inner, "/")
		switch {
		case have == "#":
			return false // inner ends above it, too, and goes on for ever
		case want == "+" && first && dollar:
			return false
		case want != "+" && want != have:
			return false
		case !moreInner:
			return !moreOuter || outer == "#"
		case !moreOuter:
			return false
		}
	}
}
