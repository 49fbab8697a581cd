package lease

import (
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	messagev1 "github.com/beeline-mqtt/beeline/api/gen/beeline/message/v1"
	"github.com/beeline-mqtt/beeline/internal/message"
)

// will is a message that the session service wants published.
func will() *messagev1.Message {
	return &messagev1.Message{
		Id: &messagev1.MessageId{Origin: "will/x", Sequence: 4}, Topic: "a/b", Qos: messagev1.Qos_QOS_AT_LEAST_ONCE,
		ExpiresInMs: proto.Uint64(60_000),
	}
}

func TestAMessageOfTheSessionServiceIsPublished(t *testing.T) {
	type publication struct {
		m    *message.Message
		done func(bool)
	}
	published := make(chan publication, 1)
	s := newStage(t, func(c *Config) {
		c.OnPublish = func(m *message.Message, done func(bool)) { published <- publication{m, done} }
	})
	s.become()
	p := s.attach()
	for _, failed := range []bool{false, true} {
		p.publish(7, will())
		got := <-published
		if got.m.ID != (message.ID{Origin: "will/x", Seq: 4}) || got.m.Topic != "a/b" || time.Until(got.m.Expires) > time.Minute {
			t.Errorf("published %+v", got.m)
		}
		p.wantNothing(s.keeper)
		got.done(failed)
		if a := p.next().GetPublished(); a.GetRequestId() != 7 || a.GetFailed() != failed {
			t.Errorf("answered %v, want failed %v", a, failed)
		}
	}
	// Asked again on the next stream, it is answered there, and only for what was asked there.
	p.publish(8, will())
	before := <-published
	s.cutOff(p)
	p = s.attach()
	p.publish(1, will())
	after := <-published
	before.done(false)
	after.done(false)
	if a := p.next().GetPublished(); a.GetRequestId() != 1 {
		t.Errorf("answered %v", a)
	}
	p.wantNothing(s.keeper)
}

func TestAMessageThatCannotBePublishedHasFailed(t *testing.T) {
	for name, change := range map[string]func(*Config, *messagev1.Message){
		"unreadable": func(c *Config, m *messagev1.Message) {
			c.OnPublish = func(m *message.Message, _ func(bool)) { t.Errorf("published %v", m) }
			m.Qos = 0
		},
		"nobody to publish it": func(*Config, *messagev1.Message) {},
	} {
		t.Run(name, func(t *testing.T) {
			m := will()
			s := newStage(t, func(c *Config) { change(c, m) })
			s.become()
			p := s.attach()
			p.publish(7, m)
			if a := p.next().GetPublished(); a.GetRequestId() != 7 || !a.GetFailed() {
				t.Errorf("answered %v", a)
			}
		})
	}
}
