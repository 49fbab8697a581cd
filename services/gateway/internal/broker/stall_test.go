package broker

import (
	"testing"

	"github.com/beeline-mqtt/beeline/internal/message"
)

// behind puts a publish behind what waits on a topic.
func (s *stalls) behind(t *testing.T, name, payload string) {
	t.Helper()
	x := s.topics[name]
	if x == nil {
		t.Fatalf("nothing waits on %s", name)
	}
	x.behind = append(x.behind, stalled{m: &message.Message{Topic: name, Payload: []byte(payload)}})
}

// sent are the payloads of what next hands out.
func (s *stalls) sent() []string {
	var all []string
	for _, x := range s.next() {
		all = append(all, string(x.m.Payload))
	}
	return all
}

func wantSent(t *testing.T, got []string, want ...string) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("sent on %v, want %v", got, want)
	}
	for i := range got {
		if got[i] != want[i] {
			t.Fatalf("sent on %v, want %v", got, want)
		}
	}
}

func TestATopicIsStalledUntilAllThatCameBackIsOnItsWay(t *testing.T) {
	var s stalls
	m := &message.Message{Topic: "t"}
	s.add(m)
	s.add(m)
	s.behind(t, "t", "1")
	s.behind(t, "t", "2")
	if s.remove(m) {
		t.Error("free while something waits")
	}
	wantSent(t, s.sent())
	if !s.remove(m) {
		t.Error("not free although nothing waits")
	}
	wantSent(t, s.sent(), "1", "2")
	// What comes while those are sent on goes behind them.
	s.behind(t, "t", "3")
	wantSent(t, s.sent(), "3")
	wantSent(t, s.sent())
	if s.busy.Load() != 0 || s.topics["t"] != nil {
		t.Error("the topic is stalled although nothing waits")
	}
}

func TestATopicIsStalledAgainWhenMoreComesBack(t *testing.T) {
	var s stalls
	m := &message.Message{Topic: "t"}
	s.add(m)
	s.behind(t, "t", "1")
	s.remove(m)
	s.add(m) // before anything was sent on
	wantSent(t, s.sent())
	s.behind(t, "t", "2")
	s.remove(m)
	wantSent(t, s.sent(), "1", "2")
	wantSent(t, s.sent())
}

func TestNothingIsFreeWhereNothingWaits(t *testing.T) {
	var s stalls
	m := &message.Message{Topic: "t"}
	s.add(m)
	if s.remove(m) || s.busy.Load() != 0 {
		t.Error("a topic is stalled on which nobody has published")
	}
	if s.remove(m) {
		t.Error("free twice")
	}
}

func TestDirectMessagesStallNothing(t *testing.T) {
	var s stalls
	s.add(&message.Message{Topic: "p2p/x/y"})
	if s.busy.Load() != 0 {
		t.Error("stalled")
	}
}

func TestWhatIsStalledAtTheEndIsHandedOut(t *testing.T) {
	var s stalls
	s.add(&message.Message{Topic: "a"})
	s.add(&message.Message{Topic: "b"})
	s.behind(t, "a", "1")
	s.behind(t, "b", "2")
	if all := s.close(); len(all) != 2 || s.busy.Load() != 0 {
		t.Errorf("%d handed out, %d topics stalled", len(all), s.busy.Load())
	}
}
