package placement

import (
	"fmt"
	"math"
)

// DefaultFactor is how far above the average a node's load may be.
const DefaultFactor = 1.25

// Node of a cluster.
type Node struct {
	ID string
	// Weight is the node's share of clients, relative to the other nodes. 0: it gets no clients but those whose session
	// it holds or for whom it is recorded.
	Weight uint32
	// Active: it takes connections. One that drains or is dead does not.
	Active bool
	// Load is how many clients are connected to it, as far as the asker knows, from 0 to 2^31-1. Beyond counts as the end.
	Load int
}

// Question is which node of a cluster takes a client.
type Question struct {
	// Nodes are the members, each ID once, in any order. Choose neither changes nor keeps them.
	Nodes []Node
	// Key is hashed.
	Key Key
	// Anonymous is a client without an id. It has no session to come back to: it is spread by Random, and Key, Holder
	// and Recorded are not read.
	Anonymous bool
	Random    uint64
	// Holder is the node that holds the client's session now; empty: none.
	Holder string
	// Recorded is the node that was recorded for the client; empty: none.
	Recorded string
	// Factor is how far above the average by weight the load of a node may be; 0, or no number: DefaultFactor; below 1: 1.
	Factor float64
}

// Reason why a node was chosen.
type Reason byte

// The reasons. Those for a node are in the order of precedence.
const (
	// None: no node may take the client.
	None Reason = iota
	// Holder holds the client's session.
	Holder
	// Recorded is where the client was.
	Recorded
	// Hash is the client's first node by weighted rendezvous hashing.
	Hash
	// NextByLoad is the first one in the order of the hash whose load is in bounds; the first of all is not it.
	NextByLoad
	// Spread is for clients without an id: the less loaded of two that were drawn at random by weight.
	Spread
)

// String is the reason as one word, good for a label: none, holder, recorded, hash, next_by_load, spread.
func (r Reason) String() string {
	switch r {
	case None:
		return "none"
	case Holder:
		return "holder"
	case Recorded:
		return "recorded"
	case Hash:
		return "hash"
	case NextByLoad:
		return "next_by_load"
	case Spread:
		return "spread"
	}
	return fmt.Sprintf("reason %d", byte(r))
}

// Answer to a question.
type Answer struct {
	// Node is its id; empty if Why is None.
	Node string
	Why  Reason
	// Record: the node is to be recorded for the client, and is not yet.
	Record bool
}

// Choose a node: the holder of the client's session; else the recorded one; else by hash, with bounded load; for
// clients without an id the less loaded of two drawn at random. Only active nodes are chosen. It does not allocate.
//
// The bound of a node is ceil(factor * (all load + 1) * weight / all weight), over the active nodes with a weight: its
// load is not above that with the new client. At least one has room, since all bounds together are not below all load
// + 1. Holder and Recorded are not bounded: to move a client costs more than it gains.
func Choose(q Question) Answer {
	if !q.Anonymous {
		for _, known := range [...]struct {
			node string
			why  Reason
		}{{q.Holder, Holder}, {q.Recorded, Recorded}} {
			if known.node != "" && find(q.Nodes, known.node) == active {
				return Answer{Node: known.node, Why: known.why, Record: known.node != q.Recorded}
			}
		}
	}
	b := bounds(q)
	if q.Anonymous {
		return spread(q, b)
	}
	first, roomy := nobody(), nobody()
	seed := fnv1a(fnvOffset, q.Key[:])
	for i, n := range q.Nodes {
		if !n.eligible() {
			continue
		}
		s := score(seed, n.ID, n.Weight)
		first.offer(i, n.ID, s)
		if b.room(n) {
			roomy.offer(i, n.ID, s)
		}
	}
	switch {
	case first.at < 0:
		return Answer{}
	case roomy.at == first.at:
		return Answer{Node: first.name, Why: Hash, Record: true}
	}
	return Answer{Node: roomy.name, Why: NextByLoad, Record: true}
}

// spread draws two of the nodes with room, which may be the same twice: with two nodes, not all new clients go to the
// one that was less loaded when the loads were last told.
func spread(q Question, b bound) Answer {
	const golden = 0x9e3779b97f4a7c15
	x, y := nobody(), nobody()
	seedX, seedY := mix(q.Random), mix(q.Random+golden)
	for i, n := range q.Nodes {
		if n.eligible() && b.room(n) {
			x.offer(i, n.ID, score(seedX, n.ID, n.Weight))
			y.offer(i, n.ID, score(seedY, n.ID, n.Weight))
		}
	}
	if x.at < 0 {
		return Answer{}
	}
	if q.Nodes[y.at].share() < q.Nodes[x.at].share() {
		x = y
	}
	return Answer{Node: x.name, Why: Spread}
}

// eligible says that the node takes clients that do not know it.
func (n Node) eligible() bool { return n.Active && n.Weight > 0 }

// load in bounds within which the sums of a million nodes are exact: that one has room depends on it.
func (n Node) load() float64 { return float64(min(max(n.Load, 0), math.MaxInt32)) }

// share is the load for each unit of weight.
func (n Node) share() float64 { return n.load() / float64(n.Weight) }

// bound of loads.
type bound struct {
	// clients is how many all nodes may have together, weight what they weigh.
	clients, weight float64
}

func bounds(q Question) bound {
	factor := q.Factor
	if factor == 0 || math.IsNaN(factor) {
		factor = DefaultFactor
	}
	load, weight := 0.0, 0.0
	for _, n := range q.Nodes {
		if n.eligible() {
			load += n.load()
			weight += float64(n.Weight)
		}
	}
	return bound{clients: max(factor, 1) * (load + 1), weight: weight}
}

// room says that one more client is in bounds.
func (b bound) room(n Node) bool {
	return n.load()+1 <= math.Ceil(b.clients*float64(n.Weight)/b.weight)
}

// membership of a node that a question names.
type membership string

const (
	active   membership = "active"
	inactive membership = "not active"
	stranger membership = "not a member"
)

func find(nodes []Node, id string) membership {
	for _, n := range nodes {
		switch {
		case n.ID != id:
		case n.Active:
			return active
		default:
			return inactive
		}
	}
	return stranger
}
