package session_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	messagev1 "github.com/beeline-mqtt/beeline/api/gen/beeline/message/v1"
	sessionv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/session/v1"
	"github.com/beeline-mqtt/beeline/internal/cluster"
	"github.com/beeline-mqtt/beeline/internal/cluster/clustertest"
	"github.com/beeline-mqtt/beeline/internal/message"
	"github.com/beeline-mqtt/beeline/internal/rpc"
	"github.com/beeline-mqtt/beeline/services/session"
	"github.com/beeline-mqtt/beeline/services/session/internal/claims"
	"github.com/beeline-mqtt/beeline/services/session/internal/store"
)

// keeping is an instance that keeps something.
type keeping struct {
	*instance
	t     testing.TB
	etcd  *clientv3.Client
	shelf *shelf
}

func startKeeping(t testing.TB, change func(*session.Config), prepare func(*shelf)) *keeping {
	t.Helper()
	k := &keeping{t: t, etcd: clustertest.StartEtcd(t).Client(), shelf: newShelf(t)}
	if prepare != nil {
		prepare(k.shelf)
	}
	k.instance = startPrepared(t, k.etcd, change, func(s *session.Session) { s.SetKeep(k.shelf.keep) })
	k.waitActive(t)
	return k
}

func (k *keeping) gateway() (*attached, string) {
	k.t.Helper()
	id, _ := alive(k.t, k.etcd)
	return attach(k.t, k.conn, id).welcome(), id
}

// want is what the shelf is asked next.
func (k *keeping) want(what string) {
	k.t.Helper()
	select {
	case got := <-k.shelf.log:
		if got != what {
			k.t.Fatalf("the store is asked to %q, want %q", got, what)
		}
	case <-time.After(patience):
		k.t.Fatalf("nothing is asked, want %q", what)
	}
}

func (k *keeping) lease(client string) cluster.Lease {
	k.t.Helper()
	leases, err := cluster.NewDirectory(deps(k.etcd), nil).Records(bg(k.t), []string{client})
	if err != nil {
		k.t.Fatal(err)
	}
	return leases[client]
}

func (a *attached) claimStored(c *sessionv1.Claim) uint64 {
	a.last++
	c.RequestId = a.last
	a.send(&sessionv1.AttachRequest{Frame: &sessionv1.AttachRequest_Claim{Claim: c}})
	return a.last
}

// wantSession wants a claim granted, with a session, and returns the epoch.
func (a *attached) wantSession(id uint64, present bool) uint64 {
	a.t.Helper()
	f := a.next().GetClaimed()
	if f.GetRequestId() != id || f.GetSession().GetSessionId() != 7 || f.GetSession().GetPresent() != present ||
		f.GetSession().GetNextPosition() != 3 {
		a.t.Fatalf("got %v, want claim %d granted with a session, present: %v", f, id, present)
	}
	return f.GetEpoch()
}

func (a *attached) write(client string, epoch uint64) uint64 {
	a.last++
	a.send(&sessionv1.AttachRequest{Frame: &sessionv1.AttachRequest_Write{Write: &sessionv1.Write{
		RequestId: a.last, ClientId: client, SessionId: 7, Epoch: epoch,
		Changes: []*sessionv1.Change{{Change: &sessionv1.Change_Done{Done: 1}}},
	}}})
	return a.last
}

func lasting(client string) *sessionv1.Claim {
	return &sessionv1.Claim{ClientId: client, SessionExpirySeconds: 60}
}

