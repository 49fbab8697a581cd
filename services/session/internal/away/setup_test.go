package away

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"github.com/beeline-mqtt/beeline/internal/journal"
	"github.com/beeline-mqtt/beeline/internal/mesh"
	"github.com/beeline-mqtt/beeline/internal/message"
	"github.com/beeline-mqtt/beeline/internal/routes"
	"github.com/beeline-mqtt/beeline/internal/subscriptions"
	"github.com/beeline-mqtt/beeline/internal/topic"
	"github.com/beeline-mqtt/beeline/services/session/internal/claims"
	"github.com/beeline-mqtt/beeline/services/session/internal/store"
	"github.com/beeline-mqtt/beeline/services/session/internal/store/pebble"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience bounds every wait.
const patience = 30 * time.Second

// world is a Keeper with a store in memory, and a mesh and gateways that do what the test says.
type world struct {
	t    *testing.T
	fs   *vfs.MemFS
	name string
	*Keeper
	store   store.Store
	metrics *prometheus.Registry
	mesh    *fakeMesh
	members *fakeMembers
	stop    func()
	// obedient: peers answer Adopt at once. It counts when an instance starts.
	obedient bool

	mu        sync.Mutex
	filters   map[store.Member][]string // that are managed
	published []published
	forgotten []forgotten
	failures  []error
	lose      int // how many publications fail
	mute      bool
}

type published struct {
	m    *message.Message
	done func(failed bool)
}

func (w *world) managed(client, user string) []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append(slices.Clone(w.filters[store.Member{Name: client}]), w.filters[store.Member{User: true, Name: user}]...)
}

type forgotten struct {
	Client string
	Epoch  uint64
}

func newWorld(t *testing.T, change func(*Config)) *world {
	t.Helper()
	w := &world{t: t, fs: vfs.NewMem(), obedient: true}
	w.start("ss-1", change)
	return w
}

// start begins a term of an instance.
func (w *world) start(name string, change func(*Config)) {
	w.t.Helper()
	w.name, w.metrics = name, prometheus.NewRegistry()
	st, err := pebble.Open(pebble.Options{
		Dir: "data", FS: w.fs, Logger: slog.New(slog.DiscardHandler), Metrics: w.metrics, Reserve: -1,
	})
	if err != nil {
		w.t.Fatal(err)
	}
	w.store = st
	m, err := NewMetrics(w.metrics)
	if err != nil {
		w.t.Fatal(err)
	}
	w.mesh = &fakeMesh{routes: map[string]routes.Route{}, adopts: map[string]*adopting{}, obedient: w.obedient}
	if w.members == nil {
		w.members = &fakeMembers{}
	}
	c := Config{Incarnation: name, Settle: time.Millisecond, AdoptTimeout: patience, Late: 50 * time.Millisecond, PublishRetry: time.Millisecond}
	if change != nil {
		change(&c)
	}
	w.Keeper, err = New(c, Deps{
		Store: st, Mesh: w.mesh, Members: w.members, Metrics: m, Logger: slog.New(slog.DiscardHandler),
		Managed: w.managed, Publish: w.publish, Forget: w.forget, Failed: w.fail,
	})
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { w.mesh.run(ctx) })
	wg.Go(func() {
		if err := w.Run(ctx); err != nil {
			w.fail(err)
		}
	})
	w.stop = sync.OnceFunc(func() {
		cancel()
		wg.Wait()
		if err := st.Close(); err != nil {
			w.t.Error(err)
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		if len(w.failures) > 0 {
			w.t.Errorf("failed: %v", w.failures)
		}
	})
	w.t.Cleanup(w.stop)
}

// restart ends the term and begins one of another instance, on the same store. Gateways are those that live.
func (w *world) restart(name string, gateways ...string) {
	w.t.Helper()
	w.stop()
	w.start(name, nil)
	w.View(gateways, w.epoch())
}

// epoch is later than everything so far.
func (w *world) epoch() uint64 { return w.store.HighestEpoch() + 10 }

func (w *world) publish(m *message.Message, done func(bool)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.lose > 0 {
		w.lose--
		done(true)
		return
	}
	w.published = append(w.published, published{m, done})
	if !w.mute {
		done(false)
	}
}

func (w *world) forget(client string, epoch uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.forgotten = append(w.forgotten, forgotten{client, epoch})
}

func (w *world) fail(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.failures = append(w.failures, err)
}

// wills are the topics and sequences of what was published.
func (w *world) wills() []message.ID {
	w.mu.Lock()
	defer w.mu.Unlock()
	var ids []message.ID
	for _, p := range w.published {
		ids = append(ids, p.m.ID)
	}
	return ids
}

