package client_test

import (
	"encoding/binary"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/beeline-mqtt/beeline/internal/journal"
	"github.com/beeline-mqtt/beeline/internal/message"
	"github.com/beeline-mqtt/beeline/internal/packet"
	"github.com/beeline-mqtt/beeline/services/gateway/internal/client"
	"github.com/beeline-mqtt/beeline/test/rawmqtt"
)

// end is one way in which a connection ends.
type end struct {
	name     string
	versions []byte
	by       func(r *rig, c *rawmqtt.Client, attached *client.Client)
	reason   byte // of the DISCONNECT that an MQTT 5 client gets; 0: none
	will     bool // may be published
	counted  string
}

// shown is the reason as those see it who watch who connects and disconnects.
func (e end) shown() string {
	fewer := map[string]string{"keep_alive": "keepalive", "taken_over": "replaced", "malformed": "protocol"}
	if word, other := fewer[e.counted]; other {
		return word
	}
	return e.counted
}

// disconnect is a DISCONNECT with a reason code and properties, of MQTT 5 unless both are missing.
func disconnect(body ...byte) func(*rig, *rawmqtt.Client, *client.Client) {
	return func(_ *rig, c *rawmqtt.Client, _ *client.Client) { c.SendRaw(raw(0xE0, body...)) }
}

func ends() []end {
	both, five := []byte{v3, v5}, []byte{v5}
	return []end{
		{"DISCONNECT", both, disconnect(), 0, false, "client"},
		{"DISCONNECT 0x00", five, disconnect(0), 0, false, "client"},
		{"DISCONNECT with will", five, disconnect(4), 0, true, "client"},
		{"DISCONNECT with will, and properties", five, disconnect(4, 0), 0, true, "client"},
		{"DISCONNECT with an error", five, disconnect(0x80), 0, true, "client"},
		{"DISCONNECT with an expiry that was not asked for", five, disconnect(0, 5, 0x11, 0, 0, 0, 9), 0x82, true, "protocol"},
		{"socket closed", both, func(_ *rig, c *rawmqtt.Client, _ *client.Client) { c.Close() }, 0, true, "network"},
		{"socket closed within a packet", both, func(_ *rig, c *rawmqtt.Client, _ *client.Client) {
			c.SendRaw([]byte{0x30, 100, 0, 1, 't'})
			c.Close()
		}, 0, true, "network"},
		{"malformed packet", both, func(_ *rig, c *rawmqtt.Client, _ *client.Client) { c.SendRaw([]byte{0x36, 0}) }, 0x81, true, "malformed"},
		{"truncated SUBSCRIBE that kills other brokers", five, func(_ *rig, c *rawmqtt.Client, _ *client.Client) {
			c.SendRaw([]byte{0x82, 5, 0, 1, 0, 0, 0})
		}, 0x81, true, "malformed"},
		{"second CONNECT", both, func(_ *rig, c *rawmqtt.Client, _ *client.Client) {
			c.Send(rawmqtt.ConnectPacket(c.Version, "a"))
		}, 0x82, true, "protocol"},
		{"AUTH", five, func(_ *rig, c *rawmqtt.Client, _ *client.Client) { c.SendRaw(raw(0xF0)) }, 0x82, true, "protocol"},
		{"packet of a server", both, func(_ *rig, c *rawmqtt.Client, _ *client.Client) { c.SendRaw(raw(0xD0)) }, 0x82, true, "protocol"},
		{"taken over", both, func(_ *rig, _ *rawmqtt.Client, a *client.Client) { a.Stop(client.TakenOver()) }, 0x8E, true, "taken_over"},
		{"keep alive", both, func(_ *rig, _ *rawmqtt.Client, a *client.Client) {
			a.Sweep(time.Now().Add(91*time.Second), false)
		}, 0x8D, true, "keep_alive"},
		{"gateway stops", both, func(r *rig, _ *rawmqtt.Client, _ *client.Client) { r.end() }, 0x8B, false, "shutdown"},
		{"moved to another gateway", both, func(_ *rig, _ *rawmqtt.Client, a *client.Client) {
			a.Stop(client.Moved("other:1883"))
		}, 0x9C, false, "moved"},
		{"moved to whichever gateway", both, func(_ *rig, _ *rawmqtt.Client, a *client.Client) {
			a.Stop(client.Moved(""))
		}, 0x98, false, "moved"},
		{"incarnation has ended", both, func(r *rig, c *rawmqtt.Client, _ *client.Client) {
			r.out.Store(true)
			c.Send(publishPacket("t", "nobody may act on this", 1, 1))
		}, 0x8B, false, "shutdown"},
		{"connection lost after the incarnation", both, func(r *rig, c *rawmqtt.Client, _ *client.Client) {
			r.out.Store(true)
			c.Close()
		}, 0, false, "shutdown"},
		{"taken over after the incarnation", both, func(r *rig, _ *rawmqtt.Client, a *client.Client) {
			r.out.Store(true)
			a.Stop(client.TakenOver())
		}, 0x8E, true, "taken_over"},
		{"stopped twice: the first cause counts", both, func(_ *rig, _ *rawmqtt.Client, a *client.Client) {
			a.Stop(client.ShuttingDown())
			a.Stop(client.TakenOver())
		}, 0x8B, false, "shutdown"},
	}
}

