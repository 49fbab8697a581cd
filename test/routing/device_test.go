//go:build linux

package routing

import (
	"context"
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/eclipse/paho.golang/autopaho"
	"github.com/eclipse/paho.golang/paho"
	mqtt "github.com/eclipse/paho.mqtt.golang"
)

// The versions of MQTT, as CONNECT has them.
const (
	v31  = 3
	v311 = 4
	v5   = 5
)

// arrival is one message that a device got.
type arrival struct {
	topic, payload string
	qos            byte
}

// device is a client of the Eclipse Paho library for its version.
type device struct {
	t       *testing.T
	present bool // the session
	got     chan arrival
	// The library's part: an error of these is what the broker has answered.
	sub   func(ctx context.Context, filter string, qos byte) error
	pub   func(ctx context.Context, topic, payload string, qos byte) error
	leave func() // with a DISCONNECT
}

// login is how a device connects.
type login struct {
	id, username string
	transport    string
	stays        bool // its session does
}

// connect connects a device through the router.
func (f *front) connect(version int, l login) *device {
	f.t.Helper()
	d := &device{t: f.t, got: make(chan arrival, 1000)}
	if version == v5 {
		d.connect5(f, l)
	} else if err := d.connect3(f, uint(version), l); err != nil {
		f.t.Fatalf("%q connects: %v", l.id, err)
	}
	return d
}

func (d *device) connect3(f *front, version uint, l login) error {
	o := mqtt.NewClientOptions().AddBroker(f.url(l.transport)).SetClientID(l.id).SetUsername(l.username).SetProtocolVersion(version).
		SetCleanSession(!l.stays).SetAutoReconnect(false).SetConnectRetry(false).SetTLSConfig(f.trust()).SetConnectTimeout(patience).
		SetDefaultPublishHandler(func(_ mqtt.Client, m mqtt.Message) { d.got <- arrival{m.Topic(), string(m.Payload()), m.Qos()} })
	o.WebsocketOptions = new(mqtt.WebsocketOptions)
	c := mqtt.NewClient(o)
	wait := func(ctx context.Context, t mqtt.Token) error {
		select {
		case <-t.Done():
			return t.Error()
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	d.sub = func(ctx context.Context, filter string, qos byte) error {
		return wait(ctx, c.Subscribe(filter, qos, nil))
	}
	d.pub = func(ctx context.Context, topic, payload string, qos byte) error {
		return wait(ctx, c.Publish(topic, qos, false, payload))
	}
	d.leave = once(d.t, func() { c.Disconnect(100) })
	t := c.Connect()
	ctx, cancel := context.WithTimeout(d.t.Context(), patience)
	defer cancel()
	if err := wait(ctx, t); err != nil {
		return err
	}
	if ack, ok := t.(*mqtt.ConnectToken); ok {
		d.present = ack.SessionPresent()
	}
	return nil
}

func (d *device) connect5(f *front, l login) {
	d.t.Helper()
	server, err := url.Parse(strings.Replace(f.url(l.transport), "tcp://", "mqtt://", 1))
	if err != nil {
		d.t.Fatal(err)
	}
	connected := make(chan *paho.Connack, 1)
	cfg := autopaho.ClientConfig{
		ServerUrls: []*url.URL{server}, TlsCfg: f.trust(), KeepAlive: 30, CleanStartOnInitialConnection: !l.stays,
		ConnectTimeout: patience, ConnectUsername: l.username,
		OnConnectionUp:   func(_ *autopaho.ConnectionManager, ack *paho.Connack) { connected <- ack },
		OnConnectionDown: func() bool { return false },
		ClientConfig: paho.ClientConfig{
			ClientID: l.id,
			OnPublishReceived: []func(paho.PublishReceived) (bool, error){func(r paho.PublishReceived) (bool, error) {
				d.got <- arrival{r.Packet.Topic, string(r.Packet.Payload), r.Packet.QoS}
				return true, nil
			}},
		},
	}
	if l.stays {
		cfg.SessionExpiryInterval = 600
	}
	ctx, end := context.WithCancel(context.Background())
	c, err := autopaho.NewConnection(ctx, cfg)
	if err != nil {
		end()
		d.t.Fatal(err)
	}
	d.leave = once(d.t, func() {
		bound, cancel := context.WithTimeout(ctx, patience)
		defer cancel()
		_ = c.Disconnect(bound) // the broker may have been the first
		end()
		<-c.Done()
	})
	d.sub = func(ctx context.Context, filter string, qos byte) error {
		_, err := c.Subscribe(ctx, &paho.Subscribe{Subscriptions: []paho.SubscribeOptions{{Topic: filter, QoS: qos}}})
		return err
	}
	d.pub = func(ctx context.Context, topic, payload string, qos byte) error {
		_, err := c.Publish(ctx, &paho.Publish{Topic: topic, QoS: qos, Payload: []byte(payload)})
		return err
	}
	select {
	case ack := <-connected:
		d.present = ack.SessionPresent
	case <-time.After(patience):
		d.t.Fatalf("%q is not connected", l.id)
	}
}

func (d *device) subscribe(filter string, qos byte) *device {
	d.t.Helper()
	do(d.t, "subscribe to "+filter, func(ctx context.Context) error { return d.sub(ctx, filter, qos) })
	return d
}

func (d *device) publish(topic, payload string, qos byte) {
	d.t.Helper()
	do(d.t, "publish to "+topic, func(ctx context.Context) error { return d.pub(ctx, topic, payload, qos) })
}

// receive expects a message to be the next one.
func (d *device) receive(topic, payload string, qos byte) {
	d.t.Helper()
	select {
	case got := <-d.got:
		if want := (arrival{topic, payload, qos}); got != want {
			d.t.Fatalf("got %.100v, want %.100v", fmt.Sprint(got), fmt.Sprint(want))
		}
	case <-time.After(patience):
		d.t.Fatalf("%.100q did not come", payload)
	}
}
