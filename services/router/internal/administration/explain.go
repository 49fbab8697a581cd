package administration

import (
	"fmt"
	"slices"
	"strings"

	adminv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/admin/v1"
	"github.com/beeline-mqtt/beeline/internal/topic"
)

// about says in a sentence or two whether a client would get a message on a topic, and why.
func about(name, id string, k known) string {
	switch {
	case topic.IsDirect(name):
		return aboutDirect(name, id, k)
	case topic.IsUser(name):
		return aboutUser(name, k)
	case k.connected == nil && k.session == nil:
		return "It would not get it: it is neither connected nor has a session."
	case topic.IsGroup(name):
		return aboutGroup(name, k)
	}
	m := matching(name, k)
	switch {
	case len(m.ordinary) == 0 && len(m.shared) == 0:
		return "It would not get it: " + m.unmatched(name)
	case k.connected != nil:
		return m.connected(k.connected.GetClient().GetGateway())
	}
	return m.away()
}

func aboutDirect(name, id string, k known) string {
	to, err := topic.ParseDirect(name)
	switch {
	case err != nil:
		return "Nobody would get it: the topic names a client, but not in the form p2p/<client id>/<rest>."
	case to != id:
		return fmt.Sprintf("It would not get it: the topic names the client %q, and only that one gets it.", to)
	case k.connected != nil:
		return fmt.Sprintf("It would get it: the topic names it, and it is connected to gateway %s.", k.connected.GetClient().GetGateway())
	case k.session != nil:
		return "It would get it when it comes back, if the message has QoS 1 or 2: the topic names it, and its session is kept."
	}
	return "It would not get it: the topic names it, but it is neither connected nor has a session."
}

// aboutUser is about a client of which k knows whether it is one of the user's.
func aboutUser(name string, k known) string {
	user, err := topic.ParseUser(name)
	switch {
	case err != nil:
		return "Nobody would get it: the topic names a user, but not in the form user/<user name>/<rest>."
	case !k.ofUser:
		return fmt.Sprintf("It would not get it: it is no client of the user %q.", user)
	case k.connected != nil:
		return fmt.Sprintf("It would get it on gateway %s, if a service sends it: it is a client of the user %q.", k.connected.GetClient().GetGateway(), user)
	}
	return fmt.Sprintf("It would get it when it comes back, if a service sends it with QoS 1 or 2: it is a client of the user %q, and its session is kept.", user)
}

// aboutGroup is about a client that is connected, or has a session.
func aboutGroup(name string, k known) string {
	group, err := topic.ParseGroup(name)
	switch {
	case err != nil:
		return "Nobody would get it: the topic names a group, but not in the form group/<group>/<rest>."
	case !slices.Contains(k.groups(), group):
		return fmt.Sprintf("It would not get it: only members of the group %q do, and it is none.", group)
	case k.connected != nil:
		return fmt.Sprintf("It would get it on gateway %s, unless it has published it itself: it is a member of the group %q.", k.connected.GetClient().GetGateway(), group)
	}
	return fmt.Sprintf("It would get it when it comes back, if the message has QoS 1 or 2: it is a member of the group %q, and its session is kept.", group)
}

// matches are the subscriptions of one client, in the light of one topic.
type matches struct {
	all              []*adminv1.Subscription
	ordinary, shared []*adminv1.Subscription // that match
}

func matching(name string, k known) (m matches) {
	if m.all = k.connected.GetSubscriptions(); k.connected == nil {
		m.all = subscriptionsOf(k.session)
	}
	for _, s := range m.all {
		shared, is, _ := topic.ParseShared(s.GetFilter())
		switch {
		case is && topic.Match(shared.Filter, name):
			m.shared = append(m.shared, s)
		case !is && topic.Match(s.GetFilter(), name):
			m.ordinary = append(m.ordinary, s)
		}
	}
	return m
}

// unmatched says why nothing matches.
func (m matches) unmatched(name string) string {
	if len(m.all) == 0 {
		return "it subscribes to nothing."
	}
	why := fmt.Sprintf("none of its subscriptions matches (it has %d).", len(m.all))
	for _, s := range m.all {
		f := s.GetFilter()
		if strings.HasPrefix(name, "$") && strings.HasPrefix(f, "+") || strings.HasPrefix(name, "$") && f == "#" {
			return why + fmt.Sprintf(" %q begins with a wildcard, which does not match topics that begin with $.", f)
		}
	}
	return why
}

// connected says what a client gets that is connected to a gateway.
func (m matches) connected(gateway string) string {
	var all []string
	if len(m.ordinary) > 0 {
		all = append(all, fmt.Sprintf("It would get it: %s on gateway %s.", list(m.ordinary), gateway))
		if noLocal(m.ordinary) {
			all = append(all, "It would not if it has published it itself (No Local).")
		}
	}
	for _, s := range m.shared {
		all = append(all, fmt.Sprintf("Of the members of %s one gets it, this client on gateway %s or another.", s.GetFilter(), gateway))
	}
	return strings.Join(all, " ")
}

// away says what is kept for a client that is not connected.
func (m matches) away() string {
	var kept []*adminv1.Subscription
	for _, s := range m.ordinary {
		if qosOf(s) > 0 {
			kept = append(kept, s)
		}
	}
	switch {
	case len(kept) > 0:
		w := fmt.Sprintf("It would get it when it comes back, if the message has QoS 1 or 2: %s; it is away, and its session is kept.", list(kept))
		if noLocal(kept) {
			w += " It would not if it has published it itself (No Local)."
		}
		return w
	case len(m.ordinary) > 0:
		return fmt.Sprintf("It would not get it: it is away, and for %s nothing is kept.", list(m.ordinary))
	}
	s := m.shared[0]
	if qosOf(s) == 0 {
		return fmt.Sprintf("It would not get it: it is away, and for a member of %s at QoS 0 nothing is kept.", s.GetFilter())
	}
	return fmt.Sprintf("It would get it only when no member of %s is connected, the message has QoS 1 or 2, and this is the first of them "+
		"that comes back: it is away.", s.GetFilter())
}

// noLocal reports whether all subscriptions have No Local.
func noLocal(all []*adminv1.Subscription) bool {
	for _, s := range all {
		if !s.GetNoLocal() {
			return false
		}
	}
	return true
}

// list names subscriptions.
func list(all []*adminv1.Subscription) string {
	names := make([]string, len(all))
	for i, s := range all {
		names[i] = fmt.Sprintf("%s at QoS %d", s.GetFilter(), qosOf(s))
	}
	word := "subscription "
	if len(names) > 1 {
		word = "subscriptions "
	}
	return word + strings.Join(names, ", ")
}

func qosOf(s *adminv1.Subscription) int { return max(int(s.GetQos())-1, 0) }
