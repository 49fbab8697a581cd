package session_test

import (
	"context"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	messagev1 "github.com/beeline-mqtt/beeline/api/gen/beeline/message/v1"
	sessionv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/session/v1"
	"github.com/beeline-mqtt/beeline/internal/cluster"
	"github.com/beeline-mqtt/beeline/internal/cluster/clustertest"
	"github.com/beeline-mqtt/beeline/internal/mesh"
	"github.com/beeline-mqtt/beeline/internal/message"
	"github.com/beeline-mqtt/beeline/internal/routes"
	"github.com/beeline-mqtt/beeline/internal/rpc"
	"github.com/beeline-mqtt/beeline/internal/turn"
	"github.com/beeline-mqtt/beeline/services/session"
)

// peer is a gateway as far as the session service sees it: alive, attached, and a peer in the mesh.
type peer struct {
	*attached
	t      testing.TB
	id     string
	mesh   *mesh.Mesh
	routes *routes.Table[*mesh.Link]
	die    func()
	seq    uint64
	// shared are the deliveries to members of shared subscriptions, who acknowledge all.
	shared chan mesh.Delivery
}

// startPeer makes a gateway. It knows the session instances that etcd shows.
func startPeer(t testing.TB, etcd *clientv3.Client) *peer {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	inc, err := cluster.Join(bg(t), deps(etcd), cluster.IncarnationConfig{Member: cluster.Member{Address: l.Addr().String()}})
	if err != nil {
		t.Fatal(err)
	}
	p := &peer{t: t, id: inc.ID(), routes: routes.NewTable[*mesh.Link](), shared: make(chan mesh.Delivery, 1000)}
	p.mesh, err = mesh.New(mesh.Config{Incarnation: inc.ID(), Revision: inc.Revision(), ReconnectMin: time.Millisecond}, mesh.Deps{
		Logger: deps(etcd).Logger, Metrics: prometheus.NewRegistry(), Routes: p.routes,
		Accept: func(string) mesh.Inbound { return sharing{p.shared} }, Dial: dial, Serving: func() bool { return true },
	})
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer(append(mesh.ServerOptions(), grpc.WaitForHandlers(true))...)
	p.mesh.Register(server)
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { _ = server.Serve(l) })
	wg.Go(func() { _ = inc.Run(ctx, nil) })
	wg.Go(func() { _ = p.mesh.Run(ctx); server.Stop() })
	wg.Go(func() {
		_ = cluster.WatchMembers(ctx, deps(etcd), cluster.Session, func(v cluster.View) {
			var peers []mesh.Peer
			for _, m := range v.Members {
				peers = append(peers, mesh.Peer{ID: m.ID, Address: m.Address, Revision: m.Revision})
			}
			p.mesh.SetPeers(peers)
		})
	})
	p.die = sync.OnceFunc(func() { cancel(); wg.Wait() })
	t.Cleanup(p.die)
	return p
}

func (p *peer) attach(i *instance) *peer {
	p.t.Helper()
	p.attached = attach(p.t, i.conn, p.id).welcome()
	return p
}

// sharing is the receiving end of a gateway to which nothing is sent but what is for members of shared subscriptions.
type sharing struct{ members chan<- mesh.Delivery }

func (s sharing) Deliver(d mesh.Delivery, _ mesh.Later) mesh.Receipt {
	if d.Target.Kind != mesh.TargetShare {
		return mesh.Receipt{Outcome: mesh.Refused}
	}
	s.members <- d
	return mesh.Receipt{Outcome: mesh.Acked}
}
func (sharing) Flush() {}
func (sharing) Close() {}

// settled gets the receipt of one delivery.
type settled chan mesh.Receipt

func (s settled) Settled(_ *mesh.Link, _ mesh.Delivery, r mesh.Receipt, _ *turn.Turn) { s <- r }

