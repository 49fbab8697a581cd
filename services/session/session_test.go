package session_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	sessionv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/session/v1"
	"github.com/beeline-mqtt/beeline/internal/cluster"
	"github.com/beeline-mqtt/beeline/internal/cluster/clustertest"
	"github.com/beeline-mqtt/beeline/internal/rpc"
	"github.com/beeline-mqtt/beeline/services/session"
)

func TestATakeoverWaitsUntilTheFormerHolderHasEvicted(t *testing.T) {
	etcd := clustertest.StartEtcd(t).Client()
	i := start(t, etcd, nil)
	i.waitActive(t)
	idA, _ := alive(t, etcd)
	idB, _ := alive(t, etcd)
	a, b := attach(t, i.conn, idA).welcome(), attach(t, i.conn, idB).welcome()

	first := a.wantClaimed(a.claim("x"), "")
	claim := b.claim("x")
	epoch := a.wantEvict("x")
	if epoch <= first {
		t.Fatalf("evicted at epoch %d, held at %d", epoch, first)
	}
	// Nothing may come to b before a has answered. What a answers next overtakes nothing.
	other := b.claim("y")
	b.wantClaimed(other, "")
	a.evicted("x", epoch)
	if got := b.wantClaimed(claim, idA); got != epoch {
		t.Errorf("claimed at %d, evicted at %d", got, epoch)
	}

	// What a gives up late is not b's.
	a.wantReleased(a.release("x", first))
	leases, err := cluster.NewDirectory(deps(etcd), nil).LookUp(bg(t), []string{"x", "y"})
	if err != nil || leases["x"] != (cluster.Lease{Holder: idB, Epoch: epoch}) {
		t.Errorf("leases are %v, %v", leases, err)
	}
	b.wantReleased(b.release("x", epoch))
	if leases, err := cluster.NewDirectory(deps(etcd), nil).LookUp(bg(t), []string{"x"}); err != nil || len(leases) != 0 {
		t.Errorf("leases are %v, %v", leases, err)
	}
	for name, want := range map[string]float64{
		"beeline_session_claims_total": 3, "beeline_session_releases_total": 2, "beeline_session_evictions_total": 1,
		"beeline_session_evict_timeouts_total": 0, "beeline_session_active": 1, "beeline_session_attached_gateways": 2,
		"beeline_session_claim_duration_seconds": 3,
	} {
		if got := i.metric(t, name); got != want {
			t.Errorf("%s is %v, want %v", name, got, want)
		}
	}
}

func TestATakeoverGoesOnWhenTheFormerHolderIsSilent(t *testing.T) {
	etcd := clustertest.StartEtcd(t).Client()
	i := start(t, etcd, func(c *session.Config) { c.EvictTimeout = 200 * time.Millisecond })
	i.waitActive(t)
	idA, _ := alive(t, etcd)
	idB, _ := alive(t, etcd)
	a, b := attach(t, i.conn, idA).welcome(), attach(t, i.conn, idB).welcome()
	a.wantClaimed(a.claim("x"), "")
	began := time.Now()
	epoch := b.wantClaimed(b.claim("x"), idA)
	if took := time.Since(began); took < 200*time.Millisecond {
		t.Errorf("granted after %v", took)
	}
	if got := i.metric(t, "beeline_session_evict_timeouts_total"); got != 1 {
		t.Errorf("%v timeouts counted", got)
	}
	// a is told again when it attaches again.
	a.cancel()
	again := attach(t, i.conn, idA).welcome()
	if got := again.wantEvict("x"); got != epoch {
		t.Errorf("told of epoch %d, want %d", got, epoch)
	}
}

func TestNobodyWaitsForADeadHolder(t *testing.T) {
	etcd := clustertest.StartEtcd(t).Client()
	i := start(t, etcd, func(c *session.Config) { c.EvictTimeout = time.Hour })
	i.waitActive(t)
	idA, dieA := alive(t, etcd)
	idB, _ := alive(t, etcd)
	a, b := attach(t, i.conn, idA).welcome(), attach(t, i.conn, idB).welcome()
	for _, client := range []string{"x", "y"} {
		a.wantClaimed(a.claim(client), "")
	}
	// It dies while it is to evict.
	claim := b.claim("x")
	a.wantEvict("x")
	dieA()
	b.wantClaimed(claim, idA)
	if err := a.end(); rpc.ReasonOf(err) != rpc.NotAlive {
		t.Errorf("the stream of the dead ends with %v", err)
	}
	// It has died before; its record may have been swept by now.
	id := b.claim("y")
	if f := b.next().GetClaimed(); f.GetRequestId() != id {
		t.Errorf("got %v", f)
	}
}

