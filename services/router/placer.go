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

// nodeKey names a node.
type nodeKey struct{ cluster, node string }

// placer knows where clients go.
type placer struct {
	name    string // of the own cluster
	secret  placement.Secret
	own     *own
	book    *book.Book
	foreign *foreigners
	loads   *tally[nodeKey] // clients that this router has connected to each node
	shunned *shunned
	metrics *metrics
	logger  *slog.Logger

	onClusters func() // called when the foreign clusters may have changed; nil: nobody wants to know

	assignments atomic.Pointer[placement.Assignments]
	seen        chan struct{} // closed with the first view of the own cluster

	mu   sync.Mutex
	next chan struct{} // closed when the book or the gateways have changed, and then another one; guarded by mu
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
		shunned: newShunned(), loads: newTally[nodeKey](0),
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
	first := sync.OnceFunc(func() { close(p.seen) })
	wg.Go(func() { errs[1] = p.own.run(ctx, func() { first(); p.wake() }) })
	wg.Wait()
	return errors.Join(errs[:]...)
}

// changed takes what the book has now.
func (p *placer) changed(ctx context.Context) {
	p.foreign.follow(ctx, p.book.Clusters().Entries)
	if p.onClusters != nil {
		p.onClusters()
	}
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
	p.wake()
}

// wake has those who wait look whether what they wait for is in force.
func (p *placer) wake() {
	p.mu.Lock()
	defer p.mu.Unlock()
	close(p.next)
	p.next = make(chan struct{})
}

// showsTimeout is how long a change that is stored may take to be in force here.
const showsTimeout = time.Second

// shows waits, for a while, until this router itself has taken what was changed in etcd: whoever has changed it may ask
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

// needed are closed once what nobody can be placed without has been read.
func (p *placer) needed() []<-chan struct{} { return []<-chan struct{}{p.seen, p.book.Ready()} }

// ready says why nobody can be placed yet, nil when clients can.
func (p *placer) ready() error {
	for _, c := range p.needed() {
		select {
		case <-c:
		default:
			return errNotRead
		}
	}
	return nil
}

// awaitReady waits until clients can be placed; false: ctx has ended before.
func (p *placer) awaitReady(ctx context.Context) bool {
	for _, c := range p.needed() {
		select {
		case <-c:
		case <-ctx.Done():
			return false
		}
	}
	return true
}

// destination is where a client goes.
type destination struct {
	cluster string
	node    place
	// explanation is for whoever asks why.
	assignment placement.Assignment
	question   placement.Question
	answer     placement.Answer
}

// errUnassigned: the client belongs to a cluster that is not there.
var errUnassigned = errors.New("assigned to a cluster that there is not")

// errNoNode: no node of the client's cluster can take it.
var errNoNode = errors.New("no node takes clients")

// inquiry is what is known of a client for whom a node is looked for.
type inquiry struct {
	cluster    string
	assignment placement.Assignment
	question   placement.Question // without the nodes
}

// inquire finds out which cluster a client belongs to, and where in it the client was. etcd is asked here, once, however
// many nodes are tried then.
func (p *placer) inquire(ctx context.Context, t placement.Triple) inquiry {
	random := rand.Uint64()
	i := inquiry{cluster: p.name}
	assignments := p.assignments.Load()
	var exact placement.Key
	if assignments.ByTriple() {
		exact = p.secret.Key(t)
	}
	if a, ok := assignments.Lookup(t, exact, random); ok {
		i.cluster, i.assignment = a.Cluster, a
	} else {
		// Without any default the routers' own cluster is the default.
		i.assignment = placement.Assignment{Rule: placement.Default, Cluster: p.name, Weight: 1}
	}
	// A session belongs to a client id: a new password, as tokens are at every connection, does not send the client away
	// from the node that it was at.
	key := p.secret.Key(placement.Triple{ClientID: t.ClientID})
	i.question = placement.Question{Key: key, Anonymous: t.ClientID == "", Random: random}
	if i.question.Anonymous {
		return i
	}
	if i.cluster == p.name {
		var err error
		if i.question.Holder, err = p.own.holder(ctx, t.ClientID); err != nil {
			p.metrics.lookUps.Inc()
		}
	}
	// Whoever holds the client goes before a recorded node: then nobody needs to know which that is.
	nodes, _ := p.nodes(i.cluster)
	held := func(n place) bool { return n.ID == i.question.Holder && n.Active }
	if !slices.ContainsFunc(nodes, held) {
		i.question.Recorded, _ = p.book.Recorded(ctx, i.cluster, key.String())
	}
	return i
}

// choose decides where a client goes. Nodes in tried are not there. The error is errUnassigned or errNoNode, wrapped;
// then the destination has what is known.
func (p *placer) choose(i inquiry, tried map[string]bool) (destination, error) {
	d := destination{cluster: i.cluster, assignment: i.assignment, question: i.question}
	nodes, ok := p.nodes(i.cluster)
	if !ok {
		return d, fmt.Errorf("cluster %q: %w", i.cluster, errUnassigned)
	}
	now := time.Now()
	passed := false // a node that would do is shunned
	for _, n := range nodes {
		n.Active = n.Active && !tried[n.ID]
		if n.Active && p.shunned.has(nodeKey{i.cluster, n.ID}, now) {
			n.Active, passed = false, true
		}
		d.question.Nodes = append(d.question.Nodes, n.Node)
	}
	if d.answer = placement.Choose(d.question); d.answer.Why == placement.None && passed {
		for k, n := range nodes {
			d.question.Nodes[k].Active = n.Active && !tried[n.ID]
		}
		d.answer = placement.Choose(d.question)
	}
	if d.answer.Why == placement.None {
		return d, fmt.Errorf("cluster %q: %w", i.cluster, errNoNode)
	}
	d.node = nodes[slices.IndexFunc(nodes, func(n place) bool { return n.ID == d.answer.Node })]
	return d, nil
}

// place is a node of a cluster, and how it is reached.
type place struct {
	placement.Node

	address string
	// proxy: it takes a PROXY header.
	proxy bool
	// clients are those that this router has connected to it.
	clients int
}

// nodes are those of a cluster as they are now; false: there is no such cluster.
func (p *placer) nodes(name string) (nodes []place, ok bool) {
	if name == p.name {
		for _, m := range p.own.nodes() {
			clients := p.loads.of(nodeKey{name, m.MQTT})
			n := placement.Node{ID: m.MQTT, Weight: max(m.Weight, 1), Active: m.State == cluster.Active, Load: clients}
			nodes = append(nodes, place{Node: n, address: m.MQTT, proxy: m.Proxy, clients: clients})
		}
		return nodes, true
	}
	v, _, ok := p.foreign.find(name)
	for _, m := range v.Nodes {
		clients := p.loads.of(nodeKey{name, m.ID})
		n := placement.Node{ID: m.ID, Weight: m.Weight, Active: m.Active, Load: max(m.Load, clients)}
		nodes = append(nodes, place{Node: n, address: m.Address, clients: clients})
	}
	return nodes, ok
}

// has reports whether there is such a cluster.
func (p *placer) has(name string) bool {
	_, stored := p.book.Cluster(name)
	return stored || name == p.name
}

// placed records where a client has gone.
func (p *placer) placed(d destination) {
	if !d.question.Anonymous {
		p.book.Record(d.cluster, d.question.Key.String(), d.node.ID)
	}
}
