package away

import (
	"errors"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/beeline-mqtt/beeline/internal/journal"
	"github.com/beeline-mqtt/beeline/internal/mesh"
	"github.com/beeline-mqtt/beeline/internal/message"
	"github.com/beeline-mqtt/beeline/internal/subscriptions"
	"github.com/beeline-mqtt/beeline/services/session/internal/claims"
	"github.com/beeline-mqtt/beeline/services/session/internal/store"
)

func TestAnAbsentClientGetsWhatMatchesItsSubscriptions(t *testing.T) {
	w := newWorld(t, nil)
	w.absent("x", 5, sub("a/+", 1), sub("b", 2), sub("$share/g/c", 1))
	w.send("p", match(msg("p", 1, "a/b", 1))).want(mesh.Stored)
	w.send("p", match(msg("p", 2, "b", 2))).want(mesh.Stored)
	w.send("p", match(msg("p", 3, "c", 1))).want(mesh.Queued)
	w.send("p", match(msg("p", 4, "a/b", 0))).want(mesh.Queued)
	w.wantInbox("x", 1, 2)
	if !w.mesh.has("a/+") || !w.mesh.has("b") || w.mesh.has("c") {
		t.Errorf("announced %v", w.mesh.routes)
	}
	if h, ok := w.Look("x"); !ok || h != (claims.Holder{Epoch: 6}) {
		t.Errorf("it is held by %v, %v", h, ok)
	}
}

func TestADeliveryIsLikeTheSubscriptionWantsIt(t *testing.T) {
	w := newWorld(t, nil)
	w.absent("x", 5,
		journal.Subscription{Filter: "a", Options: subscriptions.Options{QoS: 1, RetainAsPublished: true, ID: 7}},
		journal.Subscription{Filter: "+", Options: subscriptions.Options{QoS: 2, NoLocal: true, ID: 8}})
	m := msg("p", 1, "a", 2)
	m.Retain = true
	w.send("p", match(m)).want(mesh.Stored)
	own := msg("p", 2, "a", 2)
	own.Publisher = "x"
	w.send("p", match(own)).want(mesh.Stored)
	w.send("p", direct("x", 0, msg("p", 3, "a", 1))).want(mesh.Stored)
	got := w.entries("x")
	if len(got) != 3 {
		t.Fatalf("%d entries", len(got))
	}
	if e := got[0]; e.QoS != 2 || !e.Retain || len(e.IDs) != 2 {
		t.Errorf("the first: %+v", e)
	}
	if e := got[1]; e.QoS != 1 || e.Retain || len(e.IDs) != 1 || e.IDs[0] != 7 {
		t.Errorf("its own, which one subscription does not want: %+v", e)
	}
	if e := got[2]; e.QoS != 1 || len(e.IDs) != 2 {
		t.Errorf("addressed to it alone: %+v", e)
	}
}

