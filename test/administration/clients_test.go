package administration

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/mochi-mqtt/server/v2/packets"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/testing/protocmp"

	adminv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/admin/v1"
	gatewayv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/gateway/v1"
	messagev1 "github.com/beeline-mqtt/beeline/api/gen/beeline/message/v1"
	messagingv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/messaging/v1"
	sessionv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/session/v1"
	tracev1 "github.com/beeline-mqtt/beeline/api/gen/beeline/trace/v1"
	"github.com/beeline-mqtt/beeline/test/rawmqtt"
)

func TestOperators(t *testing.T) {
	w := start(t, nil)
	for name, test := range map[string]func(*testing.T, *world){
		"list with filters": listWithFilters, "see a client that is connected": seeConnected, "see one that is away": seeAway,
		"see nothing of one that is not there": seeNobody, "disconnect a client": disconnect, "remove sessions": remove,
		"subscribe and unsubscribe for a client": subscribeFor, "explain a topic": explain, "see and delete retained messages": retained,
		"trace a message across gateways": traceAcross, "trace a client": traceClient, "are refused what is wrong": wrong,
		"ask routers only": onlyRouters, "see groups": seeGroups,
	} {
		t.Run(name, func(t *testing.T) { test(t, &world{Cluster: w.Cluster, t: t, admin: w.admin}) })
	}
}

func listWithFilters(t *testing.T, w *world) {
	here := w.incarnation(1)
	rawmqtt.Connect(t, w.MQTT(0), v3, "list/a", user("ann"))
	rawmqtt.Connect(t, w.MQTT(1), v5, "list/b", user("bob"), rawmqtt.Durable(60))
	rawmqtt.Connect(t, w.MQTT(2), v5, "list/d", user("ann"))
	w.kept(1, "list/c", "list/topic")
	for name, c := range map[string]struct {
		r    *adminv1.ListClientsRequest
		want []string
	}{
		"everybody":             {&adminv1.ListClientsRequest{}, []string{"list/a", "list/b", "list/c", "list/d"}},
		"two at a time":         {&adminv1.ListClientsRequest{PageSize: 2}, []string{"list/a", "list/b", "list/c", "list/d"}},
		"those connected":       {&adminv1.ListClientsRequest{Presence: adminv1.Presence_PRESENCE_CONNECTED}, []string{"list/a", "list/b", "list/d"}},
		"those away":            {&adminv1.ListClientsRequest{Presence: adminv1.Presence_PRESENCE_AWAY}, []string{"list/c"}},
		"those of a user":       {&adminv1.ListClientsRequest{Username: "ann"}, []string{"list/a", "list/d"}},
		"those of a gateway":    {&adminv1.ListClientsRequest{Gateway: here}, []string{"list/b"}},
		"away, and of a user":   {&adminv1.ListClientsRequest{Username: "ann", Presence: adminv1.Presence_PRESENCE_AWAY}, nil},
		"away, and of a gatway": {&adminv1.ListClientsRequest{Gateway: here, Presence: adminv1.Presence_PRESENCE_AWAY}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			c.r.ClientIdPrefix = "list/"
			all, troubles := w.list(c.r)
			if diff := cmp.Diff(c.want, ids(all)); diff != "" || len(troubles) > 0 {
				t.Errorf("%s\ntroubles: %v", diff, troubles)
			}
		})
	}
	all, _ := w.list(&adminv1.ListClientsRequest{ClientIdPrefix: "list/"})
	b, c := all[1], all[2]
	if b.GetUsername() != "bob" || b.GetPresence() != adminv1.Presence_PRESENCE_CONNECTED || b.GetGateway() != here || b.GetVersion() != "5" ||
		!b.GetDurable() || b.GetRemoteAddress() == "" || b.GetConnectedSince() == nil {
		t.Errorf("of one that is connected: %v", b)
	}
	want := &adminv1.ClientSummary{ClientId: "list/c", Presence: adminv1.Presence_PRESENCE_AWAY, Durable: true, Subscriptions: 1}
	if diff := cmp.Diff(want, c, protocmp.Transform()); diff != "" {
		t.Errorf("of one that is away: %s", diff)
	}
	wantCode(t, "a gateway that is not there", code(w.admin.ListClients(w.context(), &adminv1.ListClientsRequest{Gateway: "none"})), codes.NotFound)
}

