package session

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/peer"

	sessionv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/session/v1"
	"github.com/beeline-mqtt/beeline/services/session/internal/presence"
)

// watched is a board with one watcher, to whom the test is what the watcher's stream is.
type watched struct {
	*board
	t    *testing.T
	out  chan *sessionv1.WatchPresenceResponse
	over chan struct{}
	err  chan error
	stop context.CancelCauseFunc
	last uint64
}

func watchBoard(t *testing.T, prefix, cursor string, before int) *watched {
	t.Helper()
	m, err := newMetrics(prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	w := &watched{
		board: newBoard("i", 1000, m.presence), t: t,
		out: make(chan *sessionv1.WatchPresenceResponse), over: make(chan struct{}), err: make(chan error, 1),
	}
	w.connect("x", before)
	at, err := w.watch(prefix, cursor)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancelCause(t.Context())
	w.stop = stop
	done := make(chan struct{})
	go func() { defer close(done); w.err <- at.run(ctx, w.over, w.out) }()
	t.Cleanup(func() { stop(nil); <-done })
	return w
}

// connect has so many events happen, of clients whose ids begin with a prefix.
func (w *watched) connect(prefix string, events int) {
	for range events {
		w.last++
		w.change(func(b *presence.Board) {
			b.Connect(time.Now(), fmt.Sprint(prefix, w.last), presence.Connection{Gateway: "A", Epoch: w.last})
		})
	}
}

func (w *watched) next() *sessionv1.WatchPresenceResponse {
	w.t.Helper()
	select {
	case r := <-w.out:
		return r
	case err := <-w.err:
		w.t.Fatalf("ended with %v", err)
	case <-time.After(patienceOfTests):
		w.t.Fatal("nothing comes")
	}
	return nil
}

func (w *watched) wantErr(want error) {
	w.t.Helper()
	select {
	case err := <-w.err:
		if !errors.Is(err, want) {
			w.t.Errorf("ended with %v, want %v", err, want)
		}
	case <-time.After(patienceOfTests):
		w.t.Errorf("does not end, want %v", want)
	}
}

const patienceOfTests = 30 * time.Second

func TestAWatcherGetsACursorAtOnceAndThenWhatHappens(t *testing.T) {
	w := watchBoard(t, "", "", 3)
	if r := w.next(); r.GetCursor() != "i/3" || len(r.GetEvents()) != 0 {
		t.Errorf("the first response is %v", r)
	}
	w.connect("x", 1)
	if r := w.next(); r.GetCursor() != "i/4" || len(r.GetEvents()) != 1 || r.GetEvents()[0].GetSequence() != 4 {
		t.Errorf("got %v", r)
	}
	close(w.over)
	w.wantErr(errTermOver)
}

func TestAWatcherResumesAtItsCursor(t *testing.T) {
	w := watchBoard(t, "", "i/1", 500)
	if r := w.next(); r.GetCursor() != "i/1" {
		t.Errorf("the first response is at %s", r.GetCursor())
	}
	if r := w.next(); len(r.GetEvents()) != 499 || r.GetCursor() != "i/500" {
		t.Errorf("%d events up to %s, want the 499 that it has missed", len(r.GetEvents()), r.GetCursor())
	}
	w.stop(errReplaced)
	w.wantErr(errReplaced)
}

func TestAWatcherOfFewClientsGetsOnWithTheOthers(t *testing.T) {
	w := watchBoard(t, "y", "", 0)
	w.next()
	w.connect("x", 100)
	first := w.next()
	if len(first.GetEvents()) != 0 || first.GetCursor() == "i/0" {
		t.Errorf("got %v, want a cursor alone", first)
	}
	w.connect("y", 1)
	for {
		r := w.next()
		if len(r.GetEvents()) == 0 {
			continue
		}
		if r.GetEvents()[0].GetClientId() != "y101" || r.GetCursor() != "i/101" {
			t.Errorf("got %v", r)
		}
		return
	}
}

func TestAWatcherWhoDoesNotReadIsCutOffAndCanComeBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := watchBoard(t, "", "", 0)
		w.next()
		w.connect("x", 1)
		cursor := w.next().GetCursor()
		synctest.Wait() // it knows that this has been taken
		w.connect("x", 500)
		synctest.Wait()
		select {
		case err := <-w.err:
			t.Fatalf("ended with %v: half of the history has not gone by", err)
		default:
		}
		w.connect("x", 1)
		w.wantErr(errSlowWatcher)
		if _, err := w.watch("", cursor); err != nil {
			t.Errorf("it cannot come back: %v", err)
		}
		w.connect("x", 500)
		if _, err := w.watch("", cursor); !errors.Is(err, presence.ErrGone) {
			t.Errorf("it comes back after all: %v", err)
		}
	})
}

