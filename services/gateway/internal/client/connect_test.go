package client_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/beeline-mqtt/beeline/services/gateway/internal/auth"
	"github.com/beeline-mqtt/beeline/services/gateway/internal/client"
	"github.com/beeline-mqtt/beeline/services/gateway/internal/rules"
	"github.com/beeline-mqtt/beeline/test/rawmqtt"
)

// authenticatesWith has every client authenticated with err.
func authenticatesWith(err error) func(*rig) {
	return func(r *rig) {
		r.deps.Authenticate = func(context.Context, auth.Attempt) (auth.Identity, error) { return auth.Identity{}, err }
	}
}

func attachesWith(err error) func(*rig) {
	return func(r *rig) {
		r.broker.onAttach = func(context.Context, *client.Client) error { return err }
	}
}

const accepted = 0xFFF // in the table below: this version takes it

func TestARefusedConnectIsToldWhyInTheWordsOfItsVersion(t *testing.T) {
	cases := []struct {
		name   string
		change func(*rig)
		id     string
		opts   []rawmqtt.Option
		v3, v5 int
	}{
		{name: "empty client id without a clean start", id: "", opts: []rawmqtt.Option{unclean}, v3: 2, v5: accepted},
		{name: "client id too long", id: strings.Repeat("x", 257), v3: 2, v5: 0x85},
		{name: "bad credentials", change: authenticatesWith(auth.ErrBadCredentials), id: "a", v3: 4, v5: 0x86},
		{name: "known and not authorized", change: authenticatesWith(auth.ErrNotAuthorized), id: "a", v3: 5, v5: 0x87},
		{name: "banned", change: authenticatesWith(auth.ErrBanned), id: "a", v3: 5, v5: 0x8A},
		{name: "too many at once", change: authenticatesWith(auth.ErrBusy), id: "a", v3: 3, v5: 0x89},
		{name: "too many failures", change: authenticatesWith(auth.ErrTooManyFailures), id: "a", v3: 3, v5: 0x9F},
		{name: "authenticator does not know", change: authenticatesWith(errTest), id: "a", v3: 3, v5: 0x88},
		{name: "authenticator panics", change: func(r *rig) {
			r.deps.Authenticate = func(context.Context, auth.Attempt) (auth.Identity, error) { panic("by order of the test") }
		}, id: "a", v3: 3, v5: 0x80},
		{name: "cluster is not available", change: func(r *rig) { r.deps.Available = func() bool { return false } }, id: "a", v3: 3, v5: 0x88},
		{name: "lease cannot be taken", change: attachesWith(errTest), id: "a", v3: 3, v5: 0x88},
		{name: "too many clients", change: attachesWith(client.ErrTooManyClients), id: "a", v3: 3, v5: 0x89},
		{name: "broker panics", change: func(r *rig) {
			r.broker.onAttach = func(context.Context, *client.Client) error { panic("by order of the test") }
		}, id: "a", v3: 3, v5: 0x80},
		{name: "will topic with a wildcard", id: "a", opts: []rawmqtt.Option{will("a/+", "w", 0)}, v3: 5, v5: 0x90},
		{name: "will topic too deep", id: "a", opts: []rawmqtt.Option{will(strings.Repeat("a/", 40), "w", 0)}, v3: 5, v5: 0x90},
		{name: "will to half a direct address", id: "a", opts: []rawmqtt.Option{will("p2p/b", "w", 0)}, v3: 5, v5: 0x90},
		{name: "will topic denied", change: deny(rules.Publish, "secret"), id: "a", opts: []rawmqtt.Option{will("secret", "w", 1)}, v3: 5, v5: 0x87},
		{name: "will too large", change: limit(func(l *client.Limits) { l.WillBytes = 3 }), id: "a", opts: []rawmqtt.Option{will("w", "1234", 0)}, v3: 5, v5: 0x95},
		{name: "retained will", id: "a", opts: []rawmqtt.Option{will("w", "w", 0), retainedWill}, v3: accepted, v5: accepted},
		{name: "enhanced authentication", id: "a", opts: []rawmqtt.Option{func(p *packets.Packet) {
			p.Properties.AuthenticationMethod = "SCRAM-SHA-1"
		}}, v3: accepted, v5: 0x8C},
		{name: "Maximum Packet Size below our CONNACK", id: "a", opts: []rawmqtt.Option{maximumPacketSize(10)}, v3: accepted, v5: 0x95},
	}
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			versions(t, func(t *testing.T, version byte) {
				want := tc.v3
				if version == v5 {
					want = tc.v5
				}
				if tc.change == nil {
					tc.change = func(*rig) {}
				}
				r := newRig(t, tc.change)
				c := rawmqtt.Dial(t, r.addr, version)
				ack := c.Hello(tc.id, tc.opts...)
				if want == accepted {
					if ack.ReasonCode != 0 {
						t.Fatalf("CONNACK %#x, want it accepted", ack.ReasonCode)
					}
					c.ExpectNothing()
					return
				}
				if int(ack.ReasonCode) != want || ack.SessionPresent {
					t.Fatalf("CONNACK %#x (session present: %v), want %#x", ack.ReasonCode, ack.SessionPresent, want)
				}
				c.ExpectClosed()
				c.Close()
				r.awaitServed(1)
				if r.metric("beeline_gateway_connects_refused_total") != 1 || r.metric("beeline_gateway_clients") != 0 {
					t.Error("the refusal is not counted as one")
				}
				if got := r.broker.client(tc.id); got != nil {
					t.Error("a refused client is still attached")
				}
			})
		})
	}
}

