// Package session is the service that decides who holds a client. One instance is active and serialises everything
// about a client; standbys wait in etcd for its place. It owns the clients' records in etcd and the streams of the
// gateways that are attached; it keeps nothing in memory that a successor could not find out.
//
// Each time that the instance is the active one is a term with its own state, which ends with it: nothing of one
// term reaches the next. Within a term the claims of each client are decided by internal/claims, under one lock that is
// never held while waiting. README.md describes what happens when a part fails.
package session

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"

	meshv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/mesh/v1"
	messagingv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/messaging/v1"
	sessionv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/session/v1"
	"github.com/beeline-mqtt/beeline/internal/cluster"
	"github.com/beeline-mqtt/beeline/internal/mesh"
	"github.com/beeline-mqtt/beeline/internal/trace"
	"github.com/beeline-mqtt/beeline/services/session/internal/away"
	"github.com/beeline-mqtt/beeline/services/session/internal/store"
	"github.com/beeline-mqtt/beeline/services/session/internal/store/pebble"
)

// Deps are what a session instance works with; all are required.
type Deps struct {
	// Etcd is made by cluster.Connect, and closed by the caller after Run.
	Etcd    *clientv3.Client
	Logger  *slog.Logger
	Metrics prometheus.Registerer
	// Dial reaches other session instances, and gateways: it has mesh.DialOptions.
	Dial cluster.Dial
}

// Session is one instance.
type Session struct {
	sessionv1.UnimplementedSessionServiceServer

	config   Config
	deps     Deps
	cluster  cluster.Deps
	metrics  *metrics
	sessions *cluster.Sessions
	probe    *cluster.Probe
	// outbox is how many frames may wait for one gateway.
	outbox int
	// keep makes what terms keep in the tests of this package.
	keep keep
	// holders are the metrics of what terms hold, one after the other; door leads to the mesh of the incarnation.
	holders *away.Metrics
	door    mesh.Door
	// tap shows messages to whoever follows them.
	tap *trace.Tap
	// streams are counted so that Run waits for their goroutines.
	streams sync.WaitGroup
	// numbers tell the answers to one stream of a gateway from those to the next.
	numbers atomic.Uint64
	joined  atomic.Bool
	// store is that of the present term; nil while there is none.
	store atomic.Pointer[pebble.Store]
	// trouble is why the store could not be opened, or not yet; nil when it could, and before it was tried.
	trouble atomic.Pointer[error]

	mu   sync.Mutex
	term *term           // guarded by mu; nil while another instance is active
	done <-chan struct{} // guarded by mu; closed when Run is to return, nil before Run
}

// New returns an instance that does nothing before Run.
func New(c Config, d Deps) (*Session, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	if c.Address == "" {
		return nil, errors.New("session: the address is not known")
	}
	m, err := newMetrics(d.Metrics)
	if err != nil {
		return nil, err
	}
	holders, err := away.NewMetrics(d.Metrics)
	if err != nil {
		return nil, err
	}
	cd := cluster.Deps{Client: d.Etcd, Keys: cluster.Keys(c.Cluster), Logger: d.Logger, Metrics: d.Metrics}
	return &Session{
		config: c, deps: d, cluster: cd, metrics: m, holders: holders, outbox: outboxFrames, tap: trace.New(),
		sessions: cluster.NewSessions(cd, d.Dial),
		probe:    cluster.NewProbe(cd, c.BlindAfter/3, c.BlindAfter),
	}, nil
}

// Register adds the services to a gRPC server, which has mesh.ServerOptions and has to serve for as long as Run does:
// gateways that cannot reach etcd ask this instance for its view even while it has no incarnation.
func (s *Session) Register(r grpc.ServiceRegistrar) {
	sessionv1.RegisterSessionServiceServer(r, s)
	meshv1.RegisterMeshServiceServer(r, &s.door)
	messagingv1.RegisterGroupServiceServer(r, &groupService{s: s})
	trace.Register(r, s.tap)
}

// Ready reports why the instance can neither be active nor take the active one's place; nil when it can.
func (s *Session) Ready() error {
	if t := s.trouble.Load(); t != nil {
		return *t
	}
	if !s.joined.Load() {
		return errors.New("not joined: etcd has not been reached, or the incarnation was lost")
	}
	return nil
}

// Active says whether this is the active instance and serves gateways.
func (s *Session) Active() bool { return s.current() != nil }

