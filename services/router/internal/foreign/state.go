package foreign

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
)

var errTooMany = fmt.Errorf("it has more than %d nodes, the others are left out", maxNodes)

// state is what is known of a cluster. It is pure: it is told what was found out, says what to find out next, and makes
// the view of it.
type state struct {
	definition Definition // with its defaults
	rise, fall int

	entries []entry // of the static list, or of EMQX's last answer
	known   bool
	pollErr error
	names   map[string]name   // by host; those that entries have now, once they were looked up
	health  map[string]health // by address; empty while EMQX answers
}

// entry is something that gives nodes.
type entry struct {
	id      string
	host    string
	addr    netip.Addr // that of host if it is none that must be resolved
	port    uint16
	weight  uint32
	running bool // as EMQX says
	load    int
}

// name is what is known of a host name.
type name struct {
	addrs []netip.Addr // the last there were
	err   error        // of the last look-up
}

// health is how a node's checks went.
type health struct {
	up     bool
	streak int // checks in a row that did not fit up
}

// after is the health after one more check.
func (h health) after(ok bool, rise, fall int) health {
	if ok == h.up {
		return health{up: h.up}
	}
	h.streak++
	if ok && h.streak >= rise || !ok && h.streak >= fall {
		return health{up: ok}
	}
	return h
}

// newState begins with a definition that is valid and has its defaults.
func newState(d Definition) *state {
	s := &state{definition: d, rise: defaultRise, fall: defaultFall, names: map[string]name{}, health: map[string]health{}}
	if d.Kind != KindStatic {
		return s
	}
	s.known, s.rise, s.fall = true, d.Static.Rise, d.Static.Fall
	for _, n := range d.Static.Nodes {
		e := entry{id: n.Address, weight: cmp.Or(n.Weight, defaultWeight)}
		e.reach(n.Address, 0)
		s.entries = append(s.entries, e)
	}
	return s
}

// reach sets where an entry is reached: at a valid host:port, or at a host and a given port.
func (e *entry) reach(at string, port uint16) {
	e.host, e.port, _ = hostPort(at, port)
	e.addr, _ = netip.ParseAddr(e.host)
}

// polled takes EMQX's answer, or that there was none. Only an answer changes which nodes there are.
func (s *state) polled(nodes []listed, err error) {
	s.pollErr = err
	if err != nil {
		return
	}
	s.known = true
	clear(s.health)
	s.entries = make([]entry, 0, len(nodes))
	config := s.definition.EMQX
	for _, n := range nodes {
		e := entry{id: n.name, weight: defaultWeight, running: n.running, load: n.load}
		at, mapped := config.Addresses[n.name]
		if !mapped {
			at, mapped = config.Addresses[n.host]
		}
		if !mapped {
			at = n.host
		}
		e.reach(at, config.MQTTPort)
		s.entries = append(s.entries, e)
	}
	slices.SortFunc(s.entries, func(a, b entry) int { return cmp.Compare(a.id, b.id) })
}

// hosts are the names to look up, each once. Names that are of no entry any more are forgotten.
func (s *state) hosts() []string {
	var out []string
	wanted := map[string]bool{}
	for _, e := range s.entries {
		if !e.addr.IsValid() && !wanted[e.host] {
			wanted[e.host] = true
			out = append(out, e.host)
		}
	}
	for host := range s.names {
		if !wanted[host] {
			delete(s.names, host)
		}
	}
	return out
}

// resolved takes the addresses of a name. If they are not known, the last ones stand.
func (s *state) resolved(host string, addrs []netip.Addr, err error) {
	n := s.names[host]
	n.err = steady(err)
	if err == nil {
		addrs = settle(addrs)
		if len(addrs) == 0 {
			n.err = errors.New("it has no address")
		} else {
			n.addrs = addrs
		}
	}
	s.names[host] = n
}

// steady takes out of an error of a look-up what is different each time, like local ports.
func steady(err error) error {
	var failed *net.DNSError
	switch {
	case errors.As(err, &failed) && failed.IsNotFound:
		return errors.New("no such host")
	case errors.As(err, &failed) && failed.IsTimeout, errors.Is(err, context.DeadlineExceeded):
		return errors.New("no answer in time")
	}
	return err
}

