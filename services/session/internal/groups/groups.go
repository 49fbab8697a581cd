// Package groups knows who belongs to which group, and what that means for a client: which filters it gets messages by
// without having subscribed. It is a plain value without goroutines, clock and I/O; the caller locks, and has every change
// stored before it is applied.
package groups

import (
	"cmp"
	"errors"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/beeline-mqtt/beeline/internal/topic"
	"github.com/beeline-mqtt/beeline/services/session/internal/store"
)

// Why a change is refused.
var (
	// ErrExists: there is a group of that name.
	ErrExists = errors.New("the group exists")
	// ErrUnknown: there is none.
	ErrUnknown = errors.New("there is no such group")
	// ErrTooMany: a bound would be exceeded.
	ErrTooMany = errors.New("too many")
)

// Limits bound an Index.
type Limits struct {
	// Groups that there are, Members of one group, PerMember groups of one member.
	Groups, Members, PerMember int
}

// DefaultLimits is what applies unless it is configured otherwise.
func DefaultLimits() Limits { return Limits{Groups: 100_000, Members: 100_000, PerMember: 1000} }

// Group is a group as it is listed.
type Group struct {
	Name    string
	Created time.Time
	Members int
}

// Index is all groups.
type Index struct {
	limits Limits
	groups map[string]*group
	of     map[store.Member]map[string]struct{}
}

type group struct {
	created time.Time
	members map[store.Member]struct{}
	sorted  []store.Member // nil: to be sorted anew
}

// New returns an index without groups.
func New(l Limits) *Index {
	return &Index{limits: l, groups: make(map[string]*group), of: make(map[store.Member]map[string]struct{})}
}

// Check returns what a change comes to if it is applied: of members that are added those that are none yet, of those that
// are removed those that are, of a group that ends all. The errors are those of this package.
func (x *Index) Check(c store.GroupChange) (store.GroupChange, error) {
	g := x.groups[c.Group]
	switch {
	case c.Kind == store.GroupMade && g != nil:
		return c, ErrExists
	case c.Kind == store.GroupMade && len(x.groups) >= x.limits.Groups:
		return c, ErrTooMany
	case c.Kind != store.GroupMade && g == nil:
		return c, ErrUnknown
	}
	switch c.Kind {
	case store.GroupMade:
		c.Members = nil
	case store.GroupEnded:
		c.Members = slices.SortedFunc(maps.Keys(g.members), compare)
	case store.MembersAdded, store.MembersRemoved:
		c.Members = g.changed(c.Members, c.Kind == store.MembersRemoved)
	}
	if c.Kind != store.MembersAdded {
		return c, nil
	}
	if len(g.members)+len(c.Members) > x.limits.Members {
		return c, ErrTooMany
	}
	for _, m := range c.Members {
		if len(x.of[m]) >= x.limits.PerMember {
			return c, ErrTooMany
		}
	}
	return c, nil
}

// changed returns those among members, each once, that are members, or that are not.
func (g *group) changed(members []store.Member, are bool) []store.Member {
	var changed []store.Member
	seen := make(map[store.Member]struct{}, len(members))
	for _, m := range members {
		_, is := g.members[m]
		if _, twice := seen[m]; !twice && is == are {
			changed = append(changed, m)
		}
		seen[m] = struct{}{}
	}
	return changed
}

// Apply makes a change. One that changes nothing may be repeated.
func (x *Index) Apply(c store.GroupChange) {
	g := x.groups[c.Group]
	if g == nil {
		if c.Kind == store.GroupEnded || c.Kind == store.MembersRemoved {
			return
		}
		g = &group{created: c.At, members: make(map[store.Member]struct{})}
		x.groups[c.Group] = g
	}
	for _, m := range c.Members {
		if c.Kind == store.MembersAdded {
			x.add(c.Group, g, m)
		} else {
			x.remove(c.Group, g, m)
		}
	}
	if c.Kind == store.GroupEnded {
		delete(x.groups, c.Group)
	}
}

func (x *Index) add(name string, g *group, m store.Member) {
	if _, is := g.members[m]; is {
		return
	}
	g.members[m], g.sorted = struct{}{}, nil
	if x.of[m] == nil {
		x.of[m] = make(map[string]struct{}, 1)
	}
	x.of[m][name] = struct{}{}
}

func (x *Index) remove(name string, g *group, m store.Member) {
	if _, is := g.members[m]; !is {
		return
	}
	delete(g.members, m)
	g.sorted = nil
	if delete(x.of[m], name); len(x.of[m]) == 0 {
		delete(x.of, m)
	}
}

// Groups returns at most n groups whose names begin with prefix and come after one, by name.
func (x *Index) Groups(prefix, after string, n int) []Group {
	var names []string
	for name := range x.groups {
		if strings.HasPrefix(name, prefix) && (after == "" || name > after) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	page := make([]Group, 0, min(n, len(names)))
	for _, name := range names[:min(n, len(names))] {
		page = append(page, x.group(name))
	}
	return page
}

func (x *Index) group(name string) Group {
	g := x.groups[name]
	return Group{Name: name, Created: g.created, Members: len(g.members)}
}

// Get returns a group. The error is ErrUnknown.
func (x *Index) Get(name string) (Group, error) {
	if x.groups[name] == nil {
		return Group{}, ErrUnknown
	}
	return x.group(name), nil
}

// Members returns at most n members of a group that come after one (nil: from the first), clients by id and then users by
// name, and whether there are more. The error is ErrUnknown.
func (x *Index) Members(name string, after *store.Member, n int) (page []store.Member, more bool, err error) {
	g := x.groups[name]
	if g == nil {
		return nil, false, ErrUnknown
	}
	if g.sorted == nil {
		g.sorted = slices.SortedFunc(maps.Keys(g.members), compare)
	}
	at := 0
	if after != nil {
		var found bool
		if at, found = slices.BinarySearchFunc(g.sorted, *after, compare); found {
			at++
		}
	}
	rest := g.sorted[at:]
	return slices.Clone(rest[:min(n, len(rest))]), len(rest) > n, nil
}

// Of returns the groups that a member is in, by name.
func (x *Index) Of(m store.Member) []string { return slices.Sorted(maps.Keys(x.of[m])) }

// Filter is a topic filter by which a client gets messages without having subscribed, and because of whose membership.
type Filter struct {
	Name             string
	ByClient, ByUser bool
}

// Filters returns what a client gets because of its groups and its user's, by name; user is empty when there is none.
func (x *Index) Filters(client, user string) []Filter {
	if len(x.of) == 0 {
		return nil
	}
	ofClient := x.of[store.Member{Name: client}]
	var ofUser map[string]struct{}
	if user != "" {
		ofUser = x.of[store.Member{User: true, Name: user}]
	}
	if len(ofClient)+len(ofUser) == 0 {
		return nil
	}
	filters := make([]Filter, 0, len(ofClient)+len(ofUser))
	for group := range ofClient {
		_, both := ofUser[group]
		filters = append(filters, Filter{Name: topic.GroupFilter(group), ByClient: true, ByUser: both})
	}
	for group := range ofUser {
		if _, both := ofClient[group]; !both {
			filters = append(filters, Filter{Name: topic.GroupFilter(group), ByUser: true})
		}
	}
	slices.SortFunc(filters, func(a, b Filter) int { return cmp.Compare(a.Name, b.Name) })
	return filters
}

// compare puts clients before users, and each by name.
func compare(a, b store.Member) int {
	if a.User != b.User {
		if b.User {
			return -1
		}
		return 1
	}
	return cmp.Compare(a.Name, b.Name)
}
