//go:build linux

package authentication

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	messagingv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/messaging/v1"
	"github.com/beeline-mqtt/beeline/internal/pki"
	"github.com/beeline-mqtt/beeline/test/clustertest"
	"github.com/beeline-mqtt/beeline/test/rawmqtt"
)

func TestClientsAreLetInByEveryWayOrNone(t *testing.T) {
	g := open(t)
	for name, url := range g.urls() {
		t.Run(name, func(t *testing.T) {
			for _, c := range []struct {
				name, user, password string
				code                 byte
			}{
				{"password", "ann", "secret", 0},
				{"JWT", "joe", g.token(time.Hour), 0},
				{"wrong password", "ann", "other", 4},
				{"unknown user", "eve", "secret", 4},
				{"expired JWT", "joe", g.token(-time.Minute), 4},
				{"JWT of somebody else", "ann", g.token(time.Hour), 4},
				{"huge password", "ann", strings.Repeat("x", 60_000), 4},
				{"nothing", "", "", 5},
			} {
				p, code := g.paho(url, "c", c.user, c.password, pki.Files{})
				if code != c.code {
					t.Errorf("%s: code %d, want %d", c.name, code, c.code)
				}
				if p == nil {
					continue
				}
				own := "home/" + c.user + "/x"
				if code := p.subscribed(own); code != 1 {
					t.Errorf("%s: SUBACK %#x", c.name, code)
				}
				if err := p.done(p.Publish(own, 1, false, c.name)); err != nil {
					t.Errorf("%s: publish: %v", c.name, err)
				}
				p.receives(c.name)
				p.Disconnect(0)
			}
		})
	}
}

func TestMQTT5SaysWhy(t *testing.T) {
	g := open(t)
	for _, address := range []string{g.MQTT(0), g.Router().Service.Addr("mqtt").String()} {
		for _, c := range []struct {
			name, user, password string
			code                 byte
		}{
			{"wrong password", "ann", "other", 0x86},
			{"unsigned JWT", "joe", g.signs.Unsigned(t, nil), 0x86},
			{"JWT that is signed with the public key", "joe", g.signs.Confused(t, nil), 0x86},
		} {
			if ack := rawmqtt.Dial(t, address, rawmqtt.V5).Hello("c", as(c.user, c.password)); ack.ReasonCode != c.code {
				t.Errorf("%s: CONNACK %#x, want %#x", c.name, ack.ReasonCode, c.code)
			}
		}
		if ack := rawmqtt.Dial(t, address, rawmqtt.V5).Hello("c"); ack.ReasonCode != 0x87 {
			t.Errorf("nothing: CONNACK %#x", ack.ReasonCode)
		}
		will := func(p *packets.Packet) {
			p.Connect.WillFlag, p.Connect.WillTopic, p.Connect.WillPayload = true, "home/bob/x", []byte("gone")
		}
		if ack := rawmqtt.Dial(t, address, rawmqtt.V5).Hello("c", as("ann", "secret"), will); ack.ReasonCode != 0x87 {
			t.Errorf("a will that is not permitted: CONNACK %#x", ack.ReasonCode)
		}
	}
}

func TestRulesHoldForPublishersAndSubscribers(t *testing.T) {
	g := open(t)
	for _, address := range []string{g.MQTT(0), g.Router().Service.Addr("mqtt").String()} {
		c := rawmqtt.Connect(t, address, rawmqtt.V5, "phone", as("ann", "secret"))
		for topic, want := range map[string]byte{
			"home/ann/x": 0x10, "dev/phone/x": 0x10, "p2p/nobody/note": 0x10,
			"home/bob/x": 0x87, "home/ann/locked": 0x87, "dev/other/x": 0x87, "p2p/nobody/x": 0x87, "news/x": 0x87, "user/ann/x": 0x87, "group/g/x": 0x87,
		} {
			for qos := byte(1); qos <= 2; qos++ {
				if got := c.Publish(topic, "x", qos).ReasonCode; got != want {
					t.Errorf("publish to %s at QoS %d: %#x, want %#x", topic, qos, got, want)
				}
			}
		}
		for filter, want := range map[string]byte{
			"news/#": 1, "dev/phone/+": 1, "$share/g/news/#": 1,
			"#": 0x87, "home/ann/#": 0x87, "home/+/x": 0x87, "dev/+/x": 0x87, "$share/g/dev/#": 0x87, "group/g/#": 0x8F,
		} {
			if got := c.Subscribe(packets.Subscription{Filter: filter, Qos: 1}).ReasonCodes; !bytes.Equal(got, []byte{want}) {
				t.Errorf("subscribe to %s: %#x, want %#x", filter, got, want)
			}
		}
		c.Send(rawmqtt.PublishPacket("home/bob/x", "x", 0)) // dropped
		c.ExpectNothing()
		c.Disconnect()
	}
	if n := g.Metric(t, 0, "beeline_gateway_messages_dropped_total", "reason=not_authorized") + g.Metric(t, 1, "beeline_gateway_messages_dropped_total", "reason=not_authorized"); n < 30 {
		t.Errorf("%v messages were counted", n)
	}

	old, _ := g.paho("tcp://"+g.MQTT(1), "phone", "ann", "secret", pki.Files{})
	if code := old.subscribed("#"); code != 0x80 {
		t.Errorf("SUBACK of 3.1.1: %#x", code)
	}
	if err := old.done(old.Publish("home/bob/x", 0, false, "x")); err != nil {
		t.Errorf("QoS 0: %v", err)
	}
	if code := old.subscribed("news/#"); code != 1 {
		t.Errorf("SUBACK of 3.1.1 after a message that was dropped: %#x", code)
	}
	old.Publish("home/bob/x", 1, false, "x")
	receive(t, old.lost)
}

