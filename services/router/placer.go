package router

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/beeline-mqtt/beeline/internal/cluster"
	"github.com/beeline-mqtt/beeline/services/router/internal/book"
	"github.com/beeline-mqtt/beeline/services/router/internal/foreign"
	"github.com/beeline-mqtt/beeline/services/router/internal/placement"
)

// stopGrace bounds the orderly end.
const stopGrace = 10 * time.Second

// errNotRead: nothing is known yet of the nodes, or of the assignments.
var errNotRead = errors.New("the nodes and assignments have not been read from etcd yet")

// placer knows where clients go.
type placer struct {
	name    string // of the own cluster
	secret  placement.Secret
	own     *own
	book    *book.Book
	foreign *foreigners
	loads   loads
	metrics *metrics
	logger  *slog.Logger

	assignments atomic.Pointer[placement.Assignments]
	seen        chan struct{} // closed with the first view of the own cluster

	mu   sync.Mutex
	next chan struct{} // closed when the book has changed, and then another one; guarded by mu
}

// newPlacer makes a placer that shows see the gateways of the own cluster, each time they change.
func newPlacer(cfg Config, d Deps, m *metrics, see func(cluster.View)) (*placer, error) {
	secret, err := cfg.secret()
	if err != nil {
		return nil, err
	}
	keys := cluster.Keys(cfg.Cluster)
	p := &placer{
		name: cfg.Cluster, secret: secret, metrics: m, logger: d.Logger, seen: make(chan struct{}), next: make(chan struct{}),
		own:     newOwn(cluster.Deps{Client: d.Etcd, Keys: keys, Logger: d.Logger}, see),
		book:    book.Open(cfg.Book, book.Deps{Client: d.Etcd, Keys: keys, Logger: d.Logger, Metrics: d.Metrics}),
		foreign: newForeigners(foreign.Deps{Logger: d.Logger, Metrics: foreign.NewMetrics(d.Metrics)}),
		loads:   loads{open: make(map[string]int)},
	}
	p.assignments.Store(new(placement.Assignments))
	return p, nil
}

// run keeps everything current until ctx ends.
func (p *placer) run(ctx context.Context) error {
	p.book.OnChange(func() { p.changed(ctx) })
	defer p.foreign.close()
	var wg sync.WaitGroup
	var errs [2]error
	wg.Go(func() { errs[0] = p.book.Run(ctx) })
	wg.Go(func() { errs[1] = p.own.run(ctx, sync.OnceFunc(func() { close(p.seen) })) })
	wg.Wait()
	return errors.Join(errs[:]...)
}

