package broker

import (
	"strconv"
	"testing"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/beeline-mqtt/beeline/internal/message"
	"github.com/beeline-mqtt/beeline/internal/packet"
	"github.com/beeline-mqtt/beeline/test/rawmqtt"
)

func TestEverySubscriberHereAndElsewhereGetsAMessageOnce(t *testing.T) {
	for qos := range byte(3) {
		t.Run(strconv.Itoa(int(qos)), func(t *testing.T) {
			g := start(t, 3, options{})
			var subs []*rawmqtt.Client
			for i := range 10 { // enough on each gateway for encoded forms to be shared
				c := g[i%2].connect([]byte{v3, v5}[i/2%2], strconv.Itoa(i))
				c.MustSubscribe("a/+", byte(i)%3)
				c.MustSubscribe("a/#", 0)
				subs = append(subs, c)
			}
			pub := g[0].connect(v5, "pub")
			if ack := pub.Publish("a/b", "m", qos); ack.ReasonCode != 0 {
				t.Errorf("reason code %#x", ack.ReasonCode)
			}
			for i, c := range subs {
				if pk := c.ReceivePayload("m"); pk.TopicName != "a/b" || pk.FixedHeader.Qos != min(qos, byte(i)%3) {
					t.Errorf("subscriber %d: %s at QoS %d", i, pk.TopicName, pk.FixedHeader.Qos)
				}
				c.ExpectNothing()
			}
			if n := g[0].metric("beeline_mesh_deliveries_total", "direction=out"); n != 1 {
				t.Errorf("%v deliveries were sent to other gateways, want one", n)
			}
			if n := g[2].metric("beeline_mesh_deliveries_total", "direction=in"); n != 0 {
				t.Errorf("%v deliveries came to a gateway without subscribers", n)
			}
		})
	}
}

func TestAPublisherLearnsThatNobodyMatches(t *testing.T) {
	g := start(t, 2, options{})
	pub := g[0].connect(v5, "pub")
	for qos := byte(1); qos <= 2; qos++ {
		if ack := pub.Publish("a", "m", qos); ack.ReasonCode != byte(packet.NoMatchingSubscribers) {
			t.Errorf("QoS %d: reason code %#x, want 0x10", qos, ack.ReasonCode)
		}
	}
}

// A receiver without room holds up the acknowledgement, wherever it is, until it has room or is gone.
func TestAnAcknowledgementWaitsForRoom(t *testing.T) {
	for n, at := range []string{"here", "elsewhere"} {
		for _, address := range []string{"clog", "p2p/slow/n"} {
			t.Run(at+" "+address, func(t *testing.T) {
				g := start(t, 2, tiny)
				slow := g[n].connect(v5, "slow", receiveMaximum(1))
				first := clog(g[n], slow)
				pub := g[0].connect(v5, "pub")
				id := send(pub, address, "m", 1)
				handled(pub)
				answered(g[0], g[n])
				handled(pub)
				slow.Ack(packets.Puback, first)
				slow.ReceivePayload("1")
				slow.ReceivePayload("2")
				slow.ReceivePayload("m")
				if ack := pub.ExpectAck(packets.Puback, id); ack.ReasonCode != 0 {
					t.Errorf("PUBACK %#x", ack.ReasonCode)
				}
			})
		}
	}
}

// answered returns when to has answered everything that from has sent it.
func answered(from, to *gateway) {
	to.connect(v5, "witness").MustSubscribe("answered", 1)
	from.connect(v5, "asking").Publish("answered", "", 1)
}

func TestAReceiverThatEndsHoldsNothingUp(t *testing.T) {
	tests := []struct {
		address string
		at      int
		want    packet.Code
	}{
		{"clog", 0, packet.NoMatchingSubscribers},
		{"clog", 1, packet.Success}, // it may have had others
		{"p2p/slow/n", 0, packet.NoMatchingSubscribers},
		{"p2p/slow/n", 1, packet.NoMatchingSubscribers}, // after another look-up
	}
	for _, tt := range tests {
		t.Run(tt.address+" "+strconv.Itoa(tt.at), func(t *testing.T) {
			g := start(t, 2, tiny)
			slow := g[tt.at].connect(v5, "slow", receiveMaximum(1))
			clog(g[tt.at], slow)
			pub := g[0].connect(v5, "pub")
			id := send(pub, tt.address, "m", 1)
			handled(pub)
			slow.Close()
			if ack := pub.ExpectAck(packets.Puback, id); ack.ReasonCode != byte(tt.want) {
				t.Errorf("PUBACK %#x, want %#x", ack.ReasonCode, byte(tt.want))
			}
		})
	}
}

