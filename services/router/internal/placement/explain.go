package placement

import (
	"fmt"
	"strings"
)

// Explain says in one sentence where a client goes, and why: what Lookup and Choose answered. An Assignment without a
// cluster is one that was not found. There is nothing secret in it.
//
//	node gateway-2 of cluster main: the client's session is held there; the cluster is assigned to user name "joe"
func Explain(a Assignment, q Question, answer Answer) string {
	if a.Cluster == "" {
		return "no cluster: nothing is assigned to the client, and there is no default"
	}
	var b strings.Builder
	if answer.Why == None {
		write(&b, "no node of cluster %s", a.Cluster)
	} else {
		write(&b, "node %s of cluster %s", answer.Node, a.Cluster)
	}
	write(&b, ": %s", because(answer.Why))
	for _, passed := range passedOver(q, answer) {
		write(&b, "; %s", passed)
	}
	write(&b, "; the cluster is assigned to %s", a)
	return b.String()
}

func because(r Reason) string {
	switch r {
	case None:
		return "none takes new clients"
	case Holder:
		return "the client's session is held there"
	case Recorded:
		return "the client was there before"
	case Hash:
		return "it is the first by the hash of the client"
	case NextByLoad:
		return "it is the first by the hash of the client whose load is in bounds"
	case Spread:
		return "the client has no id, and is spread at random by weight and load"
	}
	return r.String()
}

// passedOver says why nodes were not chosen that had come first.
func passedOver(q Question, answer Answer) []string {
	if q.Anonymous || answer.Why == Holder {
		return nil
	}
	var why []string
	if q.Holder != "" {
		why = append(why, fmt.Sprintf("node %s holds the client's session and is %s", q.Holder, find(q.Nodes, q.Holder)))
	}
	if q.Recorded != "" && q.Recorded != q.Holder && answer.Why != Recorded {
		why = append(why, fmt.Sprintf("node %s is recorded for the client and is %s", q.Recorded, find(q.Nodes, q.Recorded)))
	}
	return why
}
