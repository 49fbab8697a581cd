package conformance

import (
	"fmt"
	"reflect"
	"strconv"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/beeline-mqtt/beeline/test/rawmqtt"
)

// group connects members of a shared subscription to s.topic("a"), one after the other on the stage's gateways,
// and listens to them.
func (s *stage) group(name string, members int, qos byte) []<-chan packets.Packet {
	s.Helper()
	got := make([]<-chan packets.Packet, members)
	for i := range got {
		c := s.client(i%gateways, fmt.Sprint(name, i))
		c.MustSubscribe("$share/"+name+"/"+s.topic("a"), qos)
		got[i] = listen(c)
	}
	return got
}

// share receives n messages from all members together and returns what each got. It fails when a message comes
// twice.
func (s *stage) share(members []<-chan packets.Packet, n int) [][]string {
	s.Helper()
	cases := make([]reflect.SelectCase, len(members)+1)
	for i, m := range members {
		cases[i] = reflect.SelectCase{Dir: reflect.SelectRecv, Chan: reflect.ValueOf(m)}
	}
	cases[len(members)] = reflect.SelectCase{Dir: reflect.SelectRecv, Chan: reflect.ValueOf(time.After(rawmqtt.Patience))}
	got, seen := make([][]string, len(members)), map[string]bool{}
	for range n {
		i, v, open := reflect.Select(cases)
		if i == len(members) || !open {
			s.Fatalf("%d messages of %d came, then none to member %d", len(seen), n, i)
		}
		payload := string(v.Interface().(packets.Packet).Payload)
		if seen[payload] {
			s.Errorf("%s came twice", payload)
		}
		seen[payload] = true
		got[i] = append(got[i], payload)
	}
	return got
}

func TestShared(t *testing.T) {
	t.Parallel()
	for qos := range byte(3) {
		everywhere(t, fmt.Sprintf("4.8.2 each message at QoS %d goes to one member, and all members get their part", qos), both, func(s *stage) {
			const n, members = 300, 6
			group := s.group("g", members, 2)
			p := s.pipeline(s.publisher())
			for i := range n {
				p.publish(s.topic("a"), strconv.Itoa(i), qos)
			}
			p.finish()
			for i, got := range s.share(group, n) {
				if len(got) < n/members/2 || len(got) > n/members*2 {
					s.Errorf("member %d got %d of %d messages", i, len(got), n)
				}
			}
			// Nothing is left over: what comes next is what is published next.
			for i := range members {
				p.publish(s.topic("a"), "last "+strconv.Itoa(i), 1)
			}
			p.finish()
			s.share(group, members)
		})
	}
	everywhere(t, "4.8.2 every group gets each message, and so does everybody else who subscribes", both, func(s *stage) {
		const n = 60
		groups := [][]<-chan packets.Packet{s.group("g", 3, 1), s.group("h", 2, 1)}
		single := s.client(1, "single")
		single.MustSubscribe(s.topic("a"), 1)
		groups = append(groups, []<-chan packets.Packet{listen(single)})
		p := s.pipeline(s.publisher())
		for i := range n {
			p.publish(s.topic("a"), strconv.Itoa(i), 1)
		}
		p.finish()
		for _, g := range groups {
			s.share(g, n)
		}
	})
	everywhere(t, "4.8.2 the same group name with another filter is another shared subscription", both, func(s *stage) {
		p, a, b := s.publisher(), s.client(1, "a"), s.client(2, "b")
		a.MustSubscribe("$share/g/"+s.topic("a"), 1)
		b.MustSubscribe("$share/g/"+s.topic("+"), 1)
		for range 10 {
			p.Publish(s.topic("a"), "x", 0)
			a.ReceivePayload("x")
			b.ReceivePayload("x")
		}
	})
	everywhere(t, "4.8.2 a client gets a message by its share and by its own subscription", both, func(s *stage) {
		p, c := s.publisher(), s.subscriber()
		c.MustSubscribe("$share/g/"+s.topic("a"), 0)
		c.MustSubscribe(s.topic("a"), 0)
		p.Publish(s.topic("a"), "x", 2)
		c.ReceivePayload("x")
		c.ReceivePayload("x")
		c.ExpectNothing()
	})
	everywhere(t, "MQTT-4.8.2-3 QoS and Subscription Identifier are those of the member's subscription", v5, func(s *stage) {
		p, c := s.publisher(), s.subscriber()
		subscribeID(s, c, 9, packets.Subscription{Filter: "$share/g/" + s.topic("#"), Qos: 1})
		got := listen(c)
		for qos := range byte(3) {
			p.Publish(s.topic("a"), "x", qos)
			pk := s.next(got)
			if d := cmp.Diff([]int{9}, pk.Properties.SubscriptionIdentifier); d != "" || pk.FixedHeader.Qos != min(qos, 1) {
				s.Errorf("QoS %d: %s", pk.FixedHeader.Qos, d)
			}
		}
	})
	everywhere(t, "MQTT-3.8.4-3 a member that subscribes again is still one member", both, func(s *stage) {
		p, c := s.publisher(), s.subscriber()
		for _, qos := range []byte{2, 0, 1} {
			c.MustSubscribe("$share/g/"+s.topic("a"), qos)
			p.Publish(s.topic("a"), "x", 0)
			c.ReceivePayload("x")
			c.ExpectNothing()
		}
	})
}

