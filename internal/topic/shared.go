package topic

import (
	"strings"
	"unicode/utf8"
)

const sharedPrefix = "$share/"

// Shared is a shared subscription: each message that matches Filter goes to one member of Group (MQTT 4.8.2).
// Two of them are the same when both fields are.
type Shared struct {
	// Group is the ShareName.
	Group string
	// Filter is what is matched: the topic filter behind the group.
	Filter string
}

// ParseShared takes "$share/<group>/<filter>" apart. shared says whether filter begins with $share/ at all;
// if it does and the rest is wrong, err is ErrShared, or ErrNUL or ErrUTF8 for the group (MQTT-4.8.2-1,
// MQTT-4.8.2-2). The fields of s alias filter; their bounds and the filter's syntax are checked by s.Validate.
func ParseShared(filter string) (s Shared, shared bool, err error) {
	rest, shared := strings.CutPrefix(filter, sharedPrefix)
	if !shared {
		return Shared{}, false, nil
	}
	group, inner, ok := strings.Cut(rest, "/")
	switch {
	case !ok || group == "" || inner == "" || strings.ContainsAny(group, "+#"):
		return Shared{}, true, ErrShared
	case strings.IndexByte(group, 0) >= 0:
		return Shared{}, true, ErrNUL
	case !utf8.ValidString(group):
		return Shared{}, true, ErrUTF8
	}
	return Shared{Group: group, Filter: inner}, true, nil
}

// Validate says whether s, as it came from ParseShared, may be subscribed to: its filter is an ordinary one
// within l, and its group is no longer than a level may be.
func (s Shared) Validate(l Limits) error {
	if len(s.Group) > l.LevelBytes {
		return ErrLevelTooLong
	}
	return ValidateFilter(s.Filter, l)
}

// String writes s as a client subscribes to it.
func (s Shared) String() string {
	return sharedPrefix + s.Group + "/" + s.Filter
}
