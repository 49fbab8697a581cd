package client_test

import (
	"context"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/beeline-mqtt/beeline/services/gateway/internal/auth"
	"github.com/beeline-mqtt/beeline/services/gateway/internal/client"
	"github.com/beeline-mqtt/beeline/services/gateway/internal/rules"
	"github.com/beeline-mqtt/beeline/test/rawmqtt"
)

func TestAConnectionEndsWithItsIdentity(t *testing.T) {
	versions(t, func(t *testing.T, version byte) {
		end := time.Now().Add(time.Hour)
		r := newRig(t, func(r *rig) {
			r.deps.Authenticate = func(ctx context.Context, a auth.Attempt) (auth.Identity, error) {
				id, err := auth.AllowAnonymous(ctx, a)
				id.Expires = end
				return id, err
			}
		})
		c, attached := r.attached(version, "a", keepAlive(0), will("wills", "gone", 1))
		c.SendRaw([]byte{0xC0, 0})
		c.Expect(packets.Pingresp)
		attached.Sweep(end.Add(-time.Second), true)
		c.ExpectNothing()
		attached.Sweep(end, true)
		if version == v5 {
			if p := c.Expect(packets.Disconnect); p.ReasonCode != 0xA0 || p.Properties.ReasonString == "" {
				t.Errorf("DISCONNECT %#x (%q), want 0xA0 with a reason", p.ReasonCode, p.Properties.ReasonString)
			}
		}
		c.ExpectClosed()
		c.Close()
		receive(t, attached.Gone(), "its being gone")
		r.awaitServed(1)
		if diff := cmp.Diff(client.Ending{Reason: "expired"}, attached.Ending()); diff != "" {
			t.Error(diff)
		}
		if r.metric("beeline_gateway_clients_closed_total", "reason=expired") != 1 {
			t.Error("not counted")
		}
	})
}

func TestASessionForgetsWhatItsClientMayNotSubscribeToAnyMore(t *testing.T) {
	versions(t, func(t *testing.T, version byte) {
		forbidden := "none"
		r := newRig(t, func(r *rig) {
			r.deps.Authorize = func(_ auth.Identity, q rules.Request) bool { return q.Topic != forbidden }
		})
		c := r.connect(version, "a", lasting)
		for _, f := range []string{"a/#", "b/#", "$share/g/b/#"} {
			c.MustSubscribe(f, 1)
		}
		c.Close()
		r.awaitServed(1)
		forbidden = "b/#"
		c, _ = rawmqtt.Come(t, r.addr, version, "a", lasting)
		attached := r.broker.client("a")
		if diff := cmp.Diff([]string{"a/#"}, attached.Filters()); diff != "" {
			t.Error("it has: " + diff)
		}
		r.shelf.mu.Lock()
		kept := len(r.shelf.sessions["a"].filters)
		r.shelf.mu.Unlock()
		if kept != 1 {
			t.Errorf("%d filters are stored", kept)
		}
		c.ExpectNothing()
	})
}

// BenchmarkAuthorizedPublish is BenchmarkPublish with the rules of a file asked.
func BenchmarkAuthorizedPublish(b *testing.B) {
	set, err := rules.ParseFile([]byte(`rules:
- {permission: deny, action: all, topic: "secret/#"}
- {permission: allow, action: all, topic: "p2p/#"}
- {permission: allow, action: publish, topic: ["up/${clientid}/#", "bench/+"]}
`))
	if err != nil {
		b.Fatal(err)
	}
	for name, authorize := range map[string]auth.Authorize{
		"all": auth.AllowAll,
		"rules": func(id auth.Identity, q rules.Request) bool {
			return set.Decide(rules.Client{ID: id.ClientID, Username: id.Username}, q) == rules.Allowed
		},
	} {
		b.Run(name, func(b *testing.B) {
			r := newRig(b, func(r *rig) { r.deps.Broker, r.deps.Authorize = new(sink), authorize })
			c := r.connect(v3, "a")
			const batch = 16
			var sent []byte
			for range batch {
				sent = append(sent, rawmqtt.Bytes(b, withVersion(publishPacket("bench/topic", string(make([]byte, 100)), 0, 0), v3))...)
			}
			sent = append(sent, 0xC0, 0)
			got := make([]byte, 2)
			b.ReportAllocs()
			n := 0
			for b.Loop() {
				if n%batch == 0 {
					exchange(b, c, sent, got)
				}
				n++
			}
		})
	}
}
