package cluster_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/beeline-mqtt/beeline/internal/cluster"
	"github.com/beeline-mqtt/beeline/internal/cluster/clustertest"
)

// stage is an active instance with a recorder, and two gateways A and B.
type stage struct {
	etcd     *clustertest.Etcd
	deps     cluster.Deps
	recorder *cluster.Recorder
	instance *member
	a, b     *member
}

func newStage(t testing.TB, c cluster.RecorderConfig) *stage {
	t.Helper()
	s := &stage{etcd: clustertest.StartEtcd(t)}
	s.deps = deps(s.etcd)
	s.instance, s.recorder = active(t, s.deps, c)
	s.a = join(t, s.deps, cluster.IncarnationConfig{}, nil)
	s.b = join(t, s.deps, cluster.IncarnationConfig{}, nil)
	return s
}

func (s *stage) record(t *testing.T, client string) cluster.Lease {
	t.Helper()
	d := cluster.NewDirectory(s.deps, nil)
	defer d.Close()
	records, err := d.Records(bg(t), []string{client})
	if err != nil {
		t.Fatal(err)
	}
	return records[client]
}

func TestTheNewestClaimWinsAndLearnsWhoWasThereBefore(t *testing.T) {
	s := newStage(t, cluster.RecorderConfig{})
	first := claim(s.recorder, "x", s.a.ID())
	if first.Err != nil || first.Epoch == 0 || first.Former != (cluster.Lease{}) {
		t.Fatalf("first claim: %+v", first)
	}
	second := claim(s.recorder, "x", s.b.ID())
	want := cluster.Claimed{Epoch: second.Epoch, Former: cluster.Lease{Holder: s.a.ID(), Epoch: first.Epoch}}
	if second != want || second.Epoch <= first.Epoch {
		t.Fatalf("second claim: %+v, want %+v after epoch %d", second, want, first.Epoch)
	}
	if got := s.record(t, "x"); got != (cluster.Lease{Holder: s.b.ID(), Epoch: second.Epoch}) {
		t.Errorf("record is %+v", got)
	}
}

func TestADeadIncarnationGetsNothing(t *testing.T) {
	s := newStage(t, cluster.RecorderConfig{})
	before := claim(s.recorder, "x", s.a.ID())
	s.b.stop()
	if got := claim(s.recorder, "x", s.b.ID()); !errors.Is(got.Err, cluster.ErrHolderDead) {
		t.Errorf("claimed by the dead: %+v", got)
	}
	if got := s.record(t, "x"); got != (cluster.Lease{Holder: s.a.ID(), Epoch: before.Epoch}) {
		t.Errorf("record is %+v", got)
	}
	s.a.stop()
	again := join(t, s.deps, cluster.IncarnationConfig{}, nil)
	if got := claim(s.recorder, "x", again.ID()); got.Err != nil || got.Former.Holder != s.a.ID() {
		t.Errorf("claimed from the dead: %+v", got)
	}
}

func TestAReleaseCountsForItsEpochOnly(t *testing.T) {
	s := newStage(t, cluster.RecorderConfig{})
	first := claim(s.recorder, "x", s.a.ID())
	second := claim(s.recorder, "x", s.a.ID())
	for _, epoch := range []uint64{first.Epoch, second.Epoch + 1} {
		if got := release(s.recorder, "x", s.a.ID(), epoch); got.Err != nil {
			t.Fatalf("release of %d: %+v", epoch, got)
		}
		if s.record(t, "x").Epoch != second.Epoch {
			t.Fatalf("epoch %d released epoch %d", epoch, second.Epoch)
		}
	}
	for range 2 {
		if got := release(s.recorder, "x", s.a.ID(), second.Epoch); got.Err != nil {
			t.Fatal(got.Err)
		}
		if got := s.record(t, "x"); got != (cluster.Lease{}) {
			t.Fatalf("record is %+v", got)
		}
	}
}

