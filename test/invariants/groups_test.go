package invariants

import (
	"fmt"
	"strconv"
	"testing"

	"github.com/mochi-mqtt/server/v2/packets"

	messagingv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/messaging/v1"
	"github.com/beeline-mqtt/beeline/cmd/beeline/local"
	"github.com/beeline-mqtt/beeline/test/clustertest"
	"github.com/beeline-mqtt/beeline/test/rawmqtt"
)

// assembly is a cluster with groups.
type assembly struct {
	*clustertest.Cluster
	t      *testing.T
	groups messagingv1.GroupServiceClient
}

func assemble(t *testing.T) *assembly {
	t.Helper()
	c := clustertest.Start(t, 3, func(c *local.Config) { c.Router = &local.RouterPorts{} })
	return &assembly{c, t, messagingv1.NewGroupServiceClient(c.Operate(t))}
}

func (c *assembly) make(group string, clients ...string) {
	c.t.Helper()
	if _, err := c.groups.CreateGroup(c.t.Context(), &messagingv1.CreateGroupRequest{Name: group}); err != nil {
		c.t.Fatal(err)
	}
	if len(clients) > 0 {
		c.add(group, clients...)
	}
}

func clientsOf(ids []string) (members []*messagingv1.Member) {
	for _, id := range ids {
		members = append(members, &messagingv1.Member{Member: &messagingv1.Member_ClientId{ClientId: id}})
	}
	return members
}

func (c *assembly) add(group string, clients ...string) {
	c.t.Helper()
	if _, err := c.groups.AddMembers(c.t.Context(), &messagingv1.AddMembersRequest{Group: group, Members: clientsOf(clients)}); err != nil {
		c.t.Fatal(err)
	}
}

func (c *assembly) addUser(group, user string) {
	c.t.Helper()
	m := &messagingv1.Member{Member: &messagingv1.Member_User{User: user}}
	if _, err := c.groups.AddMembers(c.t.Context(), &messagingv1.AddMembersRequest{Group: group, Members: []*messagingv1.Member{m}}); err != nil {
		c.t.Fatal(err)
	}
}

func (c *assembly) remove(group string, clients ...string) {
	c.t.Helper()
	if _, err := c.groups.RemoveMembers(c.t.Context(), &messagingv1.RemoveMembersRequest{Group: group, Members: clientsOf(clients)}); err != nil {
		c.t.Fatal(err)
	}
}

// A message to a group reaches its members, wherever they are, and costs one delivery for each gateway that has any.
func TestAMessageToAGroupGoesOnceToEachGateway(t *testing.T) {
	c := assemble(t)
	c.make("team", "speaker")
	speaker := rawmqtt.Connect(t, c.MQTT(0), rawmqtt.V5, "speaker")
	const each, messages = 10, 20
	var members []*rawmqtt.Client
	var ids []string
	for i := range 2 * each {
		ids = append(ids, fmt.Sprintf("member-%d", i))
		members = append(members, rawmqtt.Connect(t, c.MQTT(1+i%2), []byte{rawmqtt.V311, rawmqtt.V5}[i/2%2], ids[i]))
	}
	outsider := rawmqtt.Connect(t, c.MQTT(1), rawmqtt.V5, "outsider")
	outsider.MustSubscribe("#", 1)
	outsider.MustSubscribe("+/team/#", 1)
	c.add("team", ids...)
	// From the moment that AddMembers has answered.
	for i := range messages {
		if ack := speaker.Publish("group/team/news", strconv.Itoa(i), byte(1+i%2)); ack.ReasonCode != 0 {
			t.Fatalf("message %d: reason code %#x", i, ack.ReasonCode)
		}
	}
	for _, m := range members {
		for i := range messages {
			if pk := m.ReceivePayload(strconv.Itoa(i)); pk.TopicName != "group/team/news" {
				t.Errorf("topic %q", pk.TopicName)
			}
		}
		m.ExpectNothing()
	}
	outsider.ExpectNothing()
	speaker.ExpectNothing() // a member does not hear itself
	for _, g := range []int{1, 2} {
		if got := c.Metric(t, g, "beeline_mesh_deliveries_total", "direction=in"); got != messages {
			t.Errorf("gateway %d got %v deliveries for %d messages", g+1, got, messages)
		}
	}
}

// Who is no member neither hears nor speaks, and nobody gets in by subscribing, or out by unsubscribing.
func TestMembershipIsNotForClientsToChange(t *testing.T) {
	c := assemble(t)
	c.make("team", "ann", "bob")
	ann := rawmqtt.Connect(t, c.MQTT(0), rawmqtt.V5, "ann")
	bob := rawmqtt.Connect(t, c.MQTT(1), rawmqtt.V5, "bob")
	eve := rawmqtt.Connect(t, c.MQTT(2), rawmqtt.V5, "eve")
	if ack := eve.Publish("group/team/x", "hi", 1); ack.ReasonCode != packets.ErrNotAuthorized.Code {
		t.Errorf("a stranger writes to the group: %#x", ack.ReasonCode)
	}
	half := rawmqtt.Connect(t, c.MQTT(0), rawmqtt.V5, "half")
	half.Send(rawmqtt.PublishPacket("group/team", "hi", 0))
	if reason := half.ExpectClosed(); reason != packets.ErrTopicNameInvalid.Code {
		t.Errorf("half an address: %#x", reason)
	}
	if ack := ann.Publish("user/bob/x", "hi", 1); ack.ReasonCode != packets.ErrNotAuthorized.Code {
		t.Errorf("a client writes to a user: %#x", ack.ReasonCode)
	}
	for _, filter := range []string{"group/team/#", "user/bob/#", "$share/g/group/team/#"} {
		ack := eve.Subscribe(packets.Subscription{Filter: filter, Qos: 1})
		if ack.ReasonCodes[0] != packets.ErrTopicFilterInvalid.Code {
			t.Errorf("SUBSCRIBE %q: %#x", filter, ack.ReasonCodes[0])
		}
	}
	if ack := bob.Unsubscribe("group/team/#"); ack.ReasonCodes[0] != packets.CodeNoSubscriptionExisted.Code {
		t.Errorf("UNSUBSCRIBE: %#x", ack.ReasonCodes[0])
	}
	ann.Publish("group/team/x", "to all", 1)
	bob.ReceivePayload("to all")
	eve.ExpectNothing()
	c.remove("team", "bob")
	if ack := ann.Publish("group/team/x", "without bob", 1); ack.ReasonCode != packets.CodeNoMatchingSubscribers.Code {
		t.Errorf("nobody is left: %#x", ack.ReasonCode)
	}
	bob.ExpectNothing()
}