// changed takes what the book has now.
func (p *placer) changed(ctx context.Context) {
	p.foreign.follow(ctx, p.book.Clusters().Entries)
	var all []placement.Assignment
	for _, a := range p.book.Assignments().Entries {
		x, err := fromBook(a)
		if err != nil {
			p.logger.ErrorContext(ctx, "assignment is of no use", slog.Any("error", err))
			continue
		}
		all = append(all, x)
	}
	index, err := placement.NewAssignments(all)
	if err != nil {
		p.logger.ErrorContext(ctx, "assignments are of no use: the former ones stay", slog.Any("error", err))
	} else {
		p.assignments.Store(index)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	close(p.next)
	p.next = make(chan struct{})
}

// showsTimeout is how long a change that is stored may take to be in force here.
const showsTimeout = time.Second

// shows waits, for a while, until this router itself has taken what was changed in the book: whoever has changed it may ask
// the same router next.
func (p *placer) shows(ctx context.Context, is func() bool) {
	ctx, cancel := context.WithTimeout(ctx, showsTimeout)
	defer cancel()
	for {
		p.mu.Lock()
		next := p.next
		p.mu.Unlock()
		if is() {
			return
		}
		select {
		case <-next:
		case <-ctx.Done():
			return
		}
	}
}

// ready says why nobody can be placed yet, nil when clients can.
func (p *placer) ready() error {
	select {
	case <-p.seen:
	default:
		return errNotRead
	}
	select {
	case <-p.book.Ready():
		return nil
	default:
		return errNotRead
	}
}

// awaitReady returns when clients can be placed, or with the context's error.
func (p *placer) awaitReady(ctx context.Context) error {
	for _, c := range []<-chan struct{}{p.seen, p.book.Ready()} {
		select {
		case <-c:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// destination is where a client goes.
type destination struct {
	cluster, node, address string
	// proxy: the node takes a PROXY header.
	proxy bool
	// explanation is for whoever asks why.
	assignment placement.Assignment
	question   placement.Question
	answer     placement.Answer
}

// errUnassigned: the client belongs to a cluster that is not there.
var errUnassigned = errors.New("assigned to a cluster that there is not")

// errNoNode: no node of the client's cluster can take it.
var errNoNode = errors.New("no node takes clients")

// place decides where a client goes. Nodes in tried are not there. The error is errUnassigned or errNoNode, wrapped;
// then the destination has what is known.
func (p *placer) place(ctx context.Context, t placement.Triple, tried map[string]bool) (destination, error) {
	random := rand.Uint64()
	d := destination{cluster: p.name}
	assignments := p.assignments.Load()
	var exact placement.Key
	if assignments.ByTriple() {
		exact = p.secret.Key(t)
	}
	if a, ok := assignments.Lookup(t, exact, random); ok {
		d.cluster, d.assignment = a.Cluster, a
	} else {
		// Without any default the routers' own cluster is the default.
		d.assignment = placement.Assignment{Rule: placement.Default, Cluster: p.name, Weight: 1}
	}
	// A session belongs to a client id: a new password, as tokens are at every connection, does not send the client away
	// from the node that it was at.
	key := p.secret.Key(placement.Triple{ClientID: t.ClientID})
	q := placement.Question{Key: key, Anonymous: t.ClientID == "", Random: random}
	places, err := p.ask(ctx, d.cluster, t, tried, &q)
	if err != nil {
		return d, err
	}
	d.question, d.answer = q, placement.Choose(q)
	if d.answer.Why == placement.None {
		return d, fmt.Errorf("cluster %q: %w", d.cluster, errNoNode)
	}
	d.node, d.address, d.proxy = d.answer.Node, places[d.answer.Node].address, places[d.answer.Node].proxy
	return d, nil
}

// place is how a node is reached.
type place struct {
	address string
	proxy   bool
}

// ask fills in what is known of a cluster, of which nodes in tried are not active, and of where in it the client was. It
// returns how the nodes are reached.
func (p *placer) ask(ctx context.Context, name string, t placement.Triple, tried map[string]bool, q *placement.Question) (map[string]place, error) {
	places := make(map[string]place)
	if name == p.name {
		for _, m := range p.own.nodes() {
			places[m.MQTT] = place{m.MQTT, m.Proxy}
			q.Nodes = append(q.Nodes, placement.Node{
				ID: m.MQTT, Weight: max(m.Weight, 1), Active: m.State == cluster.Active && !tried[m.MQTT], Load: p.loads.of(name, m.MQTT),
			})
		}
	} else {
		v, _, ok := p.foreign.find(name)
		if !ok {
			return nil, fmt.Errorf("cluster %q: %w", name, errUnassigned)
		}
		for _, n := range v.Nodes {
			places[n.ID] = place{address: n.Address}
			load := max(n.Load, p.loads.of(name, n.ID))
			q.Nodes = append(q.Nodes, placement.Node{ID: n.ID, Weight: n.Weight, Active: n.Active && !tried[n.ID], Load: load})
		}
	}
	if q.Anonymous {
		return places, nil
	}
	if name == p.name {
		var err error
		if q.Holder, err = p.own.holder(ctx, t.ClientID); err != nil {
			p.metrics.lookUps.Inc()
		}
	}
	// Whoever holds the client goes before a recorded node: then nobody needs to know which that is.
	held := func(n placement.Node) bool { return n.ID == q.Holder && n.Active }
	if !slices.ContainsFunc(q.Nodes, held) {
		q.Recorded, _ = p.book.Recorded(ctx, name, q.Key.String())
	}
	return places, nil
}

// has reports whether there is such a cluster.
func (p *placer) has(name string) bool {
	_, stored := p.book.Cluster(name)
	return stored || name == p.name
}

// placed records where a client has gone.
func (p *placer) placed(d destination) {
	if !d.question.Anonymous {
		p.book.Record(d.cluster, d.question.Key.String(), d.node)
	}
}

// fromBook is an assignment as placement has it.
func fromBook(a book.Assignment) (placement.Assignment, error) {
	x := placement.Assignment{Value: a.Value, Cluster: a.Cluster}
	switch a.Rule {
	case book.Exact:
		x.Rule = placement.ExactTriple
	case book.ClientID:
		x.Rule = placement.ClientID
	case book.Prefix:
		x.Rule = placement.ClientIDPrefix
	case book.Username:
		x.Rule = placement.Username
	case book.Default:
		x.Rule, x.Value, x.Weight = placement.Default, "", max(a.Weight, 1)
	default:
		return x, fmt.Errorf("assignment with rule %q: not known", a.Rule)
	}
	return x, nil
}

// loads count the clients that this router has connected to each node.
type loads struct {
	mu   sync.Mutex
	open map[string]int // guarded by mu
}

func (l *loads) of(cluster, node string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.open[cluster+"/"+node]
}

// enter counts a client until leave is called.
func (l *loads) enter(cluster, node string) (leave func()) {
	key := cluster + "/" + node
	l.mu.Lock()
	defer l.mu.Unlock()
	l.open[key]++
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.open[key]--; l.open[key] == 0 {
			delete(l.open, key)
		}
	}
}
