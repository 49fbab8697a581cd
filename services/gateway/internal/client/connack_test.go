package client_test

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/beeline-mqtt/beeline/services/gateway/internal/client"
	"github.com/beeline-mqtt/beeline/test/rawmqtt"
)

func TestConnackAnnouncesEveryLimitThatHasAProperty(t *testing.T) {
	r := newRig(t, limit(func(l *client.Limits) {
		l.ReceiveMaximum, l.PacketBytes, l.TopicAliases = 77, 100_000, 9
	}))
	ack := rawmqtt.Dial(t, r.addr, v5).Hello("a")
	want := packets.Properties{
		ReceiveMaximum: 77, MaximumPacketSize: 100_000, TopicAliasMaximum: 9,
		RetainAvailable: 1, RetainAvailableFlag: true,
	}
	if diff := cmp.Diff(want, ack.Properties); diff != "" || ack.ReasonCode != 0 || ack.SessionPresent {
		t.Fatalf("CONNACK %#x: %s", ack.ReasonCode, diff)
	}
}

func TestConnackOf311IsFourBytes(t *testing.T) {
	r := newRig(t)
	c := rawmqtt.Dial(t, r.addr, v3)
	c.Send(rawmqtt.ConnectPacket(v3, "a"))
	got := make([]byte, 4)
	if _, err := c.Conn().Read(got); err != nil || !bytes.Equal(got, []byte{0x20, 2, 0, 0}) {
		t.Fatalf("% x, %v", got, err)
	}
	c.ExpectNothing()
}

func TestAClientWithoutAnIDGetsOneThatIsItsOwn(t *testing.T) {
	versions(t, func(t *testing.T, version byte) {
		r := newRig(t)
		ids := make(map[string]bool)
		for range 3 {
			c := rawmqtt.Dial(t, r.addr, version)
			ack := c.Hello("")
			if ack.ReasonCode != 0 {
				t.Fatalf("CONNACK %#x", ack.ReasonCode)
			}
			if version == v5 {
				id := ack.Properties.AssignedClientID
				if len(id) < 20 || ids[id] || r.broker.client(id) == nil {
					t.Fatalf("assigned %q", id)
				}
				ids[id] = true
			}
		}
		if n := r.metric("beeline_gateway_clients"); n != 3 {
			t.Fatalf("%v clients, want 3", n)
		}
	})
}

func TestASessionOutlivesItsConnectionForAsLongAsItsClientAsksAndItMay(t *testing.T) {
	const never = 1<<32 - 1
	cases := []struct {
		name     string
		version  byte
		most     time.Duration
		opts     []rawmqtt.Option
		want     uint32
		answered bool // in CONNACK, because it is not what was asked for
	}{
		{"5: nothing asked", v5, time.Hour, nil, 0, false},
		{"5: nothing asked, and no clean start", v5, time.Hour, []rawmqtt.Option{unclean}, 0, false},
		{"5: 0 asked", v5, time.Hour, []rawmqtt.Option{sessionExpiry(0)}, 0, false},
		{"5: the most asked", v5, time.Hour, []rawmqtt.Option{sessionExpiry(3600)}, 3600, false},
		{"5: more asked", v5, time.Hour, []rawmqtt.Option{sessionExpiry(3601)}, 3600, true},
		{"5: for ever asked", v5, time.Hour, []rawmqtt.Option{sessionExpiry(never), unclean}, 3600, true},
		{"5: none may", v5, 0, []rawmqtt.Option{sessionExpiry(3600)}, 0, true},
		{"3.1.1: clean", v3, time.Hour, nil, 0, false},
		{"3.1.1: not clean", v3, time.Hour, []rawmqtt.Option{unclean}, 3600, false},
		{"3.1.1: none may", v3, 0, []rawmqtt.Option{unclean}, 0, false},
	}
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			r := newRig(t, limit(func(l *client.Limits) { l.SessionExpiryMaximum = tc.most }))
			p := rawmqtt.Dial(t, r.addr, tc.version).Hello("a", tc.opts...).Properties
			attached := r.broker.client("a")
			if got := attached.Terms().Expiry; got != tc.want || attached.Durable() != (tc.want > 0) {
				t.Errorf("%d seconds, durable: %v; want %d", got, attached.Durable(), tc.want)
			}
			if p.SessionExpiryIntervalFlag != tc.answered || tc.answered && p.SessionExpiryInterval != tc.want {
				t.Errorf("Session Expiry Interval %d, present: %v", p.SessionExpiryInterval, p.SessionExpiryIntervalFlag)
			}
		})
	}
}

