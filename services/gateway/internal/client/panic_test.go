package client_test

import (
	"strings"
	"testing"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/beeline-mqtt/beeline/internal/message"
	"github.com/beeline-mqtt/beeline/services/gateway/internal/auth"
	"github.com/beeline-mqtt/beeline/services/gateway/internal/client"
	"github.com/beeline-mqtt/beeline/services/gateway/internal/rules"
	"github.com/beeline-mqtt/beeline/test/rawmqtt"
)

func TestAPanicEndsTheConnectionThatCausedItAndNoOther(t *testing.T) {
	cases := []struct {
		name     string
		set      func(*rig)
		provoke  func(*rawmqtt.Client)
		detected bool // while the client is there to be told
	}{
		{"in Publish", func(r *rig) {
			r.broker.onPublish = func(_ *client.Client, m *message.Message) {
				if m.Topic == "panic" {
					panic("by order of the test")
				}
			}
		}, func(c *rawmqtt.Client) { c.Send(publishPacket("panic", "secret payload", 1, 1)) }, true},
		{"in Subscribe", func(r *rig) {
			r.broker.onSubscribe = func(filter string, _ func(error) bool) bool {
				if filter == "panic" {
					panic("by order of the test")
				}
				return false
			}
		}, func(c *rawmqtt.Client) {
			c.Send(packets.Packet{
				FixedHeader: packets.FixedHeader{Type: packets.Subscribe}, PacketID: 1, Filters: packets.Subscriptions{{Filter: "panic"}},
			})
		}, true},
		{"in Authorize", func(r *rig) {
			r.deps.Authorize = func(_ auth.Identity, q rules.Request) bool {
				if q.Topic == "panic" {
					panic("by order of the test")
				}
				return true
			}
		}, func(c *rawmqtt.Client) { c.Send(publishPacket("panic", "x", 0, 0)) }, true},
		{"in Detach", func(r *rig) {
			r.broker.onDetach = func(c *client.Client) {
				if c.ID == "a" {
					panic("by order of the test")
				}
			}
		}, func(c *rawmqtt.Client) { c.Close() }, false},
	}
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			versions(t, func(t *testing.T, version byte) {
				r := newRig(t, tc.set)
				other := r.connect(version, "b")
				other.MustSubscribe("t", 0)
				c, attached := r.attached(version, "a", will("wills", "x", 0))
				tc.provoke(c)
				if tc.detected {
					if got := c.ExpectClosed(); version == v5 && got != 0x80 {
						t.Errorf("DISCONNECT %#x", got)
					}
					c.Close()
				}
				receive(t, attached.Gone(), "its being gone")
				r.awaitServed(1)
				if n := r.metric("beeline_gateway_client_panics_total"); n != 1 {
					t.Errorf("%v panics counted", n)
				}
				if log := r.log.String(); !strings.Contains(log, "panic_test.go") || strings.Contains(log, "secret payload") {
					t.Errorf("log: %s", log)
				}
				other.Publish("t", "alive", 0)
				other.ReceivePayload("alive")
				r.connect(version, "a").ExpectNothing() // and so is whoever comes next under that id
			})
		})
	}
}

func TestWhatAReadBroughtBeforeAPanicReachesItsReceivers(t *testing.T) {
	versions(t, func(t *testing.T, version byte) {
		r := newRig(t, func(r *rig) {
			r.broker.onPublish = func(_ *client.Client, m *message.Message) {
				if m.Topic == "panic" {
					panic("by order of the test")
				}
			}
		})
		sub := r.connect(version, "b")
		sub.MustSubscribe("t", 0)
		c := r.connect(version, "a")
		c.SendRaw(append(
			rawmqtt.Bytes(t, withVersion(publishPacket("t", "before", 0, 0), version)),
			rawmqtt.Bytes(t, withVersion(publishPacket("panic", "x", 0, 0), version))...))
		sub.ReceivePayload("before")
		sub.ExpectNothing()
	})
}
