package lease

import (
	"sync"
	"time"

	sessionv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/session/v1"
)

// Managed is a topic filter by which a client gets messages without having subscribed, and because of whose membership.
type Managed struct {
	Filter           string
	ByClient, ByUser bool
}

// ManagedClient is all that one client gets without having subscribed.
type ManagedClient struct {
	ClientID string
	Managed  []Managed
}

// MembersChange says that members have joined the group of a filter, or left it.
type MembersChange struct {
	Filter string
	Joined bool
	// Clients are members themselves, by id; Users are members by name, with all their clients.
	Clients, Users []string
}

func managedOf(wire []*sessionv1.ManagedFilter) []Managed {
	if len(wire) == 0 {
		return nil
	}
	all := make([]Managed, len(wire))
	for i, w := range wire {
		all[i] = Managed{Filter: w.GetFilter(), ByClient: w.GetByClient(), ByUser: w.GetByUser()}
	}
	return all
}

func (k *Keeper) managedVersion() string {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.managed
}

func (k *Keeper) setManagedVersion(v string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.managed = v
}

// membersChanged passes a change on, and answers on the stream by which it came: on another one everything is told anew.
func (k *Keeper) membersChanged(s *stream, w *sessionv1.MembersChanged) {
	answer := func() { s.tell(membersApplied{id: w.GetRequestId()}) }
	if k.config.OnMembers == nil {
		answer()
		return
	}
	k.config.OnMembers(MembersChange{
		Filter: w.GetFilter(), Joined: w.GetJoined(), Clients: w.GetClientIds(), Users: w.GetUsers(),
	}, answer)
	k.setManagedVersion(w.GetManagedVersion())
}

// managedClients passes on what may have been missed. The last of it is answered when all of it is in force.
func (k *Keeper) managedClients(s *stream, w *sessionv1.ManagedClients) {
	if w.GetManagedVersion() != "" {
		s.missed.last(func() { s.tell(membersApplied{id: w.GetRequestId(), everything: true}) })
	}
	clients := make([]ManagedClient, len(w.GetClients()))
	for i, c := range w.GetClients() {
		clients[i] = ManagedClient{ClientID: c.GetClientId(), Managed: managedOf(c.GetManaged())}
	}
	if k.config.OnManaged == nil {
		s.missed.done()
		return
	}
	k.config.OnManaged(clients, s.missed.done)
	if w.GetManagedVersion() == "" {
		s.missed.more()
		return
	}
	k.setManagedVersion(w.GetManagedVersion())
}

// missed counts what a stream has brought of what was missed before it, and that is not in force yet. It begins with one,
// for the first frame.
type missed struct {
	mu     sync.Mutex
	over   int // frames that are in force
	frames int // that have come, less the first
	answer func()
}

// more is called when another frame will come.
func (m *missed) more() { m.change(func() { m.frames++ }) }

// last is called when the last frame has come, with what is to be done when all are in force.
func (m *missed) last(answer func()) { m.change(func() { m.answer = answer }) }

// done is called when what one frame has brought is in force.
func (m *missed) done() { m.change(func() { m.over++ }) }

func (m *missed) change(f func()) {
	m.mu.Lock()
	f()
	var answer func()
	if m.answer != nil && m.over == m.frames+1 {
		answer, m.answer = m.answer, nil
	}
	m.mu.Unlock()
	if answer != nil {
		answer()
	}
}

type membersApplied struct {
	id         uint64
	everything bool
}

func (m membersApplied) wire(uint64, time.Time) *sessionv1.AttachRequest {
	return &sessionv1.AttachRequest{Frame: &sessionv1.AttachRequest_MembersApplied{
		MembersApplied: &sessionv1.MembersApplied{RequestId: m.id, Everything: m.everything},
	}}
}
