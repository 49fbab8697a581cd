package lease

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	sessionv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/session/v1"
	"github.com/beeline-mqtt/beeline/internal/cluster/clustertest"
	"github.com/beeline-mqtt/beeline/internal/journal"
	"github.com/beeline-mqtt/beeline/internal/message"
)

// sized is a message whose payload has that many bytes.
func sized(bytes int) *message.Message {
	return &message.Message{ID: message.ID{Origin: "G", Seq: 1}, Topic: "a/b", QoS: 1, Payload: make([]byte, bytes)}
}

func appended(at journal.Position, m *message.Message) journal.Change {
	return journal.Change{Kind: journal.Append, Entry: journal.Entry{Position: at, Message: m, QoS: 1}}
}

func TestAWriteIsAnsweredWhenItIsDurable(t *testing.T) {
	s := newStage(t, nil)
	s.become()
	p := s.attach()
	want := journal.Write{Client: "x", Session: 3, Epoch: 7, Changes: []journal.Change{
		appended(4, sized(1)), {Kind: journal.Sent, Position: 4, PacketID: 9},
	}}
	a := make(answers, 2)
	s.keeper.Write(want, func(_ []journal.LeftOut, err error) { a <- err })
	w := p.wantWrite("x")
	got, err := journal.WriteFromWire(w, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	p.wantNothing(s.keeper)
	s.wantNone(a)
	if s.keeper.Backlog() < 2*changeBytes || s.metric("beeline_gateway_journal_waiting") != 1 {
		t.Errorf("a backlog of %d bytes", s.keeper.Backlog())
	}
	p.written(w.GetRequestId())
	s.wantAnswer(a, nil)
	if s.keeper.Backlog() != 0 || s.metric("beeline_gateway_journal_waiting") != 0 || s.metric("beeline_gateway_journal_waiting_bytes") != 0 {
		t.Errorf("a backlog of %d bytes", s.keeper.Backlog())
	}
	// A second answer is nothing, nor is one to what was never asked.
	p.written(w.GetRequestId(), 12345)
	p.wantNothing(s.keeper)
	s.wantNone(a)
}

func TestAnEntryThatIsLeftOutIsNamed(t *testing.T) {
	s := newStage(t, nil)
	s.become()
	p := s.attach()
	got := make(chan []journal.LeftOut, 1)
	w := journal.Write{Client: "x", Session: 3, Epoch: 7, Changes: []journal.Change{appended(4, sized(1)), appended(5, sized(1))}}
	s.keeper.Write(w, func(leftOut []journal.LeftOut, err error) {
		if err != nil {
			t.Error(err)
		}
		got <- leftOut
	})
	id := p.wantWrite("x").GetRequestId()
	p.send(&sessionv1.AttachResponse{Frame: &sessionv1.AttachResponse_Written{Written: &sessionv1.Written{
		RequestIds: []uint64{id}, LeftOut: []*sessionv1.LeftOut{{RequestId: id, Position: 5, Duplicate: true}, {RequestId: id + 1, Position: 6}},
	}}})
	if d := cmp.Diff([]journal.LeftOut{{Position: 5, Duplicate: true}}, <-got); d != "" {
		t.Error(d)
	}
}

func TestNothingIsWrittenForAWhileThatNeedNotBeWhenTheStoreIsFull(t *testing.T) {
	s := newStage(t, nil)
	s.become()
	p := s.attach()
	got := make(chan []journal.LeftOut, 1)
	w := journal.Write{Client: "x", Session: 3, Epoch: 7, Changes: []journal.Change{appended(4, sized(1))}}
	s.keeper.Write(w, func(leftOut []journal.LeftOut, _ error) { got <- leftOut })
	id := p.wantWrite("x").GetRequestId()
	if !s.keeper.Room() {
		t.Error("no room before")
	}
	p.send(&sessionv1.AttachResponse{Frame: &sessionv1.AttachResponse_Written{Written: &sessionv1.Written{
		RequestIds: []uint64{id}, LeftOut: []*sessionv1.LeftOut{{RequestId: id, Position: 4}},
	}}})
	if d := cmp.Diff([]journal.LeftOut{{Position: 4}}, <-got); d != "" {
		t.Error(d)
	}
	if s.keeper.Room() {
		t.Error("there is room in a full store")
	}
	clustertest.Wait(t, "it is tried again", s.keeper.Room)
}

func TestAWriteThatIsRefusedForGoodIsFenced(t *testing.T) {
	s := newStage(t, nil)
	s.become()
	p := s.attach()
	a := s.write("x", 1)
	p.fenced(p.wantWrite("x").GetRequestId())
	s.wantAnswer(a, ErrFenced)
	if s.keeper.Backlog() != 0 || s.metric("beeline_gateway_journal_writes_total") != 1 {
		t.Errorf("a backlog of %d bytes", s.keeper.Backlog())
	}
	s.cutOff(p)
	s.attach().wantNothing(s.keeper)
}

func TestWritesAreAnsweredSeveralAtOnceAndInAnyOrder(t *testing.T) {
	s := newStage(t, nil)
	s.become()
	p := s.attach()
	var all []answers
	var ids []uint64
	for n := range 4 {
		client := fmt.Sprintf("client-%d", n)
		all = append(all, s.write(client, 1))
		ids = append(ids, p.wantWrite(client).GetRequestId())
	}
	p.written(ids[3], ids[1])
	s.wantAnswer(all[3], nil)
	s.wantAnswer(all[1], nil)
	s.wantNone(all[0])
	p.send(&sessionv1.AttachResponse{Frame: &sessionv1.AttachResponse_Written{
		Written: &sessionv1.Written{RequestIds: ids[2:3], Fenced: ids[:1]},
	}})
	s.wantAnswer(all[2], nil)
	s.wantAnswer(all[0], ErrFenced)
}

func TestFramesOfAClientLeaveInTheOrderOfTheCalls(t *testing.T) {
	s := newStage(t, nil)
	s.become()
	p := s.attach()
	p.evict("x", 8)
	<-s.evicts
	s.write("x", 1)
	s.write("x", 2)
	s.mu.Lock()
	done := s.evicted[0]
	s.mu.Unlock()
	done()
	s.write("y", 1)
	expiry := uint32(60)
	s.keeper.Release("y", 5, Ending{WithoutWill: true, Expiry: &expiry, Reason: "moved"})
	s.claim(t.Context(), "y")
	for n := range 2 {
		if got := p.wantWrite("x").GetChanges()[0].GetDone(); got != uint64(n+1) {
			t.Errorf("position %d comes as number %d", got, n+1)
		}
	}
	if got := p.next(); got.GetEvicted().GetClientId() != "x" {
		t.Errorf("got %v, want x evicted", got)
	}
	p.wantWrite("y")
	r := p.next().GetRelease()
	if r.GetEnding() != sessionv1.Ending_ENDING_WITHOUT_WILL || r.SessionExpirySeconds == nil || r.GetSessionExpirySeconds() != 60 || r.GetReason() != "moved" {
		t.Errorf("released as %v", r)
	}
	p.wantClaim("y")
}

func TestWhatIsNotAnsweredIsRepeatedInOrder(t *testing.T) {
	s := newStage(t, nil)
	s.become()
	p := s.attach()
	c := s.claim(t.Context(), "claimed")
	p.wantClaim("claimed")
	first := s.write("x", 1)
	second := s.write("x", 2)
	kept := make(answers, 2)
	s.keeper.Retain(sized(1), func(_ uint64, err error) { kept <- err })
	third := s.write("x", 3)
	s.keeper.Release("x", 5, Ending{})
	p.written(p.wantWrite("x").GetRequestId())
	s.wantAnswer(first, nil)
	p.wantWrite("x")
	p.wantRetain("a/b")
	s.cutOff(p)
	// What is asked meanwhile comes behind.
	fourth := s.write("z", 1)

	p = s.attach()
	id := p.wantClaim("claimed")
	again := func(at uint64, a answers) {
		t.Helper()
		w := p.wantWrite("x")
		if got := w.GetChanges()[0].GetDone(); got != at {
			t.Errorf("position %d is repeated, want %d", got, at)
		}
		s.wantNone(a)
		p.written(w.GetRequestId())
		s.wantAnswer(a, nil)
	}
	again(2, second)
	p.retained(p.wantRetain("a/b"), 1, false)
	s.wantAnswer(kept, nil)
	again(3, third)
	p.released(p.wantRelease("x", 5))
	p.written(p.wantWrite("z").GetRequestId())
	s.wantAnswer(fourth, nil)
	p.grant(id, 3)
	s.want(c)
	s.cutOff(p)
	s.attach().wantNothing(s.keeper)
}

func TestAnExpiryCountsFromWhenAFrameIsSent(t *testing.T) {
	now := time.Now()
	m := sized(0)
	m.Expires = now.Add(time.Minute)
	for _, tt := range []struct {
		name string
		what frame
	}{
		{"write", &write{Write: journal.Write{Changes: []journal.Change{appended(1, m)}}}},
		{"retain", &retain{message: m}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			left := func(at time.Time) uint64 {
				w := tt.what.wire(1, at)
				if r := w.GetRetain(); r != nil {
					return r.GetMessage().GetExpiresInMs()
				}
				return w.GetWrite().GetChanges()[0].GetAppend().GetMessage().GetExpiresInMs()
			}
			if first, again := left(now), left(now.Add(20*time.Second)); first != 60_000 || again != 40_000 {
				t.Errorf("%d ms, and %d ms 20 s later", first, again)
			}
		})
	}
}

