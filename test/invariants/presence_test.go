package invariants

import (
	"context"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	messagingv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/messaging/v1"
	"github.com/beeline-mqtt/beeline/cmd/beeline/local"
	"github.com/beeline-mqtt/beeline/test/clustertest"
	"github.com/beeline-mqtt/beeline/test/rawmqtt"
)

// onlooker is a service that watches who connects and disconnects, over the router.
type onlooker struct {
	t      *testing.T
	events grpc.ServerStreamingClient[messagingv1.WatchPresenceResponse]
	cursor string
	waits  []*messagingv1.PresenceEvent
	epochs map[string]uint64
}

func watch(t *testing.T, m messagingv1.MessagingServiceClient, cursor string) (*onlooker, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), clustertest.Patience)
	t.Cleanup(cancel)
	events, err := m.WatchPresence(ctx, &messagingv1.WatchPresenceRequest{ClientIdPrefix: "device-", Cursor: cursor})
	if err != nil {
		t.Fatal(err)
	}
	first, err := events.Recv()
	if err != nil {
		return nil, err
	}
	return &onlooker{t: t, events: events, cursor: first.GetCursor(), epochs: map[string]uint64{}}, nil
}

// want is what is told next; reason is empty for one who has connected.
func (o *onlooker) want(client, reason string, durable bool) {
	o.t.Helper()
	for len(o.waits) == 0 {
		r, err := o.events.Recv()
		if err != nil {
			o.t.Fatalf("no event, want %s %q: %v", client, reason, err)
		}
		o.waits, o.cursor = r.GetEvents(), r.GetCursor()
	}
	e := o.waits[0]
	o.waits = o.waits[1:]
	connected := e.GetKind() == messagingv1.PresenceEvent_KIND_CONNECTED
	if e.GetClientId() != client || e.GetReason() != reason || connected != (reason == "") || e.GetDurable() != durable {
		o.t.Fatalf("got %v, want %s %q, durable: %v", e, client, reason, durable)
	}
	if connected == (e.GetEpoch() <= o.epochs[client]) || !connected && e.GetEpoch() != o.epochs[client] {
		o.t.Errorf("got %v after epoch %d", e, o.epochs[client])
	}
	o.epochs[client] = e.GetEpoch()
}

// A service hears of each connection that it begins, and once that it has ended, and why: whichever gateways it was at.
func TestAServiceHearsWhoConnectsAndDisconnects(t *testing.T) {
	c := clustertest.Start(t, 3, func(c *local.Config) { c.Router = &local.RouterPorts{} })
	messaging := messagingv1.NewMessagingServiceClient(c.Operate(t))
	o, err := watch(t, messaging, "")
	if err != nil {
		t.Fatal(err)
	}
	first := o.cursor
	rawmqtt.Connect(t, c.MQTT(0), rawmqtt.V5, "somebody else")
	a := rawmqtt.Connect(t, c.MQTT(0), rawmqtt.V311, "device-a")
	o.want("device-a", "", false)
	a.Disconnect()
	o.want("device-a", "client", false)

	b := rawmqtt.Connect(t, c.MQTT(1), rawmqtt.V5, "device-b", rawmqtt.Durable(60))
	o.want("device-b", "", true)
	b.Close()
	o.want("device-b", "network", true)
	rawmqtt.Connect(t, c.MQTT(1), rawmqtt.V5, "device-b", rawmqtt.Durable(60))
	o.want("device-b", "", true)
	rawmqtt.Connect(t, c.MQTT(0), rawmqtt.V5, "device-b", rawmqtt.Durable(60))
	o.want("device-b", "replaced", true)
	o.want("device-b", "", true)
	again := rawmqtt.Connect(t, c.MQTT(0), rawmqtt.V5, "device-b", rawmqtt.Durable(60))
	o.want("device-b", "replaced", true)
	o.want("device-b", "", true)
	again.SendRaw([]byte{0xF0, 0})
	o.want("device-b", "protocol", true)

	rawmqtt.Connect(t, c.MQTT(2), rawmqtt.V5, "device-c")
	o.want("device-c", "", false)
	if err := c.Gateways()[2].Stop(); err != nil {
		t.Fatal(err)
	}
	o.want("device-c", "shutdown", false)

	resumed, err := watch(t, messaging, first)
	if err != nil {
		t.Fatal(err)
	}
	resumed.want("device-a", "", false)
	resumed.want("device-a", "client", false)
	testSuccession(t, c, messaging, o)
}

// testSuccession has another session instance become the active one: a watcher is told, and begins anew.
func testSuccession(t *testing.T, c *clustertest.Cluster, messaging messagingv1.MessagingServiceClient, o *onlooker) {
	t.Helper()
	d := rawmqtt.Connect(t, c.MQTT(0), rawmqtt.V5, "device-d")
	o.want("device-d", "", false)
	if _, err := c.AddSession(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := c.Sessions()[0].Stop(); err != nil {
		t.Fatal(err)
	}
	if _, err := o.events.Recv(); status.Code(err) != codes.Unavailable {
		t.Errorf("the stream has ended with %v", err)
	}
	clustertest.Eventually(t, "the successor knows nothing of the cursor", func() bool {
		_, err := watch(t, messaging, o.cursor)
		return status.Code(err) == codes.OutOfRange
	})
	anew, err := watch(t, messaging, "")
	if err != nil {
		t.Fatal(err)
	}
	anew.epochs["device-d"] = o.epochs["device-d"]
	d.Disconnect()
	anew.want("device-d", "client", false)
}