func TestARefusalNeverSaysMoreThanTheClientWantsToHear(t *testing.T) {
	r := newRig(t, authenticatesWith(auth.ErrBadCredentials))
	for _, tc := range []struct {
		name   string
		opts   []rawmqtt.Option
		reason string
	}{
		{"reasons wanted", nil, "bad user name or password"},
		{"no problem information", []rawmqtt.Option{noProblemInfo}, ""},
		{"reason does not fit", []rawmqtt.Option{maximumPacketSize(20)}, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			ack := rawmqtt.Dial(t, r.addr, v5).Hello("a", tc.opts...)
			if got := ack.Properties.ReasonString; ack.ReasonCode != 0x86 || got != tc.reason {
				t.Fatalf("CONNACK %#x with reason %q, want %q", ack.ReasonCode, got, tc.reason)
			}
		})
	}
}

// raw puts a fixed header before body.
func raw(first byte, body ...byte) []byte {
	return append([]byte{first, byte(len(body))}, body...)
}

func TestWhatIsNoConnectOfAKnownVersionIsAnsweredAsFarAsItCanBe(t *testing.T) {
	const clean = 2
	cases := []struct {
		name string
		sent []byte
		want []byte // then the connection is closed
	}{
		{"MQTT 3.1", raw(0x10, 0, 6, 'M', 'Q', 'I', 's', 'd', 'p', 3, clean, 0, 60, 0, 1, 'a'), []byte{0x20, 2, 0, 1}},
		{"MQTT level 3", raw(0x10, 0, 4, 'M', 'Q', 'T', 'T', 3, clean, 0, 60, 0, 1, 'a'), []byte{0x20, 2, 0, 1}},
		{"MQTT level 6", raw(0x10, 0, 4, 'M', 'Q', 'T', 'T', 6, clean, 0, 60, 0, 0, 1, 'a'), []byte{0x20, 3, 0, 0x84, 0}},
		{"another protocol", raw(0x10, 0, 4, 'H', 'T', 'T', 'P', 4, clean, 0, 60, 0, 1, 'a'), nil},
		{"malformed CONNECT of 3.1.1", raw(0x10, 0, 4, 'M', 'Q', 'T', 'T', 4, clean|1, 0, 60, 0, 1, 'a'), nil},
		{"malformed CONNECT of 5", raw(0x10, 0, 4, 'M', 'Q', 'T', 'T', 5, clean|1, 0, 60, 0, 0, 1, 'a'), []byte{0x20, 3, 0, 0x81, 0}},
		{"CONNECT of 5 with Receive Maximum 0", raw(0x10, 0, 4, 'M', 'Q', 'T', 'T', 5, clean, 0, 60, 3, 0x21, 0, 0, 0, 1, 'a'), []byte{0x20, 3, 0, 0x82, 0}},
		{"reserved flags of CONNECT", raw(0x11, 0, 4, 'M', 'Q', 'T', 'T', 4, clean, 0, 60, 0, 1, 'a'), nil},
		{"PINGREQ first", raw(0xC0), nil},
		{"PUBLISH first", raw(0x30, 0, 1, 'a', 'x'), nil},
		{"HTTP", []byte("GET / HTTP/1.1\r\n\r\n"), nil},
		{"TLS", []byte{0x16, 3, 1, 0, 5, 1, 0, 0, 1, 3}, nil},
		{"half a CONNECT and the end", []byte{0x10, 100, 0, 4, 'M'}, nil},
	}
	r := newRig(t)
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			nc, err := net.Dial("tcp", r.addr)
			if err != nil {
				t.Fatal(err)
			}
			defer nc.Close()
			if _, err := nc.Write(tc.sent); err != nil {
				t.Fatal(err)
			}
			if strings.HasSuffix(tc.name, "and the end") {
				_ = nc.(*net.TCPConn).CloseWrite()
			}
			_ = nc.SetReadDeadline(time.Now().Add(rawmqtt.Patience))
			got, err := io.ReadAll(nc)
			if err != nil && len(tc.want) > 0 {
				t.Fatal(err)
			}
			if errors.Is(err, context.DeadlineExceeded) || !bytes.Equal(got, tc.want) {
				t.Fatalf("got % x (%v), want % x and the end", got, err, tc.want)
			}
			r.awaitServed(1)
		})
	}
	if n := r.metric("beeline_gateway_connects_refused_total"); n != float64(len(cases)) {
		t.Errorf("%v refusals counted, want %d", n, len(cases))
	}
}

