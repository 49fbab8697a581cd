package client_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/beeline-mqtt/beeline/internal/message"
	"github.com/beeline-mqtt/beeline/internal/packet"
	"github.com/beeline-mqtt/beeline/services/gateway/internal/client"
	"github.com/beeline-mqtt/beeline/services/gateway/internal/rules"
	"github.com/beeline-mqtt/beeline/test/rawmqtt"
)

// publishPacket makes a PUBLISH with a packet identifier.
func publishPacket(topic, payload string, qos byte, id uint16) packets.Packet {
	p := rawmqtt.PublishPacket(topic, payload, qos)
	p.PacketID = id
	return p
}

func ackFor(qos byte) byte {
	if qos == 2 {
		return packets.Pubrec
	}
	return packets.Puback
}

func TestWaitingForReceiptsDelaysNeitherPingrespNorOtherMessages(t *testing.T) {
	versions(t, func(t *testing.T, version byte) {
		r := newRig(t)
		c := r.connect(version, "a")
		c.MustSubscribe("free", 0)
		c.Send(publishPacket("held/1", "x", 1, 1))
		c.Send(publishPacket("held/2", "x", 2, 2))
		c.ExpectNothing()
		c.Publish("free", "y", 0)
		c.ReceivePayload("y")
		c.ExpectNothing()
	})
}

func TestAcknowledgementsComeInTheOrderOfThePackets(t *testing.T) {
	versions(t, func(t *testing.T, version byte) {
		r := newRig(t)
		c := r.connect(version, "a")
		var held []*publication
		qos := []byte{1, 2, 1, 2, 1}
		for i, q := range qos {
			c.Send(publishPacket("held/t", "x", q, uint16(100+i)))
		}
		for range qos {
			held = append(held, receive(t, r.broker.held, "a publication"))
		}
		for _, i := range []int{4, 1, 3} {
			held[i].settle(packet.Success)
			c.ExpectNothing()
		}
		held[0].settle(packet.Success) // opens the way for 100 and 101
		c.ExpectAck(ackFor(qos[0]), 100)
		c.ExpectAck(ackFor(qos[1]), 101)
		c.ExpectNothing()
		held[2].settle(packet.Success)
		for i := 2; i < 5; i++ {
			c.ExpectAck(ackFor(qos[i]), uint16(100+i))
		}
		c.ExpectNothing()
	})
}

func TestAPublicationIsAcknowledgedWhenItsLastReceiptIsThere(t *testing.T) {
	r := newRig(t)
	c := r.connect(v5, "a")
	c.Send(publishPacket("held/t", "x", 1, 1))
	p := receive(t, r.broker.held, "a publication")
	p.Expect()
	p.Expect()
	p.settle(packet.Success)
	c.ExpectNothing()
	p.settle(packet.NoMatchingSubscribers)
	c.ExpectNothing()
	p.settle(packet.NoMatchingSubscribers)
	if ack := c.ExpectAck(packets.Puback, 1); ack.ReasonCode != 0 {
		t.Fatalf("PUBACK %#x; Success goes before No matching subscribers", ack.ReasonCode)
	}
}

func TestTheReceiptsDecideTheReasonCode(t *testing.T) {
	cases := []struct {
		name     string
		receipts []packet.Code
		want     packet.Code
	}{
		{"nobody matches", nil, packet.NoMatchingSubscribers},
		{"somebody has it", []packet.Code{packet.Success}, packet.Success},
		{"one of two matches", []packet.Code{packet.NoMatchingSubscribers, packet.Success}, packet.Success},
		{"one failed", []packet.Code{packet.Success, packet.QuotaExceeded, packet.NoMatchingSubscribers}, packet.QuotaExceeded},
		{"the first failure counts", []packet.Code{packet.ImplementationSpecificError, packet.QuotaExceeded}, packet.ImplementationSpecificError},
	}
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			for _, qos := range []byte{1, 2} {
				t.Run(fmt.Sprintf("QoS %d", qos), func(t *testing.T) {
					versions(t, func(t *testing.T, version byte) {
						r := newRig(t)
						c := r.connect(version, "a")
						c.Send(publishPacket("held/t", "x", qos, 9))
						p := receive(t, r.broker.held, "a publication")
						for _, code := range tc.receipts {
							p.Expect()
							p.settle(code)
						}
						p.settle(packet.NoMatchingSubscribers)
						if version == v3 && tc.want.Failure() {
							c.ExpectClosed() // 3.1.1 has no way to say no
							return
						}
						ack := c.ExpectAck(ackFor(qos), 9)
						if version == v5 && ack.ReasonCode != byte(tc.want) {
							t.Fatalf("reason code %#x, want %#x", ack.ReasonCode, byte(tc.want))
						}
						c.ExpectNothing()
					})
				})
			}
		})
	}
}

