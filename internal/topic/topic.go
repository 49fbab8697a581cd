// Package topic owns what MQTT 5 says about topic names and topic filters (sections 4.7, 4.8.2): which are
// valid, which filter matches which name, how a shared subscription and a direct address are written, and
// Map, which finds all filters that match a name.
//
// It does not know who subscribes: see packages subscriptions and routes.
//
// Everything here is pure. Functions are safe for concurrent use; a Map is not, its user locks.
package topic

import (
	"errors"
	"unicode/utf8"
)

// Why a topic name or topic filter is refused. ValidateName, ValidateFilter, ParseShared, Shared.Validate and
// ParseDirect return these as they are, so that refusing costs no allocation; compare with errors.Is.
var (
	// ErrEmpty: at least one character is needed (MQTT-4.7.3-1).
	ErrEmpty = errors.New("topic is empty")
	// ErrTooLong: more than Limits.Bytes, or than MQTT itself allows (MQTT-4.7.3-3).
	ErrTooLong = errors.New("topic is too long")
	// ErrTooManyLevels: more than Limits.Levels.
	ErrTooManyLevels = errors.New("topic has too many levels")
	// ErrLevelTooLong: one level has more than Limits.LevelBytes.
	ErrLevelTooLong = errors.New("topic level is too long")
	// ErrWildcard: a topic name contains + or # (MQTT-4.7.0-1, MQTT-3.3.2-2).
	ErrWildcard = errors.New("topic name contains a wildcard")
	// ErrSyntax: a wildcard does not stand alone in its level, or # is not last (MQTT-4.7.1-1, MQTT-4.7.1-2).
	ErrSyntax = errors.New("wildcard is misplaced in topic filter")
	// ErrNUL: the null character U+0000 (MQTT-4.7.3-2, MQTT-1.5.4-2).
	ErrNUL = errors.New("topic contains a null character")
	// ErrUTF8: ill-formed UTF-8, encoded surrogates included (MQTT-1.5.4-1).
	ErrUTF8 = errors.New("topic is not valid UTF-8")
	// ErrShared: it begins with $share/ but is not $share/<group>/<filter> (MQTT-4.8.2-1, MQTT-4.8.2-2).
	ErrShared = errors.New("shared subscription is not $share/<group>/<filter>")
	// ErrDirect: it is not p2p/<client id>/<rest>, or it is a filter that reaches for such topics.
	ErrDirect = errors.New("direct address is not p2p/<client id>/<rest>, or is used as a filter")
)

// maxBytes is the length of the longest UTF-8 string that MQTT can encode (MQTT-1.5.4, MQTT-4.7.3-3).
const maxBytes = 65535

// Limits bounds topic names and topic filters. Every field is the largest value that is allowed.
type Limits struct {
	// Bytes of the whole name or filter. MQTT's own bound of 65,535 holds whatever this says.
	Bytes int
	// Levels, counting empty ones: "a//b" has three.
	Levels int
	// LevelBytes of any one level.
	LevelBytes int
}

// DefaultLimits is what a process applies unless it is configured otherwise.
func DefaultLimits() Limits {
	return Limits{Bytes: 1024, Levels: 32, LevelBytes: 256}
}

// ValidateName says whether name is a topic that may be published to: not empty, well-formed UTF-8 without
// the null character, without wildcards, and within l. It takes time linear in len(name), whatever its depth.
//
// Whether a name under DirectPrefix is complete is for ParseDirect to say.
func ValidateName(name string, l Limits) error {
	return validate(name, l, false)
}

// ValidateFilter says whether filter is an ordinary topic filter that a client may subscribe to: as
// ValidateName, but with wildcards where MQTT allows them, and not under DirectPrefix (ErrDirect), GroupPrefix or
// UserPrefix (ErrManaged). It takes time linear in len(filter), whatever its depth.
//
// A filter that begins with $share/ is not treated apart: call ParseShared first.
func ValidateFilter(filter string, l Limits) error {
	switch {
	case IsDirect(filter):
		return ErrDirect
	case IsGroup(filter), IsUser(filter):
		return ErrManaged
	}
	return validate(filter, l, true)
}

// validate reads s once; a second time only when there is something in it that is not ASCII.
func validate(s string, l Limits, isFilter bool) error {
	if s == "" {
		return ErrEmpty
	}
	if len(s) > min(l.Bytes, maxBytes) {
		return ErrTooLong
	}
	ascii := true
	levels, start := 1, 0
	for i := range len(s) {
		switch c := s[i]; {
		case c == '/':
			if i-start > l.LevelBytes {
				return ErrLevelTooLong
			}
			levels++
			start = i + 1
		case c == '+' || c == '#':
			if !isFilter {
				return ErrWildcard
			}
			last := i+1 == len(s)
			alone := i == start && (last || s[i+1] == '/')
			if !alone || c == '#' && !last {
				return ErrSyntax
			}
		case c == 0:
			return ErrNUL
		case c >= utf8.RuneSelf:
			ascii = false
		}
	}
	if levels > l.Levels {
		return ErrTooManyLevels
	}
	if len(s)-start > l.LevelBytes {
		return ErrLevelTooLong
	}
	if !ascii && !utf8.ValidString(s) {
		return ErrUTF8
	}
	return nil
}
