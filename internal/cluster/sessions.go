package cluster

import (
	"context"
	"fmt"
	"log/slog"
	"sync"

	"google.golang.org/grpc"

	sessionv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/session/v1"
)

// Dial makes a connection to the gRPC server of another process, without waiting for it.
type Dial func(address string) (*grpc.ClientConn, error)

// Sessions are the session instances as this process knows them: who is alive, who is active, and a connection
// to each. What was known last stands while etcd is away.
type Sessions struct {
	deps Deps
	dial Dial

	mu      sync.Mutex // guards the following
	view    View
	active  string
	conns   map[string]*grpc.ClientConn // by incarnation id
	changed chan struct{}               // closed and replaced at each change of view or active
	ended   bool
}

// NewSessions returns a Sessions that knows nothing before Run.
func NewSessions(d Deps, dial Dial) *Sessions {
	return &Sessions{deps: d, dial: dial, conns: map[string]*grpc.ClientConn{}, changed: make(chan struct{})}
}

// Run watches etcd until the context is done, then closes the connections and returns nil.
func (s *Sessions) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	wg.Go(func() { _ = WatchMembers(ctx, s.deps, Session, s.setView) })
	wg.Go(func() { _ = WatchActive(ctx, s.deps, s.setActive) })
	wg.Wait()

	s.mu.Lock()
	conns := s.conns
	s.conns, s.ended = nil, true
	s.mu.Unlock()
	for _, c := range conns {
		_ = c.Close()
	}
	return nil
}

func (s *Sessions) setView(v View) {
	s.mu.Lock()
	s.view = v
	var gone []*grpc.ClientConn
	for id, c := range s.conns {
		if _, alive := v.Find(id); !alive {
			gone = append(gone, c)
			delete(s.conns, id)
		}
	}
	s.announce()
	s.mu.Unlock()
	for _, c := range gone {
		_ = c.Close()
	}
}

func (s *Sessions) setActive(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.active = id
	s.announce()
}

// announce needs mu.
func (s *Sessions) announce() {
	close(s.changed)
	s.changed = make(chan struct{})
}

// View is the last known list of session instances, and a channel that is closed when it or the active instance
// changes.
func (s *Sessions) View() (View, <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.view, s.changed
}

// Active returns the active instance and the connection to it, nil when there is none; and a channel that is
// closed when that or the list of instances changes.
func (s *Sessions) Active() (Member, *grpc.ClientConn, <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	m, known := s.view.Find(s.active)
	if !known {
		return Member{}, nil, s.changed
	}
	c, err := s.connect(m)
	if err != nil {
		s.deps.Logger.Warn("session instance cannot be dialled", slog.String("peer", m.ID), slog.Any("error", err))
		return Member{}, nil, s.changed
	}
	return m, c, s.changed
}

// connect needs mu; dialling does not block.
func (s *Sessions) connect(m Member) (*grpc.ClientConn, error) {
	if c := s.conns[m.ID]; c != nil {
		return c, nil
	}
	if s.ended {
		return nil, fmt.Errorf("dial %s: %w", m.Address, context.Canceled)
	}
	c, err := s.dial(m.Address)
	if err != nil {
		return nil, fmt.Errorf("dial %s: %w", m.Address, err)
	}
	s.conns[m.ID] = c
	return c, nil
}

// AllBlind is a Witness for a gateway: it asks every known instance at once.
func (s *Sessions) AllBlind(ctx context.Context) bool {
	view, _ := s.View()
	return len(view.Members) > 0 && s.blind(ctx, view.Members)
}

// OthersBlind is like AllBlind without the instance self, for that instance itself: true when it is alone.
func (s *Sessions) OthersBlind(ctx context.Context, self string) bool {
	view, _ := s.View()
	var others []Member
	for _, m := range view.Members {
		if m.ID != self {
			others = append(others, m)
		}
	}
	return s.blind(ctx, others)
}

func (s *Sessions) blind(ctx context.Context, members []Member) bool {
	answers := make(chan bool, len(members))
	for _, m := range members {
		s.mu.Lock()
		c, err := s.connect(m)
		s.mu.Unlock()
		if err != nil {
			answers <- false
			continue
		}
		c.ResetConnectBackoff()
		go func() {
			r, err := sessionv1.NewSessionServiceClient(c).Witness(ctx, &sessionv1.WitnessRequest{}, grpc.WaitForReady(true))
			answers <- err == nil && !r.GetEtcdReachable()
		}()
	}
	all := true
	for range members {
		all = <-answers && all
	}
	return all
}