func TestASessionGoesOnToAGatewayAndComesBack(t *testing.T) {
	w := newWorld(t, nil)
	first := w.absent("x", 5, sub("a", 1))
	w.send("p", match(msg("p", 1, "a", 1))).want(mesh.Stored)
	st := w.open("x", "g2", 9, claims.Terms{Expiry: 3600})
	if !st.Present || st.ID != first.ID || len(st.Subscriptions) != 1 || st.First != 1 || st.Next != 2 {
		t.Fatalf("opened %+v", st)
	}
	got, err := w.Inbox(Reading{Client: "x", Session: st.ID, Epoch: 9, MaxEntries: 10, MaxBytes: 1000})
	if err != nil || len(got) != 1 || got[0].Message.Seq != 1 {
		t.Errorf("the gateway reads %v, %v", got, err)
	}
	if _, err := w.Inbox(Reading{Client: "x", Session: st.ID, Epoch: 5, MaxEntries: 10}); !errors.Is(err, store.ErrFenced) {
		t.Errorf("at the old epoch the inbox is read with %v", err)
	}
	// Until its routes are in force, its messages are sent on.
	r := w.send("p", match(msg("p", 2, "a", 1))).want(mesh.Moved)
	if len(r.Moved) != 1 || r.Moved[0] != (mesh.MovedClient{ClientID: "x", Epoch: 6}) {
		t.Errorf("moved: %v", r.Moved)
	}
	if r := w.send("p", direct("x", 0, msg("p", 2, "a", 1))).want(mesh.NotHolder); r.ClientID != "x" || r.Epoch != 9 {
		t.Errorf("asked for the client: %v", r)
	}
	w.Settled("x", 9)
	w.wait("the route is withdrawn", func() bool { return !w.mesh.has("a") })
	w.send("p", match(msg("p", 3, "a", 1))).want(mesh.Queued)

	w.subscribe("x", st, 9, sub("b", 1))
	w.leave("x", "g2", 9, nil)
	w.settled("x")
	w.send("p", match(msg("p", 4, "b", 1))).want(mesh.Stored)
	w.wantInbox("x", 1, 4)
	if err := w.write("x", st, 5, journal.Change{Kind: journal.Done, Position: 1}); !errors.Is(err, store.ErrFenced) {
		t.Errorf("an old holder writes with %v", err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if last := w.forgotten[len(w.forgotten)-1]; last != (forgotten{"x", 11}) {
		t.Errorf("told to forget: %v", w.forgotten)
	}
}

func TestAReturnBeforeTheGhostIsForgottenKeepsOneSetOfRoutes(t *testing.T) {
	w := newWorld(t, nil)
	w.absent("x", 5, sub("a", 1), sub("b", 1))
	st := w.open("x", "g2", 9, claims.Terms{Expiry: 3600})
	if err := w.write("x", st, 9, journal.Change{Kind: journal.Unsubscribed, Filter: "b"}); err != nil {
		t.Fatal(err)
	}
	w.leave("x", "g2", 9, nil)
	w.settled("x")
	w.Settled("x", 9)
	if !w.mesh.has("a") || w.mesh.has("b") {
		t.Errorf("routes: %v", w.mesh.routes)
	}
	w.send("p", match(msg("p", 1, "a", 1))).want(mesh.Stored)
	w.send("p", match(msg("p", 2, "b", 1))).want(mesh.Queued)
}

func TestWhatArrivesBeforeTheRoutesAreInForceIsPutInOrder(t *testing.T) {
	w := newWorld(t, nil)
	st := w.open("x", "g1", 5, claims.Terms{Expiry: 3600})
	w.subscribe("x", st, 5, sub("a", 1))
	w.mesh.hold()
	w.leave("x", "g1", 5, nil)
	second := w.send("p", match(msg("p", 2, "a", 1)))
	first := w.send("p", direct("x", 0, msg("p", 1, "a", 1)))
	again := w.send("p", direct("x", 0, msg("p", 2, "a", 1)))
	for _, r := range []receipt{first, second, again} {
		r.none()
	}
	w.mesh.release(nil)
	for _, r := range []receipt{first, second, again} {
		r.want(mesh.Stored)
	}
	w.wantInbox("x", 1, 2)
	// One that comes late by the other way is known.
	w.send("p", direct("x", 0, msg("p", 2, "a", 1))).want(mesh.Queued)
	w.wantInbox("x", 1, 2)
}

func TestWhatArrivesIsHeldBackUntilThePeersHaveSentOnWhatIsOlder(t *testing.T) {
	w := newWorld(t, nil)
	w.mesh.deaf = true
	st := w.open("x", "g1", 5, claims.Terms{Expiry: 3600})
	w.subscribe("x", st, 5, sub("a", 1))
	w.mesh.hold()
	w.leave("x", "g1", 5, nil)
	second := w.send("p", match(msg("p", 2, "a", 1)))
	w.mesh.release(nil)
	w.wait("the peers are asked", func() bool {
		w.mesh.mu.Lock()
		defer w.mesh.mu.Unlock()
		return len(w.mesh.sendOns) == 1
	})
	second.none()
	first := w.send("p", direct("x", 0, msg("p", 1, "a", 1)))
	w.mesh.sentOn(true)
	first.want(mesh.Stored)
	second.want(mesh.Stored)
	w.wantInbox("x", 1, 2)
	// One that comes late by the other way is known.
	w.send("p", direct("x", 0, msg("p", 2, "a", 1))).want(mesh.Queued)
	w.wantInbox("x", 1, 2)
}

func TestOrderIsGivenUpWhenPeersDoNotSayThatTheyHaveSentOn(t *testing.T) {
	w := newWorld(t, nil)
	w.mesh.deaf = true
	st := w.open("x", "g1", 5, claims.Terms{Expiry: 3600})
	w.subscribe("x", st, 5, sub("a", 1))
	w.leave("x", "g1", 5, nil)
	r := w.send("p", match(msg("p", 2, "a", 1)))
	w.wait("the peers are asked", func() bool {
		w.mesh.mu.Lock()
		defer w.mesh.mu.Unlock()
		return len(w.mesh.sendOns) == 1
	})
	before := testutil.ToFloat64(w.Keeper.metrics.unordered)
	w.mesh.sentOn(false)
	r.want(mesh.Stored)
	if n := testutil.ToFloat64(w.Keeper.metrics.unordered) - before; n != 1 {
		t.Errorf("order was given up %v times, want once", n)
	}
}

// What is given to a session that is about to leave is sent after it, and that is known when it has left: refused by the store
// it would be known later.
func TestWhatComesWhileASessionLeavesIsAnsweredBeforeItIsOpened(t *testing.T) {
	w := newWorld(t, nil)
	w.absent("x", 5, sub("a", 1))
	before := w.send("p", match(msg("p", 1, "a", 1)))
	before.want(mesh.Stored)
	busy := make(chan struct{})
	w.pump.push(func() { <-busy }) // so is the store
	beside := w.send("p", match(msg("p", 2, "a", 1)))
	known := make(chan int, 1)
	var later receipt
	w.Open(opening("x", "g2", 9, claims.Terms{Expiry: 3600}), func(*journal.State, error) { known <- len(later.later) })
	w.wait("x is about to leave", func() bool {
		w.Keeper.mu.Lock()
		defer w.Keeper.mu.Unlock()
		of := w.clients["x"].settling
		return of != nil && of.hold != nil
	})
	later = w.send("p", match(msg("p", 3, "a", 2)))
	again := w.send("p", direct("x", 0, msg("p", 3, "a", 2)))
	w.Keeper.mu.Lock()
	of := w.clients["x"].settling
	w.Keeper.mu.Unlock()
	w.sentOn(w.clients["x"], of, true) // from when it came here; too late
	w.fell(timer{s: w.clients["x"], of: of})
	w.Keeper.mu.Lock()
	if of.hold == nil || of.hold.Bytes() == 0 {
		t.Error("it has been let go")
	}
	w.Keeper.mu.Unlock()
	close(busy)
	if n := <-known; n != 1 {
		t.Errorf("%d receipts when x is opened elsewhere, want one", n)
	}
	beside.want(mesh.Stored)
	if r := later.want(mesh.Moved); len(r.Moved) != 1 || r.Moved[0].ClientID != "x" {
		t.Errorf("moved: %v", r.Moved)
	}
	again.want(mesh.NotHolder)
	w.wantInbox("x", 1, 2)
}

// Something older may still be on its way: put into the inbox, what is held back would overtake it.
func TestWhatIsHeldBackGoesAfterASessionThatGoesOn(t *testing.T) {
	w := newWorld(t, nil)
	st := w.open("x", "g1", 5, claims.Terms{Expiry: 3600})
	w.subscribe("x", st, 5, sub("a", 1))
	w.mesh.hold()
	w.leave("x", "g1", 5, nil)
	second := w.send("p", match(msg("p", 2, "a", 1)))
	third := w.send("p", direct("x", 0, msg("p", 3, "a", 2)))
	second.none()
	third.none()
	w.open("x", "g2", 9, claims.Terms{Expiry: 3600})
	if r := second.want(mesh.Moved); len(r.Moved) != 1 || r.Moved[0] != (mesh.MovedClient{ClientID: "x", Epoch: 6}) {
		t.Errorf("moved: %v", r.Moved)
	}
	if r := third.want(mesh.NotHolder); r.ClientID != "x" || r.Epoch != 6 {
		t.Errorf("asked for the client: %v", r)
	}
	w.wantInbox("x")
	w.mesh.release(nil)
}

func TestRoutesAreAnnouncedUntilTheyAreInForce(t *testing.T) {
	w := newWorld(t, nil)
	st := w.open("x", "g1", 5, claims.Terms{Expiry: 3600})
	w.subscribe("x", st, 5, sub("a", 1))
	w.mesh.hold()
	w.leave("x", "g1", 5, nil)
	r := w.send("p", match(msg("p", 1, "a", 1)))
	w.mesh.release(mesh.ErrNotAcknowledged)
	r.want(mesh.Stored)
	w.wait("the former holders are told", func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		return len(w.forgotten) == 1
	})
}

func TestOrderIsGivenUpRatherThanMemory(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.HoldBytes = 500 })
	st := w.open("x", "g1", 5, claims.Terms{Expiry: 3600})
	w.subscribe("x", st, 5, sub("a", 1))
	w.mesh.hold()
	w.leave("x", "g1", 5, nil)
	for seq := uint64(9); seq > 6; seq-- {
		defer w.send("p", match(msg("p", seq, "a", 1))).want(mesh.Stored)
	}
	w.wait("they are stored", func() bool { return len(w.inbox("x")) == 3 })
	w.wantInbox("x", 7, 8, 9)
	w.send("p", match(msg("p", 1, "a", 1))).want(mesh.Stored)
	w.mesh.release(nil)
}