func TestHowAConnectionEnds(t *testing.T) {
	for _, tc := range ends() {
		t.Run(tc.name, func(t *testing.T) {
			versions(t, func(t *testing.T, version byte) {
				for _, v := range tc.versions {
					if v == version {
						testEnd(t, version, tc)
					}
				}
			})
		})
	}
}

func testEnd(t *testing.T, version byte, tc end) {
	t.Helper()
	r := newRig(t)
	c, attached := r.attached(version, "a", will("wills", "gone", 1))
	tc.by(r, c, attached)
	want := tc.reason
	if version == v3 {
		want = 0 // a server of 3.1.1 just closes
	}
	if want != 0 {
		p := c.Expect(packets.Disconnect)
		if p.ReasonCode != want || p.Properties.ReasonString == "" {
			t.Errorf("DISCONNECT %#x (%q), want %#x with a reason", p.ReasonCode, p.Properties.ReasonString, want)
		}
	}
	if late := c.ExpectClosed(); late != 0 {
		t.Errorf("DISCONNECT %#x", late)
	}
	c.Close()
	receive(t, attached.Gone(), "its being gone")
	r.awaitServed(1)
	if r.broker.client("a") != nil {
		t.Error("still attached")
	}
	if diff := cmp.Diff(client.Ending{WithoutWill: !tc.will, Reason: tc.shown()}, attached.Ending()); diff != "" {
		t.Error(diff)
	}
	if len(r.broker.published) > 0 {
		t.Error("published its will itself")
	}
	if r.metric("beeline_gateway_clients_closed_total", "reason="+tc.counted) != 1 {
		t.Errorf("not counted as %s", tc.counted)
	}
	if n := r.metric("beeline_gateway_clients"); n != 0 {
		t.Errorf("%v clients are still counted", n)
	}
}

func TestAClientThatAskedForALongSessionMayAskAgainWhenItLeaves(t *testing.T) {
	for _, tc := range []struct {
		name        string
		asked, told uint32
	}{{"less", 9, 9}, {"more", 90, 90}, {"more than it may", 1 << 30, 3600}, {"none", 0, 0}} {
		t.Run(tc.name, func(t *testing.T) {
			r := newRig(t, limit(func(l *client.Limits) { l.SessionExpiryMaximum = time.Hour }))
			c, attached := r.attached(v5, "a", sessionExpiry(60), will("wills", "gone", 0))
			c.SendRaw(binary.BigEndian.AppendUint32([]byte{0xE0, 7, 0, 5, 0x11}, tc.asked))
			if got := c.ExpectClosed(); got != 0 {
				t.Fatalf("DISCONNECT %#x", got)
			}
			c.Close()
			receive(t, attached.Gone(), "its being gone")
			want := client.Ending{WithoutWill: true, Expiry: tc.told, NewExpiry: &tc.told, Reason: "client"}
			if diff := cmp.Diff(want, attached.Ending()); diff != "" {
				t.Error(diff)
			}
			if attached.Continues() != (tc.told > 0) {
				t.Errorf("the session goes on: %v", attached.Continues())
			}
		})
	}
}