func TestMembersPublishToTheirGroupsWithoutARule(t *testing.T) {
	g := open(t)
	groups := messagingv1.NewGroupServiceClient(g.Operate(t))
	if _, err := groups.CreateGroup(t.Context(), &messagingv1.CreateGroupRequest{Name: "g"}); err != nil {
		t.Fatal(err)
	}
	if _, err := groups.AddMembers(t.Context(), &messagingv1.AddMembersRequest{Group: "g", Members: []*messagingv1.Member{{
		Member: &messagingv1.Member_User{User: "ann"},
	}}}); err != nil {
		t.Fatal(err)
	}
	ann := rawmqtt.Connect(t, g.MQTT(0), rawmqtt.V5, "a", as("ann", "secret"))
	also := rawmqtt.Connect(t, g.MQTT(1), rawmqtt.V5, "b", as("ann", "secret"))
	bob := rawmqtt.Connect(t, g.MQTT(0), rawmqtt.V5, "c", as("bob", "other"))
	if got := bob.Publish("group/g/x", "x", 1).ReasonCode; got != 0x87 {
		t.Errorf("bob: %#x", got)
	}
	if got := ann.Publish("group/g/x", "hello", 1).ReasonCode; got != 0 {
		t.Errorf("ann: %#x", got)
	}
	also.ReceivePayload("hello")
}

func TestACertificateIsAUserName(t *testing.T) {
	g := open(t)
	cert, err := g.CA().Issue(pki.Request{Name: "meter-7", Role: "device"})
	if err != nil {
		t.Fatal(err)
	}
	p, code := g.paho("tls://"+g.Gateways()[0].Service.Addr("mutual").String(), "c", "", "", cert)
	if code != 0 {
		t.Fatalf("code %d", code)
	}
	if code := p.subscribed("home/meter-7/#"); code != 0x80 { // locked is in it
		t.Errorf("SUBACK %#x", code)
	}
	if code := p.subscribed("home/meter-7/+/x"); code != 1 {
		t.Errorf("SUBACK %#x", code)
	}
	if _, code := g.paho("tls://"+g.Gateways()[0].Service.Addr("mutual").String(), "c", "other", "", cert); code != 4 {
		t.Errorf("under another name: code %d", code)
	}

	// Behind a proxy that has verified a certificate of ann: a header of the PROXY protocol.
	const signature = "\r\n\r\n\x00\r\nQUIT\n"
	header := func(verified string) string {
		return signature + "\x21\x11\x00\x24" + "\xcb\x00\x71\x07\x0a\x00\x00\x01\x12\x67\x07\x5b" +
			"\x20\x00\x15" + "\x07\x00\x00\x00" + verified + "\x21\x00\x07TLSv1.3" + "\x22\x00\x03ann"
	}
	for verified, want := range map[string]byte{"\x00": 0, "\x01": 0x87} {
		nc, err := net.Dial("tcp", g.Gateways()[0].Service.Addr("router").String())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(nc, header(verified)); err != nil {
			t.Fatal(err)
		}
		c := rawmqtt.Over(t, nc, rawmqtt.V5)
		if ack := c.Hello("c"); ack.ReasonCode != want {
			t.Errorf("verified %q: CONNACK %#x, want %#x", verified, ack.ReasonCode, want)
		} else if want == 0 {
			if got := c.Publish("home/ann/x", "x", 1).ReasonCode; got != 0x10 {
				t.Errorf("publish: %#x", got)
			}
		}
	}
}

func TestAConnectionEndsWithItsToken(t *testing.T) {
	g := open(t)
	c := rawmqtt.Connect(t, g.MQTT(0), rawmqtt.V5, "a", as("", g.token(2*time.Second)))
	old, code := g.paho("tcp://"+g.Router().Service.Addr("mqtt").String(), "b", "joe", g.token(2*time.Second), pki.Files{})
	if code != 0 {
		t.Fatalf("code %d", code)
	}
	if p := c.Expect(packets.Disconnect); p.ReasonCode != 0xA0 {
		t.Errorf("DISCONNECT %#x", p.ReasonCode)
	}
	receive(t, old.lost)
}

