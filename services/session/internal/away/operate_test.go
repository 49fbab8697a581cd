package away

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/beeline-mqtt/beeline/internal/journal"
	"github.com/beeline-mqtt/beeline/internal/mesh"
	"github.com/beeline-mqtt/beeline/internal/message"
	"github.com/beeline-mqtt/beeline/internal/pages"
	"github.com/beeline-mqtt/beeline/services/session/internal/claims"
)

// removed removes a session and returns the outcome.
func (w *world) removed(client string) error {
	got := make(chan error, 1)
	w.Remove(client, func(err error) { got <- err })
	return <-got
}

func TestSessionsOfThoseAwayAreListedPageByPage(t *testing.T) {
	w := newWorld(t, nil)
	for i := range 5 {
		w.absent(fmt.Sprintf("a/%d", i), uint64(10+i), sub("x", 1), sub("$share/g/x", 1))
	}
	w.absent("b", 20)
	w.open("a/here", "g1", 30, claims.Terms{Expiry: 60})
	var got []string
	r := pages.Range{Prefix: "a/"}
	for {
		page, complete := w.List(r, 2)
		for _, s := range page {
			got = append(got, s.Client)
			if s.Subscriptions != 2 {
				t.Errorf("%s has %d subscriptions, want 2", s.Client, s.Subscriptions)
			}
		}
		if r.After = complete; complete == "" {
			break
		}
	}
	if want := []string{"a/0", "a/1", "a/2", "a/3", "a/4"}; !slices.Equal(got, want) {
		t.Errorf("listed %v, want %v", got, want)
	}
}

func TestManySessionsAreListedWhileOthersComeAndGo(t *testing.T) {
	w := newWorld(t, nil)
	const many = 3 * atOnce
	for i := range many {
		id := fmt.Sprintf("c%05d", i)
		w.Keeper.mu.Lock()
		s := &session{client: id, stored: true}
		s.rec.Session = 1
		w.clients[id] = s
		w.Keeper.mu.Unlock()
	}
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			id := fmt.Sprintf("c%05d-restless", i%many)
			w.Keeper.mu.Lock()
			w.clients[id] = &session{client: id}
			delete(w.clients, fmt.Sprintf("c%05d-restless", (i+many/2)%many))
			w.Keeper.mu.Unlock()
		}
	}()
	for range 20 {
		if page, _ := w.List(pages.Range{}, 2*many); len(page) != many {
			t.Errorf("%d are listed, want %d", len(page), many)
		}
	}
	close(stop)
	<-stopped
}

func TestReceiversAreThoseForWhomAMessageIsKept(t *testing.T) {
	w := newWorld(t, nil)
	w.absent("a", 10, sub("x/+", 1), sub("x/#", 2), sub("y", 1))
	w.absent("b", 20, sub("x/1", 1))
	w.absent("c", 30, sub("x/1", 0))
	w.absent("d", 40, sub("$share/g/x/1", 1))
	w.absent("e", 50, sub("x/1", 1))
	w.open("e", "g2", 60, claims.Terms{Expiry: 60}) // a ghost is left here
	got, total := w.Receivers("x/1", 10)
	want := []Receiver{{Client: "a", Filters: []string{"x/#", "x/+"}, QoS: 2}, {Client: "b", Filters: []string{"x/1"}, QoS: 1}}
	if total != 2 || !slices.EqualFunc(got, want, func(x, y Receiver) bool {
		return x.Client == y.Client && slices.Equal(x.Filters, y.Filters) && x.QoS == y.QoS
	}) {
		t.Errorf("%d receivers, %+v, want %+v", total, got, want)
	}
	if got, total := w.Receivers("x/1", 1); total != 2 || len(got) != 1 || got[0].Client != "a" {
		t.Errorf("one of them: %+v of %d", got, total)
	}
	for name, want := range map[string]int{"p2p/b/x": 1, "p2p/e/x": 0, "p2p/nobody/x": 0, "p2p/%zz/x": 0, "z": 0} {
		if got, total := w.Receivers(name, 10); len(got) != want || total != want {
			t.Errorf("receivers of %s: %+v, want %d", name, got, want)
		}
	}
}

func TestASessionIsRemovedWithAllThatWasKept(t *testing.T) {
	w := newWorld(t, nil)
	will := &journal.Will{Message: &message.Message{Topic: "will", QoS: 1}, Delay: 1 << 40}
	st := w.open("a", "g1", 10, claims.Terms{Expiry: journal.Never, Will: will})
	w.subscribe("a", st, 10, sub("x", 1))
	w.leave("a", "g1", 10, nil)
	w.settled("a")
	w.send("g2", match(msg("g2", 1, "x", 1))).want(mesh.Stored)
	w.wantInbox("a", 1)
	if got, err := w.Peek("a", st.ID, 5); err != nil || len(got) != 1 || got[0].Message.Topic != "x" {
		t.Errorf("a look into the inbox: %v, %v", got, err)
	}
	if err := w.removed("a"); err != nil {
		t.Fatal(err)
	}
	if _, known, _ := w.Inspect("a"); known {
		t.Error("the session is still there")
	}
	w.wait("the will is published", func() bool { return len(w.wills()) == 1 })
	w.wait("its route is gone", func() bool { return !w.mesh.has("x") })
	if err := w.removed("a"); !errors.Is(err, ErrNoSession) {
		t.Errorf("once more: %v, want ErrNoSession", err)
	}
	if again := w.open("a", "g1", w.epoch(), claims.Terms{Expiry: 60}); again.Present || again.ID == st.ID {
		t.Errorf("the client finds the session %+v", again)
	}
	if err := w.removed("a"); !errors.Is(err, ErrHeld) {
		t.Errorf("while a gateway holds it: %v, want ErrHeld", err)
	}
}