func TestMoreMessagesInFlightThanReceiveMaximumEndAnMQTT5Connection(t *testing.T) {
	for _, qos := range []byte{1, 2} {
		t.Run(fmt.Sprintf("QoS %d", qos), func(t *testing.T) {
			r := newRig(t, limit(func(l *client.Limits) { l.ReceiveMaximum = 2 }))
			c := r.connect(v5, "a")
			c.Send(publishPacket("held/t", "1", qos, 1))
			c.Send(publishPacket("held/t", "2", qos, 2))
			c.Publish("t", "QoS 0 does not count", 0)
			c.ExpectNothing()
			c.Send(publishPacket("held/t", "3", qos, 3))
			if got := c.ExpectClosed(); got != 0x93 {
				t.Fatalf("DISCONNECT %#x", got)
			}
		})
	}
}

func TestAQoS2MessageIsForwardedOnceHoweverOftenItIsSent(t *testing.T) {
	versions(t, func(t *testing.T, version byte) {
		r := newRig(t)
		c := r.connect(version, "a")
		first := publishPacket("held/t", "once", 2, 7)
		again := first
		again.FixedHeader.Dup = true
		c.Send(first)
		p := receive(t, r.broker.held, "a publication")
		c.Send(again) // its PUBREC is still to come
		c.ExpectNothing()
		p.settle(packet.Success)
		c.ExpectAck(packets.Pubrec, 7)
		c.ExpectNothing()
		c.Send(again) // its PUBREC got lost
		if ack := c.ExpectAck(packets.Pubrec, 7); ack.ReasonCode != 0 {
			t.Fatalf("PUBREC %#x for a repetition", ack.ReasonCode)
		}
		c.Ack(packets.Pubrel, 7)
		c.ExpectAck(packets.Pubcomp, 7)
		c.Ack(packets.Pubrel, 7)
		if ack := c.ExpectAck(packets.Pubcomp, 7); version == v5 && ack.ReasonCode != 0x92 {
			t.Fatalf("PUBCOMP %#x for an unknown identifier", ack.ReasonCode)
		}
		if n := len(r.broker.published); n != 1 {
			t.Fatalf("forwarded %d times", n)
		}
		c.Send(publishPacket("t", "the identifier is free again", 2, 7))
		c.ExpectAck(packets.Pubrec, 7)
	})
}

func TestAPacketIdentifierInUseAtAnotherQoSIsAProtocolError(t *testing.T) {
	versions(t, func(t *testing.T, version byte) {
		r := newRig(t)
		c := r.connect(version, "a")
		c.Send(publishPacket("held/t", "x", 1, 7))
		c.Send(publishPacket("held/t", "x", 2, 7))
		if got := c.ExpectClosed(); version == v5 && got != 0x82 {
			t.Fatalf("DISCONNECT %#x", got)
		}
	})
}