func TestAClientThatIsAddressed(t *testing.T) {
	w := newWorld(t, nil)
	w.absent("x", 5, sub("a", 1))
	w.open("transient", "g1", 8, claims.Terms{Will: will("w", 0)})
	w.open("here", "g1", 9, claims.Terms{Expiry: 60})
	tests := []struct {
		name   string
		client string
		epoch  uint64
		topic  string
		want   mesh.Outcome
		known  uint64
	}{
		{"by a direct topic", "x", 0, "p2p/x/t", mesh.Stored, 0},
		{"by the epoch at which it is here", "x", 6, "p2p/x/t", mesh.Stored, 0},
		{"by a topic that it does not subscribe to", "x", 0, "z", mesh.Queued, 0},
		{"at another epoch", "x", 4, "p2p/x/t", mesh.NotHolder, 6},
		{"nobody knows it", "y", 0, "p2p/y/t", mesh.NotHolder, 0},
		{"a gateway holds it", "here", 0, "p2p/here/t", mesh.NotHolder, 9},
		{"a gateway holds it, and it has no session", "transient", 0, "p2p/transient/t", mesh.NotHolder, 8},
	}
	for i, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := w.send("p", direct(tt.client, tt.epoch, msg("p", uint64(i+1), tt.topic, 1))).want(tt.want)
			if r.Epoch != tt.known {
				t.Errorf("epoch %d, want %d", r.Epoch, tt.known)
			}
		})
	}
	w.wantInbox("x", 1, 2)
}