func TestALargeWriteGoesOutInParts(t *testing.T) {
	s := newStage(t, nil)
	s.become()
	p := s.attach()
	large := []journal.Change{
		appended(1, sized(partBytes/2)),
		{Kind: journal.Done, Position: 1}, // fit in one
		appended(2, sized(partBytes*3/2)), // more than fits, but it cannot be divided
		appended(3, sized(partBytes/2)),
		appended(4, sized(partBytes/2)), // not both
	}
	parts := func(a answers) (ids []uint64) {
		t.Helper()
		for n, want := range []int{2, 1, 1, 1} {
			w := p.wantWrite("x")
			if got := len(w.GetChanges()); got != want {
				t.Fatalf("%d changes in part %d, want %d", got, n, want)
			}
			ids = append(ids, w.GetRequestId())
		}
		s.wantNone(a)
		return ids
	}
	a := s.writeAll("x", large...)
	ids := parts(a)
	p.written(ids[:3]...)
	p.wantNothing(s.keeper)
	s.wantNone(a)
	p.written(ids[3])
	s.wantAnswer(a, nil)

	a = s.writeAll("x", large...)
	ids = parts(a)
	p.written(ids[:2]...)
	p.fenced(ids[2:]...)
	s.wantAnswer(a, ErrFenced)
	if s.keeper.Backlog() != 0 {
		t.Errorf("a backlog of %d bytes", s.keeper.Backlog())
	}
}

