package conformance

import (
	"fmt"
	"strings"
	"testing"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/beeline-mqtt/beeline/test/clustertest"
	"github.com/beeline-mqtt/beeline/test/rawmqtt"
)

// matches has topic filters and names, under the topics of the stage, and whether they match.
var matches = []struct {
	filter, name string
	want         bool
}{
	{"a", "a", true},
	{"a", "A", false},
	{"a", "a/", false},
	{"a/", "a/", true},
	{"a", "ab", false},
	{"a//b", "a//b", true},
	{"a//b", "a/b", false},
	{"+", "a", true},
	{"+", "", true},
	{"+", "a/b", false},
	{"+/", "a/", true},
	{"+/+", "/", true},
	{"a/+", "a/b", true},
	{"a/+", "a/", true},
	{"a/+", "a", false},
	{"a/+/c", "a/b/c", true},
	{"a/+/c", "a/b/d", false},
	{"a/+/c", "a/b/b/c", false},
	{"+/b/#", "a/b", true},
	{"+/b/#", "a/b/c/d", true},
	{"a/#", "a", true},
	{"a/#", "a/", true},
	{"a/#", "a/b/c", true},
	{"a/#", "ab", false},
	{"#", "a/b", true},
	{"a b", "a b", true},
	{"\u00c5", "A\u030a", false}, // MQTT-4.7.3-4: equal to the eye only
	{"\u00c5", "\u00c5", true},
	{"$a", "$a", true},
	{"+", "$a", true}, // $ counts at the beginning of the whole name only
	{"p2p/x/y", "p2p/x/y", true},
}

func TestTopicMatching(t *testing.T) {
	t.Parallel()
	everywhere(t, "MQTT-3.3.2-3 MQTT-4.7.0-1 MQTT-4.7.1-1 MQTT-4.7.1-2 MQTT-4.7.3-4 filters match level by level", both, func(s *stage) {
		p, c := s.publisher(), s.subscriber()
		for _, m := range matches {
			c.MustSubscribe(s.topic(m.filter), 1)
			p.Publish(s.topic(m.name), "x", 1)
			if m.want {
				if got := c.ReceivePayload("x").TopicName; got != s.topic(m.name) {
					s.Errorf("topic %q, want %q", got, s.topic(m.name))
				}
			} else {
				c.ExpectNothing()
			}
			c.Unsubscribe(s.topic(m.filter))
			if s.Failed() {
				s.Fatalf("%q and %q", m.filter, m.name)
			}
		}
	})
	everywhere(t, "4.7.3 a leading slash makes a topic of its own", both, func(s *stage) {
		p, c := s.publisher(), s.subscriber()
		c.MustSubscribe("/"+s.name, 1)
		s.confirmed(p, s.name, "without", 0x10)
		s.confirmed(p, "/"+s.name, "with", 0)
		c.ReceivePayload("with")
	})
}

// TestAllTopics subscribes to whatever there is, and so to the topics of other tests: it does not run beside them.
func TestAllTopics(t *testing.T) {
	alone(t, "MQTT-4.7.2-1 wildcards in front do not match names that begin with $", both, func(s *stage) {
		p, c := s.publisher(), s.subscriber()
		for _, f := range []string{"#", "+/#", "+/+", "+/" + s.name} {
			c.MustSubscribe(f, 1)
		}
		s.confirmed(p, "$"+s.name+"/"+s.name, "hidden", 0x10)
		s.confirmed(p, "$SYS/"+s.name, "hidden", 0x10)
		s.confirmed(p, s.topic(s.name), "seen", 0)
		c.ReceivePayload("seen")
		c.MustSubscribe("$"+s.name+"/#", 1)
		s.confirmed(p, "$"+s.name+"/"+s.name, "asked for", 0)
		c.ReceivePayload("asked for")
		c.ExpectNothing()
	})
	alone(t, "MQTT-4.7.2-1 nor do they find what is retained there", both, func(s *stage) {
		p, c := s.publisher(), s.subscriber()
		s.retain(p, "$"+s.name+"/a", "hidden", 1)
		s.retain(p, s.topic("a"), "seen", 1)
		for _, f := range []string{"#", "+/#", "+/a", s.topic("a")} {
			c.MustSubscribe(f, 1)
			if got := c.ReceivePayload("seen"); got.TopicName != s.topic("a") || !got.FixedHeader.Retain {
				s.Errorf("topic %q, %+v", got.TopicName, got.FixedHeader)
			}
		}
		c.ExpectNothing()
		s.leave(c)
		s.retain(p, "$"+s.name+"/a", "", 1)
		s.retain(p, s.topic("a"), "", 1)
	})
	alone(t, "4.7.1.2 # is everything else, and a message comes once", both, func(s *stage) {
		p, c := s.publisher(), s.subscriber()
		for _, f := range []string{"#", "/#", "+", s.topic("#")} {
			c.MustSubscribe(f, 2)
		}
		for _, name := range []string{"/", "/a/b", s.name, s.topic("a/b/c")} {
			s.confirmed(p, name, "x", 0)
			if got := c.ReceivePayload("x").TopicName; got != name {
				s.Errorf("topic %q, want %q", got, name)
			}
		}
		c.ExpectNothing()
	})
	alone(t, "p2p/ no filter at all reaches messages to clients", both, func(s *stage) {
		p, c, spy := s.publisher(), s.subscriber(), s.client(2, "spy")
		for _, f := range []string{"#", "+/#", "+/+/+", "+/" + s.id("subscriber") + "/a", "$share/g/#"} {
			spy.MustSubscribe(f, 2)
			c.MustSubscribe(f, 2)
		}
		s.confirmed(p, "p2p/"+s.id("subscriber")+"/a", "x", 0)
		c.ReceivePayload("x")
		c.ExpectNothing()
		spy.ExpectNothing()
	})
	// The tests that follow want to be told when nobody subscribes: wait until all gateways have forgotten these.
	for i := range gateways {
		p := rawmqtt.Connect(t, cluster.MQTT(i), rawmqtt.V5, fmt.Sprint("nobody", i))
		clustertest.Eventually(t, "nobody subscribes", func() bool { return p.Publish("nobody/subscribes", "x", 1).ReasonCode == 0x10 })
	}
}

