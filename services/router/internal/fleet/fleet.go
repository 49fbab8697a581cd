// Package fleet holds the router's connections to the processes of its own cluster: to each gateway, made when it is first
// asked for something, and to the active session instance. It watches nothing of the gateways itself: it is shown what the
// router sees. It is safe for concurrent use.
package fleet

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"google.golang.org/grpc"

	"github.com/beeline-mqtt/beeline/internal/cluster"
)

// Why a process cannot be asked.
var (
	// ErrNoGateway: no gateway is known, or none of that name.
	ErrNoGateway = errors.New("no such gateway")
	// ErrNoSession: no session instance is active.
	ErrNoSession = errors.New("no session instance is active")
)

// Gateway is a gateway with the connection to it, which stays the fleet's.
type Gateway struct {
	cluster.Member

	Conn grpc.ClientConnInterface
}

// Fleet is the connections. The caller runs it.
type Fleet struct {
	dial     cluster.Dial
	sessions *cluster.Sessions

	mu    sync.Mutex // guards the following
	view  cluster.View
	conns map[string]*grpc.ClientConn // by incarnation
	turn  int
	ended bool
}

// New returns a Fleet that knows nobody.
func New(d cluster.Deps, dial cluster.Dial) *Fleet {
	return &Fleet{dial: dial, sessions: cluster.NewSessions(d, dial), conns: make(map[string]*grpc.ClientConn)}
}

// Run follows the session instances until ctx ends, and closes all connections then.
func (f *Fleet) Run(ctx context.Context) error {
	err := f.sessions.Run(ctx)
	f.mu.Lock()
	conns := f.conns
	f.conns, f.ended = nil, true
	f.mu.Unlock()
	for _, c := range conns {
		_ = c.Close()
	}
	return err
}

// See tells the fleet which gateways there are. Connections to those that are gone are closed.
func (f *Fleet) See(v cluster.View) {
	f.mu.Lock()
	f.view = v
	var gone []*grpc.ClientConn
	for id, c := range f.conns {
		if _, alive := v.Find(id); !alive {
			gone = append(gone, c)
			delete(f.conns, id)
		}
	}
	f.mu.Unlock()
	for _, c := range gone {
		_ = c.Close()
	}
}

// Gateways are those that there are, in the order of their start.
func (f *Fleet) Gateways() []cluster.Member {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.view.Members
}

// Gateway returns the gateway with an incarnation. The error is ErrNoGateway, or why it cannot be dialled, wrapped.
func (f *Fleet) Gateway(incarnation string) (Gateway, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	m, ok := f.view.Find(incarnation)
	if !ok {
		return Gateway{}, fmt.Errorf("gateway %q: %w", incarnation, ErrNoGateway)
	}
	return f.connect(m)
}

// Next returns the gateways one after the other, those first that are not draining. but, which may be nil, leaves some out.
// The error is ErrNoGateway when none is left.
func (f *Fleet) Next(but func(incarnation string) bool) (Gateway, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, state := range [...]cluster.State{cluster.Active, cluster.Draining} {
		for range f.view.Members {
			f.turn = (f.turn + 1) % len(f.view.Members)
			m := f.view.Members[f.turn]
			if m.State != state || but != nil && but(m.ID) {
				continue
			}
			return f.connect(m)
		}
	}
	return Gateway{}, ErrNoGateway
}

// connect needs mu; dialling does not block.
func (f *Fleet) connect(m cluster.Member) (Gateway, error) {
	if c := f.conns[m.ID]; c != nil {
		return Gateway{Member: m, Conn: c}, nil
	}
	if f.ended {
		return Gateway{}, fmt.Errorf("dial %s: %w", m.Address, context.Canceled)
	}
	c, err := f.dial(m.Address)
	if err != nil {
		return Gateway{}, fmt.Errorf("dial gateway %s: %w", m.ID, err)
	}
	f.conns[m.ID] = c
	return Gateway{Member: m, Conn: c}, nil
}

// sessionWait is how long a call waits for the session service, while one instance takes the place of another.
const sessionWait = 3 * time.Second

// AwaitSession is Session for calls that can wait a little, at most three seconds.
func (f *Fleet) AwaitSession(ctx context.Context) (cluster.Member, grpc.ClientConnInterface, error) {
	ctx, cancel := context.WithTimeout(ctx, sessionWait)
	defer cancel()
	for {
		m, c, changed := f.sessions.Active()
		if c != nil {
			return m, c, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return cluster.Member{}, nil, ErrNoSession
		}
	}
}

// Session returns the connection to the active session instance, which stays the fleet's. The error is ErrNoSession.
func (f *Fleet) Session() (cluster.Member, grpc.ClientConnInterface, error) {
	m, c, _ := f.sessions.Active()
	if c == nil {
		return cluster.Member{}, nil, ErrNoSession
	}
	return m, c, nil
}

// AwaitOther waits until another session instance than this one is active, which may be known before this one has ended, or
// until the context is done.
func (f *Fleet) AwaitOther(ctx context.Context, session string) {
	for {
		m, _, changed := f.sessions.Active()
		if m.ID != "" && m.ID != session {
			return
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}