func TestThereIsRoomWhileWritesAreAnswered(t *testing.T) {
	s := newStage(t, func(c *Config) { c.Room = 1000 })
	if s.keeper.Room() {
		t.Error("there is room without a session service")
	}
	s.become()
	p := s.attach()
	first := s.writeAll("x", appended(1, sized(400)))
	id := p.wantWrite("x").GetRequestId()
	if !s.keeper.Room() {
		t.Errorf("no room with a backlog of %d", s.keeper.Backlog())
	}
	s.keeper.Retain(sized(400), func(uint64, error) {})
	p.wantRetain("a/b")
	if s.keeper.Room() {
		t.Errorf("room with a backlog of %d", s.keeper.Backlog())
	}
	// It is not refused all the same.
	s.write("y", 1)
	p.wantWrite("y")
	p.written(id)
	s.wantAnswer(first, nil)
	if !s.keeper.Room() {
		t.Errorf("no room with a backlog of %d", s.keeper.Backlog())
	}
}

func TestARetainedMessageIsAnsweredWithItsVersion(t *testing.T) {
	s := newStage(t, nil)
	s.become()
	p := s.attach()
	type answer struct {
		version uint64
		err     error
	}
	a := make(chan answer, 2)
	done := func(version uint64, err error) { a <- answer{version, err} }
	s.keeper.Retain(sized(3), done)
	p.retained(p.wantRetain("a/b"), 17, false)
	if got := <-a; got != (answer{version: 17}) {
		t.Errorf("answered %v", got)
	}
	s.keeper.Retain(sized(3), done)
	id := p.wantRetain("a/b")
	p.retained(id, 0, true)
	if got := <-a; !errors.Is(got.err, ErrQuota) {
		t.Errorf("answered %v", got)
	}
	p.retained(id, 0, true)
	p.wantNothing(s.keeper)
	if len(a) > 0 || s.keeper.Backlog() != 0 || s.metric("beeline_gateway_retains_total") != 2 {
		t.Errorf("%d more answers, a backlog of %d bytes", len(a), s.keeper.Backlog())
	}
}

func TestSettledIsRepeatedUntilItIsCertainToHaveBeenRead(t *testing.T) {
	s := newStage(t, nil)
	s.keeper.Settled("early", 1)
	s.become()
	p := s.attach()
	p.wantSettled("early", 1)
	a := s.write("x", 1)
	id := p.wantWrite("x").GetRequestId()
	s.keeper.Settled("late", 2)
	p.wantSettled("late", 2)
	// What was asked before the one and after the other is answered.
	p.written(id)
	s.wantAnswer(a, nil)
	s.cutOff(p)

	p = s.attach()
	p.wantSettled("late", 2)
	p.wantNothing(s.keeper)
	s.cutOff(p)
	s.attach().wantNothing(s.keeper)
}

func TestWhatCanBeForgottenIsTold(t *testing.T) {
	told := make(chan string, 1)
	s := newStage(t, func(c *Config) {
		c.OnForget = func(id string, epoch uint64) { told <- fmt.Sprint(id, epoch) }
	})
	s.become()
	s.attach().send(&sessionv1.AttachResponse{Frame: &sessionv1.AttachResponse_Forget{
		Forget: &sessionv1.Forget{ClientId: "x", Epoch: 9},
	}})
	if got := <-told; got != "x9" {
		t.Errorf("told %q", got)
	}
}

