package command

import (
	"errors"
	"fmt"
	"testing"

	"github.com/beeline-mqtt/beeline/internal/message"
	"github.com/beeline-mqtt/beeline/internal/packet"
)

func answerTo(p *pending) answer {
	return answer{packet: packet.Publish{Topic: p.reply.topic, Props: &message.Properties{CorrelationData: p.correlation[:]}}}
}

func enter(t *testing.T, x *table, clientID, topic string) *pending {
	t.Helper()
	r := reply{topic: topic}
	if topic != "" {
		r.publisher = clientID
	}
	p, err := x.enter(clientID, r)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestAnAnswerIsTakenOnceAndFromTheDeviceOnly(t *testing.T) {
	x := newTable()
	p, other := enter(t, x, "device", ""), enter(t, x, "device", "")
	a := answerTo(p)
	for _, step := range []struct {
		name      string
		publisher string
		a         answer
		want      refusal
	}{
		{"of another client", "mallory", a, forged},
		{"of nobody", "", a, forged},
		{"without correlation data", "device", answer{}, unmatched},
		{"with other correlation data", "device", answerTo(&pending{correlation: newCorrelation()}), unmatched},
		{"with short correlation data", "device", answer{packet: packet.Publish{Props: &message.Properties{CorrelationData: []byte("x")}}}, unmatched},
		{"the answer", "device", a, answered},
		{"the answer again", "device", a, unmatched},
	} {
		if got := x.byCorrelation(step.publisher, true, step.a); got != step.want {
			t.Errorf("%s: %q, want %q", step.name, got, step.want)
		}
	}
	if len(p.answer) != 1 || len(other.answer) != 0 {
		t.Errorf("%d and %d answers, want 1 and 0", len(p.answer), len(other.answer))
	}
	<-p.answer
	if got := x.byCorrelation("device", true, a); got != unmatched {
		t.Errorf("the answer again, after it was taken: %q, want %q", got, unmatched)
	}
	x.leave(p)
	if got := x.byCorrelation("device", true, a); got != unmatched {
		t.Errorf("late: %q, want %q", got, unmatched)
	}
	if got := x.byCorrelation("anybody", false, answerTo(other)); got != answered {
		t.Errorf("where publishers are not known: %q, want an answer", got)
	}
	x.leave(other)
	if x.open() != 0 || len(x.perClient) != 0 {
		t.Errorf("%d commands and %v are left", x.open(), x.perClient)
	}
}

func TestAReplyTopicAnswersItsDeviceOnly(t *testing.T) {
	x := newTable()
	p := enter(t, x, "device", "replies")
	if got := x.byTopic(reply{publisher: "device", topic: "replies"}, answerTo(p)); got != unmatched {
		t.Errorf("before it is expected: %q, want %q", got, unmatched)
	}
	x.expect(p)
	if got := x.byTopic(reply{publisher: "mallory", topic: "replies"}, answerTo(p)); got != unmatched {
		t.Errorf("of another client: %q, want %q", got, unmatched)
	}
	if got := x.byCorrelation("device", true, answerTo(p)); got != unmatched {
		t.Errorf("by correlation: %q, want %q", got, unmatched)
	}
	if got := x.byTopic(reply{publisher: "device", topic: "replies"}, answerTo(p)); got != answered {
		t.Errorf("its answer: %q", got)
	}
	x.leave(p)
	if got := x.byTopic(reply{publisher: "device", topic: "replies"}, answerTo(p)); got != unmatched {
		t.Errorf("late: %q, want %q", got, unmatched)
	}
}

func TestCommandsUnderWayAreBounded(t *testing.T) {
	x := newTable()
	for range mostPerClient {
		enter(t, x, "device", "")
	}
	if _, err := x.enter("device", reply{}); !errors.Is(err, errTooManyForClient) {
		t.Errorf("one more for a client: %v, want errTooManyForClient", err)
	}
	for i := x.open(); i < mostCommands; i++ {
		enter(t, x, fmt.Sprint(i), "")
	}
	if _, err := x.enter("other", reply{}); !errors.Is(err, errTooMany) {
		t.Errorf("one more: %v, want errTooMany", err)
	}
}
