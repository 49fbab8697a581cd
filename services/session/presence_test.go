package session_test

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/testing/protocmp"

	messagingv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/messaging/v1"
	sessionv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/session/v1"
	"github.com/beeline-mqtt/beeline/internal/cluster/clustertest"
	"github.com/beeline-mqtt/beeline/services/session"
)

// onlooker watches who connects and disconnects.
type onlooker struct {
	t      testing.TB
	rpc    grpc.ServerStreamingClient[sessionv1.WatchPresenceResponse]
	first  string // cursor
	cursor string
	events []*messagingv1.PresenceEvent // that have come and were not asked for
	stop   func()
}

func watch(t testing.TB, i *instance, prefix, cursor string) (*onlooker, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	rpc, err := sessionv1.NewSessionServiceClient(i.conn).WatchPresence(ctx,
		&sessionv1.WatchPresenceRequest{ClientIdPrefix: prefix, Cursor: cursor})
	if err != nil {
		t.Fatal(err)
	}
	first, err := rpc.Recv()
	if err != nil {
		return nil, err
	}
	if len(first.GetEvents()) != 0 || first.GetCursor() == "" {
		t.Errorf("the first response is %v", first)
	}
	return &onlooker{t: t, rpc: rpc, first: first.GetCursor(), cursor: first.GetCursor(), stop: cancel}, nil
}

func mustWatch(t testing.TB, i *instance, prefix, cursor string) *onlooker {
	t.Helper()
	o, err := watch(t, i, prefix, cursor)
	if err != nil {
		t.Fatal(err)
	}
	return o
}

func (o *onlooker) next() *messagingv1.PresenceEvent {
	o.t.Helper()
	for len(o.events) == 0 {
		r, err := o.rpc.Recv()
		if err != nil {
			o.t.Fatalf("no event: %v", err)
		}
		o.events, o.cursor = r.GetEvents(), r.GetCursor()
	}
	e := o.events[0]
	o.events = o.events[1:]
	return e
}

func said(e *messagingv1.PresenceEvent) string {
	s := fmt.Sprintf("%s %s@%d %s", e.GetClientId(), e.GetGateway(), e.GetEpoch(), e.GetReason())
	if e.GetKind() == messagingv1.PresenceEvent_KIND_CONNECTED {
		s += "connected"
	}
	if e.GetDurable() {
		s += ", durable"
	}
	return s
}

// want is what happens next. how is connected, or the reason of an end.
func (o *onlooker) want(client, gateway string, epoch uint64, how string) {
	o.t.Helper()
	e := o.next()
	if want := fmt.Sprintf("%s %s@%d %s", client, gateway, epoch, how); said(e) != want {
		o.t.Fatalf("got %q, want %q", said(e), want)
	}
	if ago := time.Since(e.GetTime().AsTime()); ago < 0 || ago > patience {
		o.t.Errorf("it happened %v ago", ago)
	}
}

func (a *attached) releaseAs(r *sessionv1.Release) uint64 {
	a.last++
	r.RequestId = a.last
	a.send(&sessionv1.AttachRequest{Frame: &sessionv1.AttachRequest_Release{Release: r}})
	return a.last
}

func TestEveryEndOfAConnectionIsToldOnceAndInOrder(t *testing.T) {
	k := startKeeping(t, nil, nil)
	idA, dieA := alive(t, k.etcd)
	b, idB := k.gateway()
	a := attach(t, k.conn, idA).welcome()
	o := mustWatch(t, k.instance, "", "")

	// A client that goes by itself.
	x := a.wantClaimed(a.claim("x"), "")
	o.want("x", idA, x, "connected")
	a.wantReleased(a.releaseAs(&sessionv1.Release{ClientId: "x", Epoch: x, Reason: "keepalive"}))
	o.want("x", idA, x, "keepalive")
	a.wantReleased(a.release("x", x)) // again: nothing new

	// One that another gateway takes over, and takes anew.
	x = a.wantClaimed(a.claim("x"), "")
	o.want("x", idA, x, "connected")
	claim := b.claim("x")
	a.evicted("x", a.wantEvict("x"))
	o.want("x", idA, x, "replaced")
	x = b.wantClaimed(claim, idA)
	o.want("x", idB, x, "connected")
	again := b.wantClaimed(b.claim("x"), idB)
	o.want("x", idB, x, "replaced")
	o.want("x", idB, again, "connected")
	a.wantReleased(a.release("x", x)) // late
	b.wantReleased(b.releaseAs(&sessionv1.Release{ClientId: "x", Reason: "nonsense"}))
	o.want("x", idB, again, "unknown")

	// One with a session that goes on, and then ends with its connection.
	for _, tt := range []struct {
		present bool
		expiry  *uint32
		end     string
	}{{false, nil, "network, durable"}, {true, new(uint32), "network"}} {
		d := b.wantSession(b.claimStored(lasting("d")), tt.present)
		o.want("d", idB, d, "connected, durable")
		b.wantReleased(b.releaseAs(&sessionv1.Release{ClientId: "d", Epoch: d, Reason: "network", SessionExpirySeconds: tt.expiry}))
		o.want("d", idB, d, tt.end)
	}

	// Those of a gateway that dies.
	y := a.wantClaimed(a.claim("y"), "")
	o.want("y", idA, y, "connected")
	e := a.wantSession(a.claimStored(lasting("e")), false)
	o.want("e", idA, e, "connected, durable")
	dieA()
	died := map[string]bool{said(o.next()): true, said(o.next()): true}
	for _, want := range []string{fmt.Sprintf("y %s@%d gateway_died", idA, y), fmt.Sprintf("e %s@%d gateway_died, durable", idA, e)} {
		if !died[want] {
			t.Errorf("got %v, want %q", died, want)
		}
	}
	wantSameAgain(t, k.instance, o)
	if got := k.metric(t, "beeline_session_presence_events_total"); got != 16 {
		t.Errorf("%v events counted", got)
	}
}