func TestADeadGatewaysRecordsAreSwept(t *testing.T) {
	etcd := clustertest.StartEtcd(t).Client()
	i := start(t, etcd, nil)
	i.waitActive(t)
	idA, dieA := alive(t, etcd)
	a := attach(t, i.conn, idA).welcome()
	for n := range 300 {
		a.claim(fmt.Sprintf("client-%d", n))
	}
	for range 300 {
		if f := a.next().GetClaimed(); f == nil {
			t.Fatal("not claimed")
		}
	}
	dieA()
	clustertest.Wait(t, "all records are gone", func() bool {
		r, err := etcd.Get(bg(t), cluster.Keys("test").Clients(), clientv3.WithPrefix(), clientv3.WithCountOnly())
		return err == nil && r.Count == 0
	})
	clustertest.Wait(t, "they are counted", func() bool {
		return i.metric(t, "beeline_session_swept_records_total") == 300
	})
}

func TestANewerClaimSupersedesThoseThatWait(t *testing.T) {
	etcd := clustertest.StartEtcd(t).Client()
	i := start(t, etcd, func(c *session.Config) { c.EvictTimeout = time.Hour })
	i.waitActive(t)
	idA, _ := alive(t, etcd)
	idB, _ := alive(t, etcd)
	idC, _ := alive(t, etcd)
	a, b, c := attach(t, i.conn, idA).welcome(), attach(t, i.conn, idB).welcome(), attach(t, i.conn, idC).welcome()
	a.wantClaimed(a.claim("x"), "")
	claimB := b.claim("x")
	epoch := a.wantEvict("x")
	claimC := c.claim("x")
	b.wantRefused(claimB, sessionv1.Refusal_REFUSAL_SUPERSEDED)
	a.evicted("x", epoch)
	c.wantClaimed(claimC, idB)
}

func TestADeadIncarnationIsRefused(t *testing.T) {
	etcd := clustertest.StartEtcd(t).Client()
	i := start(t, etcd, nil)
	i.waitActive(t)
	if err := attach(t, i.conn, "NOBODY").end(); status.Code(err) != codes.FailedPrecondition || rpc.ReasonOf(err) != rpc.NotAlive {
		t.Errorf("refused with %v", err)
	}
}

func TestFramesThatMakeNoSenseEndTheStream(t *testing.T) {
	etcd := clustertest.StartEtcd(t).Client()
	i := start(t, etcd, nil)
	i.waitActive(t)
	idA, _ := alive(t, etcd)
	for name, r := range map[string]*sessionv1.AttachRequest{
		"empty":                     {},
		"a second hello":            {Frame: &sessionv1.AttachRequest_Hello{Hello: &sessionv1.Hello{Incarnation: idA}}},
		"a claim of nobody":         {Frame: &sessionv1.AttachRequest_Claim{Claim: &sessionv1.Claim{RequestId: 1}}},
		"a claim without a request": {Frame: &sessionv1.AttachRequest_Claim{}},
	} {
		a := attach(t, i.conn, idA).welcome()
		a.send(r)
		if err := a.end(); status.Code(err) != codes.InvalidArgument {
			t.Errorf("%s: ended with %v", name, err)
		}
	}
	if err := attach(t, i.conn, "").end(); status.Code(err) != codes.InvalidArgument {
		t.Errorf("hello without a name: ended with %v", err)
	}
}

func TestASecondStreamOfAGatewayEndsTheFirst(t *testing.T) {
	etcd := clustertest.StartEtcd(t).Client()
	i := start(t, etcd, nil)
	i.waitActive(t)
	idA, _ := alive(t, etcd)
	first := attach(t, i.conn, idA).welcome()
	second := attach(t, i.conn, idA).welcome()
	if err := first.end(); status.Code(err) != codes.Aborted {
		t.Errorf("the first ended with %v", err)
	}
	second.wantClaimed(second.claim("x"), "")
}

