package session

import (
	"context"
	"slices"
	"strconv"

	sessionv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/session/v1"
	"github.com/beeline-mqtt/beeline/internal/cluster"
	"github.com/beeline-mqtt/beeline/internal/topic"
	"github.com/beeline-mqtt/beeline/services/session/internal/claims"
	"github.com/beeline-mqtt/beeline/services/session/internal/groups"
	"github.com/beeline-mqtt/beeline/services/session/internal/store"
)

// members are the changes of groups in a term. The term's mu guards it.
type members struct {
	// version counts the changes that are in force; asked numbers what gateways are told.
	version, asked uint64
	// waiting are changes that gateways have been told, or will be when they attach, and that not all have answered, by the
	// number of the question.
	waiting map[uint64]*spreading
}

// spreading is one change on its way to the gateways.
type spreading struct {
	group    string
	gateways map[string]int64 // that have not answered, with a revision of etcd at which each lived
	done     chan struct{}    // closed when all have
}

// answered takes a gateway off what it was told under a number.
func (m *members) answered(gateway string, id uint64) {
	if s := m.waiting[id]; s != nil {
		m.leave(id, s, gateway)
	}
}

// pending returns what is closed when changes of a group are in force that are on their way.
func (m *members) pending(group string) (all []<-chan struct{}) {
	for _, s := range m.waiting {
		if s.group == group {
			all = append(all, s.done)
		}
	}
	return all
}

// waitsFor reports whether some change waits for a gateway.
func (m *members) waitsFor(gateway string) bool {
	for _, s := range m.waiting {
		if _, waits := s.gateways[gateway]; waits {
			return true
		}
	}
	return false
}

// knowsAll takes a gateway off all that it was told up to a number.
func (m *members) knowsAll(gateway string, through uint64) {
	for id, s := range m.waiting {
		if id <= through {
			m.leave(id, s, gateway)
		}
	}
}

// living takes off the gateways that have died: they are not in the view, and it is not older than when they lived.
func (m *members) living(v cluster.View) {
	for id, s := range m.waiting {
		for g, aliveAt := range s.gateways {
			if _, lives := v.Find(g); !lives && v.Revision >= aliveAt {
				m.leave(id, s, g)
			}
		}
	}
}

func (m *members) leave(id uint64, s *spreading, gateway string) {
	delete(s.gateways, gateway)
	if len(s.gateways) == 0 {
		close(s.done)
		delete(m.waiting, id)
	}
}

// managedVersion names the changes that are in force. It needs mu.
func (t *term) managedVersion() string {
	return t.instance + "/" + strconv.FormatUint(t.members.version, 10)
}

// managed is what a client gets without having subscribed. It needs mu: what is put in force with it is told after this.
func (t *term) managed(client, user string) []*sessionv1.ManagedFilter {
	if t.kept == nil {
		return nil
	}
	var all []*sessionv1.ManagedFilter
	for _, f := range t.kept.Groups().Filters(client, user) {
		all = append(all, &sessionv1.ManagedFilter{Filter: f.Name, ByClient: f.ByClient, ByUser: f.ByUser})
	}
	return all
}

// seen notes whom a claim was granted to. Of a client with a session the store knows the user. It needs mu.
func (t *term) seen(e claims.Effect) {
	user := e.Request.User
	if e.Session != nil {
		user = ""
	}
	t.userNames.Here(e.Client, groups.Seen{User: user, Gateway: e.Gateway, Epoch: e.Epoch})
}

// hold notes the users of clients that a gateway has shown, and tells it what they get if it may not know.
func (t *term) hold(st *stream, h *sessionv1.Holdings) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.streams[st.gateway] != st {
		return
	}
	all := &sessionv1.ManagedClients{}
	for _, one := range h.GetHoldings() {
		if one.GetUsername() != "" {
			t.userNames.Here(one.GetClientId(), groups.Seen{User: one.GetUsername(), Gateway: st.gateway, Epoch: one.GetEpoch()})
		}
		if st.outdated {
			all.Clients = append(all.Clients, &sessionv1.ManagedClient{
				ClientId: one.GetClientId(), Managed: t.managed(one.GetClientId(), one.GetUsername()),
			})
		}
	}
	st.shown = st.shown || len(h.GetHoldings()) > 0
	switch {
	case !st.outdated:
		return
	case !st.shown:
		if h.GetLast() {
			// It has nobody who could have missed anything.
			t.members.knowsAll(st.gateway, t.members.asked)
		}
		return
	case h.GetLast():
		all.ManagedVersion, all.RequestId = t.managedVersion(), t.members.asked
	}
	st.push(&sessionv1.AttachResponse{Frame: &sessionv1.AttachResponse_ManagedClients{ManagedClients: all}})
}

