package topic

import (
	"slices"
	"strings"
)

// Map keeps one value of type V for each topic filter and finds the values whose filter matches a name, by
// the rules of Match. The zero Map is empty and ready.
//
// Filters without wildcards, by far the most, are one look-up in a hash map. The others form a tree of
// levels, which is walked only if there are any. What a look-up costs in that tree grows with the filters that
// agree with the name so far, not with all filters.
//
// A value has a fixed address from Add to Delete. Any number of calls that only read (Get, AppendMatches,
// EachMatch, Len) may run at once; Add and Delete must run alone.
type Map[V any] struct {
	exact map[string]*V
	// edges holds the children of all nodes in one map, except for one child of each, which the node itself
	// points to: most nodes of a large tree have one child or none, and a map of its own would cost more than
	// the node.
	edges    map[edge[V]]*node[V]
	root     node[V]
	wildcard int // filters in the tree
}

type edge[V any] struct {
	parent *node[V]
	level  string
}

// node stands for a sequence of levels: those of the path from the root.
type node[V any] struct {
	edge[V]           // how it hangs in the tree; zero for the root
	plus     *node[V] // child for the level "+"
	inline   *node[V] // any one of the other children
	children int      // the rest of them, in Map.edges
	here     *V       // value of the filter that ends here
	below    *V       // value of the filter that ends with "#" after here
}

// Len returns the number of filters.
func (m *Map[V]) Len() int {
	return len(m.exact) + m.wildcard
}

// Get returns the value of filter, nil if it has none.
func (m *Map[V]) Get(filter string) *V {
	if !hasWildcard(filter) {
		return m.exact[filter]
	}
	if slot := m.slot(filter, false); slot != nil {
		return *slot
	}
	return nil
}

// Add returns the value of filter, a new zero one if it had none. The Map then keeps filter.
func (m *Map[V]) Add(filter string) *V {
	if !hasWildcard(filter) {
		v := m.exact[filter]
		if v == nil {
			if m.exact == nil {
				m.exact = make(map[string]*V)
			}
			v = new(V)
			m.exact[filter] = v
		}
		return v
	}
	slot := m.slot(filter, true)
	if *slot == nil {
		*slot = new(V)
		m.wildcard++
	}
	return *slot
}

// Delete removes filter and its value, and whatever of the tree was there for it alone. It does nothing when
// there is no such filter.
func (m *Map[V]) Delete(filter string) {
	if !hasWildcard(filter) {
		delete(m.exact, filter)
		return
	}
	n, last := m.find(filter, false)
	if n == nil {
		return
	}
	slot := n.slot(last)
	if *slot == nil {
		return
	}
	*slot = nil
	m.wildcard--
	m.prune(n)
}

// AppendMatches appends the values of all filters that match name to dst, each once. It does not allocate
// when dst has room.
func (m *Map[V]) AppendMatches(dst []*V, name string) []*V {
	if IsAddressed(name) {
		return dst
	}
	if v := m.exact[name]; v != nil {
		dst = append(dst, v)
	}
	if m.wildcard == 0 {
		return dst
	}
	if !isApart(name) {
		return m.walk(dst, &m.root, name, true)
	}
	// MQTT-4.7.2-1, and groups: past the wildcards of the root.
	level, rest, more := strings.Cut(name, "/")
	if child := m.child(&m.root, level); child != nil {
		dst = m.walk(dst, child, rest, more)
	}
	return dst
}

// walk appends what matches at and below n, whose levels have matched so far; rest is what is left of the
// name, if there is more. The tree bounds the depth of the recursion, not the name.
func (m *Map[V]) walk(dst []*V, n *node[V], rest string, more bool) []*V {
	for n != nil {
		if n.below != nil {
			dst = append(dst, n.below)
		}
		if !more {
			if n.here != nil {
				dst = append(dst, n.here)
			}
			return dst
		}
		var level string
		level, rest, more = strings.Cut(rest, "/")
		if n.plus != nil {
			dst = m.walk(dst, n.plus, rest, more)
		}
		n = m.child(n, level)
	}
	return dst
}