// publish sends a message to whoever has a route for it, and returns the receipt.
func (p *peer) publish(topic string) settled {
	p.t.Helper()
	var to []routes.Match[*mesh.Link]
	clustertest.Wait(p.t, "somebody wants "+topic, func() bool {
		to = p.routes.Match(topic, nil)
		return len(to) == 1
	})
	return p.deliver(to[0].Peer, mesh.Delivery{Target: mesh.Target{Kind: mesh.TargetMatch}, Durable: to[0].Durable}, topic)
}

func (p *peer) send(l *mesh.Link, to mesh.Target, topic string) settled {
	p.t.Helper()
	return p.deliver(l, mesh.Delivery{Target: to}, topic)
}

func (p *peer) deliver(l *mesh.Link, d mesh.Delivery, topic string) settled {
	p.t.Helper()
	p.seq++
	s := make(settled, 1)
	d.Message = &message.Message{ID: message.ID{Origin: p.id, Seq: p.seq}, Topic: topic, QoS: 1, Payload: []byte(topic), Publisher: "p"}
	if !l.Send(d, s) {
		p.t.Fatal("the link does not take it")
	}
	return s
}

func (s settled) want(t testing.TB, o mesh.Outcome) mesh.Receipt {
	t.Helper()
	select {
	case r := <-s:
		if r.Outcome != o {
			t.Fatalf("receipt %v, want %v", r, o)
		}
		return r
	case <-time.After(patience):
		t.Fatalf("no receipt, want %v", o)
	}
	return mesh.Receipt{}
}

// await returns the first frame that is what it looks for, and keeps the others for later: what is told of one thing and
// of another has no order.
func (a *attached) await(what string, is func(*sessionv1.AttachResponse) bool) *sessionv1.AttachResponse {
	a.t.Helper()
	if i := slices.IndexFunc(a.passed, is); i >= 0 {
		f := a.passed[i]
		a.passed = slices.Delete(a.passed, i, i+1)
		return f
	}
	for range 1000 {
		f := a.next()
		if is(f) {
			return f
		}
		a.passed = append(a.passed, f)
	}
	a.t.Fatalf("no %s", what)
	return nil
}

func (a *attached) opened(c *sessionv1.Claim) *sessionv1.Claimed {
	a.t.Helper()
	id := a.claimStored(c)
	return a.await("claim", func(f *sessionv1.AttachResponse) bool { return f.GetClaimed().GetRequestId() == id }).GetClaimed()
}

func (a *attached) writes(client string, c *sessionv1.Claimed, changes ...*sessionv1.Change) *sessionv1.Written {
	a.t.Helper()
	a.last++
	a.send(&sessionv1.AttachRequest{Frame: &sessionv1.AttachRequest_Write{Write: &sessionv1.Write{
		RequestId: a.last, ClientId: client, SessionId: c.GetSession().GetSessionId(), Epoch: c.GetEpoch(), Changes: changes,
	}}})
	return a.await("answer to a write", func(f *sessionv1.AttachResponse) bool { return f.GetWritten() != nil }).GetWritten()
}

func (a *attached) subscribes(client string, c *sessionv1.Claimed, filter string) {
	a.t.Helper()
	w := a.writes(client, c, &sessionv1.Change{Change: &sessionv1.Change_Subscribed{Subscribed: &sessionv1.Subscription{
		Filter: filter, Qos: messagev1.Qos_QOS_AT_LEAST_ONCE,
	}}})
	if len(w.GetRequestIds()) != 1 {
		a.t.Fatalf("subscribe: %v", w)
	}
}

func (a *attached) leaves(client string, epoch uint64) {
	a.t.Helper()
	id := a.release(client, epoch)
	a.await("answer to a release", func(f *sessionv1.AttachResponse) bool { return f.GetReleased().GetRequestId() == id })
}

func (i *instance) service() sessionv1.SessionServiceClient {
	return sessionv1.NewSessionServiceClient(i.conn)
}