func TestOneMessageForManyIsStoredForEachOfThem(t *testing.T) {
	w := newWorld(t, nil)
	clients := []string{"a", "b", "c", "d"}
	for i, c := range clients {
		w.absent(c, uint64(5+i), sub("t", 1))
	}
	w.open("b", "g2", 20, claims.Terms{Expiry: 60})
	r := w.send("p", match(msg("p", 1, "t", 2)))
	if got := r.first.Moved; len(got) != 1 || got[0].ClientID != "b" || got[0].Epoch != 7 {
		t.Errorf("moved: %v", got) // b's is not to wait until it is stored for the others
	}
	if got := r.want(mesh.Stored); len(got.Moved) != 0 {
		t.Errorf("moved, once more: %v", got.Moved)
	}
	for _, c := range []string{"a", "c", "d"} {
		w.wantInbox(c, 1)
	}
	w.wantInbox("b")
}

func TestWhatIsNotStoredYetIsBounded(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.Backlog = 100 })
	st := w.open("x", "g1", 5, claims.Terms{Expiry: 3600})
	w.subscribe("x", st, 5, sub("a", 1))
	w.mesh.hold()
	w.leave("x", "g1", 5, nil)
	r := w.send("p", match(msg("p", 1, "a", 1)))
	w.send("p", match(msg("p", 2, "a", 1))).want(mesh.Overloaded)
	w.mesh.release(nil)
	r.want(mesh.Stored)
	w.wait("there is room", func() bool { return w.unsaved.Load() == 0 })
	w.send("p", match(msg("p", 3, "a", 1))).want(mesh.Stored)
}

func TestATransientClientIsNotStored(t *testing.T) {
	w := newWorld(t, nil)
	if st := w.open("x", "g1", 5, claims.Terms{CleanStart: true}); st != nil {
		t.Errorf("opened %+v", st)
	}
	if _, ok := w.Look("x"); ok {
		t.Error("it is known")
	}
	w.leave("x", "g1", 5, nil)
	w.wait("nothing is left", func() bool {
		w.Keeper.mu.Lock()
		defer w.Keeper.mu.Unlock()
		return len(w.clients) == 0
	})
}

func TestACleanStartEndsTheSession(t *testing.T) {
	w := newWorld(t, nil)
	first := w.absent("x", 5, sub("a", 1))
	w.send("p", match(msg("p", 1, "a", 1))).want(mesh.Stored)
	st := w.open("x", "g1", 9, claims.Terms{CleanStart: true, Expiry: 60})
	if st.Present || st.ID == first.ID || st.First != 1 || st.Next != 1 {
		t.Errorf("opened %+v", st)
	}
	w.wantInbox("x")
	if w.mesh.has("a") {
		t.Error("its route is left")
	}
	w.send("p", match(msg("p", 2, "a", 1))).want(mesh.Queued)
	if st := w.open("x", "g1", 10, claims.Terms{CleanStart: true}); st != nil {
		t.Errorf("opened %+v", st)
	}
	if _, ok, _ := w.store.Get("x"); ok {
		t.Error("its record is left")
	}
}