// EachMatch calls f with each filter that matches name, and its value. It is AppendMatches for who wants to know why, and
// slower.
func (m *Map[V]) EachMatch(name string, f func(filter string, v *V)) {
	if IsAddressed(name) {
		return
	}
	if v := m.exact[name]; v != nil {
		f(name, v)
	}
	m.visit(&m.root, name, !isApart(name), f)
}

// visit is EachMatch at and below n: rest is what is left of the name. wild says that n's own wildcards count
// (MQTT-4.7.2-1).
func (m *Map[V]) visit(n *node[V], rest string, wild bool, f func(string, *V)) {
	if n.below != nil && wild {
		f(n.path("#"), n.below)
	}
	level, rest, more := strings.Cut(rest, "/")
	next := []*node[V]{m.child(n, level)}
	if wild {
		next = append(next, n.plus)
	}
	for _, c := range next {
		switch {
		case c == nil:
		case more:
			m.visit(c, rest, true, f)
		default:
			if c.here != nil {
				f(c.path(""), c.here)
			}
			if c.below != nil {
				f(c.path("#"), c.below)
			}
		}
	}
}

// path is the filter that leads to n, with a last level if there is one.
func (n *node[V]) path(last string) string {
	var levels []string
	if last != "" {
		levels = append(levels, last)
	}
	for ; n.parent != nil; n = n.parent {
		levels = append(levels, n.level)
	}
	slices.Reverse(levels)
	return strings.Join(levels, "/")
}

func (m *Map[V]) child(n *node[V], level string) *node[V] {
	if c := n.inline; c != nil && c.level == level {
		return c
	}
	if n.children == 0 {
		return nil
	}
	return m.edges[edge[V]{n, level}]
}

// slot returns where the value of filter is kept in the tree, or nil if the way there is missing and not to
// be created.
func (m *Map[V]) slot(filter string, create bool) **V {
	n, last := m.find(filter, create)
	if n == nil {
		return nil
	}
	return n.slot(last)
}

// find returns the node that keeps the value of filter, and the last level of filter, which says in what slot.
func (m *Map[V]) find(filter string, create bool) (n *node[V], last string) {
	n = &m.root
	for more := true; more; {
		last, filter, more = strings.Cut(filter, "/")
		if last == "#" && !more {
			return n, last
		}
		if n = m.step(n, last, create); n == nil {
			return nil, ""
		}
	}
	return n, last
}

func (n *node[V]) slot(last string) **V {
	if last == "#" {
		return &n.below
	}
	return &n.here
}

func (m *Map[V]) step(n *node[V], level string, create bool) *node[V] {
	if level == "+" {
		if n.plus == nil && create {
			n.plus = &node[V]{edge: edge[V]{n, level}}
		}
		return n.plus
	}
	child := m.child(n, level)
	if child != nil || !create {
		return child
	}
	// A copy, because the node may outlive the filter that it came with.
	child = &node[V]{edge: edge[V]{n, strings.Clone(level)}}
	if n.inline == nil {
		n.inline = child
		return child
	}
	if m.edges == nil {
		m.edges = make(map[edge[V]]*node[V])
	}
	m.edges[child.edge] = child
	n.children++
	return child
}

// prune removes n and those above it that nothing hangs on any more.
func (m *Map[V]) prune(n *node[V]) {
	for n.parent != nil && n.isBare() {
		parent := n.parent
		switch n {
		case parent.plus:
			parent.plus = nil
		case parent.inline:
			parent.inline = nil
		default:
			delete(m.edges, n.edge)
			parent.children--
		}
		n = parent
	}
}

func (n *node[V]) isBare() bool {
	return n.here == nil && n.below == nil && n.plus == nil && n.inline == nil && n.children == 0
}

func hasWildcard(filter string) bool {
	return strings.IndexByte(filter, '+') >= 0 || strings.IndexByte(filter, '#') >= 0
}
