package away

import (
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/beeline-mqtt/beeline/internal/journal"
	"github.com/beeline-mqtt/beeline/internal/mesh"
	"github.com/beeline-mqtt/beeline/internal/message"
	"github.com/beeline-mqtt/beeline/internal/topic"
	"github.com/beeline-mqtt/beeline/services/session/internal/claims"
)

// fakeMembers are members of one shared subscription, at gateways in turn, that do what the test says.
type fakeMembers struct {
	mu       sync.Mutex
	gateways []string // where members are online
	unsure   bool     // not all gateways have said so
	turn     int
	deaf     map[string]bool // gateways where no member has room
	obedient bool            // members acknowledge at once
	got      []handed
}

// handed is what a member has been given.
type handed struct {
	gateway string
	m       *message.Message
	answer  func(gateway string, o mesh.Outcome)
}

func (f *fakeMembers) Online(topic.Shared) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.gateways) > 0
}

func (f *fakeMembers) Deserted(topic.Shared) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.gateways) == 0 && !f.unsure
}

func (f *fakeMembers) Give(_ topic.Shared, m *message.Message, except func(string) bool, answered func(string, mesh.Outcome)) bool {
	f.mu.Lock()
	gateways := slices.Clone(f.gateways)
	f.mu.Unlock()
	gateways = slices.DeleteFunc(gateways, except)
	if len(gateways) == 0 {
		return false
	}
	f.mu.Lock()
	f.turn++
	at := gateways[f.turn%len(gateways)]
	deaf, obedient := f.deaf[at], f.obedient
	if !deaf {
		f.got = append(f.got, handed{at, m, answered})
	}
	f.mu.Unlock()
	switch {
	case deaf:
		answered(at, mesh.NoMember)
	case obedient:
		answered(at, mesh.Acked)
	}
	return true
}

// come and leave change where members are online.
func (f *fakeMembers) come(gateways ...string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.gateways = append(f.gateways, gateways...)
}

func (f *fakeMembers) leave() { f.change(func() { f.gateways = nil }) }

// change has the test change something.
func (f *fakeMembers) change(what func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	what()
}

// seqs are the sequences of what members have got.
func (f *fakeMembers) seqs() (all []uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, h := range f.got {
		all = append(all, h.m.Seq)
	}
	return all
}

// answer has the oldest messages answered, and forgets them.
func (f *fakeMembers) answer(n int, o mesh.Outcome) {
	f.mu.Lock()
	all := f.got[:n:n]
	f.got = f.got[n:]
	f.mu.Unlock()
	for _, h := range all {
		h.answer(h.gateway, o)
	}
}

func (w *world) wantGiven(seqs ...uint64) {
	w.t.Helper()
	w.wait("all is given", func() bool { return len(w.members.seqs()) >= len(seqs) })
	if got := w.members.seqs(); !slices.Equal(got, seqs) {
		w.t.Errorf("given %v, want %v", got, seqs)
	}
}

const (
	jobs       = "$share/g/jobs/+"
	jobsRecord = shareKey + jobs
)

// job is a message for the members of jobs.
func job(seq uint64, qos byte) mesh.Delivery {
	return mesh.Delivery{
		Target: mesh.Target{Kind: mesh.TargetShare, Group: "g", Filter: "jobs/+"}, Message: msg("p", seq, "jobs/1", qos),
	}
}

// keep has jobs kept, of these sequences.
func (w *world) keep(seqs ...uint64) {
	w.t.Helper()
	for _, seq := range seqs {
		w.send("p", job(seq, 1)).want(mesh.Stored)
	}
}

// returns opens a client at a gateway, with a member online there.
func (w *world) returns(client, gateway string) uint64 {
	w.t.Helper()
	epoch := w.epoch()
	w.members.come(gateway)
	w.open(client, gateway, epoch, claims.Terms{Expiry: 3600})
	w.Settled(client, epoch)
	return epoch
}

func TestWhatComesWhileAllMembersAreAwayIsForTheFirstThatReturns(t *testing.T) {
	w := newWorld(t, nil)
	w.absent("x", 5, sub(jobs, 1))
	w.absent("y", 20, sub(jobs, 2))
	if !w.mesh.keeps(jobs) {
		t.Fatal("the gateways do not know that it is kept for them")
	}
	w.keep(1, 2, 3)
	w.wantInbox(jobsRecord, 1, 2, 3)
	w.wantInbox("x")
	if got := w.members.seqs(); got != nil {
		t.Errorf("%v is given to nobody", got)
	}
	w.returns("x", "g2")
	w.wantGiven(1, 2, 3)
	w.members.answer(2, mesh.Acked)
	w.wait("what is acknowledged is forgotten", func() bool { return slices.Equal(w.inbox(jobsRecord), []uint64{3}) })
	w.members.answer(1, mesh.Acked)
	w.wait("all of it", func() bool { return len(w.inbox(jobsRecord)) == 0 })
	if !w.mesh.keeps(jobs) {
		t.Error("nothing is kept any more, and y is still away")
	}
	w.returns("y", "g1")
	w.wait("nothing is kept any more", func() bool { return !w.mesh.keeps(jobs) })
	w.send("p", job(4, 1)).want(mesh.NoMember)
}