func seeConnected(t *testing.T, w *world) {
	here := w.incarnation(0)
	c := rawmqtt.Connect(t, w.MQTT(0), v5, "see", user("sue"), rawmqtt.Durable(60), will("see/will"), func(p *packets.Packet) {
		p.Properties.ReceiveMaximum = 7
	})
	c.Subscribe(
		packets.Subscription{Filter: "see/+", Qos: 1, NoLocal: true, RetainAsPublished: true, RetainHandling: 2},
		packets.Subscription{Filter: "$share/g/see/x", Qos: 2},
	)
	rawmqtt.Connect(t, w.MQTT(1), v5, "see-other").Publish("see/1", "hello", 1)
	c.Receive()
	c.Publish("nowhere", "x", 1)
	got := w.client("see")
	if got.GetHolder() != here || got.GetEpoch() == 0 {
		t.Errorf("holder %s at epoch %d, want %s", got.GetHolder(), got.GetEpoch(), here)
	}
	conn := got.GetConnection()
	if conn.GetListener() != "mqtt" || conn.GetKeepAliveSeconds() != 60 || conn.GetReceiveMaximum() != 7 || conn.GetCleanStart() || !conn.GetWill() || conn.GetPaused() {
		t.Errorf("connection %v", conn)
	}
	n := got.GetSession().GetCounters()
	if !got.GetSession().GetDurable() || got.GetSession().GetExpirySeconds() != 60 || n["sent"] != 1 || n["acknowledged"] != 1 || n["received"] != 1 {
		t.Errorf("session %v", got.GetSession())
	}
	want := []*adminv1.Subscription{
		{Filter: "$share/g/see/x", Qos: messagev1.Qos_QOS_EXACTLY_ONCE},
		{Filter: "see/+", Qos: messagev1.Qos_QOS_AT_LEAST_ONCE, NoLocal: true, RetainAsPublished: true, RetainHandling: 2},
	}
	if diff := cmp.Diff(want, got.GetSubscriptions(), protocmp.Transform()); diff != "" {
		t.Errorf("subscriptions: %s", diff)
	}
}

func seeAway(t *testing.T, w *world) {
	w.kept(2, "aw", "aw/#")
	p := rawmqtt.Connect(t, w.MQTT(0), v5, "aw-other")
	for range 12 {
		p.Publish("aw/1", "hello", 1)
	}
	got := w.client("aw")
	s := got.GetSession()
	if got.GetClient().GetPresence() != adminv1.Presence_PRESENCE_AWAY || got.GetConnection() != nil || s.GetInboxMessages() != 12 || s.GetExpiresInMs() == 0 {
		t.Errorf("one that is away: %v", got)
	}
	if len(s.GetInbox()) != 10 {
		t.Fatalf("%d entries of the inbox are shown, want 10", len(s.GetInbox()))
	}
	want := &adminv1.InboxEntry{Position: 1, Topic: "aw/1", Qos: messagev1.Qos_QOS_AT_LEAST_ONCE, PayloadBytes: 5, Publisher: "aw-other"}
	if diff := cmp.Diff(want, s.GetInbox()[0], protocmp.Transform()); diff != "" {
		t.Errorf("the oldest entry: %s", diff)
	}
}

func seeGroups(t *testing.T, w *world) {
	w.kept(1, "grp-away", "grp")
	c := rawmqtt.Connect(t, w.MQTT(0), v5, "grp")
	groups := messagingv1.NewGroupServiceClient(w.dial(w.Router().Node.Address()))
	if _, err := groups.CreateGroup(w.context(), &messagingv1.CreateGroupRequest{Name: "crew"}); err != nil {
		t.Fatal(err)
	}
	members := []*messagingv1.Member{
		{Member: &messagingv1.Member_ClientId{ClientId: "grp"}}, {Member: &messagingv1.Member_ClientId{ClientId: "grp-away"}},
	}
	if _, err := groups.AddMembers(w.context(), &messagingv1.AddMembersRequest{Group: "crew", Members: members}); err != nil {
		t.Fatal(err)
	}
	for id, want := range map[string]string{"grp": "It would get it on gateway", "grp-away": "It would get it when it comes back", "sub": "It would not get it"} {
		if id != "sub" {
			if got := w.client(id); !slices.Equal(got.GetGroups(), []string{"crew"}) || len(got.GetSubscriptions()) != int(got.GetClient().GetSubscriptions()) {
				t.Errorf("%s: groups %v, subscriptions %v, want crew, and its own", id, got.GetGroups(), got.GetSubscriptions())
			}
		}
		if got := w.explain("group/crew/x", id).GetClientAnswer(); !strings.HasPrefix(got, want) {
			t.Errorf("of %s: %q, want %q", id, got, want)
		}
	}
	if got := w.explain("group/crew/x", ""); got.GetReceiversTotal() != 2 {
		t.Errorf("receivers of the group's messages: %v", got.GetReceivers())
	}
	wantCode(t, "to end a membership as a subscription", code(w.admin.UnsubscribeClient(w.context(), &adminv1.UnsubscribeClientRequest{
		ClientId: "grp", Filter: "group/crew/#",
	})), codes.NotFound)
	c.Disconnect()
}

