package conformance

import (
	"fmt"
	"strconv"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/beeline-mqtt/beeline/test/rawmqtt"
)

// Direct addressing is Beeline's own: a message to p2p/<client id>/<rest> reaches that client.

func TestDirect(t *testing.T) {
	t.Parallel()
	everywhere(t, "p2p/ reaches the client under the same topic, at the QoS of the message, without a subscription", both, func(s *stage) {
		p, c := s.publisher(), s.subscriber()
		topic := "p2p/" + s.id("subscriber") + "/a/b//c"
		for range 3 {
			for qos := range byte(3) {
				if got := p.Publish(topic, "x", qos).ReasonCode; got != 0 {
					s.Errorf("acknowledged with %#x", got)
				}
				pk := c.ReceivePayload("x")
				if h := pk.FixedHeader; pk.TopicName != topic || h.Qos != qos || h.Dup || h.Retain {
					s.Errorf("%+v on %q", h, pk.TopicName)
				}
			}
		}
		c.ExpectNothing()
	})
	everywhere(t, "p2p/ properties come along", v5, func(s *stage) {
		p, c := s.publisher(), s.subscriber()
		pk := publishPacket("p2p/"+s.id("subscriber")+"/a", "x", 1, 1)
		pk.Properties = packets.Properties{
			ContentType: "c", ResponseTopic: "r", CorrelationData: []byte{1}, User: []packets.UserProperty{{Key: "a", Val: "b"}},
		}
		p.Send(pk)
		p.ExpectAck(packets.Puback, 1)
		if d := cmp.Diff(pk.Properties, c.ReceivePayload("x").Properties); d != "" {
			s.Error(d)
		}
	})
	everywhere(t, "p2p/ a client may write to itself", both, func(s *stage) {
		c := s.subscriber()
		c.Send(publishPacket("p2p/"+s.id("subscriber")+"/a", "x", 0, 0))
		c.ReceivePayload("x")
	})
	everywhere(t, "p2p/ nobody has that client id: acknowledged with 0x10, and nothing breaks", both, func(s *stage) {
		p := s.publisher()
		for qos := range byte(3) {
			got := p.Publish("p2p/"+s.id("nobody")+"/a", "x", qos).ReasonCode
			if qos > 0 {
				s.code(got, 0x10)
			}
		}
		// It is not remembered: the client is found as soon as it is there.
		c := s.client(1, "nobody")
		s.confirmed(p, "p2p/"+s.id("nobody")+"/a", "x", 0)
		c.ReceivePayload("x")
		c.Disconnect()
	})
	everywhere(t, "p2p/ client ids with any characters, / + # and % escaped", both, func(s *stage) {
		p := s.publisher()
		for id, level := range map[string]string{
			"with space": "with space", "a/b": "a%2Fb", "/": "%2F", "a+b": "a%2Bb", "#": "%23", "100%": "100%25", "%2F": "%252F",
			"a.b": "a.b", "..": "..", "Ü€𝄞": "Ü€𝄞", "$SYS": "$SYS", "p2p": "p2p", "a:b@c?d=e&f": "a:b@c?d=e&f",
		} {
			c := s.client(1, id)
			topic := "p2p/" + s.name + "-" + level + "/a"
			s.confirmed(p, topic, id, 0)
			if got := c.ReceivePayload(id).TopicName; got != topic {
				s.Errorf("topic %q, want %q", got, topic)
			}
			c.Disconnect()
		}
	})
	everywhere(t, "p2p/ the longest client id that is allowed can be reached", both, func(s *stage) {
		id := s.name + fmt.Sprintf("%0*d", limits.ClientIDBytes-len(s.name), 0)
		c := rawmqtt.Connect(s.T, s.address(1), s.version, id)
		s.confirmed(s.publisher(), "p2p/"+id+"/a", "x", 0)
		c.ReceivePayload("x")
	})
	everywhere(t, "p2p/ two clients talk, and a third hears nothing", both, func(s *stage) {
		a, b, third := s.client(0, "a"), s.client(1, "b"), s.client(2, "third")
		third.MustSubscribe(s.topic("#"), 1)
		for i := range 50 {
			s.confirmed(a, "p2p/"+s.id("b")+"/chat", fmt.Sprint(i), 0)
			b.ReceivePayload(fmt.Sprint(i))
			s.confirmed(b, "p2p/"+s.id("a")+"/chat", fmt.Sprint(i), 0)
			a.ReceivePayload(fmt.Sprint(i))
		}
		third.ExpectNothing()
	})
}

func TestDirectToMovingClient(t *testing.T) {
	t.Parallel()
	everywhere(t, "p2p/ a client is reached right after it has moved", both, func(s *stage) {
		p := s.publisher()
		for i := range 40 {
			c := s.client(i%gateways, "moves") // takes over the connection before
			qos := byte(1 + i%2)
			if got := p.Publish("p2p/"+s.id("moves")+"/a", fmt.Sprint(i), qos).ReasonCode; got != 0 {
				s.Fatalf("round %d: acknowledged with %#x", i, got)
			}
			c.ReceivePayload(fmt.Sprint(i))
			c.ExpectNothing()
		}
	})
	everywhere(t, "p2p/ a client is reached right after it has come back", both, func(s *stage) {
		p := s.publisher()
		for i := range 20 {
			c := s.client(i%gateways, "moves")
			s.confirmed(p, "p2p/"+s.id("moves")+"/a", fmt.Sprint(i), 0)
			c.ReceivePayload(fmt.Sprint(i))
			c.Disconnect()
		}
	})
	everywhere(t, "p2p/ QoS 0 follows a client that has moved, too", both, func(s *stage) {
		p := s.publisher()
		for i := range 20 {
			c := s.client(i%gateways, "moves")
			p.Publish("p2p/"+s.id("moves")+"/a", fmt.Sprint(i), 0)
			c.ReceivePayload(fmt.Sprint(i))
		}
	})
	for qos := byte(1); qos <= 2; qos++ {
		everywhere(t, fmt.Sprintf("MQTT-4.6.0-5 p2p/ 200 messages at QoS %d keep their order while the client moves", qos), both, func(s *stage) {
			const messages, moves = 200, 8
			lives := []<-chan packets.Packet{listen(s.client(1, "moves"))}
			p := s.pipeline(s.publisher())
			for i := range messages {
				if i > 0 && i%(messages/moves) == 0 {
					lives = append(lives, listen(s.client(len(lives)%gateways, "moves")))
				}
				p.publish("p2p/"+s.id("moves")+"/a", strconv.Itoa(i), qos)
			}
			p.finish()
			if p.codes[0] != messages {
				s.Errorf("acknowledged with %v, want success %d times: the client has always been somewhere", p.codes, messages)
			}
			s.checkLives(lives, messages/moves)
		})
	}
}

// checkLives checks what the connections of one client, one after the other, have got: growing numbers, each once,
// and the last one all that was published after it had come. What was in the queue of a connection when it ended
// has ended with it.
func (s *stage) checkLives(lives []<-chan packets.Packet, each int) {
	s.Helper()
	last, total := -1, each*len(lives)
	for i, got := range lives {
		for {
			if i == len(lives)-1 && last == total-1 {
				return
			}
			pk, open := <-got
			if !open {
				break
			}
			n, err := strconv.Atoi(string(pk.Payload))
			if err != nil || n <= last {
				s.Fatalf("connection %d got %q after %d", i, pk.Payload, last)
			}
			if i == len(lives)-1 && n > each*i && n != last+1 {
				s.Errorf("the last connection got %d after %d", n, last)
			}
			last = n
		}
	}
	s.Errorf("the last connection ended after %d of %d", last, total)
}