// settle orders addresses and leaves out doubles, and those of IPv6 if there are others.
func settle(addrs []netip.Addr) []netip.Addr {
	out := make([]netip.Addr, 0, len(addrs))
	for _, a := range addrs {
		if a.IsValid() {
			out = append(out, a.Unmap())
		}
	}
	slices.SortFunc(out, netip.Addr.Compare) // those of IPv4 come first
	out = slices.Compact(out)
	if len(out) > 0 && out[0].Is4() {
		out = slices.DeleteFunc(out, netip.Addr.Is6)
	}
	return out[:min(len(out), maxPerName)]
}

// told says that EMQX itself says which nodes are active.
func (s *state) told() bool { return s.definition.Kind == KindEMQX && s.pollErr == nil }

// due are the addresses to connect to, each once: none as long as EMQX tells. Others are forgotten. Nodes of EMQX begin
// as it said last, those of a list as their first check says.
func (s *state) due() []string {
	if s.told() {
		return nil
	}
	var out []string
	wanted := map[string]bool{}
	for _, e := range s.entries {
		for _, a := range s.addresses(e) {
			address := netip.AddrPortFrom(a, e.port).String()
			if wanted[address] || len(out) == maxNodes {
				continue
			}
			wanted[address] = true
			out = append(out, address)
			if _, checked := s.health[address]; !checked && s.definition.Kind == KindEMQX {
				s.health[address] = health{up: e.running}
			}
		}
	}
	for address := range s.health {
		if !wanted[address] {
			delete(s.health, address)
		}
	}
	return out
}

// checked takes whether a node could be connected to.
func (s *state) checked(address string, ok bool) {
	if s.told() {
		return // it answered while the check was under way
	}
	h, known := s.health[address]
	if !known {
		h = health{up: ok}
	}
	s.health[address] = h.after(ok, s.rise, s.fall)
}

// addresses are the nodes of an entry: one at most for EMQX, whose nodes are what it says they are.
func (s *state) addresses(e entry) []netip.Addr {
	addrs := s.names[e.host].addrs
	if e.addr.IsValid() {
		addrs = []netip.Addr{e.addr}
	}
	if s.definition.Kind == KindEMQX {
		return addrs[:min(len(addrs), 1)]
	}
	return addrs
}

// view is what is known now, without Since.
func (s *state) view() View {
	v := View{Known: s.known, Err: s.err(), Nodes: make([]Node, 0, len(s.entries))}
	seen := make(map[string]bool, len(s.entries))
	for _, e := range s.entries {
		addrs := s.addresses(e)
		nodes := make([]Node, max(len(addrs), 1))
		nodes[0] = Node{ID: e.id, Address: fmt.Sprintf("%s:%d", e.host, e.port)}
		for i, a := range addrs {
			address := netip.AddrPortFrom(a, e.port).String()
			nodes[i] = Node{ID: e.id, Address: address, Active: s.active(e, address)}
			if len(addrs) > 1 {
				nodes[i].ID = address
			}
		}
		for _, n := range nodes {
			if seen[n.ID] {
				continue
			}
			if len(v.Nodes) == maxNodes {
				v.Err = cmp.Or(v.Err, errTooMany)
				return v
			}
			seen[n.ID] = true
			n.Weight, n.Load = e.weight, e.load
			v.Nodes = append(v.Nodes, n)
		}
	}
	return v
}

func (s *state) active(e entry, address string) bool {
	if h, checked := s.health[address]; checked {
		return h.up
	}
	return e.running
}

// err is the poll that failed, and the first name that cannot be resolved, in the order of the entries.
func (s *state) err() error {
	var first error
	more, seen := -1, map[string]bool{}
	for _, e := range s.entries {
		n := s.names[e.host]
		if n.err == nil || e.addr.IsValid() || seen[e.host] {
			continue
		}
		seen[e.host] = true
		more++
		first = cmp.Or(first, fmt.Errorf("resolve %s: %w", e.host, n.err))
	}
	if more > 0 {
		first = fmt.Errorf("%w, and %d more names", first, more)
	}
	switch {
	case s.pollErr == nil:
		return first
	case first == nil:
		return s.pollErr
	}
	return fmt.Errorf("%w; %w", s.pollErr, first)
}