func (i *instance) inbox(t testing.TB, client string, c *sessionv1.Claimed) []string {
	t.Helper()
	page, err := i.service().ReadInbox(bg(t), &sessionv1.ReadInboxRequest{
		ClientId: client, SessionId: c.GetSession().GetSessionId(), Epoch: c.GetEpoch(),
	})
	if err != nil {
		t.Fatal(err)
	}
	var topics []string
	for _, e := range page.GetEntries() {
		topics = append(topics, e.GetMessage().GetTopic())
	}
	return topics
}

// startHolding starts an instance with two gateways that are its peers.
func startHolding(t *testing.T) (i *instance, etcd *clientv3.Client, a, b *peer) {
	t.Helper()
	etcd = clustertest.StartEtcd(t).Client()
	i = start(t, etcd, func(c *session.Config) { c.TTL = 5 * time.Second })
	i.waitActive(t)
	return i, etcd, startPeer(t, etcd).attach(i), startPeer(t, etcd).attach(i)
}

func TestADurableClientIsHeldWhileItIsAway(t *testing.T) {
	i, _, a, b := startHolding(t)
	c := a.opened(lasting("x"))
	if s := c.GetSession(); s.GetPresent() || s.GetSessionId() == 0 || s.GetNextPosition() != 1 {
		t.Fatalf("claimed: %v", c)
	}
	a.subscribes("x", c, "news/+")
	a.leaves("x", c.GetEpoch())
	b.publish("news/1").want(t, mesh.Stored)
	b.publish("news/2").want(t, mesh.Stored)
	f := a.await("forget", func(f *sessionv1.AttachResponse) bool { return f.GetForget() != nil }).GetForget()
	if f.GetClientId() != "x" || f.GetEpoch() <= c.GetEpoch() {
		t.Errorf("told to %v", f)
	}

	if r, err := i.service().InspectSession(bg(t), &sessionv1.InspectSessionRequest{ClientId: "x"}); err != nil ||
		r.GetHolder() != "" || r.GetInboxMessages() != 2 || len(r.GetSubscriptions()) != 1 || r.GetExpiresInMs() > 60_000 {
		t.Errorf("inspected: %v, %v", r, err)
	}

	back := b.opened(lasting("x"))
	if s := back.GetSession(); !s.GetPresent() || s.GetSessionId() != c.GetSession().GetSessionId() ||
		len(s.GetSubscriptions()) != 1 || s.GetFirstPosition() != 1 || s.GetNextPosition() != 3 {
		t.Errorf("claimed: %v", back)
	}
	if got := i.inbox(t, "x", back); len(got) != 2 || got[0] != "news/1" || got[1] != "news/2" {
		t.Errorf("its inbox: %v", got)
	}
	_, err := i.service().ReadInbox(bg(t), &sessionv1.ReadInboxRequest{
		ClientId: "x", SessionId: c.GetSession().GetSessionId(), Epoch: c.GetEpoch(),
	})
	if rpc.ReasonOf(err) != rpc.Fenced {
		t.Errorf("at the old epoch: %v", err)
	}
	if r := a.publish("news/3").want(t, mesh.Moved); len(r.Moved) != 1 || r.Moved[0].ClientID != "x" || r.Moved[0].Epoch >= back.GetEpoch() {
		t.Errorf("moved: %v", r)
	}
	b.settles(&sessionv1.Settled{ClientId: "x", Epoch: back.GetEpoch()})
	clustertest.Wait(t, "the route is gone", func() bool { return len(a.routes.Match("news/3", nil)) == 0 })
}

func (a *attached) settles(s *sessionv1.Settled) {
	a.send(&sessionv1.AttachRequest{Frame: &sessionv1.AttachRequest_Settled{Settled: s}})
}