func TestStaleHoldingsAreEvicted(t *testing.T) {
	etcd := clustertest.StartEtcd(t).Client()
	i := start(t, etcd, nil)
	i.waitActive(t)
	idA, _ := alive(t, etcd)
	idB, _ := alive(t, etcd)
	a, b := attach(t, i.conn, idA).welcome(), attach(t, i.conn, idB).welcome()
	held := map[string]uint64{}
	for _, client := range []string{"mine", "taken", "released", "claimed again"} {
		held[client] = a.wantClaimed(a.claim(client), "")
	}
	a.wantReleased(a.release("released", held["released"]))
	a.wantClaimed(a.claim("claimed again"), idA)
	a.cancel()
	// b's claim is answered when a, attached again, has evicted.
	claim := b.claim("taken")
	var all []*sessionv1.Holding
	for client, epoch := range held {
		all = append(all, &sessionv1.Holding{ClientId: client, Epoch: epoch})
	}
	a = attach(t, i.conn, idA, all...).welcome()
	got := map[string]uint64{}
	for len(got) < 2 {
		f := a.next().GetEvict()
		got[f.GetClientId()] = f.GetEpoch()
	}
	a.evicted("taken", got["taken"])
	if epoch := b.wantClaimed(claim, idA); epoch != got["taken"] {
		t.Errorf("claimed at %d, evicted at %d", epoch, got["taken"])
	}
	if got["released"] <= held["released"] {
		t.Errorf("evicted at %v, held at %v", got, held)
	}
}

func TestAStandbyRefusesUntilItTakesThePlaceOfTheActiveInstance(t *testing.T) {
	etcd := clustertest.StartEtcd(t).Client()
	first := start(t, etcd, nil)
	first.waitActive(t)
	second := start(t, etcd, nil)
	clustertest.Wait(t, "the standby is ready", func() bool { return second.Ready() == nil })
	idA, _ := alive(t, etcd)
	idB, _ := alive(t, etcd)
	if err := attach(t, second.conn, idA).end(); rpc.ReasonOf(err) != rpc.NotActive {
		t.Fatalf("the standby refuses with %v", err)
	}
	a := attach(t, first.conn, idA).welcome()
	x := a.wantClaimed(a.claim("x"), "")
	first.stop()
	if err := a.end(); rpc.ReasonOf(err) != rpc.Stopping {
		t.Errorf("the stream ends with %v", err)
	}
	second.waitActive(t)
	// It answers when both gateways have shown what they hold.
	b := attach(t, second.conn, idB).welcome()
	claim := b.claim("x")
	a = attach(t, second.conn, idA, &sessionv1.Holding{ClientId: "x", Epoch: x}).welcome()
	epoch := a.wantEvict("x")
	if epoch <= x {
		t.Errorf("epoch %d after %d", epoch, x)
	}
	a.evicted("x", epoch)
	// It may be told once more, when what it has shown is compared.
	go a.answerEvictions()
	if got := b.wantClaimed(claim, idA); got != epoch {
		t.Errorf("claimed at %d, evicted at %d", got, epoch)
	}
}

// The active instance dies between recording a claim and telling the former holder, and the claiming gateway
// repeats the claim: nobody would look for the former holder, if it did not show what it holds.
func TestAFreshInstanceFinishesTheEvictionsOfItsPredecessor(t *testing.T) {
	etcd := clustertest.StartEtcd(t).Client()
	idA, _ := alive(t, etcd)
	idB, _ := alive(t, etcd)
	key := cluster.Keys("test").Client("x")
	for _, holder := range []string{idA, idB} {
		if _, err := etcd.Put(bg(t), key, `{"holder":"`+holder+`"}`); err != nil {
			t.Fatal(err)
		}
	}
	r, err := etcd.Get(bg(t), key)
	if err != nil {
		t.Fatal(err)
	}
	held := uint64(r.Kvs[0].ModRevision) - 1

	i := start(t, etcd, func(c *session.Config) { c.EvictTimeout = time.Hour })
	i.waitActive(t)
	b := attach(t, i.conn, idB).welcome()
	claim := b.claim("x")
	a := attach(t, i.conn, idA, &sessionv1.Holding{ClientId: "x", Epoch: held}).welcome()
	a.evicted("x", a.wantEvict("x"))
	b.wantClaimed(claim, idB)
}

