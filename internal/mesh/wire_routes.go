package mesh

import (
	"fmt"

	meshv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/mesh/v1"
	"github.com/beeline-mqtt/beeline/internal/routes"
)

// routesPartBytes is about where one RouteUpdate ends and the next part begins, so that a large table does not
// hold up deliveries.
const routesPartBytes = 48 << 10

// routeOverhead is what a route needs on the wire beside its strings, at most.
const routeOverhead = 24

// part cuts a RouteUpdate from the front of u. The last one has more unset.
func (u *update) part() *meshv1.RouteUpdate {
	p := &meshv1.RouteUpdate{Version: u.version, Snapshot: u.snapshot}
	size := 0
	for len(u.announced) > 0 && size < routesPartBytes {
		r := u.announced[0]
		u.announced = u.announced[1:]
		size += len(r.Filter) + len(r.Group) + routeOverhead
		p.Announced = append(p.Announced, &meshv1.Route{
			Filter: r.Filter, ShareGroup: r.Group, Members: r.Members, Durable: r.Durable,
		})
	}
	for len(u.withdrawn) > 0 && size < routesPartBytes {
		k := u.withdrawn[0]
		u.withdrawn = u.withdrawn[1:]
		size += len(k.filter) + len(k.group) + routeOverhead
		p.Withdrawn = append(p.Withdrawn, &meshv1.Route{Filter: k.filter, ShareGroup: k.group})
	}
	p.More = len(u.announced)+len(u.withdrawn) > 0
	return p
}

// routeTable is the part of routes.Table that a peer's updates are applied to.
type routeTable[P comparable] interface {
	Announce(p P, r routes.Route)
	Withdraw(p P, filter, group string)
	Replace(p P, routes []routes.Route)
	Digest(p P) (count, hash uint64)
}

// routesIn applies the updates of one peer. It is a plain value; who receives from the peer owns it.
type routesIn struct {
	version uint64 // in force; 0 is none
	parts   []routes.Route
	inParts bool
}

// restart forgets the parts of an update that a broken stream left unfinished.
func (in *routesIn) restart() {
	in.parts, in.inParts = nil, false
}

// applyRoutes applies one RouteUpdate to p's routes. It reports whether a new version is in force, to be
// acknowledged.
func applyRoutes[P comparable](in *routesIn, u *meshv1.RouteUpdate, table routeTable[P], p P) (ack bool, err error) {
	switch {
	case u.GetVersion() == 0 || u.GetVersion() < in.version:
		return false, fmt.Errorf("%w: route version %d after %d", errProtocol, u.GetVersion(), in.version)
	case !u.GetSnapshot() && in.inParts:
		return false, fmt.Errorf("%w: route delta inside a snapshot", errProtocol)
	case !u.GetSnapshot() && in.version == 0:
		return false, fmt.Errorf("%w: route delta before a snapshot", errProtocol)
	}
	if u.GetSnapshot() {
		for _, r := range u.GetAnnounced() {
			in.parts = append(in.parts, route(r))
		}
		in.inParts = u.GetMore()
		if in.inParts {
			return false, nil
		}
		table.Replace(p, in.parts)
		in.parts = nil
	} else {
		for _, r := range u.GetAnnounced() {
			table.Announce(p, route(r))
		}
		for _, r := range u.GetWithdrawn() {
			table.Withdraw(p, r.GetFilter(), r.GetShareGroup())
		}
		if u.GetMore() {
			return false, nil
		}
	}
	in.version = u.GetVersion()
	return true, nil
}

// differs reports whether p's routes are not what its digest says.
func differs[P comparable](in *routesIn, d *meshv1.RouteDigest, table routeTable[P], p P) bool {
	if d.GetVersion() != in.version {
		return true
	}
	count, hash := table.Digest(p)
	return count != d.GetCount() || hash != d.GetHash()
}

func route(r *meshv1.Route) routes.Route {
	return routes.Route{Filter: r.GetFilter(), Group: r.GetShareGroup(), Members: r.GetMembers(), Durable: r.GetDurable()}
}