func TestTopicNameSyntax(t *testing.T) {
	t.Parallel()
	for name, topic := range map[string]string{
		"MQTT-3.3.2-2 MQTT-4.7.0-1 +": "a/+/b", "MQTT-3.3.2-2 MQTT-4.7.0-1 #": "#", "MQTT-3.3.2-2 MQTT-4.7.0-1 # within": "a#b",
		"more bytes than are allowed":    strings.Repeat("x/", limits.TopicBytes/2+1),
		"more levels than are allowed":   strings.Repeat("/", limits.TopicLevels),
		"a longer level than is allowed": strings.Repeat("x", limits.TopicLevelBytes+1),
		"p2p/ without a rest":            "p2p/somebody", "p2p/ without a client": "p2p//a", "p2p/ with a wrong escape": "p2p/%zz/a",
		"p2p/ with another spelling of an escape": "p2p/a%2fb/c",
	} {
		everywhere(t, name+" in the topic of a PUBLISH closes with 0x90", both, func(s *stage) {
			for qos := range byte(3) {
				p := s.publisher()
				p.Send(publishPacket(topic, "x", qos, 1))
				s.closes(p, 0x90)
			}
		})
	}
	everywhere(t, "MQTT-4.7.3-1 an empty topic closes with 0x82", both, func(s *stage) {
		p := s.publisher()
		p.Send(publishPacket("", "x", 0, 0))
		s.closes(p, 0x82)
	})
	for name, topic := range map[string]string{
		"MQTT-4.7.3-2 MQTT-1.5.4-2 a null character":    "a\x00b",
		"MQTT-1.5.4-1 a half surrogate":                 "a\xed\xa0\x80b",
		"MQTT-1.5.4-1 a character in too many bytes":    "a\xc0\xafb",
		"MQTT-1.5.4-1 a character beyond Unicode's end": "a\xf4\x90\x80\x80b",
	} {
		everywhere(t, name+" closes with 0x81", both, func(s *stage) {
			for _, b := range [][]byte{
				frame(packets.Publish<<4, text(topic), s.props5()),
				frame(packets.Subscribe<<4|2, u16(1), s.props5(), text(topic), u8(0)),
				frame(packets.Unsubscribe<<4|2, u16(1), s.props5(), text(topic)),
			} {
				p := s.publisher()
				p.SendRaw(b)
				s.closes(p, 0x81)
			}
		})
	}
}

func TestTopicFilterSyntax(t *testing.T) {
	t.Parallel()
	everywhere(t, "MQTT-4.7.1-1 MQTT-4.7.1-2 MQTT-4.7.3-1 MQTT-4.8.2-1 MQTT-4.8.2-2 a filter that is wrong is refused with 0x8F", both, func(s *stage) {
		c := s.subscriber()
		filters := []string{
			"", "a#", "a/b#", "#a", "#/a", "a/#/b", "##", "a+", "+a", "a/+b", "a+/b", "++",
			strings.Repeat("x/", limits.TopicBytes/2+1), strings.Repeat("/", limits.TopicLevels), strings.Repeat("x", limits.TopicLevelBytes+1),
			"$share/", "$share/g", "$share/g/", "$share//a", "$share/g+/a", "$share/+/a", "$share/#/a", "$share/g/a#", "$share/g/a/#/b",
			"p2p/" + s.id("subscriber") + "/a", "p2p/#", "p2p/+/a", "p2p/", "$share/g/p2p/#",
		}
		want := byte(0x8f)
		if !s.is5() {
			want = 0x80
		}
		for _, f := range filters {
			if got := c.Subscribe(packets.Subscription{Filter: f, Qos: 1}).ReasonCodes; len(got) != 1 || got[0] != want {
				s.Errorf("SUBACK %v for %q, want %#x", got, f, want)
			}
		}
		// Others in the same packet are not concerned (MQTT-3.8.4-5).
		ack := c.Subscribe(packets.Subscription{Filter: s.topic("a")}, packets.Subscription{Filter: "a#"}, packets.Subscription{Filter: s.topic("b"), Qos: 2})
		if got := ack.ReasonCodes; len(got) != 3 || got[0] != 0 || got[1] != want || got[2] != 2 {
			s.Errorf("SUBACK %v", got)
		}
		s.serves(c)
	})
	everywhere(t, "4.7.1 filters of wildcards alone are right", both, func(s *stage) {
		c := s.subscriber()
		for _, f := range []string{"+/", "/", "//", "+/+/", "/+/", "$share/g/+/", "p2p", "p2pp/a/"} {
			c.MustSubscribe(f+s.name, 1)
		}
	})
}