// changeGroup has a change stored, puts it in force, and waits until the cluster routes accordingly. changed is how many
// members it has changed. The errors are those of packages groups and store, errTermOver, or the context's: then
// it is in force.
func (t *term) changeGroup(ctx context.Context, c store.GroupChange) (changed int, err error) {
	c, inForce, err := t.applyGroup(c)
	if err != nil {
		return len(c.Members), err
	}
	for _, done := range inForce {
		select {
		case <-done:
		case <-ctx.Done():
			return len(c.Members), context.Cause(ctx)
		case <-t.over:
			return len(c.Members), errTermOver
		}
	}
	return len(c.Members), nil
}

// applyGroup stores a change and puts it in force; it is when all channels are closed: for clients that are away, and at all
// gateways. What was changed before, and may be on its way, is waited for, too: a call may have been repeated.
func (t *term) applyGroup(c store.GroupChange) (checked store.GroupChange, inForce []<-chan struct{}, err error) {
	book := t.kept.Groups()
	book.Lock()
	defer book.Unlock()
	if c, err = book.Check(c); err != nil {
		return c, nil, err
	}
	t.mu.Lock()
	inForce = t.members.pending(c.Group)
	t.mu.Unlock()
	if c.Kind != store.GroupMade && c.Kind != store.GroupEnded && len(c.Members) == 0 {
		return c, inForce, nil
	}
	if err := book.Store(c); err != nil {
		return c, nil, err
	}
	t.mu.Lock()
	book.Apply(c)
	t.members.version++
	s := t.tellMembers(c)
	t.mu.Unlock()
	followed := make(chan struct{})
	t.kept.Manage(c.Members, func() { close(followed) })
	return c, append(inForce, followed, s.done), nil
}

// tellMembers tells all gateways of a change. It needs mu.
func (t *term) tellMembers(c store.GroupChange) *spreading {
	t.members.asked++
	s := &spreading{group: c.Group, gateways: make(map[string]int64, len(t.view.Members)), done: make(chan struct{})}
	for _, g := range t.view.Members {
		s.gateways[g.ID] = t.view.Revision
	}
	m := &sessionv1.MembersChanged{
		RequestId: t.members.asked, ManagedVersion: t.managedVersion(),
		Filter: topic.GroupFilter(c.Group), Joined: c.Kind == store.MembersAdded,
	}
	for _, x := range c.Members {
		if x.User {
			m.Users = append(m.Users, x.Name)
		} else {
			m.ClientIds = append(m.ClientIds, x.Name)
		}
	}
	for _, st := range t.streams {
		s.gateways[st.gateway] = max(s.gateways[st.gateway], st.aliveAt)
		st.push(&sessionv1.AttachResponse{Frame: &sessionv1.AttachResponse_MembersChanged{MembersChanged: m}})
	}
	if len(s.gateways) == 0 {
		close(s.done)
		return s
	}
	t.members.waiting[m.GetRequestId()] = s
	return s
}

// spread is a gateway's answer.
func (t *term) spread(st *stream, a *sessionv1.MembersApplied) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if a.GetEverything() {
		t.members.knowsAll(st.gateway, a.GetRequestId())
		return
	}
	t.members.answered(st.gateway, a.GetRequestId())
}

// userClients are the clients of a user, by id.
func (t *term) userClients(user string) []string {
	t.mu.Lock()
	clients := t.userNames.Clients(user)
	t.mu.Unlock()
	clients = append(clients, t.kept.UserClients(user)...)
	slices.Sort(clients)
	return slices.Compact(clients)
}
