// Package mesh owns the links between processes: bidirectional gRPC streams (beeline.mesh.v1) that carry
// deliveries and routes one way, receipts and acknowledgements the other. Every process dials every peer.
//
// It owns sequences, resending after a break, deduplication, receipts, credit, the spreading of this process's own
// routes, and, when a peer has died, what was on its way to durable sessions there, until somebody has adopted them:
// a link is open, then orphaned, then adopted; or over, if there is nothing to inherit. For a session that has moved here it asks
// all peers to send on what is older (SendOn). It does not know who is alive (SetPeers says so), what a topic matches (routes), or
// what becomes of a message here (Inbound).
//
// Concurrency: all exported methods may be called from any goroutine and none of them waits for a peer, but for
// Run and WaitSynced. Run owns the goroutines: one for the mesh, one for each link, one more for each end of a
// stream. The pure parts (sender, receiver, announcer, routesIn) are plain values behind the locks of their
// owners; no lock is held while a stream, a Waiter, an Inbound or a done function is called.
package mesh

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"

	meshv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/mesh/v1"
	"github.com/beeline-mqtt/beeline/internal/routes"
)

// ErrClosed is what Announce and WaitSynced report when Run has ended.
var ErrClosed = errors.New("mesh closed")

// Mesh is one process's end of all its links.
type Mesh struct {
	cfg      Config
	deps     Deps
	counters counters
	slabs    slabs

	mu      sync.Mutex
	ctx     context.Context //nolint:containedctx // of Run, nil before: links start whenever SetPeers says so
	closed  bool
	known   bool // SetPeers has been called
	links   map[string]*Link
	gone    map[string]*Link // incarnations that were removed, for good; with what there still is to know of them
	changed chan struct{}    // closed and replaced at every change of links and of what Synced looks at
	adopts  []*adoption      // that peers have not answered
	sendOns []*sendOn        // the same, ascending

	lastSendOn uint64 // the number of the newest; guarded by mu
	wg         sync.WaitGroup

	inheriting sync.Mutex // one inheritance after another: it needs the locks of two links
	claims     []claim    // that wait; guarded by inheriting

	routesMu     sync.Mutex
	routes       *announcer[*Link]
	routesClosed bool

	lateMu     sync.Mutex
	late       []func()
	lateClosed bool
	lateWake   chan struct{}
}

// New makes a mesh and registers its metrics. Nothing runs before Run.
func New(cfg Config, deps Deps) (*Mesh, error) {
	cfg = cfg.withDefaults()
	if err := errors.Join(cfg.validate(), deps.validate()); err != nil {
		return nil, err
	}
	m := &Mesh{
		cfg:      cfg,
		deps:     deps,
		links:    make(map[string]*Link),
		gone:     make(map[string]*Link),
		changed:  make(chan struct{}),
		routes:   newAnnouncer[*Link](),
		lateWake: make(chan struct{}, 1),
		slabs:    newSlabs(),
	}
	if err := deps.Metrics.Register(newCollector(m)); err != nil {
		return nil, fmt.Errorf("register mesh metrics: %w", err)
	}
	return m, nil
}

// Register adds the MeshService to a server, which needs ServerOptions. Streams are refused while Run does not
// run.
func (m *Mesh) Register(s grpc.ServiceRegistrar) {
	meshv1.RegisterMeshServiceServer(s, m.Service())
}

// Service is what Register adds, for a server that outlives the mesh.
func (m *Mesh) Service() meshv1.MeshServiceServer { return &service{m: m} }

// Link returns the link to an incarnation, nil when it is not a living peer.
func (m *Mesh) Link(incarnation string) *Link {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.links[incarnation]
}

// Run keeps the links until ctx is cancelled. Then it says Goodbye on all streams, waits for its goroutines,
// settles every Waiter that is left as Gone, and returns nil. It may be called once. Call it to its end before
// GracefulStop, which would wait for the streams.
func (m *Mesh) Run(ctx context.Context) error {
	m.mu.Lock()
	if m.ctx != nil {
		m.mu.Unlock()
		return errors.New("mesh: Run called twice")
	}
	m.ctx = ctx
	for _, l := range m.links {
		m.start(l)
	}
	m.mu.Unlock()

	m.loop(ctx)

	m.mu.Lock()
	m.closed = true
	m.broadcast()
	m.mu.Unlock()
	m.wg.Wait()
	m.endAdoptions()
	m.endSendOns()
	m.endOrphans()

	m.routesMu.Lock()
	m.routesClosed = true
	over := m.routes.close(nil)
	m.routesMu.Unlock()
	call(over)
	m.lateMu.Lock()
	m.lateClosed = true
	m.lateMu.Unlock()
	m.runLate()
	return nil
}