func TestAnInstanceBearsWitnessWhileEtcdIsAwayAndGoesOnAfterwards(t *testing.T) {
	e := clustertest.StartEtcd(t)
	etcd := e.Client()
	i := start(t, etcd, func(c *session.Config) { c.TTL = 5 * time.Second })
	i.waitActive(t)
	c := sessionv1.NewSessionServiceClient(i.conn)
	reachable := func() bool {
		r, err := c.Witness(bg(t), &sessionv1.WitnessRequest{})
		if err != nil {
			t.Fatal(err)
		}
		return r.GetEtcdReachable()
	}
	clustertest.Wait(t, "etcd is reachable", reachable)
	e.Stop()
	clustertest.Wait(t, "etcd is not reachable", func() bool { return !reachable() })
	stopped := time.Now()
	clustertest.Wait(t, "the TTL passes", func() bool { return time.Since(stopped) > 6*time.Second })
	if !i.Active() {
		t.Error("it gave up although nobody could take its place")
	}
	e.Start()
	clustertest.Wait(t, "etcd is reachable again", reachable)
	idA, _ := alive(t, etcd)
	a := attach(t, i.conn, idA).welcome()
	a.wantClaimed(a.claim("x"), "")
}

func TestAnInstanceThatLostItsIncarnationJoinsAgain(t *testing.T) {
	etcd := clustertest.StartEtcd(t).Client()
	i := start(t, etcd, nil)
	i.waitActive(t)
	idA, _ := alive(t, etcd)
	a := attach(t, i.conn, idA).welcome()
	if _, err := etcd.Delete(bg(t), cluster.Keys("test").Members(cluster.Session), clientv3.WithPrefix()); err != nil {
		t.Fatal(err)
	}
	if err := a.end(); rpc.ReasonOf(err) != rpc.NotActive {
		t.Errorf("the stream ends with %v", err)
	}
	var welcome *attached
	clustertest.Wait(t, "it is active again", func() bool {
		if !i.Active() {
			return false
		}
		welcome = attach(t, i.conn, idA)
		f, ok := <-welcome.frames
		return ok && f.GetWelcome() != nil
	})
	welcome.wantClaimed(welcome.claim("x"), "")
}

func TestClaimsWhileEtcdIsAwayAreRefusedAndWorkAfterwards(t *testing.T) {
	e := clustertest.StartEtcd(t)
	etcd := e.Client()
	i := start(t, etcd, nil)
	i.waitActive(t)
	idA, _ := alive(t, etcd)
	a := attach(t, i.conn, idA).welcome()
	a.wantClaimed(a.claim("x"), "")
	e.Stop()
	// More than fit into the requests under way: those that wait are refused.
	for n := range 300 {
		a.claim(fmt.Sprintf("client-%d", n))
	}
	if f := a.next().GetRefused(); f.GetReason() != sessionv1.Refusal_REFUSAL_UNAVAILABLE {
		t.Fatalf("got %v", f)
	}
	e.Start()
	answers := 1
	for answers < 300 {
		a.next()
		answers++
	}
	a.wantClaimed(a.claim("y"), "")
}

// Two devices with one id throw each other out again and again.
func TestAFlappingClientIsSlowedDown(t *testing.T) {
	etcd := clustertest.StartEtcd(t).Client()
	i := start(t, etcd, func(c *session.Config) { c.FlapLimit = 20 })
	i.waitActive(t)
	idA, _ := alive(t, etcd)
	idB, _ := alive(t, etcd)
	gateways := []*attached{attach(t, i.conn, idA).welcome(), attach(t, i.conn, idB).welcome()}
	ids := []string{idA, idB}
	gateways[1].wantClaimed(gateways[1].claim("x"), "")
	for n := range 21 {
		here, there := gateways[n%2], gateways[(n+1)%2]
		claim := here.claim("x")
		there.evicted("x", there.wantEvict("x"))
		here.wantClaimed(claim, ids[(n+1)%2])
	}
	began := time.Now()
	claim := gateways[1].claim("x")
	gateways[0].evicted("x", gateways[0].wantEvict("x"))
	gateways[1].wantClaimed(claim, idA)
	if took := time.Since(began); took < 900*time.Millisecond {
		t.Errorf("granted after %v, want a second", took)
	}
	if got := i.metric(t, "beeline_session_flapping_claims_total"); got != 1 {
		t.Errorf("%v counted", got)
	}
}