func TestAWatcherThatIsFarBehindHearsThatEventsAreGone(t *testing.T) {
	w := watchBoard(t, "", "i/0", 1000)
	w.connect("x", 1) // the first one is gone
	w.next()          // no event, the cursor alone
	w.wantErr(presence.ErrGone)
}

func TestADeadGatewaysClientsAreToldOf(t *testing.T) {
	tm := newTestTerm(t)
	tm.setView(view(5, "A"), func(*term) {})
	tm.presence.change(func(b *presence.Board) {
		for n := range 2*buryAtOnce + 1 {
			b.Connect(time.Now(), fmt.Sprint(n), presence.Connection{Gateway: "A", Epoch: uint64(n%5) + 1})
		}
	})
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); tm.keepBuried(ctx) }()
	defer func() { stop(); <-done }()
	before, more := tm.presence.news()
	tm.setView(view(6), func(*term) {})
	for last := before; last < 2*before; last, more = tm.presence.news() {
		select {
		case <-more:
		case <-time.After(patienceOfTests):
			t.Fatalf("%d are told of, want %d", last-before, before)
		}
	}
}

// stuck is the stream of a watcher that takes one response and then nothing until the call has ended.
type stuck struct {
	grpc.ServerStreamingServer[sessionv1.WatchPresenceResponse]
	ctx   context.Context
	first chan struct{}
	ended chan struct{}
}

func (s *stuck) Context() context.Context { return s.ctx }

func (s *stuck) Send(*sessionv1.WatchPresenceResponse) error {
	select {
	case s.first <- struct{}{}:
		return nil
	default:
	}
	<-s.ended
	return errors.New("the stream has ended")
}

func TestTheCallOfAWatcherWhoDoesNotReadEndsAllTheSame(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tm := newTestTerm(t)
		tm.session.term, tm.over = tm, make(chan struct{})
		tm.presence = newBoard("i", 1000, tm.session.metrics.presence)
		tm.recovered = make(chan struct{})
		g := &stuck{ctx: peer.NewContext(t.Context(), &peer.Peer{}), first: make(chan struct{}, 1), ended: make(chan struct{})}
		err := make(chan error, 1)
		go func() { err <- tm.session.WatchPresence(&sessionv1.WatchPresenceRequest{}, g) }()
		synctest.Wait()
		if len(g.first) != 0 {
			t.Error("it is answered before gateways have shown who is connected")
		}
		close(tm.recovered)
		// One response has been taken, one is being sent, and one waits. Then half of the history goes by.
		for n := range uint64(504) {
			if n < 4 {
				synctest.Wait()
			}
			tm.presence.change(func(b *presence.Board) {
				b.Connect(time.Now(), fmt.Sprint(n), presence.Connection{Gateway: "A", Epoch: n + 1})
			})
		}
		if got := <-err; !errors.Is(got, errSlowWatcher) {
			t.Errorf("ended with %v", got)
		}
		close(g.ended)
		tm.session.streams.Wait()
	})
}