func TestAClaimSaysWhatConnectSaidAndBringsTheSession(t *testing.T) {
	s := newStage(t, nil)
	s.become()
	p := s.attach()
	w := &journal.Will{Message: &message.Message{Topic: "gone/x", QoS: 2}, Delay: 3 * time.Second, Expiry: time.Minute, HasExpiry: true}
	granted := make(chan Grant, 1)
	failed := make(chan error, 1)
	go func() {
		r := Request{ClientID: "x", CleanStart: true, Expiry: journal.Never, Will: w}
		failed <- s.keeper.Claim(t.Context(), r, func(g Grant) { granted <- g })
	}()
	c := p.next().GetClaim()
	got, err := journal.WillFromWire(c.GetWill())
	if err != nil || c.GetClientId() != "x" || !c.GetCleanStart() || c.GetSessionExpirySeconds() != journal.Never {
		t.Errorf("claimed %v, %v", c, err)
	}
	if d := cmp.Diff(w, got); d != "" {
		t.Error(d)
	}
	// As large as a session may be.
	state := &journal.State{ID: 77, Present: true, First: 3, Next: 9, Taken: map[uint16]message.ID{}}
	for n := range 10_000 {
		filter := fmt.Sprintf("%d/%s", n, strings.Repeat("x", 1000))
		state.Subscriptions = append(state.Subscriptions, journal.Subscription{Filter: filter})
	}
	for n := range 65_535 {
		state.Taken[uint16(n+1)] = message.ID{Origin: "01HV7Z0000000000000000", Seq: uint64(n + 1)}
	}
	p.send(&sessionv1.AttachResponse{Frame: &sessionv1.AttachResponse_Claimed{
		Claimed: &sessionv1.Claimed{RequestId: c.GetRequestId(), Epoch: 12, Session: journal.StateToWire(state)},
	}})
	if err := <-failed; err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(Grant{Epoch: 12, Session: state}, <-granted); d != "" {
		t.Error(d)
	}
}

func TestASessionThatCannotBeReadIsGivenUp(t *testing.T) {
	s := newStage(t, nil)
	s.become()
	p := s.attach()
	c := s.claim(t.Context(), "x")
	p.send(&sessionv1.AttachResponse{Frame: &sessionv1.AttachResponse_Claimed{
		Claimed: &sessionv1.Claimed{RequestId: p.wantClaim("x"), Epoch: 12, Session: &sessionv1.Session{}},
	}})
	if got := s.want(c); !errors.Is(got.err, ErrUnavailable) || got.epoch != 0 {
		t.Errorf("claimed %+v", got)
	}
	r := p.next().GetRelease()
	if r.GetEpoch() != 12 || r.GetEnding() != sessionv1.Ending_ENDING_WITHOUT_WILL || r.SessionExpirySeconds != nil {
		t.Errorf("got %v, want a release without will", r)
	}
}

// An answer that is of another kind than the request does not answer it.
func TestAnAnswerOfAnotherKindIsNone(t *testing.T) {
	s := newStage(t, nil)
	s.become()
	p := s.attach()
	a := s.write("x", 1)
	id := p.wantWrite("x").GetRequestId()
	p.grant(id, 1)
	p.released(id)
	p.refuse(id, sessionv1.Refusal_REFUSAL_UNAVAILABLE)
	p.retained(id, 1, false)
	p.wantNothing(s.keeper)
	s.wantNone(a)
	p.written(id)
	s.wantAnswer(a, nil)
}

func BenchmarkWrite(b *testing.B) {
	s := newStage(b, nil)
	s.become()
	p := s.attach()
	done := make(chan struct{})
	go func() {
		defer close(done)
		var ids []uint64
		for r := range p.in {
			if w := r.GetWrite(); w != nil {
				ids = append(ids, w.GetRequestId())
			}
			if len(p.in) == 0 || len(ids) == 1000 {
				p.written(ids...)
				ids = ids[:0]
			}
		}
	}()
	b.ReportAllocs()
	// As many unanswered as a few thousand sessions may have.
	room := make(chan struct{}, 4096)
	m := sized(256)
	n := journal.Position(0)
	for b.Loop() {
		room <- struct{}{}
		n++
		w := journal.Write{Client: "client", Session: 1, Epoch: 1, Changes: []journal.Change{appended(n, m)}}
		s.keeper.Write(w, func([]journal.LeftOut, error) { <-room })
	}
	for range cap(room) {
		room <- struct{}{}
	}
	b.StopTimer()
	s.stop()
	<-done
}