func TestALargeConnectIsRefusedBeforeAnythingIsAllocatedForIt(t *testing.T) {
	r := newRig(t)
	const attackers = 50
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for range attackers {
		nc, err := net.Dial("tcp", r.addr)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := nc.Write([]byte{0x10, 0xFF, 0xFF, 0xFF, 0x7F}); err != nil { // 256 MiB announced
			t.Fatal(err)
		}
		_ = nc.SetReadDeadline(time.Now().Add(rawmqtt.Patience))
		if n, err := nc.Read(make([]byte, 1)); n != 0 || errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("read %d bytes, %v; want the end", n, err)
		}
		_ = nc.Close()
	}
	r.awaitServed(attackers)
	runtime.ReadMemStats(&after)
	if each := (after.TotalAlloc - before.TotalAlloc) / attackers; each > 64<<10 {
		t.Fatalf("%d bytes allocated for each", each)
	}
}

func TestAConnectMayBeAsLargeAsItsLimit(t *testing.T) {
	versions(t, func(t *testing.T, version byte) {
		r := newRig(t, limit(func(l *client.Limits) { l.ConnectBytes = 1000 }))
		r.connect(version, "small", user("u", strings.Repeat("p", 900)))
		nc := rawmqtt.Dial(t, r.addr, version)
		nc.Send(rawmqtt.ConnectPacket(version, "large", user("u", strings.Repeat("p", 1000))))
		nc.ExpectClosed()
		nc.Close()
	})
}

