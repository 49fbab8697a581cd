package conformance

import (
	"fmt"
	"io"
	"log" //nolint:depguard // the client library takes loggers of this kind
	"testing"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"

	"github.com/beeline-mqtt/beeline/test/rawmqtt"
)

// paho311 is a client of the Eclipse Paho library for MQTT 3.1.1.
type paho311 struct {
	s *stage
	mqtt.Client
	got  chan mqtt.Message
	lost chan error
}

// url is where the n-th gateway takes clients over a transport.
func (s *stage) url(transport string, n int) string {
	switch transport {
	case "TLS":
		return "tls://" + cluster.MQTTS(s.at[n])
	case "WebSocket":
		return cluster.WebSocket(s.at[n])
	}
	return "tcp://" + s.address(n)
}

func (s *stage) paho311(transport string, n int, role string) *paho311 {
	s.Helper()
	c := &paho311{s: s, got: make(chan mqtt.Message, 1000), lost: make(chan error, 10)}
	o := mqtt.NewClientOptions().AddBroker(s.url(transport, n)).SetClientID(s.id(role)).
		SetProtocolVersion(4).SetCleanSession(true).SetAutoReconnect(false).SetConnectRetry(false).
		SetTLSConfig(trust(s.T)).SetOrderMatters(true).
		SetDefaultPublishHandler(func(_ mqtt.Client, m mqtt.Message) { c.got <- m }).
		SetConnectionLostHandler(func(_ mqtt.Client, err error) { c.lost <- err })
	o.WebsocketOptions = &mqtt.WebsocketOptions{}
	c.Client = mqtt.NewClient(o)
	c.wait("connect", c.Connect())
	s.Cleanup(func() { c.Disconnect(0) })
	return c
}

func (c *paho311) wait(what string, t mqtt.Token) {
	c.s.Helper()
	if !t.WaitTimeout(rawmqtt.Patience) {
		c.s.Fatalf("%s: no answer", what)
	}
	if err := t.Error(); err != nil {
		c.s.Fatalf("%s: %v", what, err)
	}
}

func (c *paho311) subscribe(filter string, qos byte) {
	c.s.Helper()
	t := c.Subscribe(filter, qos, nil)
	c.wait("subscribe to "+filter, t)
	st, ok := t.(*mqtt.SubscribeToken)
	if !ok {
		c.s.Fatalf("a token of type %T", t)
	}
	for _, got := range st.Result() {
		if got != qos {
			c.s.Errorf("subscribed to %s with code %d, want %d", filter, got, qos)
		}
	}
}

func (c *paho311) publish(topic, payload string, qos byte) {
	c.s.Helper()
	c.wait("publish to "+topic, c.Publish(topic, qos, false, payload))
}

func (c *paho311) receive(payload string) mqtt.Message {
	c.s.Helper()
	select {
	case m := <-c.got:
		if string(m.Payload()) != payload {
			c.s.Fatalf("payload %q, want %q", m.Payload(), payload)
		}
		return m
	case err := <-c.lost:
		c.s.Fatalf("connection lost: %v", err)
	case <-time.After(rawmqtt.Patience):
		c.s.Fatalf("%q did not come", payload)
	}
	return nil
}

func TestPaho311(t *testing.T) {
	t.Parallel()
	mqtt.ERROR, mqtt.CRITICAL = log.New(io.Discard, "", 0), log.New(io.Discard, "", 0)
	for _, transport := range []string{"TCP", "TLS", "WebSocket"} {
		everywhere(t, "Paho over "+transport+" publishes and subscribes at each QoS, by topic and by client id", v311, func(s *stage) {
			p, c := s.paho311(transport, 0, "publisher"), s.paho311(transport, 1, "subscriber")
			for qos := range byte(3) {
				c.subscribe(s.topic("a/+"), qos)
				for i := range 50 {
					p.publish(s.topic("a/b"), fmt.Sprint(i), 2)
					if m := c.receive(fmt.Sprint(i)); m.Topic() != s.topic("a/b") || m.Qos() != qos || m.Retained() || m.Duplicate() {
						s.Errorf("topic %q at QoS %d", m.Topic(), m.Qos())
					}
				}
				p.publish("p2p/"+s.id("subscriber")+"/a", "direct", qos)
				if m := c.receive("direct"); m.Qos() != qos {
					s.Errorf("direct message at QoS %d, want %d", m.Qos(), qos)
				}
			}
			c.wait("unsubscribe", c.Unsubscribe(s.topic("a/+")))
			p.publish(s.topic("a/b"), "unsubscribed", 1)
			p.publish("p2p/"+s.id("subscriber")+"/a", "last", 1)
			c.receive("last")
		})
		everywhere(t, "Paho over "+transport+" is taken over, and shares subscriptions", v311, func(s *stage) {
			p, a, b := s.paho311("TCP", 0, "publisher"), s.paho311(transport, 1, "a"), s.paho311(transport, 2, "b")
			a.subscribe("$share/g/"+s.topic("a"), 1)
			b.subscribe("$share/g/"+s.topic("a"), 1)
			seen := map[string]bool{}
			for i := range 100 {
				p.publish(s.topic("a"), fmt.Sprint(i), 1)
				select {
				case m := <-a.got:
					seen[string(m.Payload())] = true
				case m := <-b.got:
					seen[string(m.Payload())] = true
				case <-time.After(rawmqtt.Patience):
					s.Fatalf("message %d did not come", i)
				}
			}
			if len(seen) != 100 || len(a.got)+len(b.got) > 0 {
				s.Errorf("%d different messages, %d too many", len(seen), len(a.got)+len(b.got))
			}
			twin := s.paho311(transport, 2, "a")
			select {
			case <-a.lost:
			case <-time.After(rawmqtt.Patience):
				s.Error("the older connection is still there")
			}
			p.publish("p2p/"+s.id("a")+"/a", "to the twin", 1)
			twin.receive("to the twin")
		})
	}
}