func TestADurableClientIsTakenOver(t *testing.T) {
	i, _, a, b := startHolding(t)
	c := a.opened(lasting("x"))
	claim := b.claimStored(lasting("x"))
	e := a.await("evict", func(f *sessionv1.AttachResponse) bool { return f.GetEvict() != nil }).GetEvict()
	// What it has not acknowledged is written before.
	w := a.writes("x", c, &sessionv1.Change{Change: &sessionv1.Change_Append{Append: &sessionv1.Entry{
		Position: 1, Qos: messagev1.Qos_QOS_AT_LEAST_ONCE, Message: &messagev1.Message{
			Id: &messagev1.MessageId{Origin: "o", Sequence: 1}, Topic: "t", Qos: messagev1.Qos_QOS_AT_LEAST_ONCE,
		},
	}}})
	if len(w.GetRequestIds()) != 1 {
		t.Errorf("written: %v", w)
	}
	a.evicted("x", e.GetEpoch())
	next := b.await("claim", func(f *sessionv1.AttachResponse) bool { return f.GetClaimed().GetRequestId() == claim }).GetClaimed()
	if !next.GetSession().GetPresent() {
		t.Errorf("claimed: %v", next)
	}
	if got := i.inbox(t, "x", next); len(got) != 1 {
		t.Errorf("its inbox: %v", got)
	}
	if w := a.writes("x", c, &sessionv1.Change{Change: &sessionv1.Change_Done{Done: 1}}); len(w.GetFenced()) != 1 {
		t.Errorf("the former holder writes: %v", w)
	}
}

func TestWhatADeadGatewayHeldIsAdopted(t *testing.T) {
	_, _, a, b := startHolding(t)
	c := a.opened(lasting("x"))
	a.subscribes("x", c, "t")
	id := a.claimStored(&sessionv1.Claim{ClientId: "y", Will: &sessionv1.Will{
		Message: &messagev1.Message{Topic: "gone", Qos: messagev1.Qos_QOS_AT_LEAST_ONCE}, DelaySeconds: 100,
	}})
	a.await("claim", func(f *sessionv1.AttachResponse) bool { return f.GetClaimed().GetRequestId() == id })
	a.die()
	p := b.await("will", func(f *sessionv1.AttachResponse) bool { return f.GetPublish() != nil }).GetPublish()
	if m := p.GetMessage(); m.GetTopic() != "gone" || m.GetId().GetOrigin() != "will/y" {
		t.Errorf("published: %v", p)
	}
	b.attached.send(&sessionv1.AttachRequest{Frame: &sessionv1.AttachRequest_Published{Published: &sessionv1.Published{RequestId: p.GetRequestId()}}})
	b.publish("t").want(t, mesh.Stored)
	if back := b.opened(lasting("x")); back.GetSession().GetNextPosition() != 2 || !back.GetSession().GetPresent() {
		t.Errorf("claimed: %v", back)
	}
}

func TestASuccessorHoldsWhatItsPredecessorHeld(t *testing.T) {
	i, etcd, a, b := startHolding(t)
	c := a.opened(lasting("x"))
	a.subscribes("x", c, "t")
	a.leaves("x", c.GetEpoch())
	b.publish("t").want(t, mesh.Stored)
	standby := start(t, etcd, func(c *session.Config) { c.TTL = 5 * time.Second })
	clustertest.Wait(t, "the standby is a peer", func() bool { return a.mesh.Stats().Peers == 2 && b.mesh.Stats().Peers == 2 })
	if standby.Active() {
		t.Fatal("two are active")
	}
	i.stop()
	standby.waitActive(t)
	a.attach(standby)
	b.attach(standby)
	b.publish("t").want(t, mesh.Stored)
	back := b.opened(lasting("x"))
	if !back.GetSession().GetPresent() || back.GetEpoch() <= c.GetEpoch() {
		t.Errorf("claimed: %v", back)
	}
	if got := standby.inbox(t, "x", back); len(got) != 2 {
		t.Errorf("its inbox: %v", got)
	}
}