func TestAMessageIsKeptAsItWasPublished(t *testing.T) {
	w := newWorld(t, nil)
	w.absent("x", 5, sub(jobs, 1))
	d := job(7, 2)
	d.Message.Retain, d.Message.Expires = true, now().Add(time.Hour)
	w.send("p", d).want(mesh.Stored)
	w.send("p", d).want(mesh.Stored) // at QoS 2 a repetition is none
	w.returns("x", "g2")
	w.wantGiven(7)
	m := w.members.got[0].m
	if m.QoS != 2 || !m.Retain || m.ID != d.Message.ID || m.Publisher != "publisher" || !m.Expires.Equal(d.Message.Expires) {
		t.Errorf("%+v", m)
	}
}

func TestForWhomNothingIsKept(t *testing.T) {
	w := newWorld(t, nil)
	w.absent("qos 0", 5, sub(jobs, 0))
	w.send("p", job(1, 1)).want(mesh.NoMember)
	x := w.absent("x", 20, sub(jobs, 1))
	reported := job(2, 0)
	reported.ReportWithinMs = 1000
	w.send("p", reported).want(mesh.NoMember)
	w.keep(3)
	// One that has unsubscribed while it was online is a member no more.
	epoch := w.returns("x", "g2")
	if err := w.write("x", x, epoch, journal.Change{Kind: journal.Unsubscribed, Filter: jobs}); err != nil {
		t.Fatal(err)
	}
	w.leave("x", "g2", epoch, nil)
	w.settled("x")
	w.send("p", job(4, 1)).want(mesh.NoMember)
	if w.mesh.keeps(jobs) {
		t.Error("the gateways are told that something is kept")
	}
}

func TestAReportOfWhatIsKeptNamesNobody(t *testing.T) {
	w := newWorld(t, nil)
	w.absent("x", 5, sub(jobs, 1))
	d := job(1, 1)
	d.ReportWithinMs = 10_000
	if r := w.send("p", d).want(mesh.Stored); len(r.Clients) > 0 {
		t.Errorf("%+v", r.Clients)
	}
}

func TestAGatewayWithoutRoomIsLeftOutForAWhile(t *testing.T) {
	w := newWorld(t, nil)
	w.members.deaf = map[string]bool{"full": true}
	w.members.come("full")
	w.absent("x", 5, sub(jobs, 1))
	w.keep(1, 2, 3, 4)
	w.wait("it has refused", func() bool {
		w.Keeper.mu.Lock()
		defer w.Keeper.mu.Unlock()
		return len(w.shares[topic.Shared{Group: "g", Filter: "jobs/+"}].tired) > 0
	})
	w.members.change(func() { w.members.obedient = true })
	w.members.come("free")
	w.wantGiven(1, 2, 3, 4)
}

func TestWhatAMemberHasNotAcknowledgedWhenItLeavesIsGivenAgain(t *testing.T) {
	w := newWorld(t, nil)
	w.absent("x", 5, sub(jobs, 1))
	w.keep(1, 2, 3)
	w.members.come("g1")
	w.wantGiven(1, 2, 3)
	w.members.leave()
	w.members.answer(1, mesh.Acked)
	w.members.answer(1, mesh.NoMember)
	w.members.answer(1, mesh.Gone)
	w.members.come("g2")
	w.wantGiven(2, 3)
	w.members.answer(2, mesh.Acked)
	w.wait("nothing is left", func() bool { return len(w.inbox(jobsRecord)) == 0 })
}

func TestASuccessorGivesWhatIsKept(t *testing.T) {
	w := newWorld(t, nil)
	w.absent("x", 5, sub(jobs, 1))
	w.keep(1, 2)
	w.members.come("g1")
	w.wantGiven(1, 2)
	w.members.answer(1, mesh.Acked)
	w.wait("the end is stored", func() bool { return slices.Equal(w.inbox(jobsRecord), []uint64{2}) })
	w.members.leave()
	w.members.got = nil
	w.restart("ss-2", "g1")
	w.wait("it is known who keeps", func() bool { return w.mesh.keeps(jobs) })
	w.keep(3)
	w.members.come("g1") // nobody has told: it is found out
	w.wantGiven(2, 3)
}

