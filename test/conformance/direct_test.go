package conformance

import (
	"fmt"
	"strconv"
	"testing"
	"time"

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
		everywhere(t, fmt.Sprintf("MQTT-4.6.0-5 p2p/ messages at QoS %d keep their order while the client moves", qos), both, func(s *stage) {
			const moves, after = 12, 200
			p := s.pipeline(s.publisher())
			topic, published := "p2p/"+s.id("moves")+"/a", 0
			publish := func() {
				p.publish(topic, strconv.Itoa(published), qos)
				published++
			}
			lives := []*life{s.move(0)}
			lives[0].accepted(s, func() {})
			for i := range moves {
				next, room := s.move(i+1), limits.QueueMessages/2
				next.accepted(s, func() {
					if room--; room > 0 { // the queue of a receiver does not fill
						publish()
					}
				})
				lives = append(lives, next)
			}
			mark := published
			for range after {
				publish()
			}
			p.finish()
			if p.codes[0] != published {
				s.Errorf("acknowledged with %v, want success %d times: the client has always been somewhere", p.codes, published)
			}
			s.checkLives(lives, mark, published)
		})
	}
}

// life is one connection of a client that moves.
type life struct {
	got <-chan packets.Packet
}

// move has the client connect for the n-th time, at one of two gateways in turn, and does not wait for the answer.
// Neither is the publisher's, if there are several: what comes there does not wait for ever for what is on its way
// back from another gateway, and overtakes it when that is slow.
func (s *stage) move(n int) *life {
	s.Helper()
	c := s.dial(1 + n%2)
	c.SendRaw(rawmqtt.Bytes(s.T, rawmqtt.ConnectPacket(s.version, s.id("moves"))))
	return &life{got: listen(c)}
}

// accepted calls f until the client has been told that it is connected.
func (l *life) accepted(s *stage, f func()) {
	s.Helper()
	deadline := time.Now().Add(rawmqtt.Patience)
	for time.Now().Before(deadline) {
		f()
		select {
		case pk := <-l.got:
			if pk.FixedHeader.Type != packets.Connack || pk.ReasonCode != 0 {
				s.Fatalf("got %s with %#x, want CONNACK", packets.PacketNames[pk.FixedHeader.Type], pk.ReasonCode)
			}
			return
		default:
		}
	}
	s.Fatal("no CONNACK")
}

// checkLives checks what the connections of one client, one after the other, have got: growing numbers, each once,
// and the last connection everything from mark on. What was in the queue of a connection when it ended has ended
// with it.
func (s *stage) checkLives(lives []*life, mark, end int) {
	s.Helper()
	last := -1
	for i, l := range lives {
		for last < end-1 {
			pk, open := <-l.got
			if !open {
				break
			}
			n, err := strconv.Atoi(string(pk.Payload))
			if err != nil || n <= last {
				s.Fatalf("connection %d got %q after %d", i, pk.Payload, last)
			}
			if n > mark && n != last+1 {
				s.Errorf("%d came after %d", n, last)
			}
			last = n
		}
	}
	if last != end-1 {
		s.Errorf("the last message is %d, want %d", last, end-1)
	}
}