// A member is one wherever and however it connects: over a takeover, after a clean start, and while it is away if it has a
// session.
func TestMembershipGoesWithTheMember(t *testing.T) {
	c := assemble(t)
	c.make("team", "ann", "bob")
	ann := rawmqtt.Connect(t, c.MQTT(0), rawmqtt.V5, "ann")
	bob, _ := come(t, c.MQTT(1), rawmqtt.V5, "bob")
	ann.Publish("group/team/x", "1", 1)
	bob.ReceivePayload("1")
	bob.Disconnect()
	ann.Publish("group/team/x", "2", 1)
	bob, present := come(t, c.MQTT(2), rawmqtt.V5, "bob")
	if !present {
		t.Error("the session is not present")
	}
	bob.ReceivePayload("2")
	bob = rawmqtt.Connect(t, c.MQTT(1), rawmqtt.V5, "bob") // clean start, transient, and a takeover
	ann.Publish("group/team/x", "3", 1)
	bob.ReceivePayload("3")
	bob.ExpectNothing()
}

// Who joins or leaves a group while it is away does so.
func TestMembersThatAreAwayFollowToo(t *testing.T) {
	c := assemble(t)
	c.make("team", "ann")
	ann := rawmqtt.Connect(t, c.MQTT(0), rawmqtt.V5, "ann")
	bob, _ := come(t, c.MQTT(1), rawmqtt.V5, "bob")
	bob.Disconnect()
	clustertest.Eventually(t, "bob is away", func() bool { return c.Metric(t, 1, "beeline_gateway_clients") == 0 })
	c.add("team", "bob")
	ann.Publish("group/team/x", "in", 1)
	c.remove("team", "bob")
	ann.Publish("group/team/x", "out", 1)
	bob, _ = come(t, c.MQTT(2), rawmqtt.V5, "bob")
	bob.ReceivePayload("in")
	bob.ExpectNothing()
}

// All clients of a user are members when the user is.
func TestAUserBringsItsClients(t *testing.T) {
	c := assemble(t)
	c.make("team", "ann", "phone")
	as := func(user string) rawmqtt.Option {
		return func(p *packets.Packet) { p.Connect.UsernameFlag, p.Connect.Username = true, []byte(user) }
	}
	ann := rawmqtt.Connect(t, c.MQTT(0), rawmqtt.V5, "ann")
	phone := rawmqtt.Connect(t, c.MQTT(1), rawmqtt.V5, "phone", as("bob"))
	c.addUser("team", "bob")
	tablet := rawmqtt.Connect(t, c.MQTT(2), rawmqtt.V5, "tablet", as("bob"))
	other := rawmqtt.Connect(t, c.MQTT(2), rawmqtt.V5, "other", as("carol"))
	ann.Publish("group/team/x", "1", 1)
	phone.ReceivePayload("1")
	phone.ExpectNothing() // twice a member, and one message
	tablet.ReceivePayload("1")
	other.ExpectNothing()
	c.remove("team", "phone") // it is one by its user still
	ann.Publish("group/team/x", "2", 1)
	phone.ReceivePayload("2")
	tablet.ReceivePayload("2")
	if _, err := c.groups.DeleteGroup(t.Context(), &messagingv1.DeleteGroupRequest{Name: "team"}); err != nil {
		t.Fatal(err)
	}
	if ack := ann.Publish("group/team/x", "3", 1); ack.ReasonCode != packets.ErrNotAuthorized.Code {
		t.Errorf("a group that is gone takes messages: %#x", ack.ReasonCode)
	}
	phone.ExpectNothing()
}

// A session instance that takes the place of the active one has the groups, and the gateways go on.
func TestGroupsOutliveTheSessionInstance(t *testing.T) {
	c := assemble(t)
	c.make("team", "ann", "bob")
	ann := rawmqtt.Connect(t, c.MQTT(0), rawmqtt.V5, "ann")
	bob := rawmqtt.Connect(t, c.MQTT(1), rawmqtt.V5, "bob")
	if _, err := c.AddSession(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := c.Sessions()[0].Stop(); err != nil {
		t.Fatal(err)
	}
	ann.Publish("group/team/x", "1", 1)
	bob.ReceivePayload("1")
	clustertest.Eventually(t, "the successor is active", func() bool {
		_, err := c.groups.ListGroups(t.Context(), &messagingv1.ListGroupsRequest{})
		return err == nil
	})
	c.remove("team", "bob")
	if ack := ann.Publish("group/team/x", "2", 1); ack.ReasonCode != packets.CodeNoMatchingSubscribers.Code {
		t.Errorf("nobody is left: %#x", ack.ReasonCode)
	}
	bob.ExpectNothing()
}
