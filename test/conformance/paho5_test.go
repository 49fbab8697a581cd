package conformance

import (
	"bytes"
	"context"
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/eclipse/paho.golang/autopaho"
	"github.com/eclipse/paho.golang/paho"

	"github.com/beeline-mqtt/beeline/test/rawmqtt"
)

// paho5 is a client of the Eclipse Paho library for MQTT 5.
type paho5 struct {
	s *stage
	*autopaho.ConnectionManager
	got        chan *paho.Publish
	disconnect chan *paho.Disconnect
}

func (s *stage) paho5(transport string, n int, role string) *paho5 {
	s.Helper()
	c := &paho5{s: s, got: make(chan *paho.Publish, 1000), disconnect: make(chan *paho.Disconnect, 10)}
	server, err := url.Parse(strings.Replace(s.url(transport, n), "tcp://", "mqtt://", 1))
	if err != nil {
		s.Fatal(err)
	}
	cfg := autopaho.ClientConfig{
		ServerUrls: []*url.URL{server}, TlsCfg: trust(s.T), KeepAlive: 30, CleanStartOnInitialConnection: true,
		ConnectTimeout:   rawmqtt.Patience,
		OnConnectionDown: func() bool { return false }, // do not come back by yourself
		ClientConfig: paho.ClientConfig{
			ClientID: s.id(role),
			OnPublishReceived: []func(paho.PublishReceived) (bool, error){func(r paho.PublishReceived) (bool, error) {
				c.got <- r.Packet
				return true, nil
			}},
			OnServerDisconnect: func(d *paho.Disconnect) { c.disconnect <- d },
		},
	}
	ctx, cancel := context.WithTimeout(s.Context(), rawmqtt.Patience)
	defer cancel()
	// The connection lives as long as the context that it is made with.
	if c.ConnectionManager, err = autopaho.NewConnection(s.Context(), cfg); err != nil {
		s.Fatal(err)
	}
	if err := c.AwaitConnection(ctx); err != nil {
		s.Fatalf("connect: %v", err)
	}
	return c
}

func (c *paho5) do(what string, f func(ctx context.Context) error) {
	c.s.Helper()
	ctx, cancel := context.WithTimeout(c.s.Context(), rawmqtt.Patience)
	defer cancel()
	if err := f(ctx); err != nil {
		c.s.Fatalf("%s: %v", what, err)
	}
}

func (c *paho5) subscribe(o paho.SubscribeOptions) {
	c.s.Helper()
	c.do("subscribe to "+o.Topic, func(ctx context.Context) error {
		ack, err := c.Subscribe(ctx, &paho.Subscribe{Subscriptions: []paho.SubscribeOptions{o}})
		if err == nil && ack.Reasons[0] != o.QoS {
			err = fmt.Errorf("SUBACK %v", ack.Reasons)
		}
		return err
	})
}

func (c *paho5) publish(p *paho.Publish) {
	c.s.Helper()
	c.do("publish to "+p.Topic, func(ctx context.Context) error {
		r, err := c.Publish(ctx, p)
		if err == nil && r != nil && r.ReasonCode != 0 {
			err = fmt.Errorf("reason %#x", r.ReasonCode)
		}
		return err
	})
}

func (c *paho5) receive(payload string) *paho.Publish {
	c.s.Helper()
	select {
	case p := <-c.got:
		if string(p.Payload) != payload {
			c.s.Fatalf("payload %q, want %q", p.Payload, payload)
		}
		return p
	case <-time.After(rawmqtt.Patience):
		c.s.Fatalf("%q did not come", payload)
	}
	return nil
}

func TestPaho5(t *testing.T) {
	t.Parallel()
	for _, transport := range []string{"TCP", "TLS", "WebSocket"} {
		everywhere(t, "Paho over "+transport+" publishes and subscribes at each QoS, by topic and by client id", v5, func(s *stage) {
			p, c := s.paho5(transport, 0, "publisher"), s.paho5(transport, 1, "subscriber")
			for qos := range byte(3) {
				c.subscribe(paho.SubscribeOptions{Topic: s.topic("a/+"), QoS: qos})
				for i := range 50 {
					p.publish(&paho.Publish{
						Topic: s.topic("a/b"), Payload: fmt.Append(nil, i), QoS: 2,
						Properties: &paho.PublishProperties{
							ContentType: "text/plain", ResponseTopic: "r", CorrelationData: []byte{0, byte(i)},
							User: paho.UserProperties{{Key: "b", Value: "1"}, {Key: "a", Value: "2"}, {Key: "b", Value: "3"}},
						},
					})
					m := c.receive(fmt.Sprint(i))
					if m.Topic != s.topic("a/b") || m.QoS != qos || m.Retain {
						s.Errorf("topic %q at QoS %d", m.Topic, m.QoS)
					}
					u := m.Properties.User
					if len(u) != 3 || u[1].Value != "2" || u[2].Key != "b" || !bytes.Equal(m.Properties.CorrelationData, []byte{0, byte(i)}) {
						s.Errorf("properties %+v", m.Properties)
					}
				}
				p.publish(&paho.Publish{Topic: "p2p/" + s.id("subscriber") + "/a", Payload: []byte("direct"), QoS: qos})
				if m := c.receive("direct"); m.QoS != qos {
					s.Errorf("direct message at QoS %d, want %d", m.QoS, qos)
				}
			}
			c.do("unsubscribe", func(ctx context.Context) error {
				_, err := c.Unsubscribe(ctx, &paho.Unsubscribe{Topics: []string{s.topic("a/+")}})
				return err
			})
			p.do("publish", func(ctx context.Context) error {
				_, err := p.Publish(ctx, &paho.Publish{Topic: s.topic("a/b"), Payload: []byte("unsubscribed"), QoS: 1})
				return err
			})
			p.publish(&paho.Publish{Topic: "p2p/" + s.id("subscriber") + "/a", Payload: []byte("last"), QoS: 1})
			c.receive("last")
		})
		everywhere(t, "Paho over "+transport+" is taken over, and shares subscriptions", v5, func(s *stage) {
			p, a, b := s.paho5("TCP", 0, "publisher"), s.paho5(transport, 1, "a"), s.paho5(transport, 2, "b")
			for _, c := range []*paho5{a, b} {
				c.subscribe(paho.SubscribeOptions{Topic: "$share/g/" + s.topic("a"), QoS: 1})
			}
			seen := map[string]bool{}
			for i := range 100 {
				p.publish(&paho.Publish{Topic: s.topic("a"), Payload: fmt.Append(nil, i), QoS: 1})
				select {
				case m := <-a.got:
					seen[string(m.Payload)] = true
				case m := <-b.got:
					seen[string(m.Payload)] = true
				case <-time.After(rawmqtt.Patience):
					s.Fatalf("message %d did not come", i)
				}
			}
			if len(seen) != 100 || len(a.got)+len(b.got) > 0 {
				s.Errorf("%d different messages, %d too many", len(seen), len(a.got)+len(b.got))
			}
			twin := s.paho5(transport, 2, "a")
			select {
			case d := <-a.disconnect:
				if d.ReasonCode != 0x8e {
					s.Errorf("DISCONNECT %#x, want 0x8e", d.ReasonCode)
				}
			case <-time.After(rawmqtt.Patience):
				s.Error("the older connection was not told")
			}
			p.publish(&paho.Publish{Topic: "p2p/" + s.id("a") + "/a", Payload: []byte("to the twin"), QoS: 1})
			twin.receive("to the twin")
		})
	}
}
