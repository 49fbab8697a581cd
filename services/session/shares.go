package session

import (
	"github.com/beeline-mqtt/beeline/internal/mesh"
	"github.com/beeline-mqtt/beeline/internal/message"
	"github.com/beeline-mqtt/beeline/internal/routes"
	"github.com/beeline-mqtt/beeline/internal/topic"
	"github.com/beeline-mqtt/beeline/internal/turn"
	"github.com/beeline-mqtt/beeline/services/session/internal/away"
)

// sharers are the members of shared subscriptions that are online, as the gateways announce them.
type sharers struct {
	mesh   *mesh.Mesh
	routes *routes.Table[*mesh.Link]
}

var _ away.Members = sharers{}

// Online implements away.Members.
func (x sharers) Online(s topic.Shared) bool {
	share := x.routes.Share(s.Group, s.Filter)
	return share != nil && share.Online()
}

// Deserted implements away.Members.
func (x sharers) Deserted(s topic.Shared) bool {
	share := x.routes.Share(s.Group, s.Filter)
	return x.mesh.Synced() && (share == nil || share.Empty())
}

// Give implements away.Members. The message goes to the gateway whose turn it is, as one does that a gateway publishes.
func (x sharers) Give(s topic.Shared, m *message.Message, except func(string) bool, answered func(string, mesh.Outcome)) bool {
	share := x.routes.Share(s.Group, s.Filter)
	if share == nil {
		return false
	}
	l, ok := share.Pick(func(l *mesh.Link) bool { return except(l.Peer().ID) })
	if !ok {
		return false
	}
	d := mesh.Delivery{Target: mesh.Target{Kind: mesh.TargetShare, Group: s.Group, Filter: s.Filter}, Message: m}
	if !l.Send(d, given(answered)) {
		answered(l.Peer().ID, mesh.Overloaded)
	}
	return true
}

// given waits for the answer of a gateway.
type given func(gateway string, o mesh.Outcome)

// Settled implements mesh.Waiter.
func (f given) Settled(l *mesh.Link, _ mesh.Delivery, r mesh.Receipt, _ *turn.Turn) {
	f(l.Peer().ID, r.Outcome)
}