func (w *world) wait(what string, yes func() bool) {
	w.t.Helper()
	deadline := time.Now().Add(patience)
	for !yes() {
		if time.Now().After(deadline) {
			w.t.Fatalf("not within %v: %s", patience, what)
		}
		time.Sleep(time.Millisecond)
	}
}

// open claims a client for a gateway, which gets nil for a transient one.
func (w *world) open(client, gateway string, epoch uint64, terms claims.Terms) *journal.State {
	w.t.Helper()
	type answer struct {
		st  *journal.State
		err error
	}
	got := make(chan answer, 1)
	w.Open(opening(client, gateway, epoch, terms), func(st *journal.State, err error) { got <- answer{st, err} })
	select {
	case a := <-got:
		if a.err != nil {
			w.t.Fatal(a.err)
		}
		return a.st
	case <-time.After(patience):
		w.t.Fatalf("%s is not opened", client)
		return nil
	}
}

func opening(client, gateway string, epoch uint64, terms claims.Terms) claims.Effect {
	return claims.Effect{Kind: claims.Open, Client: client, Gateway: gateway, Epoch: epoch, Request: claims.Request{Terms: terms}}
}

// leave puts a client away at the epoch after that of its gateway.
func (w *world) leave(client, gateway string, epoch uint64, e *claims.Ending) {
	w.t.Helper()
	got := make(chan error, 1)
	away := claims.Effect{Kind: claims.Away, Client: client, Gateway: gateway, Epoch: epoch, Ending: e}
	w.Away(away, epoch+1, func(err error) { got <- err })
	select {
	case err := <-got:
		if err != nil {
			w.t.Fatal(err)
		}
	case <-time.After(patience):
		w.t.Fatalf("%s does not leave", client)
	}
}

// write is a gateway's write.
func (w *world) write(client string, st *journal.State, epoch uint64, changes ...journal.Change) error {
	got := make(chan error, 1)
	w.Write(journal.Write{Client: client, Session: st.ID, Epoch: epoch, Changes: changes}, func(_ []journal.LeftOut, err error) { got <- err })
	return <-got
}

func (w *world) subscribe(client string, st *journal.State, epoch uint64, subs ...journal.Subscription) {
	w.t.Helper()
	for _, s := range subs {
		if err := w.write(client, st, epoch, journal.Change{Kind: journal.Subscribed, Filter: s.Filter, Options: s.Options}); err != nil {
			w.t.Fatal(err)
		}
	}
}

// absent makes a client with subscriptions that is away, and whose routes are in force.
func (w *world) absent(client string, epoch uint64, subs ...journal.Subscription) *journal.State {
	w.t.Helper()
	st := w.open(client, "g1", epoch, claims.Terms{Expiry: 3600})
	w.subscribe(client, st, epoch, subs...)
	w.leave(client, "g1", epoch, nil)
	w.settled(client)
	return st
}

// settled waits until a session holds nothing back any more.
func (w *world) settled(client string) {
	w.t.Helper()
	w.wait(client+" holds nothing back", func() bool {
		w.Keeper.mu.Lock()
		defer w.Keeper.mu.Unlock()
		s := w.clients[client]
		return s.settling == nil || s.settling.hold == nil
	})
}

// receipt is an answer, and the one that follows Accepted.
type receipt struct {
	w     *world
	first mesh.Receipt
	later chan mesh.Receipt
}

func (w *world) send(peer string, d mesh.Delivery) receipt {
	r := receipt{w: w, later: make(chan mesh.Receipt, 1)}
	r.first = w.Deliver(peer, d, func(x mesh.Receipt) { r.later <- x })
	return r
}

func (r receipt) final() mesh.Receipt {
	r.w.t.Helper()
	if r.first.Outcome != mesh.Accepted {
		return r.first
	}
	select {
	case x := <-r.later:
		return x
	case <-time.After(patience):
		r.w.t.Fatal("no receipt comes")
		return mesh.Receipt{}
	}
}

func (r receipt) want(o mesh.Outcome) mesh.Receipt {
	r.w.t.Helper()
	got := r.final()
	if got.Outcome != o {
		r.w.t.Fatalf("got %v, want %v", got, o)
	}
	return got
}

// none checks that there is no receipt yet.
func (r receipt) none() {
	r.w.t.Helper()
	if r.first.Outcome != mesh.Accepted {
		r.w.t.Fatalf("answered at once: %v", r.first)
	}
	select {
	case x := <-r.later:
		r.w.t.Fatalf("answered too early: %v", x)
	default:
	}
}

func msg(origin string, seq uint64, topic string, qos byte) *message.Message {
	return &message.Message{
		ID: message.ID{Origin: origin, Seq: seq}, Topic: topic, QoS: qos, Publisher: "publisher", Payload: []byte("x"),
	}
}

