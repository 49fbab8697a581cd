package invariants

import (
	"context"
	"fmt"
	"net/url"
	"sync"
	"testing"
	"time"

	"github.com/eclipse/paho.golang/autopaho"
	"github.com/eclipse/paho.golang/paho"
	mqtt "github.com/eclipse/paho.mqtt.golang"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	adminv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/admin/v1"
	"github.com/beeline-mqtt/beeline/cmd/beeline/local"
	"github.com/beeline-mqtt/beeline/services/gateway"
	"github.com/beeline-mqtt/beeline/test/clustertest"
)

// crowd is a cluster behind a router, with clients that know only that, come back by themselves, and keep their sessions.
type crowd struct {
	*clustertest.Cluster
	testing.TB
	gateways  adminv1.GatewayServiceClient
	placement adminv1.PlacementServiceClient
	publisher mqtt.Client
	ids       []string
	olds      map[string]mqtt.Client // those of MQTT 3.1.1

	mu    sync.Mutex
	acked []string        // what a publisher was told is taken; guarded by mu
	got   map[string]bool // what has come; guarded by mu
}

func gather(t *testing.T, gateways, clients int) *crowd {
	t.Helper()
	c := &crowd{TB: t, got: make(map[string]bool), olds: make(map[string]mqtt.Client)}
	c.Cluster = clustertest.Start(t, gateways, func(l *local.Config) {
		l.Router = &local.RouterPorts{}
		l.Gateway = func(_ int, g *gateway.Config) { g.Drain.Grace, g.Drain.Settle = 200*time.Millisecond, 3*time.Second }
	})
	tls, err := c.Router().Operator.Mutual()
	if err != nil {
		t.Fatal(err)
	}
	conn, err := grpc.NewClient(c.Router().Node.Address(), grpc.WithTransportCredentials(credentials.NewTLS(tls)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	c.gateways, c.placement = adminv1.NewGatewayServiceClient(conn), adminv1.NewPlacementServiceClient(conn)
	for i := range clients {
		id := fmt.Sprint("receiver-", i)
		c.ids = append(c.ids, id)
		if i%2 == 0 {
			c.olds[id] = c.old(id)
			c.wait(c.olds[id].Subscribe(id, 1, nil))
		} else {
			c.newer(id)
		}
	}
	c.publisher = c.old("publisher")
	return c
}

func (c *crowd) arrived(topic string, payload []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.got[topic+" "+string(payload)] = true
}

func (c *crowd) wait(t mqtt.Token) {
	c.Helper()
	if !t.WaitTimeout(clustertest.Patience) || t.Error() != nil {
		c.Fatalf("no answer, or %v", t.Error())
	}
}

// old connects a client of MQTT 3.1.1.
func (c *crowd) old(id string) mqtt.Client {
	c.Helper()
	o := mqtt.NewClientOptions().AddBroker("tcp://" + c.Router().Service.Addr("mqtt").String()).SetClientID(id).
		SetCleanSession(false).SetAutoReconnect(true).SetMaxReconnectInterval(200 * time.Millisecond).
		SetDefaultPublishHandler(func(_ mqtt.Client, m mqtt.Message) { c.arrived(m.Topic(), m.Payload()) })
	x := mqtt.NewClient(o)
	c.wait(x.Connect())
	c.Cleanup(func() { x.Disconnect(0) })
	return x
}

// newer connects a client of MQTT 5 that subscribes to its own name.
func (c *crowd) newer(id string) {
	c.Helper()
	x, err := autopaho.NewConnection(c.Context(), autopaho.ClientConfig{
		ServerUrls: []*url.URL{{Scheme: "mqtt", Host: c.Router().Service.Addr("mqtt").String()}}, KeepAlive: 30,
		CleanStartOnInitialConnection: true, SessionExpiryInterval: 600, ConnectTimeout: clustertest.Patience,
		ReconnectBackoff: autopaho.NewConstantBackoff(100 * time.Millisecond),
		ClientConfig: paho.ClientConfig{
			ClientID: id,
			OnPublishReceived: []func(paho.PublishReceived) (bool, error){func(r paho.PublishReceived) (bool, error) {
				c.arrived(r.Packet.Topic, r.Packet.Payload)
				return true, nil
			}},
		},
	})
	if err != nil {
		c.Fatal(err)
	}
	c.Cleanup(func() { <-x.Done() }) // the context has been cancelled
	ctx, cancel := context.WithTimeout(c.Context(), clustertest.Patience)
	defer cancel()
	if err := x.AwaitConnection(ctx); err != nil {
		c.Fatal(err)
	}
	if _, err := x.Subscribe(ctx, &paho.Subscribe{Subscriptions: []paho.SubscribeOptions{{Topic: id, QoS: 1}}}); err != nil {
		c.Fatal(err)
	}
}

// talk publishes to everybody in turn until stop is closed.
func (c *crowd) talk(stop <-chan struct{}) {
	for n := 0; ; n++ {
		select {
		case <-stop:
			return
		default:
		}
		topic, payload := c.ids[n%len(c.ids)], fmt.Sprint(n)
		t := c.publisher.Publish(topic, 1, false, payload)
		if !t.WaitTimeout(clustertest.Patience) || t.Error() != nil {
			c.Errorf("message %d is not acknowledged: %v", n, t.Error())
			return
		}
		c.mu.Lock()
		c.acked = append(c.acked, topic+" "+payload)
		c.mu.Unlock()
	}
}

// missing is how many messages have not come that were acknowledged.
func (c *crowd) missing() (n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, m := range c.acked {
		if !c.got[m] {
			n++
		}
	}
	return n
}

// list returns the gateways as the router sees them.
func (c *crowd) list() []*adminv1.Gateway {
	c.Helper()
	l, err := c.gateways.ListGateways(c.Context(), &adminv1.ListGatewaysRequest{})
	if err != nil {
		c.Fatal(err)
	}
	return l.GetGateways()
}

// have waits until the gateways all take clients and have so many.
func (c *crowd) have(want ...uint64) {
	c.Helper()
	var last []*adminv1.Gateway
	defer func() {
		if c.Failed() {
			c.Logf("the gateways: %v", last)
		}
	}()
	clustertest.Eventually(c, fmt.Sprintf("the gateways have %v clients", want), func() bool {
		last = c.list()
		for i, g := range last {
			if g.GetClients() != want[i] || g.GetState() != adminv1.GatewayState_GATEWAY_STATE_ACTIVE || !g.GetActive() {
				return false
			}
		}
		return len(last) == len(want)
	})
}

// where are the clients now.
func (c *crowd) where() map[string]string {
	c.Helper()
	at := make(map[string]string)
	for _, id := range c.ids {
		e, err := c.placement.Explain(c.Context(), &adminv1.ExplainRequest{Client: &adminv1.Client{ClientId: id}})
		if err != nil {
			c.Fatal(err)
		}
		at[id] = e.GetNode()
	}
	return at
}

func (c *crowd) rebalance() {
	c.Helper()
	if _, err := c.gateways.Rebalance(c.Context(), &adminv1.RebalanceRequest{Rate: 50}); err != nil {
		c.Fatal(err)
	}
}

// Clients that know only the router are moved to a gateway that was added, away from one that is drained and back when it
// is resumed. They stay where they were moved to, and nothing is lost.
func TestClientsAreMovedAndNothingIsLost(t *testing.T) {
	c := gather(t, 2, 41) // and one that publishes
	stop := make(chan struct{})
	var talking sync.WaitGroup
	over := sync.OnceFunc(func() { close(stop); talking.Wait() })
	defer over()
	talking.Go(func() { c.talk(stop) })

	before := c.where()
	if _, err := c.AddGateway(t.Context()); err != nil {
		t.Fatal(err)
	}
	clustertest.Eventually(t, "the router knows it", func() bool { return len(c.list()) == 3 })
	added := c.list()[2]
	c.rebalance()
	c.have(14, 14, 14)
	moved := 0
	for id, at := range c.where() {
		if at == before[id] {
			continue
		}
		if moved++; at != added.GetMqttAddress() {
			t.Errorf("%s has come to %s, not to the gateway that was added", id, at)
		}
		if x := c.olds[id]; x != nil {
			x.Disconnect(100)
			c.wait(x.Connect())
		}
	}
	if moved < 13 {
		t.Errorf("%d have moved, want 14 with the publisher", moved)
	}
	c.have(14, 14, 14)

	first := c.list()[0]
	if _, err := c.gateways.DrainGateway(t.Context(), &adminv1.DrainGatewayRequest{Gateway: first.GetId(), Rate: 50}); err != nil {
		t.Fatal(err)
	}
	clustertest.Eventually(t, "it is drained, and all are elsewhere", func() bool {
		g := c.list()
		return g[0].GetState() == adminv1.GatewayState_GATEWAY_STATE_DRAINED && g[0].GetClients() == 0 && g[1].GetClients()+g[2].GetClients() == 42
	})
	for id, at := range c.where() {
		if at == first.GetMqttAddress() {
			t.Errorf("%s is at the gateway that is drained", id)
		}
	}
	if _, err := c.gateways.ResumeGateway(t.Context(), &adminv1.ResumeGatewayRequest{Gateway: first.GetId()}); err != nil {
		t.Fatal(err)
	}
	c.rebalance()
	c.have(14, 14, 14)

	over()
	clustertest.Eventually(t, "all has come", func() bool { return c.missing() == 0 })
	t.Logf("%d messages, none is lost", len(c.acked))
}