func TestSharedMembers(t *testing.T) {
	t.Parallel()
	everywhere(t, "4.8.2 who has unsubscribed gets nothing, the others all", both, func(s *stage) {
		p, leaves := s.publisher(), s.client(2, "leaves")
		leaves.MustSubscribe("$share/g/"+s.topic("a"), 1)
		group := s.group("g", 2, 1)
		leaves.Unsubscribe("$share/g/" + s.topic("a"))
		for i := range 40 {
			s.confirmed(p, s.topic("a"), strconv.Itoa(i), 0)
		}
		s.share(group, 40)
		leaves.ExpectNothing()
	})
	everywhere(t, "4.8.2 when the last member has gone there is nobody", both, func(s *stage) {
		p, c := s.publisher(), s.subscriber()
		c.MustSubscribe("$share/g/"+s.topic("a"), 1)
		c.Unsubscribe("$share/g/" + s.topic("a"))
		s.confirmed(p, s.topic("a"), "x", 0x10)
		c.ExpectNothing()
	})
	everywhere(t, "4.8.2 a QoS 1 message is given to another when its member goes before PUBACK", both, func(s *stage) {
		p, dies, lives := s.publisher(), s.client(1, "dies"), s.client(2, "lives")
		dies.MustSubscribe("$share/g/"+s.topic("a"), 1)
		for i := range uint16(5) {
			p.Send(publishPacket(s.topic("a"), fmt.Sprint(i), 1, 1+i))
		}
		for range 5 {
			dies.Expect(packets.Publish)
		}
		// Nobody has acknowledged: the publisher waits, and what else it asks is answered.
		s.serves(p)
		lives.MustSubscribe("$share/g/"+s.topic("a"), 1)
		dies.Close()
		got := map[string]bool{}
		for range 5 {
			got[string(lives.Receive().Payload)] = true
		}
		if len(got) != 5 {
			s.Errorf("got %v", got)
		}
		for i := range uint16(5) {
			s.code(p.ExpectAck(packets.Puback, 1+i).ReasonCode, 0)
		}
	})
	everywhere(t, "MQTT-4.8.2-5 a QoS 2 message whose member goes after PUBLISH is given to nobody else", both, func(s *stage) {
		p, dies, lives := s.publisher(), s.client(1, "dies"), s.client(2, "lives")
		dies.MustSubscribe("$share/g/"+s.topic("a"), 2)
		p.Send(publishPacket(s.topic("a"), "first", 2, 1))
		dies.Expect(packets.Publish)
		lives.MustSubscribe("$share/g/"+s.topic("a"), 2)
		dies.Close()
		p.ExpectAck(packets.Pubrec, 1)
		p.Send(publishPacket(s.topic("a"), "second", 2, 2))
		lives.ReceivePayload("second")
		p.ExpectAck(packets.Pubrec, 2)
	})
	everywhere(t, "4.8.2 a QoS 2 message that its member has not been sent is given to another", v5, func(s *stage) {
		p, dies, lives := s.publisher(), s.client(1, "dies", receiveMaximum(1)), s.client(2, "lives")
		dies.MustSubscribe("$share/g/"+s.topic("a"), 2)
		for i := range uint16(3) {
			p.Send(publishPacket(s.topic("a"), fmt.Sprint(i), 2, 1+i))
		}
		dies.Expect(packets.Publish)
		s.serves(p)
		lives.MustSubscribe("$share/g/"+s.topic("a"), 2)
		dies.Close()
		got := map[string]bool{}
		for range 2 {
			got[string(lives.Receive().Payload)] = true
		}
		if d := cmp.Diff(map[string]bool{"1": true, "2": true}, got); d != "" {
			s.Error(d)
		}
		for i := range uint16(3) {
			s.code(p.ExpectAck(packets.Pubrec, 1+i).ReasonCode, 0)
		}
		lives.ExpectNothing()
	})
	for _, kind := range []byte{packets.Puback, packets.Pubrec} {
		everywhere(t, "MQTT-4.8.2-6 what a member refuses with "+packets.PacketNames[kind]+" is offered to nobody else", v5, func(s *stage) {
			qos := map[byte]byte{packets.Puback: 1, packets.Pubrec: 2}[kind]
			p, refuses, other := s.publisher(), s.client(1, "refuses"), s.client(2, "other")
			refuses.MustSubscribe("$share/g/"+s.topic("a"), 2)
			p.Send(publishPacket(s.topic("a"), "x", qos, 1))
			got := refuses.Expect(packets.Publish)
			other.MustSubscribe("$share/g/"+s.topic("a"), 2)
			refuses.Send(ack(kind, got.PacketID, 0x80))
			p.ExpectAck(kind, 1)
			refuses.ExpectNothing()
			other.ExpectNothing()
		})
	}
	everywhere(t, "4.8.2 members come and go while messages flow: none is lost", both, func(s *stage) {
		const n = 200
		group := s.group("g", 2, 1)
		p := s.pipeline(s.publisher())
		var passing *rawmqtt.Client
		for i := range n {
			if i%10 == 0 {
				passing = s.client(i/10%gateways, "passing")
				passing.Send(packets.Packet{
					FixedHeader: packets.FixedHeader{Type: packets.Subscribe}, PacketID: 1,
					Filters: packets.Subscriptions{{Filter: "$share/g/" + s.topic("a"), Qos: 1}},
				})
				if _, err := passing.Next(rawmqtt.Patience); err != nil { // SUBACK, or a message even before
					s.Fatal(err)
				}
			}
			p.publish(s.topic("a"), strconv.Itoa(i), 1)
			if i%10 == 9 {
				passing.Close() // whatever it got, it has acknowledged nothing
			}
		}
		p.finish()
		s.share(group, n)
	})
}

