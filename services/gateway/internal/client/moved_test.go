package client_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/beeline-mqtt/beeline/internal/packet"
	"github.com/beeline-mqtt/beeline/services/gateway/internal/client"
	"github.com/beeline-mqtt/beeline/test/rawmqtt"
)

func TestAClientThatIsMovedIsToldWhereTo(t *testing.T) {
	for _, tt := range []struct {
		reference string
		code      byte
	}{{"other.example:1883", 0x9C}, {"", 0x98}} {
		r := newRig(t)
		c, attached := r.attached(v5, "a")
		if !attached.Stop(client.Moved(tt.reference)) {
			t.Error("it is not told, because it had been told before")
		}
		if attached.Stop(client.Moved("another")) {
			t.Error("it is told twice")
		}
		p := c.Expect(packets.Disconnect)
		if p.ReasonCode != tt.code || p.Properties.ServerReference != tt.reference {
			t.Errorf("DISCONNECT %#x, to %q; want %#x, to %q", p.ReasonCode, p.Properties.ServerReference, tt.code, tt.reference)
		}
	}
}

// The session of a client that is moved goes on, and what it has not acknowledged with it; its will does not wait.
func TestADurableClientThatIsMovedLeavesItsSessionAndNoWill(t *testing.T) {
	versions(t, func(t *testing.T, version byte) {
		r := newRig(t)
		c, attached := r.attached(version, "a", lasting, will("wills", "gone", 1))
		waits(t, attached, numbered("g", 1, 1))
		c.Expect(packets.Publish)
		attached.Stop(client.Moved(""))
		c.ExpectClosed()
		c.Close()
		receive(t, attached.Gone(), "its being gone")
		e := attached.Ending()
		if !attached.Continues() || !e.WithoutWill || e.NewExpiry != nil {
			t.Errorf("ending %+v, the session goes on: %t", e, attached.Continues())
		}
		if got := r.shelf.entries("a"); len(got) != 1 {
			t.Errorf("%d entries in its inbox, want 1", len(got))
		}
		next := rawmqtt.Dial(t, r.addr, version)
		if ack := next.Hello("a", lasting); !ack.SessionPresent {
			t.Error("it has no session any more")
		}
		if p := next.Expect(packets.Publish); !p.FixedHeader.Dup {
			t.Error("the message comes again without DUP")
		}
	})
}

// Pipes hold nothing: all that the client has not read is in the output when it is told to go.
func TestWhatAClientThatIsMovedIsOwedIsWrittenBefore(t *testing.T) {
	inTime(t, func(t *testing.T, version byte) {
		r := quiet(t)
		c := r.pipe(version)
		c.Hello("a")
		attached := r.broker.client("a")
		c.Send(publishPacket("held/t", "first", 1, 1))
		first := receive(t, r.broker.held, "a publication")
		c.Send(publishPacket("held/t", "second", 1, 2))
		second := receive(t, r.broker.held, "a publication")
		c.Send(publishPacket("held/t", "third", 1, 3))
		receive(t, r.broker.held, "a publication")
		deliver(attached, delivery("t", "message", 0))
		second.settle(packet.Success)
		first.settle(packet.Success)
		attached.Stop(client.Moved(""))
		c.ReceivePayload("message")
		c.ExpectAck(packets.Puback, 1)
		c.ExpectAck(packets.Puback, 2)
		// The third has not been finished: it is the client's to send again.
		want := byte(0x98)
		if version == v3 {
			want = 0
		}
		if got := c.ExpectClosed(); got != want {
			t.Errorf("DISCONNECT %#x, want %#x", got, want)
		}
	})
}

func TestAClientThatIsMovedAndDoesNotReadIsGivenPatience(t *testing.T) {
	inTime(t, func(t *testing.T, version byte) {
		r := quiet(t)
		c := r.pipe(version)
		c.Hello("a")
		attached := r.broker.client("a")
		deliver(attached, delivery("t", "message", 0))
		synctest.Wait()
		began := time.Now()
		attached.Stop(client.Moved("other:1883"))
		expectAfter(t, attached.Gone(), began, r.limits.Patience, "its end")
		<-r.served
	})
}

func TestAGatewayThatIsDrainedTakesNobody(t *testing.T) {
	for _, tt := range []struct {
		name, reference string
		five            byte
	}{{"another gateway is known", "other:1883", 0x9C}, {"none is known", "", 0x88}} {
		t.Run(tt.name, func(t *testing.T) {
			versions(t, func(t *testing.T, version byte) {
				r := newRig(t, func(r *rig) {
					r.deps.Draining = func() (string, bool) { return tt.reference, true }
				})
				want, reference := tt.five, tt.reference
				if version == v3 {
					want, reference = 3, ""
				}
				c := rawmqtt.Dial(t, r.addr, version)
				if ack := c.Hello("a"); ack.ReasonCode != want || ack.Properties.ServerReference != reference {
					t.Errorf("CONNACK %#x, to %q; want %#x, to %q", ack.ReasonCode, ack.Properties.ServerReference, want, reference)
				}
				c.ExpectClosed()
				if r.metric("beeline_gateway_connects_refused_total", "reason=draining") != 1 {
					t.Error("not counted")
				}
			})
		})
	}
}

func TestAClientThatIsMovedBeforeItsConnackIsToldThere(t *testing.T) {
	for _, tt := range []struct {
		reference string
		five      byte
	}{{"other:1883", 0x9C}, {"", 0x88}} {
		versions(t, func(t *testing.T, version byte) {
			r := newRig(t)
			attaching := make(chan *client.Client, 1)
			r.broker.onAttach = holdAttach(attaching, nil)
			c := rawmqtt.Dial(t, r.addr, version)
			c.Send(rawmqtt.ConnectPacket(version, "a"))
			receive(t, attaching, "the client").Stop(client.Moved(tt.reference))
			want := tt.five
			if version == v3 {
				want = 3
			}
			if ack := c.Expect(packets.Connack); ack.ReasonCode != want {
				t.Errorf("CONNACK %#x, want %#x", ack.ReasonCode, want)
			}
			c.ExpectClosed()
		})
	}
}