func TestAReleaseOfAnyEpochCountsForItsHolderOnly(t *testing.T) {
	s := newStage(t, cluster.RecorderConfig{})
	held := claim(s.recorder, "x", s.a.ID())
	if got := release(s.recorder, "x", s.b.ID(), 0); got.Err != nil || s.record(t, "x").Epoch != held.Epoch {
		t.Fatalf("B released what A holds: %+v", got)
	}
	if got := release(s.recorder, "x", s.a.ID(), 0); got.Err != nil || s.record(t, "x") != (cluster.Lease{}) {
		t.Fatalf("A did not release: %+v", got)
	}
}

// Any number of changes of one client, given at once among thousands of others, happen in the order they came.
func TestChangesOfOneClientKeepTheirOrder(t *testing.T) {
	s := newStage(t, cluster.RecorderConfig{Timeout: 20 * time.Second})
	const clients, rounds = 200, 20
	var wg sync.WaitGroup
	var mu sync.Mutex
	outcomes := map[string][]cluster.Claimed{}
	for round := range rounds {
		for i := range clients {
			id := fmt.Sprintf("client/%d", i)
			done := func(c cluster.Claimed) {
				mu.Lock()
				outcomes[id] = append(outcomes[id], c)
				mu.Unlock()
				wg.Done()
			}
			wg.Add(2)
			holder := []*member{s.a, s.b}[round%2].ID()
			s.recorder.Claim(id, holder, done)
			// Of every third round: given up at once, by whatever epoch it got.
			if round%3 == 0 {
				s.recorder.Release(id, holder, 0, done)
			} else {
				s.recorder.Release(id, holder, 1, done)
			}
		}
	}
	wg.Wait()
	for id, got := range outcomes {
		var before cluster.Lease
		for round := range rounds {
			c := got[2*round]
			if c.Err != nil || c.Former != before || c.Epoch <= before.Epoch {
				t.Fatalf("%s, claim %d: %+v, before it %+v", id, round, c, before)
			}
			before = cluster.Lease{Holder: []*member{s.a, s.b}[round%2].ID(), Epoch: c.Epoch}
			if round%3 == 0 {
				before = cluster.Lease{}
			}
		}
	}
}

func TestClaimsThatWaitShareRequests(t *testing.T) {
	s := newStage(t, cluster.RecorderConfig{InFlight: 1})
	const n = 600
	before := revision(t, s.deps)
	epochs := make(chan uint64, n)
	for i := range n {
		s.recorder.Claim(fmt.Sprintf("client-%d", i), s.a.ID(), func(c cluster.Claimed) { epochs <- c.Epoch })
	}
	shared := map[uint64]int{}
	for range n {
		shared[<-epochs]++
	}
	if requests := revision(t, s.deps) - before; requests != int64(len(shared)) || requests > n/4 {
		t.Errorf("%d clients took %d requests", n, requests)
	}
	for epoch, clients := range shared {
		if clients > 60 {
			t.Errorf("%d clients share epoch %d", clients, epoch)
		}
	}
}

func TestLongClientIDsDoNotMakeARequestTooLong(t *testing.T) {
	s := newStage(t, cluster.RecorderConfig{InFlight: 1})
	long := make([]byte, 65_000)
	for i := range long {
		long[i] = 'x'
	}
	results := make(chan error, 60)
	for i := range 60 {
		s.recorder.Claim(fmt.Sprintf("%d-%s", i, long), s.a.ID(), func(c cluster.Claimed) { results <- c.Err })
	}
	for range 60 {
		if err := <-results; err != nil {
			t.Fatal(err)
		}
	}
}

func revision(t *testing.T, d cluster.Deps) int64 {
	t.Helper()
	r, err := d.Client.Get(bg(t), "any")
	if err != nil {
		t.Fatal(err)
	}
	return r.Header.Revision
}

