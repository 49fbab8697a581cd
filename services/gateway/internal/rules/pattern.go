package rules

import (
	"errors"
	"fmt"
	"strings"

	"github.com/beeline-mqtt/beeline/internal/topic"
)

// kind is what a level of a pattern stands for.
type kind byte

const (
	literal kind = iota
	plus
	hash
	clientID
	username
)

// level is one level of a pattern.
type level struct {
	kind kind
	text string // of a literal
}

// pattern is a topic filter in which a level may stand for the client's id or its user name.
type pattern struct {
	levels []level
	// exact, if it is not empty, is all that is meant, as it is written.
	exact string
	// apart says that no wildcard in place of the first level matches what the pattern does.
	apart bool
}

// exactly begins a pattern that means one topic name or filter as it is written.
const exactly = "eq "

func parsePattern(text string) (pattern, error) {
	if exact, ok := strings.CutPrefix(text, exactly); ok && exact != "" {
		return pattern{exact: exact}, nil
	}
	switch {
	case text == "":
		return pattern{}, errors.New("topic is empty")
	case strings.ContainsRune(text, 0):
		return pattern{}, errors.New("topic has a character that topics do not have")
	}
	parts := strings.Split(text, "/")
	p := pattern{levels: make([]level, len(parts))}
	for i, part := range parts {
		l, err := parseLevel(part)
		if err == nil && l.kind == hash && i < len(parts)-1 {
			err = errors.New("# has to be the last level")
		}
		if err != nil {
			return pattern{}, fmt.Errorf("topic %q: %w", text, err)
		}
		p.levels[i] = l
	}
	p.apart = p.levels[0].kind == literal && isApart(text)
	return p, nil
}

func parseLevel(text string) (level, error) {
	switch text {
	case "+":
		return level{kind: plus}, nil
	case "#":
		return level{kind: hash}, nil
	case "${clientid}":
		return level{kind: clientID}, nil
	case "${username}":
		return level{kind: username}, nil
	}
	switch {
	case strings.ContainsAny(text, "+#"):
		return level{}, errors.New("a wildcard has to be a whole level")
	case strings.Contains(text, "${"):
		return level{}, errors.New("a placeholder has to be a whole level, ${clientid} or ${username}")
	}
	return level{text: text}, nil
}

// isApart reports whether a name or filter is about topics that a wildcard at the beginning does not match: those of
// MQTT-4.7.2-1, and the addresses of clients, users and groups.
func isApart(text string) bool {
	return strings.HasPrefix(text, "$") || topic.IsAddressed(text) || topic.IsGroup(text)
}

// covers reports whether every topic of a name or filter is one of the pattern's. What a client may choose, its name, leads it
// neither into topics that are apart, nor to those of others.
func (p *pattern) covers(c Client, filter string) bool {
	if p.exact != "" {
		return p.exact == filter
	}
	if p.levels[0].kind != literal && isApart(filter) {
		return false
	}
	more := true
	for i := range p.levels {
		l := &p.levels[i]
		if l.kind == hash {
			return true
		}
		if !more {
			return false
		}
		var have string
		have, filter, more = strings.Cut(filter, "/")
		if have == "#" || !l.means(c, have) {
			return false
		}
	}
	return !more
}

// means reports whether the level, which is not #, has what stands for it in a name or filter.
func (l *level) means(c Client, have string) bool {
	switch l.kind {
	case literal:
		return have == l.text
	case clientID:
		return have == c.ID && isPlain(have)
	case username:
		return have == c.Username && isPlain(have)
	default:
		return true
	}
}

// isPlain reports whether a client id or user name stands for itself as a level: it is there, has no wildcards, and nothing
// that is written in another way in an address.
func isPlain(text string) bool { return text != "" && !strings.ContainsAny(text, "/+#%") }

// overlaps reports whether a topic of a name or filter is one of the pattern's. In doubt it is: a client does not get around a
// prohibition by its name, or by how it writes what it asks for.
func (p *pattern) overlaps(c Client, filter string) bool {
	if p.exact != "" {
		return p.exact == filter
	}
	more := true
	for i := range p.levels {
		l := &p.levels[i]
		if l.kind == hash {
			return true
		}
		if !more {
			return false
		}
		var have string
		have, filter, more = strings.Cut(filter, "/")
		switch {
		case (have == "#" || have == "+") && i == 0 && p.apart:
			return false
		case have == "#":
			return true
		case have != "+" && !l.mayMean(c, have):
			return false
		}
	}
	return !more || filter == "#"
}

// mayMean is means in doubt.
func (l *level) mayMean(c Client, have string) bool {
	switch l.kind {
	case clientID:
		return have == c.ID || !isPlain(c.ID)
	case username:
		return have == c.Username || !isPlain(c.Username)
	default:
		return l.means(c, have)
	}
}
