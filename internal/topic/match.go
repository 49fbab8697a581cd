package topic

import "strings"

// Match reports whether filter matches name (MQTT 4.7). It is the definition that everything faster is tested
// against, and what explains a single case to a person; to find the filters that match, use Map.
//
// A filter that begins with a wildcard does not match a name that begins with $ (MQTT-4.7.2-1), or that of a group, and
// nothing matches the address of a client or a user. filter is the part of a shared subscription behind its group. Both are expected
// to be valid.
func Match(filter, name string) bool {
	if IsAddressed(name) {
		return false
	}
	want, have := strings.Split(filter, "/"), strings.Split(name, "/")
	if isApart(name) && (want[0] == "+" || filter == "#") {
		return false
	}
	for i, level := range want {
		if level == "#" && i == len(want)-1 {
			return true // also when have ends here: # stands for the level above it too (4.7.1.2)
		}
		if i == len(have) || level != "+" && level != have[i] {
			return false
		}
	}
	return len(want) == len(have)
}

// isApart reports whether wildcards of the first level do not match name.
func isApart(name string) bool { return strings.HasPrefix(name, "$") || IsGroup(name) }