func TestAnAnswerIsTheWorstOfAllHolders(t *testing.T) {
	g := start(t, 2, options{linkBytes: 128 << 10})
	here, there := g[0].connect(v5, "here"), g[1].connect(v5, "there")
	here.MustSubscribe("a", 1)
	there.MustSubscribe("a", 1)
	pub := g[0].connect(v5, "pub")
	g[0].to(g[1]).shut()
	big := string(make([]byte, 100<<10))
	first := send(pub, "a", big, 1)
	here.ReceivePayload(big)
	send(pub, "a", big, 0)
	second := send(pub, "a", big, 1)
	here.ReceivePayload(big)
	here.ReceivePayload(big)
	if n := g[0].metric("beeline_gateway_forwards_dropped_total", "reason=link_full"); n != 1 {
		t.Errorf("%v QoS 0 messages are counted as dropped, want 1", n)
	}
	g[0].to(g[1]).open()
	if ack := pub.ExpectAck(packets.Puback, first); ack.ReasonCode != 0 {
		t.Errorf("PUBACK %#x", ack.ReasonCode)
	}
	if ack := pub.ExpectAck(packets.Puback, second); ack.ReasonCode != byte(packet.QuotaExceeded) {
		t.Errorf("PUBACK %#x, want 0x97: there was no room on the link", ack.ReasonCode)
	}
	there.ReceivePayload(big)
	there.ExpectNothing()
}

func TestDirectMessagesBeyondTheBoundOfTheLink(t *testing.T) {
	g := start(t, 2, options{linkBytes: 128 << 10})
	x := g[1].connect(v5, "x")
	pub := g[0].connect(v5, "pub")
	pub.Publish("p2p/x/n", "0", 1)
	x.ReceivePayload("0")
	g[0].to(g[1]).shut()
	big := string(make([]byte, 100<<10))
	first := send(pub, "p2p/x/n", big, 1)
	send(pub, "p2p/x/n", big, 0)
	second := send(pub, "p2p/x/n", big, 1)
	handled(pub)
	if n := g[0].metric("beeline_gateway_forwards_dropped_total", "reason=link_full"); n != 1 {
		t.Errorf("%v QoS 0 messages are counted as dropped, want 1", n)
	}
	g[0].to(g[1]).open()
	pub.ExpectAck(packets.Puback, first)
	if ack := pub.ExpectAck(packets.Puback, second); ack.ReasonCode != byte(packet.QuotaExceeded) {
		t.Errorf("PUBACK %#x, want 0x97", ack.ReasonCode)
	}
	x.ReceivePayload(big)
}

// published has the session service publish a message on g and returns whether that has failed.
func (g *gateway) published(m *message.Message) <-chan bool {
	failed := make(chan bool, 1)
	g.PublishFor(m, func(f bool) { failed <- f })
	return failed
}

func TestWillsGoWhereAnyMessageGoes(t *testing.T) {
	g := start(t, 2, options{})
	heir := g[1].connect(v5, "heir")
	heir.MustSubscribe("last/+", 2)
	heir.MustSubscribe("$share/g/jobs/+", 2)
	for _, topic := range []string{"last/words", "p2p/heir/last", "jobs/last", "nobody/listens"} {
		for qos := range byte(3) {
			m := &message.Message{
				ID: message.ID{Origin: "will/x", Seq: 1}, Publisher: "x", Topic: topic, Payload: []byte("farewell"), QoS: qos,
			}
			failed := g[0].published(m)
			if topic != "nobody/listens" {
				if pk := heir.ReceivePayload("farewell"); pk.TopicName != topic || pk.FixedHeader.Qos != qos {
					t.Errorf("topic %q at QoS %d, want %q at %d", pk.TopicName, pk.FixedHeader.Qos, topic, qos)
				}
			}
			if receive(t, failed, "the outcome") {
				t.Errorf("failed: %q at QoS %d", topic, qos)
			}
		}
	}
	heir.ExpectNothing()
}