func TestServerKeepAliveIsGivenToMQTT5ClientsThatAskForMoreOrForNone(t *testing.T) {
	cases := []struct {
		name    string
		version byte
		asked   uint16
		given   uint16 // 0: none
	}{
		{"5: a minute is taken", v5, 60, 0},
		{"5: the maximum is taken", v5, 1200, 0},
		{"5: none", v5, 0, 1200},
		{"5: a second more", v5, 1201, 1200},
		{"5: 43,691", v5, 43691, 1200},
		{"5: 65,535", v5, 65535, 1200},
		{"3.1.1: none", v3, 0, 0},
		{"3.1.1: 65,535", v3, 65535, 0},
	}
	r := newRig(t)
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			p := rawmqtt.Dial(t, r.addr, tc.version).Hello("a", keepAlive(tc.asked)).Properties
			if p.ServerKeepAliveFlag != (tc.given > 0) || p.ServerKeepAlive != tc.given {
				t.Fatalf("Server Keep Alive %d, present: %v", p.ServerKeepAlive, p.ServerKeepAliveFlag)
			}
		})
	}
}

func TestAClientMayBeSilentForOneAndAHalfTimesItsKeepAlive(t *testing.T) {
	long := limit(func(l *client.Limits) { l.KeepAliveMaximum = 65535 * time.Second })
	cases := []struct {
		name          string
		version       byte
		change        func(*rig)
		keepAlive     uint16
		alive, closed time.Duration // after connecting; closed 0: never
	}{
		{"3.1.1: a second", v3, long, 1, time.Second, 2 * time.Second},
		{"3.1.1: 43,690", v3, long, 43690, 65534 * time.Second, 65536 * time.Second},
		{"3.1.1: 43,691, where uint16 overflows", v3, long, 43691, 65536 * time.Second, 65538 * time.Second},
		{"3.1.1: 65,535", v3, long, 65535, 98302 * time.Second, 98304 * time.Second},
		{"3.1.1: none", v3, long, 0, 10 * 365 * 24 * time.Hour, 0},
		{"5: a second", v5, long, 1, time.Second, 2 * time.Second},
		{"5: 43,691", v5, long, 43691, 65536 * time.Second, 65538 * time.Second},
		{"5: 65,535", v5, long, 65535, 98302 * time.Second, 98304 * time.Second},
		{"5: none, which becomes the maximum", v5, func(*rig) {}, 0, 1799 * time.Second, 1801 * time.Second},
	}
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			r := newRig(t, tc.change)
			connected := time.Now()
			c, attached := r.attached(tc.version, "a", keepAlive(tc.keepAlive))
			attached.Sweep(connected.Add(tc.alive), false)
			c.ExpectNothing()
			if tc.closed == 0 {
				return
			}
			attached.Sweep(time.Now().Add(tc.closed), true) // the process was held up: that proves nothing
			c.ExpectNothing()
			attached.Sweep(time.Now().Add(tc.closed), false)
			want := byte(0)
			if tc.version == v5 {
				want = 0x8D
			}
			if got := c.ExpectClosed(); got != want {
				t.Fatalf("DISCONNECT %#x, want %#x", got, want)
			}
			c.Close()
			r.awaitServed(1)
			if r.metric("beeline_gateway_clients_closed_total", "reason=keep_alive") != 1 {
				t.Error("not counted as keep_alive")
			}
		})
	}
}

func TestEveryPacketCountsForKeepAlive(t *testing.T) {
	versions(t, func(t *testing.T, version byte) {
		r := newRig(t)
		c, attached := r.attached(version, "a", keepAlive(10))
		connected := time.Now()
		for time.Since(connected) < 2*time.Millisecond { // the clock has to move for the bound below to tell
			c.ExpectNothing()
		}
		c.Publish("t", "x", 0)
		c.ExpectNothing()
		attached.Sweep(connected.Add(15*time.Second+time.Millisecond), false)
		c.ExpectNothing()
	})
}

func TestAClientIsNotSilentWhileItWaitsForItsConnack(t *testing.T) {
	versions(t, func(t *testing.T, version byte) {
		attaching, attach := make(chan *client.Client), make(chan struct{})
		r := newRig(t, func(r *rig) {
			r.broker.onAttach = holdAttach(attaching, attach)
		})
		c := rawmqtt.Dial(t, r.addr, version)
		c.Send(rawmqtt.ConnectPacket(version, "a", keepAlive(1)))
		receive(t, attaching, "attaching").Sweep(time.Now().Add(time.Hour), false)
		close(attach)
		if ack := c.Expect(packets.Connack); ack.ReasonCode != 0 {
			t.Fatalf("CONNACK %#x", ack.ReasonCode)
		}
		c.ExpectNothing()
	})
}

func TestALongIDIsTakenUpToItsLimit(t *testing.T) {
	versions(t, func(t *testing.T, version byte) {
		r := newRig(t)
		id := strings.Repeat("ü", 128) // 256 bytes
		r.connect(version, id)
		if r.broker.client(id) == nil {
			t.Fatal("not attached under its id")
		}
	})
}
