package administration

import (
	"testing"

	adminv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/admin/v1"
	gatewayv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/gateway/v1"
	messagev1 "github.com/beeline-mqtt/beeline/api/gen/beeline/message/v1"
	sessionv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/session/v1"
)

// sub is a subscription at a QoS.
func sub(filter string, qos int) *adminv1.Subscription {
	return &adminv1.Subscription{Filter: filter, Qos: messagev1.Qos(qos + 1)}
}

func connected(subs ...*adminv1.Subscription) known {
	return known{connected: &gatewayv1.GetClientResponse{Client: &adminv1.ClientSummary{Gateway: "g1"}, Subscriptions: subs}}
}

func absent(subs ...*adminv1.Subscription) known {
	k := known{session: &sessionv1.InspectSessionResponse{}}
	for _, s := range subs {
		k.session.Subscriptions = append(k.session.Subscriptions, &sessionv1.Subscription{Filter: s.GetFilter(), Qos: s.GetQos(), NoLocal: s.GetNoLocal()})
	}
	return k
}

// members makes a client a member of groups.
func members(k known, groups ...string) known {
	if k.connected != nil {
		k.connected.Groups = groups
	} else {
		k.session.Groups = groups
	}
	return k
}

func TestWhyAClientWouldGetAMessageOrNot(t *testing.T) {
	noLocal := sub("a/+", 1)
	noLocal.NoLocal = true
	for name, c := range map[string]struct {
		topic string
		k     known
		want  string
	}{
		"connected, one subscription": {"a/b", connected(sub("a/+", 1), sub("x", 0)), "It would get it: subscription a/+ at QoS 1 on gateway g1."},
		"connected, two of them":      {"a/b", connected(sub("a/+", 1), sub("#", 0)), "It would get it: subscriptions a/+ at QoS 1, # at QoS 0 on gateway g1."},
		"connected, No Local": {
			"a/b", connected(noLocal),
			"It would get it: subscription a/+ at QoS 1 on gateway g1. It would not if it has published it itself (No Local).",
		},
		"connected, No Local on one of two": {
			"a/b", connected(noLocal, sub("a/b", 0)), "It would get it: subscriptions a/+ at QoS 1, a/b at QoS 0 on gateway g1.",
		},
		"connected, shared": {
			"a/b", connected(sub("$share/g/a/#", 1)),
			"Of the members of $share/g/a/# one gets it, this client on gateway g1 or another.",
		},
		"connected, ordinary and shared": {
			"a/b", connected(sub("$share/g/a/#", 1), sub("a/b", 2)),
			"It would get it: subscription a/b at QoS 2 on gateway g1. Of the members of $share/g/a/# one gets it, this client on gateway g1 or another.",
		},
		"connected, nothing matches":    {"a/b", connected(sub("a", 1), sub("$share/g/b", 1)), "It would not get it: none of its subscriptions matches (it has 2)."},
		"connected, no subscriptions":   {"a/b", connected(), "It would not get it: it subscribes to nothing."},
		"a wildcard and a topic with $": {"$SYS/x", connected(sub("#", 0)), "It would not get it: none of its subscriptions matches (it has 1). \"#\" begins with a wildcard, which does not match topics that begin with $."},
		"away": {
			"a/b", absent(sub("a/+", 1)),
			"It would get it when it comes back, if the message has QoS 1 or 2: subscription a/+ at QoS 1; it is away, and its session is kept.",
		},
		"away, No Local": {
			"a/b", absent(noLocal),
			"It would get it when it comes back, if the message has QoS 1 or 2: subscription a/+ at QoS 1; it is away, and its session is kept." +
				" It would not if it has published it itself (No Local).",
		},
		"away, at QoS 0": {"a/b", absent(sub("a/+", 0)), "It would not get it: it is away, and for subscription a/+ at QoS 0 nothing is kept."},
		"away, shared": {
			"a/b", absent(sub("$share/g/a/b", 1)), "It would get it only when no member of $share/g/a/b is connected, the message has QoS 1 or 2, " +
				"and this is the first of them that comes back: it is away.",
		},
		"away, shared, at QoS 0": {
			"a/b", absent(sub("$share/g/a/b", 0)), "It would not get it: it is away, and for a member of $share/g/a/b at QoS 0 nothing is kept.",
		},
		"away, nothing matches":  {"a/b", absent(sub("c", 1)), "It would not get it: none of its subscriptions matches (it has 1)."},
		"a member of the group":  {"group/g/x", members(connected(), "f", "g"), `It would get it on gateway g1, unless it has published it itself: it is a member of the group "g".`},
		"an absent member":       {"group/g/x", members(absent(), "g"), `It would get it when it comes back, if the message has QoS 1 or 2: it is a member of the group "g", and its session is kept.`},
		"no member of the group": {"group/g/x", members(connected(sub("#", 1)), "f"), `It would not get it: only members of the group "g" do, and it is none.`},
		"no topic of a group":    {"group/g", members(connected(), "g"), "Nobody would get it: the topic names a group, but not in the form group/<group>/<rest>."},
		"a client of the user": {
			"user/a%2Fb/x",
			known{connected: connected().connected, ofUser: true},
			`It would get it on gateway g1, if a service sends it: it is a client of the user "a/b".`,
		},
		"an absent client of the user": {
			"user/u/x",
			known{session: absent().session, ofUser: true},
			`It would get it when it comes back, if a service sends it with QoS 1 or 2: it is a client of the user "u", and its session is kept.`,
		},
		"no client of the user":     {"user/u/x", connected(sub("#", 1)), `It would not get it: it is no client of the user "u".`},
		"no topic of a user":        {"user/%zz/x", connected(), "Nobody would get it: the topic names a user, but not in the form user/<user name>/<rest>."},
		"not there":                 {"a/b", known{}, "It would not get it: it is neither connected nor has a session."},
		"by name":                   {"p2p/me/x", connected(), "It would get it: the topic names it, and it is connected to gateway g1."},
		"by name, away":             {"p2p/me/x", absent(), "It would get it when it comes back, if the message has QoS 1 or 2: the topic names it, and its session is kept."},
		"by name, not there":        {"p2p/me/x", known{}, "It would not get it: the topic names it, but it is neither connected nor has a session."},
		"by the name of another":    {"p2p/you/x", connected(sub("#", 1)), `It would not get it: the topic names the client "you", and only that one gets it.`},
		"by a name that is no name": {"p2p/%zz/x", connected(), "Nobody would get it: the topic names a client, but not in the form p2p/<client id>/<rest>."},
	} {
		t.Run(name, func(t *testing.T) {
			if got := about(c.topic, "me", c.k); got != c.want {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
		})
	}
}
