// Package rules decides which client may publish and subscribe to which topics: by a list of rules, of which the first that
// fits decides. It is pure: a Set does not change, any number of goroutines may ask it, and asking allocates nothing.
package rules

import "strings"

// Action is what a client wants to do with a topic.
type Action byte

// The two actions. A rule may be for both.
const (
	Publish Action = 1 << iota
	Subscribe
)

// Request is one thing that a client wants to do.
type Request struct {
	Action Action
	// Topic is a valid topic name for Publish, with its alias resolved; a valid topic filter, without $share prefix, for
	// Subscribe.
	Topic string
	QoS   byte
	// Retain is that of a PUBLISH.
	Retain bool
}

// Client is who asks, verified. Username is empty for a client without one.
type Client struct {
	ID       string
	Username string
}

// Decision is what rules say about a request.
type Decision byte

// The decisions. Undecided: no rule fits.
const (
	Undecided Decision = iota
	Allowed
	Denied
)

// Set is a list of rules. The zero Set has none.
type Set struct {
	rules []rule
}

// rule is one of them: it fits when all that it says fits.
type rule struct {
	decision  Decision
	actions   Action
	qos       byte // bit n: QoS n
	retain    byte // bit 0: not retained, bit 1: retained
	usernames []name
	clientIDs []name
	topics    []pattern
}

// name is a user name or client id, or the beginning of one.
type name struct {
	text   string
	prefix bool
}

// Decide says what the first rule that fits says.
func (s *Set) Decide(c Client, q Request) Decision {
	for i := range s.rules {
		if r := &s.rules[i]; r.isFor(c, q) && r.fits(c, q.Topic) {
			return r.decision
		}
	}
	return Undecided
}

func (r *rule) isFor(c Client, q Request) bool {
	switch {
	case r.actions&q.Action == 0, r.qos>>q.QoS&1 == 0:
		return false
	case q.Action == Publish && q.Retain && r.retain&2 == 0, q.Action == Publish && !q.Retain && r.retain&1 == 0:
		return false
	}
	return isAmong(r.usernames, c.Username) && isAmong(r.clientIDs, c.ID)
}

// isAmong reports whether one of the names is meant; none means all.
func isAmong(names []name, text string) bool {
	for _, n := range names {
		if n.text == text || n.prefix && strings.HasPrefix(text, n.text) {
			return true
		}
	}
	return len(names) == 0
}

// fits reports whether the rule is about what is asked for. A permission has to cover all of a filter that is subscribed to, a
// prohibition any topic of it.
func (r *rule) fits(c Client, topic string) bool {
	for i := range r.topics {
		p := &r.topics[i]
		if r.decision == Allowed && p.covers(c, topic) || r.decision == Denied && p.overlaps(c, topic) {
			return true
		}
	}
	return false
}