func TestFilesAreReadAgainWhileItRuns(t *testing.T) {
	g := open(t)
	url := "tcp://" + g.MQTT(0)
	code := func(name, password string) byte {
		p, code := g.paho(url, "c", name, password, pki.Files{})
		if p != nil {
			p.Disconnect(0)
		}
		return code
	}
	if got := code("ann", "secret"); got != 0 {
		t.Fatalf("code %d", got)
	}
	g.write("users", user(t, "ann", "new")+user(t, "eve", "secret"))
	clustertest.Eventually(t, "the new password counts", func() bool { return code("ann", "new") == 0 })
	if got := []byte{code("ann", "secret"), code("bob", "other"), code("eve", "secret")}; !bytes.Equal(got, []byte{4, 4, 0}) {
		t.Errorf("codes %d", got)
	}
	p, _ := g.paho(url, "p", "ann", "new", pki.Files{})
	g.write("rules", "rules: [{permission: allow, action: all, topic: a}]")
	clustertest.Eventually(t, "the new rules are in force", func() bool { return p.subscribed("a") == 1 })
	if code := p.subscribed("news/#"); code != 0x80 {
		t.Errorf("SUBACK %#x", code)
	}
	g.write("rules", "rules: [{permission: perhaps, action: all, topic: b}]")
	g.write("users", "ann:changed")
	g.write("jwks", "{}")
	clustertest.Eventually(t, "the log says that they are wrong", func() bool {
		if code, sub := []byte{code("eve", "secret"), code("joe", g.token(time.Hour))}, p.subscribed("a"); !bytes.Equal(code, []byte{0, 0}) || sub != 1 {
			t.Fatalf("codes %d, SUBACK %#x", code, sub)
		}
		said := g.log.String()
		return strings.Contains(said, "users: line 1") && strings.Contains(said, "rules: rules[0]") && strings.Contains(said, "jwks: there are no keys")
	})
	if strings.Contains(g.log.String(), "changed") {
		t.Error("the log has what is in the file")
	}
}

func TestASessionThatGoesOnHasWhatItsClientMayHave(t *testing.T) {
	g := open(t)
	durable := rawmqtt.Durable(3600)
	c := rawmqtt.Connect(t, g.MQTT(0), rawmqtt.V5, "c", as("ann", "secret"), durable)
	c.MustSubscribe("home/ann/x", 1)
	c.MustSubscribe("dev/c/x", 1)
	c.Disconnect()
	// Another user under the same id.
	c, present := rawmqtt.Come(t, g.MQTT(1), rawmqtt.V5, "c", as("bob", "other"), durable)
	if !present {
		t.Fatal("the session has not gone on")
	}
	ann := rawmqtt.Connect(t, g.MQTT(0), rawmqtt.V5, "c2", as("ann", "secret"))
	ann.Publish("home/ann/x", "for ann", 1) // 0x00 or 0x10: routes that go are not waited for
	c.Send(rawmqtt.PublishPacket("dev/c/x", "for c", 0))
	c.ReceivePayload("for c")
	c.Disconnect()
	c, _ = rawmqtt.Come(t, g.MQTT(0), rawmqtt.V5, "c", as("ann", "secret"), durable)
	ann.Publish("home/ann/x", "for ann", 1)
	c.ExpectNothing() // what was forgotten is not back
}

func TestMosquittosClientsAreAuthenticated(t *testing.T) {
	path, err := exec.LookPath("mosquitto_pub")
	if errors.Is(err, exec.ErrNotFound) && os.Getenv("BEELINE_TEST_MOSQUITTO") == "" {
		t.Skip("there is no mosquitto_pub (apt-get install mosquitto-clients)")
	}
	if err != nil {
		t.Fatal(err)
	}
	g := open(t)
	run := func(want int, args ...string) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		out, err := exec.CommandContext(ctx, path, args...).CombinedOutput()
		code := 0
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			code, err = exit.ExitCode(), nil
		}
		if err != nil || code != want {
			t.Errorf("%v: exit code %d, %v, want %d: %s", args, code, err, want, out)
		}
	}
	for name, address := range map[string]string{
		"TCP": g.MQTT(0), "TLS": g.MQTTS(1), "router": g.Router().Service.Addr("mqtt").String(), "router, TLS": g.Router().Service.Addr("mqtts").String(),
	} {
		host, port, err := net.SplitHostPort(address)
		if err != nil {
			t.Fatal(err)
		}
		at := []string{"-h", host, "-p", port, "-i", "c", "-q", "1", "-m", "x"}
		if strings.Contains(name, "TLS") {
			at = append(at, "--cafile", g.CAFile())
		}
		with := func(args ...string) []string { return append(append([]string(nil), at...), args...) }
		run(0, with("-V", "5", "-u", "ann", "-P", "secret", "-t", "home/ann/x")...)
		run(0, with("-V", "mqttv311", "-u", "ann", "-P", "secret", "-t", "home/ann/x")...)
		run(135, with("-V", "5", "-t", "home/ann/x")...)
		run(134, with("-V", "5", "-u", "ann", "-P", "wrong", "-t", "home/ann/x")...)
		run(5, with("-V", "mqttv311", "-t", "home/ann/x")...)
		run(4, with("-V", "mqttv311", "-u", "ann", "-P", "wrong", "-t", "home/ann/x")...)
	}
}