func TestAStoredClientIsOpenedAndPutAway(t *testing.T) {
	k := startKeeping(t, nil, nil)
	a, idA := k.gateway()
	claim := a.claimStored(&sessionv1.Claim{ClientId: "x", CleanStart: true, SessionExpirySeconds: 60, Will: &sessionv1.Will{
		Message:      &messagev1.Message{Topic: "gone/x", Qos: messagev1.Qos_QOS_AT_LEAST_ONCE},
		DelaySeconds: 5,
	}})
	k.want("open x, former , clean, expiry 60, will gone/x after 5s")
	epoch := a.wantSession(claim, false)
	if got := k.lease("x"); got != (cluster.Lease{Holder: idA, Epoch: epoch}) {
		t.Errorf("leased to %+v", got)
	}
	a.last++
	expiry := uint32(9)
	a.send(&sessionv1.AttachRequest{Frame: &sessionv1.AttachRequest_Release{Release: &sessionv1.Release{
		RequestId: a.last, ClientId: "x", Epoch: epoch, Ending: sessionv1.Ending_ENDING_WITHOUT_WILL, SessionExpirySeconds: &expiry,
	}}})
	k.want("away x: {WithoutWill:true Expiry:9 HasExpiry:true}")
	a.wantReleased(a.last)
	if got := k.lease("x"); got != (cluster.Lease{}) {
		t.Errorf("leased to %+v", got)
	}
	claim = a.claimStored(lasting("x"))
	k.want("open x, former , expiry 60")
	a.wantSession(claim, true)
	// A transient client of whom nothing is stored comes by the store in nothing.
	other := a.wantClaimed(a.claim("y"), "")
	a.wantReleased(a.release("y", other))
}

func TestTheHolderOfAStoredClientGoesBeforeTheNextOneIsRecorded(t *testing.T) {
	k := startKeeping(t, nil, nil)
	a, idA := k.gateway()
	b, _ := k.gateway()
	claim := a.claimStored(lasting("x"))
	k.want("open x, former , expiry 60")
	held := a.wantSession(claim, false)

	claim = b.claimStored(lasting("x"))
	if got := a.wantEvict("x"); got != held+1 {
		t.Errorf("evicted at %d, held at %d", got, held)
	}
	if got := k.lease("x"); got != (cluster.Lease{Holder: idA, Epoch: held}) {
		t.Errorf("leased to %+v before A has gone", got)
	}
	write := a.write("x", held)
	a.evicted("x", held+1)
	k.want("write 1 of x")
	k.want("open x, former " + idA + ", expiry 60")
	if epoch := b.wantSession(claim, true); epoch <= held {
		t.Errorf("epoch %d after %d", epoch, held)
	}
	if got := a.next().GetWritten().GetRequestIds(); len(got) != 1 || got[0] != write {
		t.Errorf("written: %v, want %d", got, write)
	}
	// Now A has nothing to write any more.
	write = a.write("x", held)
	k.want("write 1 of x")
	if got := a.next().GetWritten().GetFenced(); len(got) != 1 || got[0] != write {
		t.Errorf("fenced: %v, want %d", got, write)
	}
}

func TestAClaimThatCannotBeOpenedLeavesTheClientAway(t *testing.T) {
	k := startKeeping(t, func(c *session.Config) { c.EvictTimeout = 50 * time.Millisecond }, nil)
	a, _ := k.gateway()
	k.shelf.set(func() { k.shelf.refuse = store.ErrFull })
	claim := a.claimStored(lasting("x"))
	a.wantRefused(claim, sessionv1.Refusal_REFUSAL_UNAVAILABLE)
	k.want("open x, former , expiry 60")
	k.want("away x")
	k.want("away x")
	if got := k.lease("x"); got != (cluster.Lease{}) {
		t.Errorf("leased to %+v", got)
	}
	k.shelf.set(func() { k.shelf.refuse = nil })
	clustertest.Wait(t, "it is away", func() bool { h, stored := k.shelf.Look("x"); return stored && h.Gateway == "" })
}

func TestManyWritesAreAnsweredTogether(t *testing.T) {
	k := startKeeping(t, nil, nil)
	a, _ := k.gateway()
	claim := a.claimStored(lasting("x"))
	k.want("open x, former , expiry 60")
	epoch := a.wantSession(claim, false)
	go func() {
		for range k.shelf.log { // until it is closed
		}
	}()
	t.Cleanup(func() { k.stop(); close(k.shelf.log) })
	const n = 5000
	missing := map[uint64]bool{}
	for range n {
		missing[a.write("x", epoch)] = true
	}
	frames := 0
	for len(missing) > 0 {
		ids := a.next().GetWritten().GetRequestIds()
		if len(ids) == 0 || len(ids) > 1000 {
			t.Fatalf("a frame answers %d writes", len(ids))
		}
		for _, id := range ids {
			if !missing[id] {
				t.Fatalf("%d is answered twice", id)
			}
			delete(missing, id)
		}
		frames++
	}
	t.Logf("%d writes, %d frames", n, frames)
}