func match(m *message.Message) mesh.Delivery {
	return mesh.Delivery{Target: mesh.Target{Kind: mesh.TargetMatch}, Message: m}
}

func direct(client string, epoch uint64, m *message.Message) mesh.Delivery {
	return mesh.Delivery{Target: mesh.Target{Kind: mesh.TargetClient, ClientID: client, Epoch: epoch}, Message: m}
}

func orphans(dead string, m *message.Message) mesh.Delivery {
	return mesh.Delivery{Target: mesh.Target{Kind: mesh.TargetOrphans, Incarnation: dead}, Message: m}
}

func sub(filter string, qos byte) journal.Subscription {
	return journal.Subscription{Filter: filter, Options: subscriptions.Options{QoS: qos}}
}

// inbox are the sequences of what is in a client's inbox.
func (w *world) inbox(client string) []uint64 {
	w.t.Helper()
	var seqs []uint64
	for _, e := range w.entries(client) {
		seqs = append(seqs, e.Message.Seq)
	}
	return seqs
}

func (w *world) entries(client string) []journal.Entry {
	w.t.Helper()
	r, ok, err := w.store.Get(client)
	if err != nil || !ok {
		w.t.Fatalf("%s has no record: %v", client, err)
	}
	entries, err := w.store.Inbox(client, r.Session, 0, 1000, 1<<20)
	if err != nil {
		w.t.Fatal(err)
	}
	return entries
}

func (w *world) wantInbox(client string, seqs ...uint64) {
	w.t.Helper()
	if got := w.inbox(client); !slices.Equal(got, seqs) {
		w.t.Errorf("the inbox of %s has %v, want %v", client, got, seqs)
	}
}

// fakeMesh knows the routes of one process. Peers acknowledge at once unless the test holds them up.
type fakeMesh struct {
	mu       sync.Mutex
	routes   map[string]routes.Route
	held     bool
	waiting  []func(error)
	calls    []func()
	adopts   map[string]*adopting
	asked    []string
	obedient bool
	// deaf: SendOn is answered when the test says so.
	deaf    bool
	sendOns []func(bool)
}

type adopting struct {
	answered func(string)
	done     func(error)
}

func (m *fakeMesh) run(ctx context.Context) {
	tick := time.NewTicker(100 * time.Microsecond)
	defer tick.Stop()
	for {
		m.mu.Lock()
		calls := m.calls
		m.calls = nil
		m.mu.Unlock()
		for _, c := range calls {
			c()
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (m *fakeMesh) Announce(changes []routes.Route, done func(error)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, r := range changes {
		filter := r.Filter
		if r.Group != "" {
			filter = topic.Shared{Group: r.Group, Filter: r.Filter}.String()
		}
		if r.Members == 0 && !r.Keeps() {
			delete(m.routes, filter)
		} else {
			m.routes[filter] = r
		}
	}
	if m.held {
		m.waiting = append(m.waiting, done)
		return
	}
	m.calls = append(m.calls, func() { done(nil) })
}

func (m *fakeMesh) SendOn(_ string, _ time.Duration, done func(bool)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.deaf {
		m.sendOns = append(m.sendOns, done)
		return
	}
	m.calls = append(m.calls, func() { done(true) })
}

// sentOn has the peers answer SendOn, or takes it that they have not.
func (m *fakeMesh) sentOn(complete bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, done := range m.sendOns {
		m.calls = append(m.calls, func() { done(complete) })
	}
	m.sendOns = nil
}

// hold has the peers acknowledge nothing until release.
func (m *fakeMesh) hold() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.held = true
}

func (m *fakeMesh) release(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.held = false
	for _, done := range m.waiting {
		m.calls = append(m.calls, func() { done(err) })
	}
	m.waiting = nil
}

func (m *fakeMesh) has(filter string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	r, ok := m.routes[filter]
	return ok && r.Durable && r.Members == 1
}

// keeps reports whether the process has said that it keeps for a shared subscription.
func (m *fakeMesh) keeps(share string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.routes[share].Keeps()
}

func (m *fakeMesh) Adopt(incarnation string, answered func(string), done func(error)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.asked = append(m.asked, incarnation)
	if m.obedient {
		m.calls = append(m.calls, func() { done(nil) })
		return
	}
	m.adopts[incarnation] = &adopting{answered, done}
}

// adoption waits for the peers to be asked about an incarnation.
func (w *world) adoption(incarnation string) *adopting {
	w.t.Helper()
	var a *adopting
	w.wait("the adoption of "+incarnation, func() bool {
		w.mesh.mu.Lock()
		defer w.mesh.mu.Unlock()
		a = w.mesh.adopts[incarnation]
		return a != nil
	})
	return a
}