func TestMoreIsKeptThanIsGivenAtOnce(t *testing.T) {
	w := newWorld(t, nil)
	w.absent("x", 5, sub(jobs, 1))
	var all []uint64
	for i := range uint64(500) {
		all = append(all, i+1)
	}
	w.keep(all...)
	w.returns("x", "g2")
	w.wait("as many as may", func() bool { return len(w.members.seqs()) == givenAtOnce })
	w.members.mu.Lock()
	w.members.obedient = true
	first := w.members.got
	w.members.mu.Unlock()
	for _, h := range first {
		h.answer(h.gateway, mesh.Acked)
	}
	w.wantGiven(all...)
	w.wait("nothing is left", func() bool { return len(w.inbox(jobsRecord)) == 0 })
}

func TestTheMembersOfADeadGatewayAreAway(t *testing.T) {
	w := newWorld(t, nil)
	w.View([]string{"g1"}, 1)
	w.connected("x", "g1", 5, sub(jobs, 1))
	w.View(nil, w.epoch())
	w.wait("it is kept for them", func() bool { return w.mesh.keeps(jobs) })
	w.keep(1)
	w.wantInbox(jobsRecord, 1)
}

func TestARouteOfAKeeperIsAnnouncedUntilItIsInForce(t *testing.T) {
	w := newWorld(t, nil)
	st := w.open("x", "g1", 5, claims.Terms{Expiry: 3600})
	w.subscribe("x", st, 5, sub(jobs, 1))
	w.mesh.hold()
	w.leave("x", "g1", 5, nil)
	w.wait("it is announced", func() bool { return w.mesh.keeps(jobs) })
	w.mesh.mu.Lock()
	delete(w.mesh.routes, jobs)
	w.mesh.mu.Unlock()
	w.mesh.release(mesh.ErrNotAcknowledged)
	w.wait("it is announced again", func() bool { return w.mesh.keeps(jobs) })
	w.settled("x")
}

// What is kept goes when nobody is left who could get it: not before all are known, and not while one is away, or online.
func TestWhatNobodyIsLeftForIsDropped(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.ShareTick = time.Hour }) // the test looks after it
	began := time.Now()
	kept := func(after time.Duration) bool {
		t.Helper()
		w.Keeper.mu.Lock()
		sh := w.shares[topic.Shared{Group: "g", Filter: "jobs/+"}]
		w.Keeper.mu.Unlock()
		if sh == nil {
			t.Fatal("it has been dropped already")
		}
		w.lookAfter(sh, began.Add(after))
		return !sh.over
	}
	stays := func(since, until time.Duration, why string) {
		t.Helper()
		if !kept(since) || !kept(until) {
			t.Fatalf("it is dropped although %s", why)
		}
	}
	w.View([]string{"g1", "g2"}, 1)
	w.wait("nothing is adopted any more", func() bool {
		w.Keeper.mu.Lock()
		defer w.Keeper.mu.Unlock()
		return len(w.orphans) == 0
	})
	x := w.absent("x", 5, sub(jobs, 1))
	w.keep(1, 2)
	stays(0, 2*time.Minute, "a member is away")
	w.members.deaf = map[string]bool{"g2": true}
	epoch := w.returns("x", "g2")
	stays(3*time.Minute, 5*time.Minute, "a member is online")
	if err := w.write("x", x, epoch, journal.Change{Kind: journal.Unsubscribed, Filter: jobs}); err != nil {
		t.Fatal(err)
	}
	w.wait("it is no member here", func() bool { return !w.mesh.keeps(jobs) })
	w.members.change(func() { w.members.gateways, w.members.unsure = nil, true })
	stays(6*time.Minute, 8*time.Minute, "not all gateways have said who is online")
	w.members.change(func() { w.members.unsure = false })
	stays(9*time.Minute, 10*time.Minute-time.Second, "it is not long that nobody is left")
	if kept(10 * time.Minute) {
		t.Fatal("it is kept for ever")
	}
	w.wait("both messages are counted", func() bool {
		return testutil.ToFloat64(w.Keeper.metrics.drops.WithLabelValues(dropDeserted)) == 2
	})
	w.wait("the store has forgotten it", func() bool {
		_, there, err := w.store.Get(jobsRecord)
		return !there && err == nil
	})
	// Somebody else begins anew.
	w.absent("y", w.epoch(), sub(jobs, 1))
	w.keep(3)
	w.members.change(func() { w.members.deaf = nil })
	w.returns("y", "g1")
	w.wantGiven(3)
}
