package client_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/beeline-mqtt/beeline/services/gateway/internal/auth"
	"github.com/beeline-mqtt/beeline/services/gateway/internal/client"
	"github.com/beeline-mqtt/beeline/services/gateway/internal/rules"
	"github.com/beeline-mqtt/beeline/test/rawmqtt"
)

// aliased is a PUBLISH of MQTT 5 at QoS 0 with a topic alias.
func aliased(topic string, alias uint16, payload string) []byte {
	body := append([]byte{0, byte(len(topic))}, topic...)
	body = append(body, 3, 0x23, byte(alias>>8), byte(alias))
	return raw(0x30, append(body, payload...)...)
}

func TestATopicAliasStandsForTheTopicThatItWasLastSetTo(t *testing.T) {
	var asked []string
	r := newRig(t, func(r *rig) {
		r.deps.Authorize = func(_ auth.Identity, q rules.Request) bool {
			asked = append(asked, q.Topic)
			return true
		}
	})
	c := r.connect(v5, "a")
	c.SendRaw(aliased("one", 1, "1"))
	c.SendRaw(aliased("two", 16, "2"))
	c.SendRaw(aliased("", 1, "3"))
	c.SendRaw(aliased("", 16, "4"))
	c.SendRaw(aliased("three", 1, "5"))
	c.SendRaw(aliased("", 1, "6"))
	c.ExpectNothing()
	want := []string{"one", "two", "one", "two", "three", "three"}
	var got []string
	for range want {
		got = append(got, receive(t, r.broker.published, "a message").Topic)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error("published: " + diff)
	}
	if diff := cmp.Diff(want, asked); diff != "" {
		t.Error("authorized: " + diff)
	}
}

func TestADenialCannotBeEvadedWithATopicAlias(t *testing.T) {
	r := newRig(t, deny(rules.Publish, "secret"))
	c := r.connect(v5, "a")
	c.SendRaw(aliased("secret", 1, "x"))
	c.SendRaw(aliased("", 1, "x"))
	c.ExpectNothing()
	if n := r.metric("beeline_gateway_messages_dropped_total", "reason=not_authorized"); n != 2 || len(r.broker.published) > 0 {
		t.Fatalf("%v denials, %d messages", n, len(r.broker.published))
	}
}

func TestATopicAliasThatCannotBeEndsTheConnection(t *testing.T) {
	cases := []struct {
		name    string
		aliases int
		sent    []byte
		want    byte
	}{
		{"0", 16, aliased("t", 0, "x"), 0x94},
		{"above the maximum", 16, aliased("t", 17, "x"), 0x94},
		{"none are allowed", 0, aliased("t", 1, "x"), 0x94},
		{"was not set", 16, aliased("", 1, "x"), 0x82},
		{"set to a wildcard", 16, aliased("t/#", 1, "x"), 0x90},
	}
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			r := newRig(t, limit(func(l *client.Limits) { l.TopicAliases = tc.aliases }))
			c := r.connect(v5, "a")
			c.SendRaw(tc.sent)
			if got := c.ExpectClosed(); got != tc.want {
				t.Fatalf("DISCONNECT %#x, want %#x", got, tc.want)
			}
		})
	}
}

func TestAliasesOfOneConnectionMeanNothingOnTheNext(t *testing.T) {
	r := newRig(t)
	c := r.connect(v5, "a")
	c.SendRaw(aliased("t", 1, "x"))
	c.ExpectNothing()
	again := r.connect(v5, "a")
	again.SendRaw(aliased("", 1, "x"))
	if got := again.ExpectClosed(); got != 0x82 {
		t.Fatalf("DISCONNECT %#x", got)
	}
}

func TestTheFirstTopicsThatAClientGetsHaveAliases(t *testing.T) {
	cases := []struct {
		name    string
		ours    int
		opts    []rawmqtt.Option
		aliases int
	}{
		{"as many as the client takes", 16, []rawmqtt.Option{topicAliasMaximum(2)}, 2},
		{"no more than we give", 1, []rawmqtt.Option{topicAliasMaximum(10)}, 1},
		{"none for a client that takes none", 16, nil, 0},
	}
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			r := newRig(t, limit(func(l *client.Limits) { l.TopicAliases = tc.ours }))
			c, attached := r.attached(v5, "a", tc.opts...)
			topics := []string{"topic/1", "topic/2", "topic/3"}
			for round := range 2 {
				for i, topic := range topics {
					deliver(attached, delivery(topic, "x", 0))
					p := c.Receive()
					wantTopic, wantAlias := topic, uint16(0)
					if i < tc.aliases {
						wantAlias = uint16(i + 1)
						if round > 0 {
							wantTopic = ""
						}
					}
					if p.TopicName != wantTopic || p.Properties.TopicAlias != wantAlias {
						t.Errorf("round %d: topic %q with alias %d, want %q with %d", round, p.TopicName, p.Properties.TopicAlias, wantTopic, wantAlias)
					}
				}
			}
		})
	}
}

func TestAnAliasNeverMakesAPacketTooLarge(t *testing.T) {
	r := newRig(t)
	const most = 200
	c, attached := r.attached(v5, "a", topicAliasMaximum(5), maximumPacketSize(most))
	// Fixed header 3, topic 2+7, properties 1: the largest payload without an alias.
	payload := strings.Repeat("x", most-13)
	for range 2 {
		deliver(attached, delivery("topic/1", payload, 0))
		if p := c.ReceivePayload(payload); p.Properties.TopicAlias != 0 || p.TopicName != "topic/1" {
			t.Fatalf("topic %q, alias %d", p.TopicName, p.Properties.TopicAlias)
		}
	}
	deliver(attached, delivery("topic/1", "small", 0))
	if p := c.ReceivePayload("small"); p.Properties.TopicAlias != 1 || p.TopicName != "topic/1" {
		t.Fatalf("topic %q, alias %d", p.TopicName, p.Properties.TopicAlias)
	}
}

func TestAliasesAreNotForClientsOf311(t *testing.T) {
	r := newRig(t)
	c, attached := r.attached(v3, "a")
	for range 2 {
		deliver(attached, delivery("topic/1", "x", 0))
		if p := c.Expect(packets.Publish); p.TopicName != "topic/1" {
			t.Fatalf("topic %q", p.TopicName)
		}
	}
}