func TestSharedMembersAway(t *testing.T) {
	t.Parallel()
	everywhere(t, "4.8.2 what comes while all members are away is given to the first that returns", both, func(s *stage) {
		const n = 300 // more than are given at once
		filter := "$share/g/" + s.topic("a")
		p, members := s.publisher(), [2]*rawmqtt.Client{s.begin(1, "x"), s.begin(2, "y")}
		for _, c := range members {
			c.MustSubscribe(filter, 1)
		}
		for _, c := range members {
			s.leave(c)
		}
		all := s.pipeline(p)
		for i := range n {
			all.publish(s.topic("a"), strconv.Itoa(i), 1+byte(i)%2)
		}
		all.finish()
		got := listen(s.back(2, "x"))
		seen := map[string]bool{}
		for range n {
			pk := s.next(got)
			if payload := string(pk.Payload); seen[payload] || pk.FixedHeader.Qos != 1 || pk.FixedHeader.Retain {
				s.Errorf("%s came twice, or not as it was subscribed to: %+v", payload, pk.FixedHeader)
			}
			seen[string(pk.Payload)] = true
		}
		// Nothing is left for the other.
		p.Publish(s.topic("a"), "last", 1)
		if last := string(s.next(got).Payload); last != "last" {
			s.Errorf("%q came behind everything", last)
		}
		other := s.back(1, "y")
		other.ExpectNothing()
	})
	everywhere(t, "4.8.2 a member that leaves before PUBACK, as the last, gets the message when it returns", both, func(s *stage) {
		p, x := s.publisher(), s.begin(1, "x")
		x.MustSubscribe("$share/g/"+s.topic("a"), 1)
		p.Send(publishPacket(s.topic("a"), "m", 1, 1))
		x.Expect(packets.Publish)
		x.Close()
		s.code(p.ExpectAck(packets.Puback, 1).ReasonCode, 0)
		s.back(2, "x").ReceivePayload("m")
	})
	everywhere(t, "4.8.2 members that ask for QoS 0, or whose sessions do not go on, are kept nothing", both, func(s *stage) {
		p, x, y := s.publisher(), s.begin(1, "x"), s.client(2, "y")
		x.MustSubscribe("$share/g/"+s.topic("a"), 0)
		y.MustSubscribe("$share/g/"+s.topic("a"), 1)
		s.leave(x)
		s.leave(y)
		s.confirmed(p, s.topic("a"), "m", 0x10)
		s.back(2, "x").ExpectNothing()
	})
	everywhere(t, "MQTT-3.3.2-5 what has expired meanwhile does not come", v5, func(s *stage) {
		p, x := s.publisher(), s.begin(1, "x")
		x.MustSubscribe("$share/g/"+s.topic("a"), 1)
		s.leave(x)
		short := publishPacket(s.topic("a"), "short", 1, 1)
		short.Properties.MessageExpiryInterval = 1
		p.Send(short)
		s.code(p.ExpectAck(packets.Puback, 1).ReasonCode, 0)
		stored := time.Now()
		long := publishPacket(s.topic("a"), "long", 1, 2)
		long.Properties.MessageExpiryInterval = 1000
		p.Send(long)
		s.code(p.ExpectAck(packets.Puback, 2).ReasonCode, 0)
		<-time.After(time.Until(stored.Add(1100 * time.Millisecond)))
		pk := s.back(2, "x").ReceivePayload("long")
		if left := pk.Properties.MessageExpiryInterval; left == 0 || left >= 1000 {
			s.Errorf("it expires in %d s", left)
		}
	})
}