func seeNobody(t *testing.T, w *world) {
	wantCode(t, "GetClient", code(w.admin.GetClient(w.context(), &adminv1.GetClientRequest{ClientId: "nobody"})), codes.NotFound)
	wantCode(t, "DisconnectClient", code(w.admin.DisconnectClient(w.context(), &adminv1.DisconnectClientRequest{ClientId: "nobody"})), codes.NotFound)
	wantCode(t, "RemoveSession", code(w.admin.RemoveSession(w.context(), &adminv1.RemoveSessionRequest{ClientId: "nobody"})), codes.NotFound)
	wantCode(t, "UnsubscribeClient", code(w.admin.UnsubscribeClient(w.context(), &adminv1.UnsubscribeClientRequest{ClientId: "nobody", Filter: "a"})), codes.NotFound)
	wantCode(t, "DeleteRetained", code(w.admin.DeleteRetained(w.context(), &adminv1.DeleteRetainedRequest{Topic: "nobody"})), codes.NotFound)
}

func disconnect(t *testing.T, w *world) {
	watcher := rawmqtt.Connect(t, w.MQTT(1), v5, "dis-watcher")
	watcher.MustSubscribe("dis/will", 1)
	c := rawmqtt.Connect(t, w.MQTT(0), v5, "dis", rawmqtt.Durable(60), will("dis/will"))
	if _, err := w.admin.DisconnectClient(w.context(), &adminv1.DisconnectClientRequest{ClientId: "dis"}); err != nil {
		t.Fatal(err)
	}
	expectDisconnect(t, c, 0x98)
	watcher.ReceivePayload("gone")
	w.away("dis")
	wantCode(t, "once more", code(w.admin.DisconnectClient(w.context(), &adminv1.DisconnectClientRequest{ClientId: "dis"})), codes.NotFound)
	if _, present := rawmqtt.Come(t, w.MQTT(2), v5, "dis", rawmqtt.Durable(60)); !present {
		t.Error("its session is gone")
	}
	first, third := w.incarnation(0), w.incarnation(2)
	want := []string{"connected at " + third, "disconnected at " + first + " kicked", "connected at " + first}
	if diff := cmp.Diff(want, w.events("dis")); diff != "" {
		t.Errorf("its last events (-want +got):\n%s", diff)
	}
	old := rawmqtt.Connect(t, w.MQTT(0), v3, "dis-311")
	if _, err := w.admin.DisconnectClient(w.context(), &adminv1.DisconnectClientRequest{ClientId: "dis-311"}); err != nil {
		t.Fatal(err)
	}
	old.ExpectClosed()
}

func remove(t *testing.T, w *world) {
	for name, version := range map[string]byte{"rem-3": v3, "rem-5": v5} {
		c := rawmqtt.Connect(t, w.MQTT(0), version, name, rawmqtt.Durable(60), will("rem/will"))
		c.MustSubscribe("rem/+", 1)
		if _, err := w.admin.RemoveSession(w.context(), &adminv1.RemoveSessionRequest{ClientId: name}); err != nil {
			t.Fatalf("%s, connected: %v", name, err)
		}
		c.ExpectClosed()
		if got := w.client(name); got.GetClient().GetPresence() != adminv1.Presence_PRESENCE_GONE || got.GetSession() != nil || got.GetHolder() != "" {
			t.Errorf("%s afterwards: %v", name, got)
		}
		if _, present := rawmqtt.Come(t, w.MQTT(1), version, name, rawmqtt.Durable(60)); present {
			t.Errorf("%s finds its session again", name)
		}
	}
	w.kept(1, "rem-away", "rem/away")
	rawmqtt.Connect(t, w.MQTT(0), v5, "rem-other").Publish("rem/away", "x", 1)
	if _, err := w.admin.RemoveSession(w.context(), &adminv1.RemoveSessionRequest{ClientId: "rem-away"}); err != nil {
		t.Fatalf("away: %v", err)
	}
	wantCode(t, "once more", code(w.admin.RemoveSession(w.context(), &adminv1.RemoveSessionRequest{ClientId: "rem-away"})), codes.NotFound)
	c, present := rawmqtt.Come(t, w.MQTT(2), v5, "rem-away", rawmqtt.Durable(60))
	if present {
		t.Error("one that was away finds its session again")
	}
	c.ExpectNothing()
	rawmqtt.Connect(t, w.MQTT(2), v5, "rem-transient")
	if _, err := w.admin.RemoveSession(w.context(), &adminv1.RemoveSessionRequest{ClientId: "rem-transient"}); err != nil {
		t.Errorf("of a transient client: %v", err)
	}
}