func TestADeniedPublishIsRefusedAsFarAsItsVersionAllows(t *testing.T) {
	cases := []struct {
		name    string
		version byte
		qos     byte
		code    byte // of the acknowledgement; 0: none
		closed  bool
	}{
		{"3.1.1 QoS 0 is dropped", v3, 0, 0, false},
		{"3.1.1 QoS 1 ends the connection", v3, 1, 0, true},
		{"3.1.1 QoS 2 ends the connection", v3, 2, 0, true},
		{"5 QoS 0 is dropped", v5, 0, 0, false},
		{"5 QoS 1", v5, 1, 0x87, false},
		{"5 QoS 2", v5, 2, 0x87, false},
	}
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			r := newRig(t, deny(rules.Publish, "secret"))
			c := r.connect(tc.version, "a")
			c.Send(publishPacket("secret", "x", tc.qos, 5*uint16(min(tc.qos, 1))))
			if tc.code != 0 {
				if ack := c.ExpectAck(ackFor(tc.qos), 5); ack.ReasonCode != tc.code {
					t.Fatalf("reason code %#x", ack.ReasonCode)
				}
			}
			if tc.closed {
				c.ExpectClosed()
				c.Close()
				r.awaitServed(1)
				if r.metric("beeline_gateway_clients_closed_total", "reason=denied") != 1 {
					t.Error("not counted as denied")
				}
			} else {
				c.ExpectNothing()
				c.Send(publishPacket("allowed", "x", 2, 5)) // the identifier is free
				c.ExpectAck(packets.Pubrec, 5)
				wantDrops(t, r.broker.client("a"), fmt.Sprintf("secret %d not_authorized by a", tc.qos))
			}
			if n := r.metric("beeline_gateway_messages_dropped_total", "reason=not_authorized"); n != 1 {
				t.Errorf("%v drops counted", n)
			}
			for len(r.broker.published) > 0 {
				if m := <-r.broker.published; m.Topic == "secret" {
					t.Error("forwarded all the same")
				}
			}
		})
	}
}

func TestADenialWaitsForItsPlaceAmongTheAcknowledgements(t *testing.T) {
	r := newRig(t, deny(rules.Publish, "secret"))
	c := r.connect(v5, "a")
	c.Send(publishPacket("held/t", "x", 1, 1))
	c.Send(publishPacket("secret", "x", 1, 2))
	c.ExpectNothing()
	receive(t, r.broker.held, "a publication").settle(packet.Success)
	c.ExpectAck(packets.Puback, 1)
	c.ExpectAck(packets.Puback, 2)
}

func TestAPublicationWithoutItsReceiptsFailsInTheEnd(t *testing.T) {
	for _, qos := range []byte{1, 2} {
		t.Run(fmt.Sprintf("QoS %d", qos), func(t *testing.T) {
			versions(t, func(t *testing.T, version byte) {
				r := newRig(t)
				c, attached := r.attached(version, "a")
				c.Send(publishPacket("held/t", "x", qos, 1))
				p := receive(t, r.broker.held, "a publication")
				c.ExpectNothing()
				attached.Sweep(p.Since().Add(r.limits.ReceiptTimeout), false)
				c.ExpectNothing()
				if p.Overdue() {
					t.Fatal("overdue before its time")
				}
				attached.Sweep(p.Since().Add(r.limits.ReceiptTimeout+1), false)
				if !p.Overdue() {
					t.Error("not overdue")
				}
				if version == v3 {
					c.ExpectClosed()
					c.Close()
					r.awaitServed(1)
					if r.metric("beeline_gateway_clients_closed_total", "reason=undelivered") != 1 {
						t.Error("not counted as undelivered")
					}
					return
				}
				if ack := c.ExpectAck(ackFor(qos), 1); ack.ReasonCode != 0x80 {
					t.Fatalf("reason code %#x", ack.ReasonCode)
				}
				p.settle(packet.Success) // too late
				c.ExpectNothing()
			})
		})
	}
}

func TestATopicNobodyMayPublishToEndsTheConnection(t *testing.T) {
	cases := map[string]string{
		"wildcard":                   "a/+",
		"too long":                   strings.Repeat("a/", 10) + strings.Repeat("x", 1024),
		"too many levels":            strings.Repeat("a/", 32),
		"half a direct address":      "p2p/b",
		"direct address misspelt":    "p2p/b%2f/x",
		"direct address of nobody":   "p2p//x",
		"level too long":             strings.Repeat("x", 257),
		"direct address with a hole": "p2p/b/",
	}
	for name, topic := range cases {
		t.Run(name, func(t *testing.T) {
			versions(t, func(t *testing.T, version byte) {
				r := newRig(t)
				c := r.connect(version, "a")
				c.Send(publishPacket(topic, "x", 0, 0))
				if got := c.ExpectClosed(); version == v5 && got != 0x90 {
					t.Fatalf("DISCONNECT %#x", got)
				}
				if len(r.broker.published) > 0 {
					t.Error("forwarded all the same")
				}
			})
		})
	}
}