// loop does what belongs to no link: it calls back for callers that must not be called back at once, and ends
// announcements that nobody acknowledges.
func (m *Mesh) loop(ctx context.Context) {
	timer := time.NewTimer(m.cfg.RouteAckTimeout)
	defer timer.Stop()
	for {
		m.runLate()
		now := time.Now()
		m.routesMu.Lock()
		over := m.routes.expire(now, nil)
		next, ok := m.routes.deadline()
		m.routesMu.Unlock()
		call(over)
		wait := m.cfg.RouteAckTimeout
		if ok {
			wait = min(wait, next.Sub(now))
		}
		timer.Reset(wait)
		select {
		case <-ctx.Done():
			return
		case <-m.lateWake:
		case <-timer.C:
		}
	}
}

func call(over []finished) {
	for _, f := range over {
		f.done(f.err)
	}
}

// later has the mesh's own goroutine call f, for the sake of callers that may hold locks. It reports false when
// that goroutine has ended.
func (m *Mesh) later(f func()) bool {
	m.lateMu.Lock()
	if m.lateClosed {
		m.lateMu.Unlock()
		return false
	}
	m.late = append(m.late, f)
	m.lateMu.Unlock()
	select {
	case m.lateWake <- struct{}{}:
	default:
	}
	return true
}

func (m *Mesh) runLate() {
	for {
		m.lateMu.Lock()
		fs := m.late
		m.late = nil
		m.lateMu.Unlock()
		if len(fs) == 0 {
			return
		}
		for _, f := range fs {
			f()
		}
	}
}

// SetPeers gives the registry's present view of the other processes. A peer that is missing is dead: its incarnation
// is refused for good, what was sent to it settles as Gone, and its routes are dropped, but for its durable ones: these
// stay, and messages at QoS 1 and 2 that match ordinary ones, until another process adopts its sessions (Adopt).
// This process itself is left out of peers.
func (m *Mesh) SetPeers(peers []Peer) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return
	}
	m.known = true
	alive := make(map[string]struct{}, len(peers))
	for _, p := range peers {
		alive[p.ID] = struct{}{}
		if _, ok := m.gone[p.ID]; ok || m.links[p.ID] != nil || p.ID == m.cfg.Incarnation {
			continue
		}
		l := newLink(m, p)
		m.links[p.ID] = l
		if m.ctx != nil {
			m.start(l)
		}
	}
	for id := range m.links {
		if _, ok := alive[id]; !ok {
			m.bury(id)
		}
	}
	m.broadcast()
}

// bury takes an incarnation for dead, for good, and returns what was the link to it, nil when there is nothing to
// know of it. mu is held.
func (m *Mesh) bury(id string) *Link {
	l, alive := m.links[id]
	if alive {
		delete(m.links, id)
		m.stop(l)
	} else {
		l = m.gone[id]
	}
	m.gone[id] = l
	return l
}

// closing reports whether Run is about to end, or has.
func (m *Mesh) closing() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.closed || m.ctx != nil && m.ctx.Err() != nil
}

// start runs a link. mu is held.
func (m *Mesh) start(l *Link) {
	ctx, cancel := context.WithCancel(m.ctx)
	l.stop = cancel
	m.wg.Go(func() {
		defer cancel()
		l.run(ctx)
	})
}

// stop ends a link whose peer is dead. mu is held.
func (m *Mesh) stop(l *Link) {
	l.dead.Store(true)
	if l.stop != nil {
		l.stop()
		return
	}
	// Run has not started it: it has no streams, and takes what it was given with it.
	m.later(l.end)
}

// broadcast wakes everybody who waits for a change. mu is held.
func (m *Mesh) broadcast() {
	close(m.changed)
	m.changed = make(chan struct{})
}

// progressed says that what Synced looks at may have changed.
func (m *Mesh) progressed() {
	m.mu.Lock()
	m.broadcast()
	m.mu.Unlock()
}

