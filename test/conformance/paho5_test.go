package conformance

import (
	"bytes"
	"context"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/eclipse/paho.golang/autopaho"
	"github.com/eclipse/paho.golang/paho"
	"github.com/eclipse/paho.golang/paho/session/state"
	"github.com/eclipse/paho.golang/paho/store/file"

	"github.com/beeline-mqtt/beeline/test/rawmqtt"
)

// paho5 is a client of the Eclipse Paho library for MQTT 5.
type paho5 struct {
	s *stage
	*autopaho.ConnectionManager
	got        chan *paho.Publish
	disconnect chan *paho.Disconnect
}

func (s *stage) paho5(transport string, n int, role string, change ...func(*autopaho.ClientConfig)) *paho5 {
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
	for _, f := range change {
		f(&cfg)
	}
	ctx, cancel := context.WithTimeout(s.Context(), rawmqtt.Patience)
	defer cancel()
	// The connection lives as long as the context that it is made with.
	if c.ConnectionManager, err = autopaho.NewConnection(s.Context(), cfg); err != nil {
		s.Fatal(err)
	}
	s.Cleanup(func() { // the context has been cancelled
		select {
		case <-c.Done():
		case <-time.After(rawmqtt.Patience):
			s.Error("the client does not end")
		}
	})
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
	for {
		select {
		case p := <-c.got:
			switch {
			case string(p.Payload) == payload:
				return p
			case p.QoS != 1 || !p.Duplicate(): // else it had not got round to an acknowledgement before it went
				c.s.Fatalf("payload %q, want %q", p.Payload, payload)
			}
		case <-time.After(rawmqtt.Patience):
			c.s.Fatalf("%q did not come", payload)
		}
	}
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

// stays has a client keep its session in files, and come back whenever its connection is lost, over a line.
func (s *stage) stays(l *line, dir string) func(*autopaho.ClientConfig) {
	s.Helper()
	server := &url.URL{Scheme: "mqtt", Host: l.address()}
	sent, err := file.New(dir, "sent", ".mqtt")
	if err != nil {
		s.Fatal(err)
	}
	received, err := file.New(dir, "received", ".mqtt")
	if err != nil {
		s.Fatal(err)
	}
	return func(cfg *autopaho.ClientConfig) {
		cfg.ServerUrls = []*url.URL{server}
		cfg.CleanStartOnInitialConnection, cfg.SessionExpiryInterval = false, 3600
		cfg.OnConnectionDown = nil
		cfg.ReconnectBackoff = autopaho.NewConstantBackoff(5 * time.Millisecond)
		cfg.Session = state.New(sent, received)
	}
}

func TestPaho5Sessions(t *testing.T) {
	t.Parallel()
	everywhere(t, "MQTT-3.1.2-5 Paho gets what came while it was away, once", v5, func(s *stage) {
		p, l, dir := s.publisher(), s.line(1), s.TempDir()
		c := s.paho5("TCP", 1, "away", s.stays(l, dir))
		c.subscribe(paho.SubscribeOptions{Topic: s.topic("#"), QoS: 2})
		for round := range 3 {
			c.do("disconnect", c.Disconnect)
			for i := range 40 {
				p.Publish(s.topic("a"), fmt.Sprint(round, i), byte(1+i%2))
			}
			l.cut(round)
			c = s.paho5("TCP", 1, "away", s.stays(l, dir))
			for i := range 40 {
				if m := c.receive(fmt.Sprint(round, i)); m.QoS != byte(1+i%2) || m.Retain {
					s.Errorf("QoS %d, retained %v", m.QoS, m.Retain)
				}
			}
			p.Publish(s.topic("a"), "live", 1)
			c.receive("live")
		}
	})
	everywhere(t, "MQTT-4.4.0-1 MQTT-4.3.3-10 Paho goes from gateway to gateway and publishes: QoS 2 comes once", v5, func(s *stage) {
		c := s.begin(1, "stays")
		c.MustSubscribe(s.topic("#"), 2)
		got := listen(c)
		l := s.line(0)
		p := s.paho5("TCP", 0, "returns", s.stays(l, s.TempDir()))
		const rounds, each = 5, 12
		seen := map[string]int{}
		for round := range rounds {
			p.do("connect", p.AwaitConnection)
			l.mute() // no acknowledgement comes back
			var answered sync.WaitGroup
			for i := range each {
				answered.Go(func() {
					p.publish(&paho.Publish{Topic: s.topic("a"), QoS: byte(1 + i%2), Payload: []byte(fmt.Sprint(1+i%2, round, i))})
				})
			}
			for len(seen) < each*(round+1) {
				seen[string(s.next(got).Payload)]++
			}
			l.cut(round + 1)
			answered.Wait() // over the next connection
		}
		p.publish(&paho.Publish{Topic: s.topic("a"), QoS: 2, Payload: []byte("last")})
		for payload := ""; payload != "last"; {
			payload = string(s.next(got).Payload)
			seen[payload]++
		}
		for payload, n := range seen {
			if n > 1 && payload[0] == '2' {
				s.Errorf("%q came %d times at QoS 2", payload, n)
			}
		}
		if len(seen) != rounds*each+1 {
			s.Errorf("%d messages came, want %d", len(seen), rounds*each+1)
		}
	})
	everywhere(t, "MQTT-4.4.0-1 MQTT-4.3.3-1 Paho goes from gateway to gateway and receives: QoS 2 comes once, in order", v5, func(s *stage) {
		l := s.line(1)
		c := s.paho5("TCP", 0, "moves", s.stays(l, s.TempDir()))
		c.subscribe(paho.SubscribeOptions{Topic: s.topic("a"), QoS: 2})
		p := s.pipeline(s.publisher())
		const rounds, each = 5, 30
		for round := range rounds {
			for i := range each {
				p.publish(s.topic("a"), strconv.Itoa(round*each+i), 2)
			}
			l.cut(round + 2)
		}
		p.finish()
		for i := range rounds * each {
			c.receive(strconv.Itoa(i))
		}
	})
	everywhere(t, "MQTT-3.3.1-8 MQTT-3.3.1-12 MQTT-3.1.3-9 Paho and retained messages, wills", v5, func(s *stage) {
		l, m := s.line(0), s.paho5("TCP", 1, "mourner")
		m.subscribe(paho.SubscribeOptions{Topic: s.topic("will/+"), QoS: 1, RetainAsPublished: true})
		delay := uint32(1)
		s.paho5("TCP", 0, "mortal", s.stays(l, s.TempDir()), func(cfg *autopaho.ClientConfig) {
			cfg.OnConnectionDown = func() bool { return false }
			cfg.WillMessage = &paho.WillMessage{Topic: s.topic("will/a"), Payload: []byte("gone"), QoS: 1, Retain: true}
			cfg.WillProperties = &paho.WillProperties{WillDelayInterval: &delay}
		})
		l.cut(0)
		if !m.receive("gone").Retain {
			s.Error("without RETAIN, to a subscription with Retain As Published")
		}
		late := s.paho5("TCP", 2, "late")
		late.subscribe(paho.SubscribeOptions{Topic: s.topic("will/a"), QoS: 1})
		if !late.receive("gone").Retain {
			s.Error("not retained")
		}
		m.publish(&paho.Publish{Topic: s.topic("will/a"), QoS: 1, Retain: true})
		if late.receive("").Retain {
			s.Error("retained")
		}
	})
}