func TestAMessageHasEverythingThatItsPublisherSaid(t *testing.T) {
	r := newRig(t)
	c := r.connect(v5, "a")
	p := publishPacket("t/1", "hello", 1, 3)
	p.Properties = packets.Properties{
		PayloadFormat: 1, PayloadFormatFlag: true, MessageExpiryInterval: 60, ContentType: "text/plain",
		ResponseTopic: "r", CorrelationData: []byte{1, 2}, User: []packets.UserProperty{{Key: "k", Val: "v"}, {Key: "k", Val: "w"}},
	}
	p.Mods.AllowResponseInfo = true // or the test's codec leaves Response Topic out
	before := time.Now()
	c.Send(p)
	c.ExpectAck(packets.Puback, 3)
	got := receive(t, r.broker.published, "the message")
	if got.Expires.Before(before.Add(time.Minute)) || got.Expires.After(time.Now().Add(time.Minute)) {
		t.Errorf("expires %v after it was sent, want a minute", got.Expires.Sub(before))
	}
	got.Expires = time.Time{}
	want := &message.Message{
		ID: message.ID{Origin: "g1", Seq: 1}, Publisher: "a", Topic: "t/1", Payload: []byte("hello"), QoS: 1,
		Props: &message.Properties{
			PayloadFormat: 1, HasPayloadFormat: true, ContentType: "text/plain", ResponseTopic: "r",
			CorrelationData: []byte{1, 2}, User: []message.UserProperty{{Name: "k", Value: "v"}, {Name: "k", Value: "w"}},
		},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestAPacketAboveTheServersMaximumIsRefusedBeforeItHasCome(t *testing.T) {
	versions(t, func(t *testing.T, version byte) {
		r := newRig(t, limit(func(l *client.Limits) { l.PacketBytes = 1000 }))
		c := r.connect(version, "a")
		c.MustSubscribe("t", 0)
		most := rawmqtt.Bytes(t, withVersion(rawmqtt.PublishPacket("t", "", 0), version))
		payload := strings.Repeat("x", 1000-len(most)-1) // one byte more for the Remaining Length
		c.Publish("t", payload, 0)
		c.ReceivePayload(payload)
		c.SendRaw([]byte{0x30, 0xE6, 0x07}) // 998 bytes follow, they say: 1,001 in all
		if got := c.ExpectClosed(); version == v5 && got != 0x95 {
			t.Fatalf("DISCONNECT %#x", got)
		}
		c.Close()
		r.awaitServed(1)
		if r.metric("beeline_gateway_clients_closed_total", "reason=too_large") != 1 {
			t.Error("not counted as too_large")
		}
	})
}

func withVersion(p packets.Packet, version byte) packets.Packet {
	p.ProtocolVersion = version
	return p
}

func TestPublishersOfManyMessagesAtATimeGetEveryAcknowledgementInOrder(t *testing.T) {
	versions(t, func(t *testing.T, version byte) {
		r := newRig(t)
		c := r.connect(version, "a")
		sub := r.connect(version, "b")
		sub.MustSubscribe("t", 1)
		const n = 100
		var all []byte
		for i := range n {
			all = append(all, rawmqtt.Bytes(t, withVersion(publishPacket("t", fmt.Sprint(i), 1, uint16(i+1)), version))...)
		}
		for part := range slices.Chunk(all, 7) { // cut across packets
			c.SendRaw(part)
		}
		for i := range n {
			c.ExpectAck(packets.Puback, uint16(i+1))
			sub.ReceivePayload(fmt.Sprint(i))
		}
	})
}
