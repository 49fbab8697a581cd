package conformance

import (
	"fmt"
	"testing"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"

	"github.com/beeline-mqtt/beeline/test/clustertest"
	"github.com/beeline-mqtt/beeline/test/rawmqtt"
)

// paho311 is a client of the Eclipse Paho library for MQTT 3.1.1.
type paho311 struct {
	s *stage
	mqtt.Client
	present bool // the session
	got     chan mqtt.Message
	lost    chan error
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

func (s *stage) paho311(transport string, n int, role string, change ...func(*mqtt.ClientOptions)) *paho311 {
	s.Helper()
	c := &paho311{s: s, got: make(chan mqtt.Message, 1000), lost: make(chan error, 10)}
	o := mqtt.NewClientOptions().AddBroker(s.url(transport, n)).SetClientID(s.id(role)).
		SetProtocolVersion(4).SetCleanSession(true).SetAutoReconnect(false).SetConnectRetry(false).
		SetTLSConfig(trust(s.T)).SetOrderMatters(true).
		SetDefaultPublishHandler(func(_ mqtt.Client, m mqtt.Message) { c.got <- m }).
		SetConnectionLostHandler(func(_ mqtt.Client, err error) { c.lost <- err })
	o.WebsocketOptions = &mqtt.WebsocketOptions{}
	for _, f := range change {
		f(o)
	}
	c.Client = mqtt.NewClient(o)
	connect := c.Connect()
	c.wait("connect", connect)
	if t, ok := connect.(*mqtt.ConnectToken); ok {
		c.present = t.SessionPresent()
	}
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
	for {
		select {
		case m := <-c.got:
			switch {
			case string(m.Payload()) == payload:
				return m
			case !m.Duplicate(): // else it had not got round to an acknowledgement before it went
				c.s.Fatalf("payload %q, want %q", m.Payload(), payload)
			}
		case err := <-c.lost:
			c.s.Fatalf("connection lost: %v", err)
		case <-time.After(rawmqtt.Patience):
			c.s.Fatalf("%q did not come", payload)
		}
	}
}

// kept has a client keep its session, and what it has to send, in a store.
func kept(store mqtt.Store) func(*mqtt.ClientOptions) {
	return func(o *mqtt.ClientOptions) { o.SetCleanSession(false).SetResumeSubs(true).SetStore(store) }
}

// through has a client connect over a line.
func through(l *line) func(*mqtt.ClientOptions) {
	return func(o *mqtt.ClientOptions) {
		o.Servers = nil
		o.AddBroker("tcp://" + l.address())
	}
}

func TestPaho311(t *testing.T) {
	t.Parallel()
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

func TestPaho311Sessions(t *testing.T) {
	t.Parallel()
	everywhere(t, "MQTT-3.1.2-5 Paho gets what came while it was away", v311, func(s *stage) {
		p, dir := s.publisher(), s.TempDir()
		c := s.paho311("TCP", 1, "away", kept(mqtt.NewFileStore(dir)))
		if c.present {
			s.Error("a session is present")
		}
		c.subscribe(s.topic("#"), 2)
		for round := range 3 {
			c.Disconnect(100)
			for i := range 40 {
				p.Publish(s.topic("a"), fmt.Sprint(round, i), byte(1+i%2))
			}
			if c = s.paho311("TCP", (round+2)%gateways, "away", kept(mqtt.NewFileStore(dir))); !c.present {
				s.Error("no session is present")
			}
			for i := range 40 {
				if m := c.receive(fmt.Sprint(round, i)); m.Qos() != byte(1+i%2) || m.Retained() {
					s.Errorf("QoS %d, retained %v", m.Qos(), m.Retained())
				}
			}
			p.Publish(s.topic("a"), "live", 1)
			c.receive("live")
		}
		c.wait("unsubscribe", c.Unsubscribe(s.topic("#")))
	})
	everywhere(t, "MQTT-4.4.0-1 MQTT-4.3.3-10 Paho sends again from its store on another gateway, and QoS 2 comes once", v311, func(s *stage) {
		c := s.begin(1, "stays")
		c.MustSubscribe(s.topic("#"), 2)
		got := listen(c)
		l, dir := s.line(0), s.TempDir()
		const rounds, each = 5, 12
		seen := map[string]int{}
		// No acknowledgement comes back: two of Paho's clients with one store must not both go on with a message.
		l.greetOnly(true)
		for round := range rounds {
			p := s.paho311("", 0, "returns", kept(mqtt.NewFileStore(dir)), through(l))
			if p.present != (round > 0) {
				s.Errorf("session present: %v in round %d", p.present, round)
			}
			for i := range each {
				p.Publish(s.topic("a"), byte(1+i%2), false, fmt.Sprint(1+i%2, round, i))
			}
			for len(seen) < each*(round+1) {
				seen[string(s.next(got).Payload)]++
			}
			l.cut(round + 1)
			p.Disconnect(0)
		}
		l.greetOnly(false)
		store := mqtt.NewFileStore(dir)
		p := s.paho311("", 0, "returns", kept(store), through(l))
		clustertest.Eventually(s.T, "everything is acknowledged", func() bool { return len(store.All()) == 0 })
		p.publish(s.topic("b"), "last", 2)
		for {
			payload := string(s.next(got).Payload)
			if payload == "last" {
				break
			}
			seen[payload]++
		}
		for payload, n := range seen {
			if n > 1 && payload[0] == '2' {
				s.Errorf("%q came %d times at QoS 2", payload, n)
			}
		}
		if len(seen) != rounds*each {
			s.Errorf("%d messages came, want %d", len(seen), rounds*each)
		}
	})
	everywhere(t, "MQTT-3.3.1-8 MQTT-3.1.2-8 Paho and retained messages, wills", v311, func(s *stage) {
		l, m := s.line(0), s.paho311("TCP", 1, "mourner")
		m.subscribe(s.topic("will/+"), 1)
		s.paho311("", 0, "mortal", through(l), func(o *mqtt.ClientOptions) { o.SetWill(s.topic("will/a"), "gone", 1, true) })
		l.cut(0)
		if m.receive("gone").Retained() {
			s.Error("retained, to a subscription that was there before")
		}
		late := s.paho311("TCP", 2, "late")
		late.subscribe(s.topic("will/a"), 1)
		if !late.receive("gone").Retained() {
			s.Error("not retained")
		}
		m.wait("clear", m.Publish(s.topic("will/a"), 1, true, ""))
		late.receive("")
	})
}