func subscribeFor(t *testing.T, w *world) {
	p := rawmqtt.Connect(t, w.MQTT(0), v5, "sub-other")
	retain := rawmqtt.PublishPacket("sub/kept", "kept", 1)
	retain.FixedHeader.Retain, retain.PacketID = true, p.ID()
	p.Send(retain)
	p.ExpectAck(packets.Puback, retain.PacketID)
	subscribe := func(id string, s *adminv1.Subscription) codes.Code {
		return code(w.admin.SubscribeClient(w.context(), &adminv1.SubscribeClientRequest{ClientId: id, Subscription: s}))
	}
	one := messagev1.Qos_QOS_AT_LEAST_ONCE
	c := rawmqtt.Connect(t, w.MQTT(1), v5, "sub", rawmqtt.Durable(60))
	wantCode(t, "SubscribeClient", subscribe("sub", &adminv1.Subscription{Filter: "sub/#", Qos: one, SubscriptionId: 9}), codes.OK)
	if got := c.ReceivePayload("kept"); !got.FixedHeader.Retain {
		t.Error("the retained message does not say so")
	}
	// The whole cluster routes to it by now.
	p.Publish("sub/1", "first", 1)
	if got := c.ReceivePayload("first"); !slices.Equal(got.Properties.SubscriptionIdentifier, []int{9}) {
		t.Errorf("Subscription Identifiers %v, want 9", got.Properties.SubscriptionIdentifier)
	}
	// It is part of the session.
	c.Disconnect()
	w.away("sub")
	p.Publish("sub/1", "second", 1)
	c, _ = rawmqtt.Come(t, w.MQTT(2), v5, "sub", rawmqtt.Durable(60))
	c.ReceivePayload("second")
	unsubscribe := &adminv1.UnsubscribeClientRequest{ClientId: "sub", Filter: "sub/#"}
	wantCode(t, "UnsubscribeClient", code(w.admin.UnsubscribeClient(w.context(), unsubscribe)), codes.OK)
	wantCode(t, "UnsubscribeClient again", code(w.admin.UnsubscribeClient(w.context(), unsubscribe)), codes.NotFound)
	p.Publish("sub/1", "third", 1)
	c.ExpectNothing()

	for name, s := range map[string]*adminv1.Subscription{
		"a wildcard in the middle":      {Filter: "a/#/b", Qos: one},
		"no QoS":                        {Filter: "a"},
		"a retain handling of 3":        {Filter: "a", Qos: one, RetainHandling: 3},
		"No Local on a shared one":      {Filter: "$share/g/a", Qos: one, NoLocal: true},
		"an identifier that is too big": {Filter: "a", Qos: one, SubscriptionId: 1 << 28},
	} {
		wantCode(t, name, subscribe("sub", s), codes.InvalidArgument)
	}
	wantCode(t, "one that is away", subscribe("aw", &adminv1.Subscription{Filter: "a", Qos: one}), codes.NotFound)
	for i := range 128 {
		if got := subscribe("sub", &adminv1.Subscription{Filter: fmt.Sprintf("many/%d", i), Qos: one}); got != codes.OK {
			t.Fatalf("subscription %d: %v", i, got)
		}
	}
	wantCode(t, "one subscription too many", subscribe("sub", &adminv1.Subscription{Filter: "many/more", Qos: one}), codes.ResourceExhausted)
}

func wrong(t *testing.T, w *world) {
	wantCode(t, "a topic with a wildcard", code(w.admin.ExplainTopic(w.context(), &adminv1.ExplainTopicRequest{Topic: "a/+"})), codes.InvalidArgument)
	wantCode(t, "retained of no filter", code(w.admin.ListRetained(w.context(), &adminv1.ListRetainedRequest{Filter: "a/#/b"})), codes.InvalidArgument)
	for _, token := range []string{"%", "AAAA"} {
		wantCode(t, "page token "+token, code(w.admin.ListRetained(w.context(), &adminv1.ListRetainedRequest{PageToken: token})), codes.InvalidArgument)
	}
	wantCode(t, "delete what is no topic", code(w.admin.DeleteRetained(w.context(), &adminv1.DeleteRetainedRequest{Topic: "a/#"})), codes.InvalidArgument)
	for _, r := range []*adminv1.TraceRequest{{}, {Filter: "a/#/b"}} {
		stream, err := w.admin.Trace(w.context(), r)
		if err == nil {
			_, err = stream.Recv()
		}
		wantCode(t, fmt.Sprintf("trace of %v", r), code(0, err), codes.InvalidArgument)
	}
}

