package placement

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Rule says which clients an assignment is for.
type Rule byte

// The rules, in the order of their precedence.
const (
	// ExactTriple is for one client id, user name and password: Value is the text of their Key.
	ExactTriple Rule = iota + 1
	// ClientID is for one client id.
	ClientID
	// ClientIDPrefix is for client ids that begin with Value, unless a longer prefix is assigned.
	ClientIDPrefix
	// Username is for one user name.
	Username
	// Default is for everybody else. Value is empty.
	Default
)

// String is the rule as people read it: triple, client_id, client_id_prefix, username, default.
func (r Rule) String() string {
	switch r {
	case ExactTriple:
		return "triple"
	case ClientID:
		return "client_id"
	case ClientIDPrefix:
		return "client_id_prefix"
	case Username:
		return "username"
	case Default:
		return "default"
	}
	return fmt.Sprintf("rule %d", byte(r))
}

// Assignment of clients to a cluster.
type Assignment struct {
	Rule  Rule
	Value string
	// Cluster is its name.
	Cluster string
	// Weight is the share of a Default among all defaults, above 0. It is 0 for the other rules.
	Weight uint32
}

// String says which clients are meant: client id prefix "meter-". A triple's key says nothing to people.
func (a Assignment) String() string {
	switch a.Rule {
	case ExactTriple:
		return "exactly this client id, user name and password"
	case ClientID:
		return fmt.Sprintf("client id %q", a.Value)
	case ClientIDPrefix:
		return fmt.Sprintf("client id prefix %q", a.Value)
	case Username:
		return fmt.Sprintf("user name %q", a.Value)
	case Default:
		return "clients without another assignment"
	}
	return a.Rule.String()
}

// ErrAssignment is one that cannot be, or not beside the others.
var ErrAssignment = errors.New("invalid assignment")

// Assignments is an index of assignments. It never changes. The zero one has none.
type Assignments struct {
	all []Assignment
	// What follows has indexes into all.
	triples   map[Key]int
	clients   map[string]int
	usernames map[string]int
	prefixes  prefixes
	defaults  []int
}

// NewAssignments makes an index of a copy of all. It refuses with ErrAssignment: two of one rule and value, two
// defaults of one cluster, a cluster without a name, a default with a value or without a weight, another rule without a
// value or with a weight, a triple whose value is not the text of a Key, and a rule that is not known.
//
// It takes about 50 ms for 100,000.
func NewAssignments(all []Assignment) (*Assignments, error) {
	a := &Assignments{
		all: slices.Clone(all), triples: map[Key]int{}, clients: map[string]int{}, usernames: map[string]int{},
	}
	prefixed := map[string]int{}
	for i := range a.all {
		if err := a.add(i, prefixed); err != nil {
			return nil, fmt.Errorf("%w: number %d, of %s: %w", ErrAssignment, i+1, a.all[i].Rule, err)
		}
	}
	a.prefixes = newPrefixes(prefixed)
	return a, nil
}

func (a *Assignments) add(i int, prefixed map[string]int) error {
	n := a.all[i]
	switch {
	case n.Cluster == "":
		return errors.New("no cluster")
	case n.Rule == Default && n.Value != "":
		return fmt.Errorf("value %q, and a default has none", n.Value)
	case n.Rule == Default && n.Weight == 0:
		return errors.New("weight 0, and a default has more")
	case n.Rule != Default && n.Value == "":
		return errors.New("no value")
	case n.Rule != Default && n.Weight != 0:
		return fmt.Errorf("weight %d, and only a default has one", n.Weight)
	}
	switch n.Rule {
	case ExactTriple:
		k, err := ParseKey(n.Value)
		if err != nil {
			return err
		}
		return once(a.triples, k, i)
	case ClientID:
		return once(a.clients, n.Value, i)
	case ClientIDPrefix:
		return once(prefixed, n.Value, i)
	case Username:
		return once(a.usernames, n.Value, i)
	case Default:
		if slices.ContainsFunc(a.defaults, func(d int) bool { return a.all[d].Cluster == n.Cluster }) {
			return fmt.Errorf("cluster %q again", n.Cluster)
		}
		a.defaults = append(a.defaults, i)
		return nil
	}
	return errors.New("not a known rule")
}

func once[K comparable](m map[K]int, value K, i int) error {
	if _, known := m[value]; known {
		return fmt.Errorf("value %q again", fmt.Sprint(value))
	}
	m[value] = i
	return nil
}

// ByTriple reports whether any assignment is of an ExactTriple. Without one, Lookup does not read its key.
func (a *Assignments) ByTriple() bool { return len(a.triples) > 0 }

// Lookup is the assignment that is in force for a client: its Cluster is where the client goes, its Rule and Value are
// why. false: there is none, not even a default. k is the key of t. It does not allocate.
//
// Several defaults share the clients by a hash of the client id alone, because a session belongs to a client id: a new
// password, as tokens are at every connection, does not send the client to a cluster where its session is not. A client
// without an id is shared out by random instead, which is not read otherwise.
func (a *Assignments) Lookup(t Triple, k Key, random uint64) (Assignment, bool) {
	// That a map's time to compare depends on the key does not matter: nobody can aim a key without the secret.
	if i, ok := a.triples[k]; ok {
		return a.all[i], true
	}
	if i, ok := a.clients[t.ClientID]; ok {
		return a.all[i], true
	}
	if i, ok := a.prefixes.longest(t.ClientID); ok {
		return a.all[i], true
	}
	if t.HasUsername {
		if i, ok := a.usernames[t.Username]; ok {
			return a.all[i], true
		}
	}
	if len(a.defaults) == 0 {
		return Assignment{}, false
	}
	seed := fnv1a(fnvOffset, t.ClientID)
	if t.ClientID == "" {
		seed = mix(random)
	}
	best := nobody()
	for _, i := range a.defaults {
		best.offer(i, a.all[i].Cluster, score(seed, a.all[i].Cluster, a.all[i].Weight))
	}
	return a.all[best.at], true
}

// prefixes finds the longest of many prefixes. Sorted, with links: whatever lies between a prefix of an id and the id
// begins with that prefix. So the greatest one that is not above the id is the longest that fits, or begins with it.
type prefixes []prefix

type prefix struct {
	text string
	// within is the longest other one that text begins with, -1 if there is none.
	within int
	// assignment is what the text stands for.
	assignment int
}

func newPrefixes(assignments map[string]int) prefixes {
	p := make(prefixes, 0, len(assignments))
	for text, i := range assignments {
		p = append(p, prefix{text: text, assignment: i})
	}
	slices.SortFunc(p, func(x, y prefix) int { return cmp.Compare(x.text, y.text) })
	for i := range p {
		// The one before is not above text: the same holds for it as for an id.
		at := i - 1
		for at >= 0 && !strings.HasPrefix(p[i].text, p[at].text) {
			at = p[at].within
		}
		p[i].within = at
	}
	return p
}

func (p prefixes) longest(id string) (assignment int, ok bool) {
	at, found := slices.BinarySearchFunc(p, id, func(e prefix, id string) int { return cmp.Compare(e.text, id) })
	if !found {
		at--
	}
	if at < 0 {
		return 0, false
	}
	// All that follow are prefixes of this one: how long they are says whether they are the id's too.
	common := 0
	for text := p[at].text; common < min(len(text), len(id)) && text[common] == id[common]; {
		common++
	}
	for at >= 0 && len(p[at].text) > common {
		at = p[at].within
	}
	if at < 0 {
		return 0, false
	}
	return p[at].assignment, true
}