func retain(id uint64) *sessionv1.AttachRequest {
	return &sessionv1.AttachRequest{Frame: &sessionv1.AttachRequest_Retain{Retain: &sessionv1.Retain{
		RequestId: id, Message: &messagev1.Message{
			Id: &messagev1.MessageId{Origin: "A", Sequence: id}, Topic: "t", Qos: messagev1.Qos_QOS_AT_LEAST_ONCE, Retain: true,
		},
	}}}
}

func TestRetainedMessagesAndSettledGoToTheStore(t *testing.T) {
	k := startKeeping(t, nil, nil)
	a, _ := k.gateway()
	a.send(retain(5))
	k.want("retain t")
	if f := a.next().GetRetained(); f.GetRequestId() != 5 || f.GetVersion() != 1 || f.GetQuotaExceeded() {
		t.Errorf("got %v", f)
	}
	for _, refusal := range []error{store.ErrQuota, store.ErrFull} {
		k.shelf.set(func() { k.shelf.refuse = refusal })
		a.send(retain(6))
		k.want("retain t")
		if f := a.next().GetRetained(); f.GetRequestId() != 6 || !f.GetQuotaExceeded() {
			t.Errorf("%v: got %v", refusal, f)
		}
	}
	k.shelf.set(func() { k.shelf.holders["x"] = claims.Holder{Gateway: a.id, Epoch: 9} })
	a.send(&sessionv1.AttachRequest{Frame: &sessionv1.AttachRequest_Settled{Settled: &sessionv1.Settled{ClientId: "x", Epoch: 9}}})
	k.want("settled x at true")
}

// The gateway repeats on its next stream what was not answered.
func TestWhatCannotBeStoredEndsTheStream(t *testing.T) {
	k := startKeeping(t, nil, nil)
	id, _ := alive(t, k.etcd)
	for name, c := range map[string]struct {
		frame  *sessionv1.AttachRequest
		refuse error
		want   codes.Code
	}{
		"a write, the disk has failed": {
			frame: &sessionv1.AttachRequest{Frame: &sessionv1.AttachRequest_Write{Write: &sessionv1.Write{
				ClientId: "x", SessionId: 7, Epoch: 1, Changes: []*sessionv1.Change{{Change: &sessionv1.Change_Done{Done: 1}}},
			}}},
			refuse: store.ErrFailed, want: codes.Unavailable,
		},
		"a write that makes no sense to the store": {
			frame: &sessionv1.AttachRequest{Frame: &sessionv1.AttachRequest_Write{Write: &sessionv1.Write{
				ClientId: "x", SessionId: 7, Epoch: 1, Changes: []*sessionv1.Change{{Change: &sessionv1.Change_Done{Done: 1}}},
			}}},
			refuse: fmt.Errorf("session x: %w", store.ErrInvalid), want: codes.InvalidArgument,
		},
		"a write of nothing": {
			frame: &sessionv1.AttachRequest{Frame: &sessionv1.AttachRequest_Write{Write: &sessionv1.Write{ClientId: "x"}}},
			want:  codes.InvalidArgument,
		},
		"a retained message, the disk has failed": {frame: retain(1), refuse: store.ErrFailed, want: codes.Unavailable},
		"a retained message of nothing": {
			frame: &sessionv1.AttachRequest{Frame: &sessionv1.AttachRequest_Retain{Retain: &sessionv1.Retain{}}},
			want:  codes.InvalidArgument,
		},
		"a will without a topic": {
			frame: &sessionv1.AttachRequest{Frame: &sessionv1.AttachRequest_Claim{Claim: &sessionv1.Claim{
				ClientId: "x", Will: &sessionv1.Will{Message: &messagev1.Message{}},
			}}},
			want: codes.InvalidArgument,
		},
	} {
		k.shelf.set(func() { k.shelf.refuse = c.refuse })
		a := attach(t, k.conn, id).welcome()
		a.send(c.frame)
		if err := a.end(); status.Code(err) != c.want {
			t.Errorf("%s: ended with %v, want %v", name, err, c.want)
		}
	}
}