func TestAnInstanceThatIsNotActiveAnyMoreChangesNothing(t *testing.T) {
	s := newStage(t, cluster.RecorderConfig{})
	before := claim(s.recorder, "x", s.a.ID())
	// Another instance takes the key, as after the lease of this one has run out while it was paused.
	if _, err := s.deps.Client.Delete(bg(t), s.deps.Keys.Active()); err != nil {
		t.Fatal(err)
	}
	other := join(t, s.deps, cluster.IncarnationConfig{Kind: cluster.Session}, nil)
	run(t, func(ctx context.Context) error {
		return cluster.Lead(ctx, other.Incarnation, func(ctx context.Context, _ cluster.Term) { <-ctx.Done() })
	})
	refused := func(client string) bool {
		got := claim(s.recorder, client, s.b.ID())
		if got.Err != nil && !errors.Is(got.Err, cluster.ErrNotActive) && !errors.Is(got.Err, cluster.ErrUnknown) {
			t.Fatal(got.Err)
		}
		return errors.Is(got.Err, cluster.ErrNotActive)
	}
	clustertest.Wait(t, "claims are refused", func() bool { return refused("y") })
	clustertest.Wait(t, "that of a client that is recorded, too", func() bool { return refused("x") })
	if now := s.record(t, "x"); now != (cluster.Lease{Holder: s.a.ID(), Epoch: before.Epoch}) {
		t.Errorf("record is %+v", now)
	}
	if _, err := s.recorder.Sweep(bg(t), func(string, uint64) bool { return true }, 1000); err != nil && !errors.Is(err, cluster.ErrNotActive) {
		t.Error(err)
	}
}

// faulty is a stage whose recorder reaches etcd over a wire.
func faulty(t *testing.T) (*stage, *clustertest.Wire) {
	t.Helper()
	s := &stage{etcd: clustertest.StartEtcd(t)}
	s.deps = deps(s.etcd)
	wire := clustertest.NewWire(t, s.etcd.Address())
	far := s.deps
	far.Client = clustertest.Client(t, wire.Address())
	s.instance, s.recorder = active(t, far, cluster.RecorderConfig{Timeout: time.Second})
	s.a = join(t, s.deps, cluster.IncarnationConfig{}, nil)
	s.b = join(t, s.deps, cluster.IncarnationConfig{}, nil)
	return s, wire
}

// The claim reaches etcd, the answer is lost: the recorder finds out that it was applied, at which epoch, and who
// was there before, instead of claiming again.
func TestAClaimWhoseAnswerIsLostIsFoundToHaveBeenApplied(t *testing.T) {
	s, wire := faulty(t)
	before := claim(s.recorder, "x", s.a.ID())
	wire.Deafen()
	done := make(chan cluster.Claimed, 1)
	s.recorder.Claim("x", s.b.ID(), func(c cluster.Claimed) { done <- c })
	clustertest.Wait(t, "the record is there", func() bool { return s.record(t, "x").Holder == s.b.ID() })
	applied := s.record(t, "x")
	wire.Mend()
	got := <-done
	want := cluster.Claimed{Epoch: applied.Epoch, Former: cluster.Lease{Holder: s.a.ID(), Epoch: before.Epoch}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if now := s.record(t, "x"); now != applied {
		t.Errorf("the record was put again: %+v", now)
	}
	if next := claim(s.recorder, "x", s.a.ID()); next.Former != applied {
		t.Errorf("the next claim finds %+v", next)
	}
}

// A gateway claims a client anew that it held already: its own older record is not taken for the new one.
func TestAnOlderRecordOfTheSameHolderIsNotTakenForALostAnswer(t *testing.T) {
	s, wire := faulty(t)
	before := claim(s.recorder, "x", s.a.ID())
	wire.Cut()
	done := make(chan cluster.Claimed, 1)
	s.recorder.Claim("x", s.a.ID(), func(c cluster.Claimed) { done <- c })
	wire.Mend()
	got := <-done
	if got.Err == nil && (got.Epoch <= before.Epoch || got.Former.Epoch != before.Epoch) {
		t.Errorf("claimed %+v, before it %+v", got, before)
	}
	if got.Err != nil && !errors.Is(got.Err, cluster.ErrUnavailable) {
		t.Error(got.Err)
	}
}

func TestAReleaseWhoseAnswerIsLostIsDone(t *testing.T) {
	s, wire := faulty(t)
	held := claim(s.recorder, "x", s.a.ID())
	wire.Deafen()
	done := make(chan cluster.Claimed, 1)
	s.recorder.Release("x", s.a.ID(), held.Epoch, func(c cluster.Claimed) { done <- c })
	clustertest.Wait(t, "the record is gone", func() bool { return s.record(t, "x") == cluster.Lease{} })
	wire.Mend()
	if got := <-done; got.Err != nil {
		t.Error(got.Err)
	}
}

// While etcd is away, what waits is answered in time, and said not to have happened; it does not happen later.
func TestWhatWaitsWhileEtcdIsAwayIsRefusedAndDoesNotHappenLater(t *testing.T) {
	s, wire := faulty(t)
	wire.Cut()
	const n = 500
	var mu sync.Mutex
	outcome := map[string]error{}
	var wg sync.WaitGroup
	for i := range n {
		id := fmt.Sprintf("client-%d", i)
		wg.Add(1)
		s.recorder.Claim(id, s.a.ID(), func(c cluster.Claimed) {
			mu.Lock()
			outcome[id] = c.Err
			mu.Unlock()
			wg.Done()
		})
	}
	clustertest.Wait(t, "what was not sent is refused", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return len(outcome) >= n-4*60
	})
	wire.Mend()
	wg.Wait()
	for id, err := range outcome {
		recorded := s.record(t, id).Holder == s.a.ID()
		if err != nil && !errors.Is(err, cluster.ErrUnavailable) || recorded != (err == nil) {
			t.Fatalf("%s: %v, recorded %v", id, err, recorded)
		}
	}
	if got := claim(s.recorder, "later", s.a.ID()); got.Err != nil {
		t.Errorf("afterwards: %v", got.Err)
	}
}