func TestTheAuthenticatorGetsWhatTheClientSaidOfItself(t *testing.T) {
	versions(t, func(t *testing.T, version byte) {
		attempts := make(chan auth.Attempt, 1)
		r := newRig(t, func(r *rig) {
			r.deps.Authenticate = func(_ context.Context, a auth.Attempt) (auth.Identity, error) {
				a.Password = bytes.Clone(a.Password)
				attempts <- a
				return auth.Identity{ClientID: a.ClientID, Username: "really " + a.Username}, nil
			}
		})
		c, attached := r.attached(version, "a", user("anna", "secret"))
		got := receive(t, attempts, "an attempt")
		want := auth.Attempt{
			ClientID: "a", Username: "anna", HasUsername: true, Password: []byte("secret"), HasPassword: true,
			Listener: "tcp", Remote: c.Conn().LocalAddr(),
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
		if attached.ID != "a" || attached.Identity.Username != "really anna" || byte(attached.Version) != version {
			t.Errorf("attached as %q, %+v, version %d", attached.ID, attached.Identity, attached.Version)
		}
		if strings.Contains(r.log.String(), "secret") {
			t.Error("the password is in the log")
		}
	})
}

func TestAnAttemptThatIsNotAuthenticatedTakesNobodyOver(t *testing.T) {
	versions(t, func(t *testing.T, version byte) {
		var failing func() error
		r := newRig(t, func(r *rig) {
			r.deps.Authenticate = func(_ context.Context, a auth.Attempt) (auth.Identity, error) {
				if a.Username == "mallory" {
					return auth.Identity{}, failing()
				}
				return auth.AllowAnonymous(t.Context(), a)
			}
		})
		owner := r.connect(version, "a", user("anna", "x"))
		for _, failing = range []func() error{
			func() error { return auth.ErrBadCredentials },
			func() error { panic("by order of the test") },
		} {
			m := rawmqtt.Dial(t, r.addr, version)
			if ack := m.Hello("a", user("mallory", "x")); ack.ReasonCode == 0 {
				t.Fatal("accepted")
			}
			m.ExpectClosed()
			owner.ExpectNothing()
		}
	})
}

func TestAConnectionThatWasReplacedBeforeItWasAttachedIsClosedWithoutConnack(t *testing.T) {
	versions(t, func(t *testing.T, version byte) {
		r := newRig(t, attachesWith(client.ErrReplaced))
		c := rawmqtt.Dial(t, r.addr, version)
		c.Send(rawmqtt.ConnectPacket(version, "a"))
		if reason := c.ExpectClosed(); reason != 0 {
			t.Fatalf("DISCONNECT %#x", reason)
		}
		r.awaitServed(1)
		if r.metric("beeline_gateway_connects_refused_total", "reason=replaced") != 1 {
			t.Error("not counted as replaced")
		}
	})
}

func TestStoppingAClientEndsItsAttaching(t *testing.T) {
	cases := []struct {
		name   string
		cause  client.Cause
		v3, v5 byte // CONNACK, 0: none
	}{
		{"taken over: it has a newer connection to look at", client.TakenOver(), 0, 0},
		{"shutting down", client.ShuttingDown(), 3, 0x88},
	}
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			versions(t, func(t *testing.T, version byte) {
				attaching := make(chan *client.Client, 1)
				r := newRig(t, func(r *rig) {
					r.broker.onAttach = func(ctx context.Context, c *client.Client) error {
						attaching <- c
						<-ctx.Done()
						return context.Cause(ctx)
					}
				})
				nc := rawmqtt.Dial(t, r.addr, version)
				nc.Send(rawmqtt.ConnectPacket(version, "a", will("w", "w", 0)))
				c := receive(t, attaching, "attaching")
				c.Stop(tc.cause)
				want := tc.v3
				if version == v5 {
					want = tc.v5
				}
				if want != 0 {
					if ack := nc.Expect(packets.Connack); ack.ReasonCode != want {
						t.Errorf("CONNACK %#x, want %#x", ack.ReasonCode, want)
					}
				}
				nc.ExpectClosed()
				nc.Close()
				receive(t, c.Gone(), "its being gone")
				r.awaitServed(1)
				if len(r.broker.published) > 0 {
					t.Error("the will of a client that was never accepted was published")
				}
			})
		})
	}
}

func TestAClientThatIsStoppedJustAsItIsAttachedIsDetachedAndNotWelcomed(t *testing.T) {
	versions(t, func(t *testing.T, version byte) {
		var detached []string
		r := newRig(t, func(r *rig) {
			r.broker.onAttach = func(_ context.Context, c *client.Client) error {
				c.Stop(client.ShuttingDown())
				return nil
			}
			r.broker.onDetach = func(c *client.Client) { detached = append(detached, c.ID) }
		})
		nc := rawmqtt.Dial(t, r.addr, version)
		if ack := nc.Hello("a"); ack.ReasonCode == 0 {
			t.Fatal("welcomed")
		}
		r.awaitServed(1)
		if diff := cmp.Diff([]string{"a"}, detached); diff != "" {
			t.Error(diff)
		}
	})
}