// Run joins the cluster, and again under a new incarnation whenever one is lost, until the context is done. It
// returns nil when all streams have ended. It fails with a store of which nothing better can be hoped: one that is corrupt
// or from a newer version.
func (s *Session) Run(ctx context.Context) (hopeless error) {
	defer s.tap.Close()
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	s.mu.Lock()
	s.done = ctx.Done()
	s.mu.Unlock()
	var wg sync.WaitGroup
	wg.Go(func() { _ = s.sessions.Run(ctx) })
	wg.Go(func() { _ = s.probe.Run(ctx) })
	var former *cluster.Incarnation
	for ctx.Err() == nil {
		var err error
		if former, err = s.live(ctx, former); err != nil {
			if errors.Is(err, store.ErrCorrupt) || errors.Is(err, store.ErrFuture) {
				hopeless = err
				stop()
				break
			}
			s.deps.Logger.WarnContext(ctx, "session instance starts again", slog.Any("error", err))
			wait := time.NewTimer(time.Second)
			select {
			case <-ctx.Done():
			case <-wait.C:
			}
			wait.Stop()
		}
	}
	wg.Wait()
	// Whoever enters looks at done under the lock: after this, nobody does.
	_ = s.stopping()
	s.streams.Wait()
	return hopeless
}

func (s *Session) stopping() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return closed(s.done)
}

func closed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// live is one incarnation, after the former one that was lost, if any.
func (s *Session) live(ctx context.Context, former *cluster.Incarnation) (*cluster.Incarnation, error) {
	join, cancelJoin := context.WithTimeout(ctx, s.config.TTL)
	defer cancelJoin()
	i, err := cluster.Join(join, s.cluster, cluster.IncarnationConfig{
		Kind:   cluster.Session,
		TTL:    s.config.TTL,
		Member: cluster.Member{Address: s.config.Address, Zone: s.config.Zone},
	})
	if err != nil {
		return former, err
	}
	if former != nil {
		former.Leave(ctx)
	}
	s.tap.Lives(i.ID())
	s.joined.Store(true)
	defer s.joined.Store(false)
	s.deps.Logger.InfoContext(ctx, "joined the cluster", slog.String("incarnation", i.ID()))

	l, err := newLife(s, i)
	if err != nil {
		i.Leave(ctx)
		return nil, err
	}
	// The incarnation is given back only after the term has ended, and ends with it: what the term held while clients
	// were away is adopted by whoever follows, and the adopted have to be gone.
	var over error // of the one goroutine that leads, until it has ended
	lead, stopLeading := context.WithCancel(ctx)
	defer stopLeading()
	live, stopLiving := context.WithCancel(context.WithoutCancel(ctx))
	defer stopLiving()
	var wg sync.WaitGroup
	wg.Go(func() {
		defer stopLiving()
		l.run(func() {
			_ = cluster.Lead(lead, i, func(ctx context.Context, t cluster.Term) {
				over = fmt.Errorf("incarnation %s: %w", i.ID(), errTermOver)
				if err := s.lead(ctx, l, i, t); err != nil {
					over = fmt.Errorf("incarnation %s: %w", i.ID(), err)
				}
				stopLeading()
			})
		})
	})
	err = i.Run(live, func(ctx context.Context) bool {
		return !s.probe.Reachable() && s.sessions.OthersBlind(ctx, i.ID())
	})
	stopLeading()
	wg.Wait()
	if err != nil {
		return i, fmt.Errorf("incarnation %s: %w", i.ID(), err)
	}
	if ctx.Err() != nil {
		return nil, nil //nolint:nilnil // nothing was lost, nothing is left to leave
	}
	return nil, over
}

var errTermOver = errors.New("it is not the active instance any more")

// lead is one term.
func (s *Session) lead(ctx context.Context, l *life, i *cluster.Incarnation, t cluster.Term) error {
	keep := l.keep
	if s.keep != nil {
		keep = s.keep
	}

	s.deps.Logger.InfoContext(ctx, "active session instance", slog.String("incarnation", i.ID()), slog.Int64("revision", t.Revision))
	err := newTerm(s, i).serve(ctx, i, t, keep)
	s.deps.Logger.InfoContext(ctx, "no longer the active session instance", slog.String("incarnation", i.ID()))
	return err
}

func (s *Session) setTerm(t *term) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.term = t
	serves := 0.0
	if t != nil {
		serves = 1
	}
	s.metrics.active.Set(serves)
}

// refusal is what gateways are told while there is no term.
func (s *Session) refusal() error {
	if s.stopping() {
		return errStopping
	}
	return errNotActive
}

func (s *Session) current() *term {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.term
}