func TestAGatewayThatDoesNotReadIsCutOff(t *testing.T) {
	etcd := clustertest.StartEtcd(t).Client()
	i := startPrepared(t, etcd, nil, func(s *session.Session) { s.SetOutbox(100) })
	i.waitActive(t)
	idA, _ := alive(t, etcd)
	idB, _ := alive(t, etcd)
	rpcA, err := sessionv1.NewSessionServiceClient(i.conn).Attach(bg(t), grpc.WaitForReady(true))
	if err != nil {
		t.Fatal(err)
	}
	hello := &sessionv1.AttachRequest{Frame: &sessionv1.AttachRequest_Hello{Hello: &sessionv1.Hello{Incarnation: idA}}}
	if err := rpcA.Send(hello); err != nil {
		t.Fatal(err)
	}
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		for n := uint64(1); ; n++ {
			if rpcA.Send(&sessionv1.AttachRequest{Frame: &sessionv1.AttachRequest_Release{
				Release: &sessionv1.Release{RequestId: n, ClientId: fmt.Sprintf("x-%d", n), Epoch: 1},
			}}) != nil {
				return
			}
		}
	}()
	clustertest.Wait(t, "it is cut off", func() bool { return i.metric(t, "beeline_session_cut_off_gateways_total") > 0 })
	b := attach(t, i.conn, idB).welcome()
	id := b.claim("y")
	if f := b.next().GetClaimed(); f.GetRequestId() != id {
		t.Errorf("got %v", f)
	}
	// It learns the reason when it reads.
	for err == nil {
		_, err = rpcA.Recv()
	}
	if status.Code(err) != codes.ResourceExhausted {
		t.Errorf("ended with %v", err)
	}
	<-sent
}

func TestTheConfigurationIsChecked(t *testing.T) {
	good := session.DefaultConfig()
	good.Data = "data"
	if err := good.Validate(); err != nil {
		t.Error(err)
	}
	for key, change := range map[string]func(*session.Config){
		"cluster":       func(c *session.Config) { c.Cluster = "a/b" },
		"ttl":           func(c *session.Config) { c.TTL = 1500 * time.Millisecond },
		"evict_timeout": func(c *session.Config) { c.EvictTimeout = 0 },
		"flap_limit":    func(c *session.Config) { c.FlapLimit = 0 },
		"sweep_rate":    func(c *session.Config) { c.SweepRate = 1 },
		"blind_after":   func(c *session.Config) { c.BlindAfter = 0 },
		"data":          func(c *session.Config) { c.Data = "" },

		"inbox_messages":    func(c *session.Config) { c.InboxMessages = 0 },
		"inbox_bytes":       func(c *session.Config) { c.InboxBytes = 0 },
		"inbox_age":         func(c *session.Config) { c.InboxAge = -1 },
		"presence_history":  func(c *session.Config) { c.PresenceHistory = 999 },
		"retained_messages": func(c *session.Config) { c.RetainedMessages = 0 },
	} {
		bad := good
		change(&bad)
		if err := bad.Validate(); err == nil || !strings.Contains(err.Error(), key) {
			t.Errorf("%s: %v", key, err)
		}
		if _, err := session.New(bad, session.Deps{}); err == nil {
			t.Errorf("%s: made", key)
		}
	}
}

func TestAnInstanceIsNotReadyWithoutEtcd(t *testing.T) {
	e := clustertest.StartEtcd(t)
	etcd := e.Client()
	e.Stop()
	i := start(t, etcd, nil)
	if i.Ready() == nil || i.Active() {
		t.Error("ready without etcd")
	}
	if err := attach(t, i.conn, "A").end(); rpc.ReasonOf(err) != rpc.NotActive {
		t.Errorf("refused with %v", err)
	}
	e.Start()
	i.waitActive(t)
	if err := i.Ready(); err != nil {
		t.Error(err)
	}
}