func TestAMessageIsGivenToOneGatewayToPublish(t *testing.T) {
	k := startKeeping(t, nil, nil)
	m := &message.Message{ID: message.ID{Origin: "will/x", Seq: 3}, Topic: "gone/x", QoS: message.AtLeastOnce}
	failed := make(chan bool, 1)
	publish := func() { k.shelf.desk.Publish(m, func(f bool) { failed <- f }) }
	publish()
	if !<-failed {
		t.Error("published, though no gateway is attached")
	}
	a, _ := k.gateway()
	for _, fails := range []bool{false, true} {
		publish()
		f := a.next().GetPublish()
		if f.GetMessage().GetId().GetOrigin() != "will/x" || f.GetMessage().GetTopic() != "gone/x" {
			t.Fatalf("got %v", f)
		}
		answer := &sessionv1.AttachRequest{Frame: &sessionv1.AttachRequest_Published{
			Published: &sessionv1.Published{RequestId: f.GetRequestId(), Failed: fails},
		}}
		a.send(answer)
		if got := <-failed; got != fails {
			t.Errorf("failed: %v, want %v", got, fails)
		}
		a.send(answer) // once more counts for nothing
	}
	publish()
	if a.next().GetPublish() == nil {
		t.Fatal("not given to the gateway")
	}
	a.cancel()
	if !<-failed {
		t.Error("published, though the gateway has gone")
	}
}

func TestAllGatewaysAreToldToForget(t *testing.T) {
	k := startKeeping(t, nil, nil)
	a, _ := k.gateway()
	b, _ := k.gateway()
	k.shelf.desk.Forget("x", 12)
	for _, g := range []*attached{a, b} {
		if f := g.next().GetForget(); f.GetClientId() != "x" || f.GetEpoch() != 12 {
			t.Errorf("got %v", f)
		}
	}
}

// The answer to a claim was lost with the instance or with a stream, and the gateway did not repeat the claim: the store
// says that the gateway holds the client, and the gateway does not.
func TestWhatAGatewayDoesNotShowIsPutAway(t *testing.T) {
	const wait = 100 * time.Millisecond
	k := startKeeping(t, func(c *session.Config) { c.EvictTimeout = wait }, nil)
	id, _ := alive(t, k.etcd)
	a := attach(t, k.conn, id).welcome()
	held := map[string]uint64{}
	for _, client := range []string{"shown", "missing", "claimed again", "left"} {
		claim := a.claimStored(lasting(client))
		k.want("open " + client + ", former , expiry 60")
		held[client] = a.wantSession(claim, false)
	}
	a.cancel()
	a = attach(t, k.conn, id, &sessionv1.Holding{ClientId: "shown", Epoch: held["shown"]}).welcome()
	claim := a.claimStored(lasting("claimed again"))
	k.want("open claimed again, former " + id + ", expiry 60")
	a.wantSession(claim, true)
	a.last++
	a.send(&sessionv1.AttachRequest{Frame: &sessionv1.AttachRequest_Release{Release: &sessionv1.Release{
		RequestId: a.last, ClientId: "left", Epoch: held["left"], Ending: sessionv1.Ending_ENDING_WITHOUT_WILL,
	}}})
	// What it repeats says more, and comes first.
	k.want("away left: {WithoutWill:true Expiry:0 HasExpiry:false}")
	k.want("away missing: {WithoutWill:false Expiry:0 HasExpiry:false}")
	a.wantReleased(a.last)
	if h, _ := k.shelf.Look("shown"); h.Gateway != id {
		t.Errorf("what was shown is held by %+v", h)
	}
	if got := k.lease("missing"); got != (cluster.Lease{}) {
		t.Errorf("leased to %+v", got)
	}
}

