package services

import (
	"context"
	"net"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/eclipse/paho.golang/paho"
	"go.uber.org/goleak"
	"google.golang.org/grpc"

	messagingv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/messaging/v1"
	"github.com/beeline-mqtt/beeline/cmd/beeline/local"
	"github.com/beeline-mqtt/beeline/internal/rpc"
	"github.com/beeline-mqtt/beeline/test/clustertest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// rig is a cluster with a router, and a backend's connection to it.
type rig struct {
	*clustertest.Cluster
	t       testing.TB
	service messagingv1.MessagingServiceClient
	conn    *grpc.ClientConn
}

// start runs a cluster with gateways until the test ends.
func start(t testing.TB, gateways int, changes ...func(*local.Config)) *rig {
	t.Helper()
	r := &rig{t: t}
	r.Cluster = clustertest.Start(t, gateways, func(c *local.Config) {
		c.Router = &local.RouterPorts{}
		for _, change := range changes {
			change(c)
		}
	})
	r.conn = r.dial()
	r.service = messagingv1.NewMessagingServiceClient(r.conn)
	clustertest.Eventually(t, "the router knows the gateways", func() bool { return r.Router().Service.Ready() == nil })
	return r
}

// dial connects to the router as an operator.
func (r *rig) dial() *grpc.ClientConn {
	r.t.Helper()
	return r.dialTo(r.Router().Node.Address())
}

func (r *rig) dialTo(address string) *grpc.ClientConn {
	r.t.Helper()
	c := rpc.DefaultConfig()
	o := r.Router().Operator
	c.TLS = rpc.TLSConfig{CertFile: o.Cert, KeyFile: o.Key, CAFile: o.CA}
	d, err := rpc.NewDialer(c)
	if err != nil {
		r.t.Fatal(err)
	}
	conn, err := d.Dial(address)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { _ = conn.Close() })
	return conn
}

func (r *rig) context() context.Context {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	r.t.Cleanup(cancel)
	return ctx
}

// device is an MQTT 5 client of another library than ours.
type device struct {
	*paho.Client
	t  testing.TB
	id string
}

// connect connects a device to a gateway. on, which may be nil, gets what the device gets.
func (r *rig) connect(id string, gateway int, on func(*device, *paho.Publish)) *device {
	r.t.Helper()
	return connectTo(r.t, r.MQTT(gateway), id, on)
}

func connectTo(t testing.TB, address, id string, on func(*device, *paho.Publish)) *device {
	t.Helper()
	nc, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	d := &device{t: t, id: id}
	c := paho.ClientConfig{ClientID: id, Conn: nc}
	if on != nil {
		c.OnPublishReceived = []func(paho.PublishReceived) (bool, error){func(p paho.PublishReceived) (bool, error) {
			on(d, p.Packet)
			return true, nil
		}}
	}
	d.Client = paho.NewClient(c)
	ctx, cancel := context.WithTimeout(context.Background(), clustertest.Patience)
	defer cancel()
	if _, err := d.Connect(ctx, &paho.Connect{ClientID: id, CleanStart: true, KeepAlive: 60}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = d.Disconnect(&paho.Disconnect{})
		<-d.Done()
	})
	return d
}

// publish publishes and waits for the acknowledgement, if there is one at that QoS.
func (d *device) publish(topic, payload string, qos byte, props *paho.PublishProperties) *paho.PublishResponse {
	d.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), clustertest.Patience)
	defer cancel()
	r, err := d.Publish(ctx, &paho.Publish{Topic: topic, Payload: []byte(payload), QoS: qos, Properties: props})
	if err != nil {
		d.t.Fatalf("%s publishes to %s: %v", d.id, topic, err)
	}
	return r
}

func (d *device) subscribe(filter string, qos byte) {
	d.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), clustertest.Patience)
	defer cancel()
	if _, err := d.Subscribe(ctx, &paho.Subscribe{Subscriptions: []paho.SubscribeOptions{{Topic: filter, QoS: qos}}}); err != nil {
		d.t.Fatalf("%s subscribes to %s: %v", d.id, filter, err)
	}
}

// mosquitto is the path of another broker's binary; the test is skipped when there is none.
func mosquitto(t testing.TB) string {
	t.Helper()
	for _, path := range []string{"/usr/sbin/mosquitto", "/usr/local/sbin/mosquitto", "/opt/homebrew/sbin/mosquitto"} {
		if _, err := os.Stat(path); err == nil {
			return path
		}
	}
	t.Skip("there is no mosquitto, which is the other broker here")
	return ""
}

// percentile sorts and returns the p-th percentile.
func percentile(all []time.Duration, p int) time.Duration {
	slices.Sort(all)
	return all[min(len(all)*p/100, len(all)-1)]
}