func TestTheReasonOfADisconnectIsForClientsThatWantIt(t *testing.T) {
	r := newRig(t)
	c, attached := r.attached(v5, "a", noProblemInfo)
	attached.Stop(client.TakenOver())
	if p := c.Expect(packets.Disconnect); p.ReasonCode != 0x8E || p.Properties.ReasonString != "" {
		t.Fatalf("DISCONNECT %#x with %q", p.ReasonCode, p.Properties.ReasonString)
	}
}

func TestAWillIsClaimedWithEverythingThatItsClientSaid(t *testing.T) {
	r := newRig(t)
	c, attached := r.attached(v5, "a", sessionExpiry(300), func(p *packets.Packet) {
		will("wills", "gone", 2)(p)
		p.Connect.WillRetain = true
		p.Connect.WillProperties = packets.Properties{
			WillDelayInterval: 3600, PayloadFormat: 1, PayloadFormatFlag: true, MessageExpiryInterval: 60, ContentType: "text/plain",
			User: []packets.UserProperty{{Key: "k", Val: "v"}},
		}
	})
	want := client.Terms{CleanStart: true, Expiry: 300, Will: &journal.Will{
		Message: &message.Message{Topic: "wills", Payload: []byte("gone"), QoS: 2, Retain: true, Props: &message.Properties{
			PayloadFormat: 1, HasPayloadFormat: true, ContentType: "text/plain", User: []message.UserProperty{{Name: "k", Value: "v"}},
		}},
		Expiry: time.Minute, HasExpiry: true, Delay: time.Hour,
	}}
	if diff := cmp.Diff(want, attached.Terms()); diff != "" {
		t.Error(diff)
	}
	c.Close()
	receive(t, attached.Gone(), "its being gone")
	if len(r.broker.published) > 0 {
		t.Error("published by the gateway of its own accord")
	}
}

func TestAWillOf311MayBeRetained(t *testing.T) {
	r := newRig(t)
	_, attached := r.attached(v3, "a", will("wills", "gone", 0), retainedWill)
	want := &journal.Will{Message: &message.Message{Topic: "wills", Payload: []byte("gone"), Retain: true}}
	if diff := cmp.Diff(want, attached.Terms().Will); diff != "" {
		t.Error(diff)
	}
}

func TestTheOldConnectionIsToldOfEveryTakeoverEvenUnderLoad(t *testing.T) {
	r := newRig(t)
	const takeovers = 50
	c, attached := r.attached(v5, "a")
	for i := range takeovers {
		for range 20 {
			deliver(attached, delivery("t", "load", 0))
		}
		var next *rawmqtt.Client
		next, attachedNext := r.attached(v5, "a")
		for {
			p, err := c.Next(rawmqtt.Patience)
			if err != nil {
				t.Fatalf("takeover %d: no DISCONNECT: %v", i, err)
			}
			if p.FixedHeader.Type == packets.Disconnect {
				if p.ReasonCode != 0x8E {
					t.Fatalf("DISCONNECT %#x", p.ReasonCode)
				}
				break
			}
		}
		receive(t, attached.Gone(), "its being gone")
		c, attached = next, attachedNext
	}
	c.ExpectNothing()
}

func TestAnEndedClientTakesAndOffersNothing(t *testing.T) {
	r := newRig(t)
	c, attached := r.attached(v5, "a")
	c.Send(publishPacket("held/t", "x", 1, 1))
	p := receive(t, r.broker.held, "a publication")
	attached.Stop(client.TakenOver())
	if attached.HasRoom() {
		t.Error("chosen for shared subscriptions after it was stopped")
	}
	if o := deliver(attached, delivery("t", "x", 1)); o.String() != "ended" {
		t.Errorf("%v after it was stopped", o)
	}
	c.ExpectClosed()
	receive(t, attached.Gone(), "its being gone")
	p.settle(packet.Success) // nobody to tell
	attached.Sweep(time.Now().Add(time.Hour), false)
	attached.Stop(client.ShuttingDown())
}

func TestAConnectionThatComesAfterTheEndIsClosedAtOnce(t *testing.T) {
	r := newRig(t)
	r.end()
	nc := rawmqtt.Dial(t, r.addr, v5)
	nc.ExpectClosed()
	r.awaitServed(1) // and not after ConnectTimeout
}