// Whoever raises the generation makes requests under the older one worthless; they are made again.
func TestARaisedGenerationMakesRequestsAnewNotFail(t *testing.T) {
	s := newStage(t, cluster.RecorderConfig{})
	key := s.deps.Keys.Active()
	now, err := s.deps.Client.Get(bg(t), key)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.deps.Client.Put(bg(t), key, s.instance.ID(), clientv3.WithLease(clientv3.LeaseID(now.Kvs[0].Lease))); err != nil {
		t.Fatal(err)
	}
	if got := claim(s.recorder, "x", s.a.ID()); got.Err != nil {
		t.Error(got.Err)
	}
}

func TestARecorderThatEndsAnswersEverything(t *testing.T) {
	s, wire := faulty(t)
	wire.Cut()
	var wg sync.WaitGroup
	for i := range 1000 {
		wg.Add(1)
		s.recorder.Claim(fmt.Sprintf("client-%d", i%300), s.a.ID(), func(c cluster.Claimed) {
			if c.Err == nil {
				t.Error("claimed without etcd")
			}
			wg.Done()
		})
	}
	s.instance.stop()
	if _, err := s.deps.Client.Delete(bg(t), s.deps.Keys.Active()); err != nil {
		t.Fatal(err)
	}
	wire.Mend()
	wg.Wait()
	clustertest.Wait(t, "the term is over", func() bool {
		return errors.Is(claim(s.recorder, "x", s.a.ID()).Err, cluster.ErrNotActive)
	})
}

func TestOnlySoManyChangesMayWait(t *testing.T) {
	s := &stage{etcd: clustertest.StartEtcd(t)}
	s.deps = deps(s.etcd)
	wire := clustertest.NewWire(t, s.etcd.Address())
	far := s.deps
	far.Client = clustertest.Client(t, wire.Address())
	_, r := active(t, far, cluster.RecorderConfig{Waiting: 3, Timeout: time.Second})
	wire.Cut()
	refused := make(chan error, 10)
	for range 10 {
		r.Claim("x", "gone", func(c cluster.Claimed) { refused <- c.Err })
	}
	for range 7 {
		if err := <-refused; !errors.Is(err, cluster.ErrUnavailable) {
			t.Fatal(err)
		}
	}
	wire.Mend()
	for range 3 {
		<-refused
	}
}