func TestASessionEndsWithItsConnectionOrWhenItsTimeHasPassed(t *testing.T) {
	w := newWorld(t, nil)
	st := w.open("x", "g1", 5, claims.Terms{Expiry: 60})
	w.subscribe("x", st, 5, sub("a", 1))
	w.leave("x", "g1", 5, &claims.Ending{HasExpiry: true})
	if _, ok := w.Look("x"); ok || w.mesh.has("a") {
		t.Error("it goes on with expiry 0")
	}
	st = w.open("x", "g1", 6, claims.Terms{Expiry: 60})
	w.subscribe("x", st, 6, sub("a", 1))
	w.leave("x", "g1", 6, &claims.Ending{HasExpiry: true, Expiry: 1})
	left := time.Now()
	w.send("p", match(msg("p", 1, "a", 1))).want(mesh.Stored)
	w.wait("its time passes", func() bool { _, ok := w.Look("x"); return !ok })
	if d := time.Since(left); d < 900*time.Millisecond {
		t.Errorf("it ended after %v", d)
	}
	w.wait("its route is withdrawn", func() bool { return !w.mesh.has("a") })
	if _, ok, _ := w.store.Get("x"); ok {
		t.Error("its record is left")
	}
}

func TestASessionExpiresAcrossARestart(t *testing.T) {
	w := newWorld(t, nil)
	st := w.open("x", "g1", 5, claims.Terms{Expiry: 60})
	w.subscribe("x", st, 5, sub("a", 1))
	w.leave("x", "g1", 5, &claims.Ending{HasExpiry: true, Expiry: 1})
	w.absent("y", 6, sub("a", 1))
	w.restart("ss-2")
	w.wait("its time passes", func() bool { _, ok := w.Look("x"); return !ok })
	if _, ok := w.Look("y"); !ok {
		t.Error("the other has gone as well")
	}
}

func TestALeaveOfAnOlderHolderChangesNothing(t *testing.T) {
	w := newWorld(t, nil)
	w.open("x", "g1", 5, claims.Terms{Expiry: 60})
	w.open("x", "g2", 9, claims.Terms{Expiry: 60})
	w.leave("x", "g1", 5, nil)
	if h, _ := w.Look("x"); h != (claims.Holder{Gateway: "g2", Epoch: 9}) {
		t.Errorf("it is held by %v", h)
	}
	// A claim that was recorded and came to nothing puts it away, whoever the store names.
	w.leave("x", "g3", 12, nil)
	if h, _ := w.Look("x"); h != (claims.Holder{Epoch: 13}) {
		t.Errorf("it is held by %v", h)
	}
}

func TestASessionIsInspected(t *testing.T) {
	w := newWorld(t, nil)
	w.absent("x", 5, sub("a", 1))
	w.send("p", match(msg("p", 1, "a", 1))).want(mesh.Stored)
	i, ok, err := w.Inspect("x")
	if err != nil || !ok || i.Record.Expiry != 3600 || len(i.Subscriptions) != 1 || i.Stats.Messages != 1 {
		t.Errorf("inspected %+v, %v, %v", i, ok, err)
	}
	if _, ok, _ := w.Inspect("y"); ok {
		t.Error("a client that nobody knows has a session")
	}
	version := make(chan uint64, 1)
	w.Retain(msg("p", 2, "r", 1), func(v uint64, err error) {
		if err != nil {
			t.Error(err)
		}
		version <- v
	})
	v := <-version
	p, err := w.Retained("#", nil, 10)
	if err != nil || len(p.Messages) != 1 || p.Messages[0].Version != v {
		t.Errorf("retained: %+v, %v", p, err)
	}
}

func will(topic string, delay time.Duration) *journal.Will {
	return &journal.Will{Message: &message.Message{Topic: topic, Payload: []byte("gone"), QoS: 1}, Delay: delay}
}

func TestEpochsGrowAlthoughEtcdHasLostRevisions(t *testing.T) {
	w := newWorld(t, nil)
	base := func(revision int64) uint64 {
		t.Helper()
		b, err := w.Base(t.Context(), revision)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	if b := base(1); b != 0 {
		t.Errorf("at first the base is %d", b)
	}
	w.absent("x", 1000)
	w.restart("ss-2", "g1")
	b := base(10)
	if b+10 <= 1000 {
		t.Errorf("the base is %d, 10 revisions on", b)
	}
	w.open("y", "g1", b+11, claims.Terms{Expiry: 60})
	w.restart("ss-3", "g1")
	if again := base(12); again != b {
		t.Errorf("the base was %d and is %d", b, again)
	}
	held := w.Held("g1")
	if len(held) != 1 || held["y"] != b+11 {
		t.Errorf("g1 holds %v", held)
	}
}