// wantSameAgain sees whether whoever resumes gets the 16 events again, each once, and those of some clients alone.
func wantSameAgain(t *testing.T, i *instance, o *onlooker) {
	t.Helper()
	resumed := mustWatch(t, i, "", o.first)
	for n := range uint64(16) {
		if e := resumed.next(); e.GetSequence() != n+1 {
			t.Errorf("event %d comes as number %d", e.GetSequence(), n+1)
		}
	}
	some := mustWatch(t, i, "d", o.first)
	for range 4 {
		if e := some.next(); e.GetClientId() != "d" {
			t.Errorf("got %q", said(e))
		}
	}
	if o.cursor != resumed.cursor {
		t.Errorf("cursors %s and %s", o.cursor, resumed.cursor)
	}
	wantLast(t, i, o.first)
}

// wantLast sees whether the last events of a client are those that a watcher gets, the newest first.
func wantLast(t *testing.T, i *instance, cursor string) {
	t.Helper()
	watched := mustWatch(t, i, "d", cursor)
	var want []*messagingv1.PresenceEvent
	for range 4 {
		want = slices.Insert(want, 0, watched.next())
	}
	for _, c := range []struct {
		client string
		most   uint32
		want   []*messagingv1.PresenceEvent
	}{{"d", 0, want}, {"d", 3, want[:3]}, {"nobody", 0, nil}} {
		r, err := sessionv1.NewSessionServiceClient(i.conn).ListPresence(bg(t), &sessionv1.ListPresenceRequest{ClientId: c.client, Events: c.most})
		if diff := cmp.Diff(c.want, r.GetEvents(), protocmp.Transform()); err != nil || diff != "" {
			t.Errorf("the last %d of %s: %v\n%s", c.most, c.client, err, diff)
		}
	}
}

func TestAFreshInstanceKnowsWhoIsConnectedAndNotWhatHappenedBefore(t *testing.T) {
	etcd := clustertest.StartEtcd(t).Client()
	first := start(t, etcd, nil)
	first.waitActive(t)
	second := start(t, etcd, nil)
	clustertest.Wait(t, "the standby is ready", func() bool { return second.Ready() == nil })
	idA, dieA := alive(t, etcd)
	if _, err := watch(t, second, "", ""); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("the standby answers with %v", err)
	}
	a := attach(t, first.conn, idA).welcome()
	o := mustWatch(t, first, "", "")
	var held []*sessionv1.Holding
	for n := range 3 {
		id := fmt.Sprint(n)
		epoch := a.wantClaimed(a.claim(id), "")
		o.want(id, idA, epoch, "connected")
		held = append(held, &sessionv1.Holding{ClientId: id, Epoch: epoch, Durable: n == 0})
	}
	first.stop()
	if _, err := o.rpc.Recv(); status.Code(err) != codes.Unavailable {
		t.Errorf("the watcher's stream ends with %v", err)
	}
	second.waitActive(t)
	// It answers when the gateway has shown what it holds: whom a watcher finds connected then, it will hear of.
	a = attach(t, second.conn, idA, held...).welcome()
	o = mustWatch(t, second, "", "")
	a.wantReleased(a.releaseAs(&sessionv1.Release{ClientId: "0", Epoch: held[0].GetEpoch(), Reason: "slow"}))
	o.want("0", idA, held[0].GetEpoch(), "slow, durable")
	again := a.wantClaimed(a.claim("1"), idA)
	o.want("1", idA, held[1].GetEpoch(), "replaced")
	o.want("1", idA, again, "connected")
	dieA()
	for range 2 {
		if e := o.next(); e.GetReason() != "gateway_died" {
			t.Errorf("got %q", said(e))
		}
	}
}

func TestACursorThatLeadsNowhereIsRefused(t *testing.T) {
	etcd := clustertest.StartEtcd(t).Client()
	i := start(t, etcd, func(c *session.Config) { c.PresenceHistory = 1000 })
	i.waitActive(t)
	id, _ := alive(t, etcd)
	a := attach(t, i.conn, id).welcome()
	o := mustWatch(t, i, "", "")
	for n := range 1001 {
		a.claim(fmt.Sprint(n))
	}
	for n := range 1001 {
		if e := o.next(); e.GetSequence() != uint64(n+1) {
			t.Fatalf("event %d comes as number %d", e.GetSequence(), n+1)
		}
	}
	for cursor, want := range map[string]codes.Code{
		o.first: codes.OutOfRange, "ANOTHER/7": codes.OutOfRange, "7": codes.InvalidArgument, o.cursor + "0": codes.InvalidArgument,
	} {
		if _, err := watch(t, i, "", cursor); status.Code(err) != want {
			t.Errorf("%q: %v, want %v", cursor, err, want)
		}
	}
	mustWatch(t, i, "", o.cursor)
	if got := i.metric(t, "beeline_session_presence_watchers"); got < 1 {
		t.Errorf("%v watchers counted", got)
	}
}