func (m *Mesh) living() []*Link {
	m.mu.Lock()
	defer m.mu.Unlock()
	links := make([]*Link, 0, len(m.links))
	for _, l := range m.links {
		links = append(links, l)
	}
	return links
}

// Reachable returns the links to the living peers but those to which there has been no stream for longer than a while, and
// whether these are all.
func (m *Mesh) Reachable(while time.Duration) (links []*Link, all bool) {
	now := time.Now()
	living := m.living()
	n := len(living)
	links = slices.DeleteFunc(living, func(l *Link) bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		return l.stream == nil && now.Sub(l.lost) > while
	})
	return links, len(links) == n
}

// Synced reports whether, for every peer that started before this process, this process's routes are in force
// there, unless it is quiet, and the peer's routes are in force here. It is false before the first SetPeers. Clients are to be
// served only after it has been true once.
func (m *Mesh) Synced() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.synced()
}

func (m *Mesh) synced() bool {
	if !m.known {
		return false
	}
	for _, l := range m.links {
		if l.peer.Revision < m.cfg.Revision && (!l.announced.Load() && !l.peer.Quiet || !l.in.inForce.Load()) {
			return false
		}
	}
	return true
}

// WaitSynced waits for Synced. It returns ErrClosed when the mesh ends before, or the cause that ctx ended for.
func (m *Mesh) WaitSynced(ctx context.Context) error {
	for {
		m.mu.Lock()
		ok, closed, changed := m.synced(), m.closed, m.changed
		m.mu.Unlock()
		switch {
		case closed:
			return ErrClosed
		case ok:
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("wait for the routes of older peers: %w", context.Cause(ctx))
		}
	}
}

// Announce changes this process's routes: Members 0 withdraws a route, unless that Keeps; ordinary routes have Members 1. done is
// called once, on a goroutine of the mesh, and must not block: with nil when every living peer to which a
// snapshot has been sent has these routes in force, with ErrNotAcknowledged after RouteAckTimeout (the change
// stays; the caller takes it back if it has to), with ErrClosed when the mesh ends. Once Run has returned it is
// called before Announce returns.
func (m *Mesh) Announce(changes []routes.Route, done func(error)) {
	m.routesMu.Lock()
	if m.routesClosed {
		m.routesMu.Unlock()
		done(ErrClosed)
		return
	}
	before := m.routes.version
	over := m.routes.announce(changes, time.Now().Add(m.cfg.RouteAckTimeout), done, nil)
	grown := m.routes.version != before
	m.routesMu.Unlock()
	if grown {
		for _, l := range m.living() {
			l.nudge()
		}
	}
	if len(over) > 0 && !m.later(func() { call(over) }) {
		done(ErrClosed)
	}
}

// admit finds the link of a peer that connects. One that the registry has not shown yet is waited for.
func (m *Mesh) admit(ctx context.Context, id string) (*Link, error) {
	timer := time.NewTimer(m.cfg.AdmitTimeout)
	defer timer.Stop()
	for {
		m.mu.Lock()
		l, changed, closed := m.links[id], m.changed, m.closed
		_, gone := m.gone[id]
		m.mu.Unlock()
		switch {
		case closed:
			return nil, errClosing
		case gone:
			return nil, errPeerGone
		case l != nil:
			return l, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-timer.C:
			return nil, errPeerUnknown
		}
	}
}

// enter counts a goroutine that a stream of a peer needs, unless the mesh is not running.
func (m *Mesh) enter(f func()) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.ctx == nil || m.closed || m.ctx.Err() != nil {
		return false
	}
	m.wg.Go(f)
	return true
}

// acked takes a route version that a peer has in force.
func (m *Mesh) acked(l *Link, version uint64) {
	if !l.peer.Quiet {
		m.routesMu.Lock()
		over := m.routes.ack(l, version, nil)
		m.routesMu.Unlock()
		call(over)
	}
	if !l.announced.Swap(true) {
		m.progressed()
	}
}

// dropped forgets a dead peer's place among those that announcements wait for.
func (m *Mesh) dropped(l *Link) {
	m.routesMu.Lock()
	over := m.routes.drop(l, nil)
	m.routesMu.Unlock()
	call(over)
}
