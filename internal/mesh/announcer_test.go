package mesh

import (
	"errors"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/beeline-mqtt/beeline/internal/routes"
)

// announcementModel remembers an announcement the simple way.
type announcementModel struct {
	need     map[routeKey]uint64 // the version of the last change of each of its routes
	deadline time.Time
	err      error
	calls    int
}

// announcerModel checks an announcer against one that keeps everything.
type announcerModel struct {
	a       *announcer[string]
	now     time.Time
	all     []*announcementModel
	changed map[routeKey]uint64
	own     map[routeKey]routes.Route
	acked   map[string]uint64
}

func (m *announcerModel) announce(t *rapid.T) {
	w := &announcementModel{need: make(map[routeKey]uint64), deadline: m.now.Add(5 * time.Second)}
	var rs []routes.Route
	seen := make(map[routeKey]bool)
	for range rapid.IntRange(1, 3).Draw(t, "changes") {
		r := routes.Route{
			Filter:  rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "filter"),
			Group:   rapid.SampledFrom([]string{"", "g"}).Draw(t, "group"),
			Members: rapid.Uint32Range(0, 2).Draw(t, "members"),
			Durable: rapid.Bool().Draw(t, "durable"),
		}
		if r.Members == 0 && !r.Keeps() {
			r = routes.Route{Filter: r.Filter, Group: r.Group} // there is none
		}
		if k := (routeKey{r.Filter, r.Group}); !seen[k] {
			seen[k] = true
			rs = append(rs, r)
		}
	}
	next, grows := m.a.version+1, false
	for _, r := range rs {
		k := routeKey{r.Filter, r.Group}
		if m.own[k] != (routes.Route{Members: r.Members, Durable: r.Durable}) {
			m.own[k], m.changed[k] = routes.Route{Members: r.Members, Durable: r.Durable}, next
			grows = true
		}
		w.need[k] = m.changed[k]
	}
	m.all = append(m.all, w)
	m.call(m.a.announce(rs, w.deadline, func(err error) { w.err = err; w.calls++ }, nil))
	if grown := m.a.version == next; grown != grows {
		t.Fatalf("version %d, want it to grow: %v", m.a.version, grows)
	}
}

func (m *announcerModel) call(over []finished) { call(over) }

// check compares every announcement with what the definition says about it.
func (m *announcerModel) check(t *rapid.T) {
	for i, w := range m.all {
		acknowledged := true
		for _, need := range w.need {
			for _, acked := range m.acked {
				acknowledged = acknowledged && acked >= need
			}
		}
		switch {
		case w.calls > 1:
			t.Fatalf("announcement %d: done was called %d times", i, w.calls)
		case w.calls == 0 && acknowledged:
			t.Fatalf("announcement %d is acknowledged by all and not done", i)
		case w.calls == 0 && !w.deadline.After(m.now):
			t.Fatalf("announcement %d has not expired", i)
		case w.calls == 1 && errors.Is(w.err, ErrNotAcknowledged) && w.deadline.After(m.now):
			t.Fatalf("announcement %d expired early", i)
		}
	}
	if _, ok := m.a.deadline(); ok != (len(m.a.waiting) > 0) {
		t.Fatalf("%d wait, a deadline is known: %v", len(m.a.waiting), ok)
	}
}

// confirm checks that what has just been done is acknowledged.
func (m *announcerModel) confirm(t *rapid.T, before []int) {
	for i, w := range m.all {
		if before[i] == 0 && w.calls == 1 && w.err == nil {
			for _, need := range w.need {
				for p, acked := range m.acked {
					if acked < need {
						t.Fatalf("announcement %d is done, %s has %d of %d", i, p, acked, need)
					}
				}
			}
		}
	}
}

func (m *announcerModel) calls() (n []int) {
	for _, w := range m.all {
		n = append(n, w.calls)
	}
	return n
}

func TestAnAnnouncementIsDoneOnceAndExactlyWhenEveryPeerHasItsRoutes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := &announcerModel{
			a: newAnnouncer[string](), now: time.Unix(0, 0),
			changed: make(map[routeKey]uint64), own: make(map[routeKey]routes.Route), acked: make(map[string]uint64),
		}
		peer := rapid.SampledFrom([]string{"x", "y", "z"})
		t.Repeat(map[string]func(*rapid.T){
			"announce": m.announce,
			"snapshot": func(t *rapid.T) {
				// Only while nothing waits: a peer that joins is counted for what waits already.
				if p := peer.Draw(t, "peer"); len(m.a.waiting) == 0 && len(m.all) == 0 {
					m.a.sent(p)
					m.acked[p] = 0
				}
			},
			"ack": func(t *rapid.T) {
				p := peer.Draw(t, "peer")
				if _, ok := m.acked[p]; !ok {
					return
				}
				v := rapid.Uint64Range(0, m.a.version).Draw(t, "version")
				before := m.calls()
				m.acked[p] = max(m.acked[p], v)
				m.call(m.a.ack(p, v, nil))
				m.confirm(t, before)
			},
			"dead": func(t *rapid.T) {
				p := peer.Draw(t, "peer")
				before := m.calls()
				delete(m.acked, p)
				m.call(m.a.drop(p, nil))
				m.confirm(t, before)
			},
			"later": func(t *rapid.T) {
				m.now = m.now.Add(time.Duration(rapid.IntRange(1, 4).Draw(t, "seconds")) * time.Second)
				m.call(m.a.expire(m.now, nil))
			},
			"": m.check,
		})
		m.call(m.a.close(nil))
		for i, w := range m.all {
			if w.calls != 1 {
				t.Fatalf("announcement %d: done was called %d times", i, w.calls)
			}
		}
	})
}

func TestAnAnnouncementThatIsClosedSaysSo(t *testing.T) {
	a := newAnnouncer[string]()
	a.sent("peer")
	var got error
	call(a.announce(ordinary("a"), time.Unix(5, 0), func(err error) { got = err }, nil))
	call(a.close(nil))
	if !errors.Is(got, ErrClosed) {
		t.Errorf("%v", got)
	}
}