// onlyRouters: what gateways and the session service show is for routers.
func onlyRouters(t *testing.T, w *world) {
	gateway := w.dial(w.Gateways()[0].Node.Address())
	session := w.dial(w.Sessions()[0].Node.Address())
	inspect, keeper := gatewayv1.NewInspectServiceClient(gateway), sessionv1.NewSessionServiceClient(session)
	for name, got := range map[string]codes.Code{
		"ListClients":    code(inspect.ListClients(w.context(), &gatewayv1.ListClientsRequest{})),
		"GetClient":      code(inspect.GetClient(w.context(), &gatewayv1.GetClientRequest{})),
		"Disconnect":     code(inspect.Disconnect(w.context(), &gatewayv1.DisconnectRequest{})),
		"EndSession":     code(inspect.EndSession(w.context(), &gatewayv1.EndSessionRequest{})),
		"Unsubscribe":    code(inspect.Unsubscribe(w.context(), &gatewayv1.UnsubscribeRequest{})),
		"Match":          code(inspect.Match(w.context(), &gatewayv1.MatchRequest{Topic: "a"})),
		"ListSessions":   code(keeper.ListSessions(w.context(), &sessionv1.ListSessionsRequest{})),
		"MatchSessions":  code(keeper.MatchSessions(w.context(), &sessionv1.MatchSessionsRequest{Topic: "a"})),
		"RemoveSession":  code(keeper.RemoveSession(w.context(), &sessionv1.RemoveSessionRequest{})),
		"DeleteRetained": code(keeper.DeleteRetained(w.context(), &sessionv1.DeleteRetainedRequest{Topic: "a"})),
		"Subscribe": code(inspect.Subscribe(w.context(), &gatewayv1.SubscribeRequest{
			Subscription: &adminv1.Subscription{Filter: "a", Qos: messagev1.Qos_QOS_AT_MOST_ONCE},
		})),
	} {
		wantCode(t, name, got, codes.PermissionDenied)
	}
	for _, conn := range []*grpc.ClientConn{gateway, session} {
		stream, err := tracev1.NewTraceServiceClient(conn).Follow(w.context(), &tracev1.FollowRequest{Filter: "#"})
		if err == nil {
			_, err = stream.Recv()
		}
		wantCode(t, "Follow", code(0, err), codes.PermissionDenied)
	}
}

// TestManyClientsArePagedWhileOthersComeAndGo: who stays is on one page, once.
func TestManyClientsArePagedWhileOthersComeAndGo(t *testing.T) {
	w := start(t, nil)
	const stay, pageSize = 5000, 700
	want := make([]string, stay)
	var connecting sync.WaitGroup
	for part := range gateways {
		connecting.Go(func() {
			for i := part; i < stay; i += gateways {
				want[i] = fmt.Sprintf("many/%05d", i)
				rawmqtt.Connect(t, w.MQTT(part), v5, want[i], forever)
			}
		})
	}
	connecting.Wait()
	stop := make(chan struct{})
	var restless sync.WaitGroup
	for part := range gateways {
		restless.Go(func() {
			for i := part; ; i = (i + 7*gateways) % stay {
				select {
				case <-stop:
					return
				default:
				}
				c := rawmqtt.Connect(t, w.MQTT(part), v5, fmt.Sprintf("many/%05d-restless", i))
				c.Disconnect()
				c.Close()
			}
		})
	}
	for range 3 {
		all, troubles := w.list(&adminv1.ListClientsRequest{ClientIdPrefix: "many/", PageSize: pageSize})
		got := ids(all)
		if !slices.IsSorted(got) || len(troubles) > 0 {
			t.Errorf("not in order, or troubles: %v", troubles)
		}
		if n := len(slices.Compact(slices.Clone(got))); n != len(got) {
			t.Errorf("%d of %d clients are listed twice", len(got)-n, len(got))
		}
		stayed := slices.DeleteFunc(got, func(id string) bool { return len(id) != len(want[0]) })
		if diff := cmp.Diff(want, stayed); diff != "" {
			t.Errorf("of those who stayed: %s", diff)
		}
	}
	close(stop)
	restless.Wait()
}