func TestEpochsAreAboveThoseOfTheStore(t *testing.T) {
	const base = 1 << 40
	k := startKeeping(t, nil, func(s *shelf) {
		s.base, s.holders["x"] = base, claims.Holder{Gateway: "DEAD", Epoch: base - 1}
	})
	a, idA := k.gateway()
	b, idB := k.gateway()
	claim := a.claimStored(lasting("x"))
	k.want("open x, former DEAD, expiry 60")
	epoch := a.wantSession(claim, true)
	if epoch <= base {
		t.Errorf("epoch is %d", epoch)
	}
	if got := k.lease("x"); got != (cluster.Lease{Holder: idA, Epoch: epoch}) {
		t.Errorf("leased to %+v", got)
	}
	// A holding is compared with the record.
	a.cancel()
	a = attach(t, k.conn, idA, &sessionv1.Holding{ClientId: "x", Epoch: epoch}, &sessionv1.Holding{ClientId: "z", Epoch: base + 1}).welcome()
	if got := a.wantEvict("z"); got != base+2 {
		t.Errorf("evicted at %d", got)
	}
	first := a.wantClaimed(a.claim("y"), "")
	claim = b.claim("y")
	a.evicted("y", a.wantEvict("y"))
	second := b.wantClaimed(claim, idA)
	b.wantReleased(b.release("y", second-base))
	if got := k.lease("y"); got != (cluster.Lease{Holder: idB, Epoch: second}) || second <= first {
		t.Errorf("leased to %+v", got)
	}
	b.wantReleased(b.release("y", second))
	if got := k.lease("y"); got != (cluster.Lease{}) {
		t.Errorf("leased to %+v", got)
	}
}

// gone waits until the session instance with this id has left the cluster.
func gone(t *testing.T, etcd *clientv3.Client, id string) {
	t.Helper()
	clustertest.Wait(t, "the incarnation has gone", func() bool {
		r, err := etcd.Get(bg(t), cluster.Keys("test").Member(cluster.Session, id))
		return err == nil && len(r.Kvs) == 0
	})
}

func active(t *testing.T, etcd *clientv3.Client) string {
	t.Helper()
	r, err := etcd.Get(bg(t), cluster.Keys("test").Active())
	if err != nil || len(r.Kvs) == 0 {
		return ""
	}
	return string(r.Kvs[0].Value)
}

func TestTheEndOfATermEndsTheIncarnation(t *testing.T) {
	k := startKeeping(t, nil, nil)
	id, _ := alive(t, k.etcd)
	for what, end := range map[string]func(){
		"the store has failed":              func() { k.shelf.desk.Fail(errors.New("the disk is broken")) },
		"it is not the active one any more": func() { _, _ = k.etcd.Delete(bg(t), cluster.Keys("test").Active()) },
	} {
		a := attach(t, k.conn, id).welcome()
		former := active(t, k.etcd)
		end()
		if err := a.end(); rpc.ReasonOf(err) != rpc.NotActive {
			t.Errorf("%s: the stream ends with %v", what, err)
		}
		k.want("close")
		gone(t, k.etcd, former)
		clustertest.Wait(t, "it is active again", k.Active)
		if now := active(t, k.etcd); now == former {
			t.Errorf("%s: it is active again as %s", what, now)
		}
	}
}

func TestAnInstanceThatCannotOpenItsStoreMakesRoomForAnother(t *testing.T) {
	etcd := clustertest.StartEtcd(t).Client()
	broken := newShelf(t)
	broken.failOpen = errors.New("the disk is broken")
	i := startPrepared(t, etcd, nil, func(s *session.Session) {
		s.SetKeep(
			func(ctx context.Context, d session.Desk, revision int64) (session.Kept, uint64, error) {
				_, _, err := broken.keep(ctx, d, revision)
				return nil, 0, err
			})
	})
	clustertest.Wait(t, "it is ready", func() bool { return i.Ready() == nil })
	second := start(t, etcd, nil)
	second.waitActive(t)
	if i.Active() {
		t.Error("it is active without its store")
	}
}