func TestAStandbyDoesNotSayThatAClientHasNoSession(t *testing.T) {
	_, etcd, a, _ := startHolding(t)
	standby := start(t, etcd, nil)
	clustertest.Wait(t, "the standby is a peer", func() bool { return a.mesh.Stats().Peers == 2 })
	members, err := clientMembers(t, etcd)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range members {
		l := a.mesh.Link(m.ID)
		r := a.send(l, mesh.Target{Kind: mesh.TargetClient, ClientID: "nobody"}, "p2p/nobody/t").want(t, mesh.NotHolder)
		if unknown := r.Epoch == 0; unknown == (m.Address == standby.address) {
			t.Errorf("%s, which is the standby: %v, answers %v", m.ID, m.Address == standby.address, r)
		}
	}
}

func clientMembers(t testing.TB, etcd *clientv3.Client) ([]cluster.Member, error) {
	t.Helper()
	ctx, cancel := context.WithCancel(bg(t))
	var members []cluster.Member
	err := cluster.WatchMembers(ctx, deps(etcd), cluster.Session, func(v cluster.View) {
		members = v.Members
		cancel()
	})
	return members, err
}

func TestRetainedMessagesAreRead(t *testing.T) {
	i, _, a, _ := startHolding(t)
	for _, topic := range []string{"a/1", "a/2", "b"} {
		a.last++
		id := a.last
		a.attached.send(&sessionv1.AttachRequest{Frame: &sessionv1.AttachRequest_Retain{Retain: &sessionv1.Retain{
			RequestId: id, Message: &messagev1.Message{
				Id: &messagev1.MessageId{Origin: "o", Sequence: id}, Topic: topic, Payload: []byte("x"), Retain: true,
				Qos: messagev1.Qos_QOS_AT_LEAST_ONCE,
			},
		}}})
		a.await("answer to a retain", func(f *sessionv1.AttachResponse) bool { return f.GetRetained().GetRequestId() == id })
	}
	var topics []string
	var cursor []byte
	for {
		page, err := i.service().ReadRetained(bg(t), &sessionv1.ReadRetainedRequest{Filter: "a/#", Cursor: cursor, MaxMessages: 1})
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range page.GetMessages() {
			topics = append(topics, m.GetMessage().GetTopic())
		}
		if cursor = page.GetCursor(); len(cursor) == 0 {
			break
		}
	}
	if len(topics) != 2 || topics[0] != "a/1" || topics[1] != "a/2" {
		t.Errorf("read %v", topics)
	}
	_, err := i.service().ReadRetained(bg(t), &sessionv1.ReadRetainedRequest{Filter: "#", Cursor: []byte("no cursor")})
	if status.Code(err) != codes.InvalidArgument {
		t.Errorf("with a cursor that is none: %v", err)
	}
	_, err = i.service().InspectSession(bg(t), &sessionv1.InspectSessionRequest{ClientId: "nobody"})
	if status.Code(err) != codes.NotFound {
		t.Errorf("a client that nobody knows: %v", err)
	}
}

func TestAnInstanceThatIsNotActiveReadsNothing(t *testing.T) {
	e := clustertest.StartEtcd(t)
	etcd := e.Client()
	e.Stop()
	i := start(t, etcd, nil)
	_, err := i.service().ReadInbox(bg(t), &sessionv1.ReadInboxRequest{ClientId: "x"})
	if rpc.ReasonOf(err) != rpc.NotActive {
		t.Errorf("refused with %v", err)
	}
	e.Start()
}

func TestAStoreThatCannotBeOpenedEndsTheTerm(t *testing.T) {
	etcd := clustertest.StartEtcd(t).Client()
	i := start(t, etcd, func(c *session.Config) { c.Data = "/dev/null/data" })
	clustertest.Wait(t, "it has joined", func() bool { return i.Ready() == nil })
	time.Sleep(50 * time.Millisecond) // nothing is to happen
	if i.Active() {
		t.Error("it serves without a store")
	}
}
