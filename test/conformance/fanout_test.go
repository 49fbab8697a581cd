package conformance

import (
	"fmt"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/beeline-mqtt/beeline/test/rawmqtt"
)

// kind is a receiver of a fan-out: all that can differ between the packets that carry one message.
type kind struct {
	version byte
	qos     byte
	id      int  // Subscription Identifier
	alias   bool // takes topic aliases
}

func kinds() []kind {
	var all []kind
	for qos := range byte(3) {
		all = append(all, kind{version: rawmqtt.V311, qos: qos})
		for _, id := range []int{0, 7, 300} {
			for _, alias := range []bool{false, true} {
				all = append(all, kind{rawmqtt.V5, qos, id, alias})
			}
		}
	}
	return all
}

func (k kind) subscribe(s *stage, gateway int) *rawmqtt.Client {
	s.Helper()
	maximum := uint16(0)
	if k.alias {
		maximum = 5
	}
	id := fmt.Sprintf("%s-%d-%+v", s.name, gateway, k)
	c := rawmqtt.Connect(s.T, s.address(gateway), k.version, id, topicAliasMaximum(maximum))
	if k.id > 0 {
		subscribeID(s, c, k.id, packets.Subscription{Filter: s.topic("a"), Qos: k.qos})
	} else {
		c.MustSubscribe(s.topic("a"), k.qos)
	}
	return c
}

// check compares what a receiver of this kind got as its n-th message with what was published.
func (k kind) check(s *stage, n int, want, got packets.Packet) {
	s.Helper()
	topic := want.TopicName
	p := got.Properties
	if k.alias && n > 0 {
		topic = ""
	}
	if got.TopicName != topic || got.FixedHeader.Qos != min(want.FixedHeader.Qos, k.qos) || p.TopicAliasFlag != k.alias {
		s.Errorf("%+v: message %d at QoS %d on %q, alias %d", k, n, got.FixedHeader.Qos, got.TopicName, p.TopicAlias)
	}
	if k.version == rawmqtt.V311 {
		return
	}
	var ids []int
	if k.id > 0 {
		ids = []int{k.id}
	}
	if !slices.Equal(p.SubscriptionIdentifier, ids) {
		s.Errorf("%+v: Subscription Identifiers %v", k, p.SubscriptionIdentifier)
	}
	if expiry := want.Properties.MessageExpiryInterval; p.MessageExpiryInterval > expiry || p.MessageExpiryInterval+10 < expiry {
		s.Errorf("%+v: Message Expiry Interval %d of %d", k, p.MessageExpiryInterval, expiry)
	}
	if d := cmp.Diff(want.Properties.User, p.User); d != "" {
		s.Errorf("%+v: %s", k, d)
	}
}

func TestFanOut(t *testing.T) {
	t.Parallel()
	everywhere(t, "MQTT-4.3.2-1 MQTT-3.3.2-6 MQTT-3.3.4-3 one message to many: to each in its own form", both, func(s *stage) {
		p := s.publisher()
		var receivers []*rawmqtt.Client
		for _, k := range kinds() {
			for gateway := range gateways {
				receivers = append(receivers, k.subscribe(s, gateway))
			}
		}
		n := 0
		for _, expiry := range []uint32{0, 1000} {
			for qos := range byte(3) {
				pk := publishPacket(s.topic("a"), fmt.Sprint("message ", n), qos, p.ID())
				if s.is5() {
					pk.Properties.MessageExpiryInterval = expiry
					pk.Properties.User = []packets.UserProperty{{Key: "n", Val: fmt.Sprint(n)}}
				}
				p.Send(pk)
				switch qos {
				case 1:
					p.ExpectAck(packets.Puback, pk.PacketID)
				case 2:
					p.ExpectAck(packets.Pubrec, pk.PacketID)
					p.Ack(packets.Pubrel, pk.PacketID)
					p.ExpectAck(packets.Pubcomp, pk.PacketID)
				}
				for i, k := range kinds() {
					for gateway := range gateways {
						k.check(s, n, pk, receivers[i*gateways+gateway].ReceivePayload(string(pk.Payload)))
					}
				}
				n++
			}
		}
		for _, c := range receivers {
			c.ExpectNothing()
		}
	})
}
