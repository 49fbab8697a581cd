package broker

import (
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/beeline-mqtt/beeline/internal/mesh"
	"github.com/beeline-mqtt/beeline/internal/routes"
	"github.com/beeline-mqtt/beeline/internal/subscriptions"
	"github.com/beeline-mqtt/beeline/services/gateway/internal/client"
)

// recorded is a Mesh without peers that takes announcements down and leaves their outcome to the test.
type recorded struct {
	rounds atomic.Int64 // of SendOn

	mu      sync.Mutex
	changes []routes.Route
	done    []func(error)
}

func (r *recorded) Announce(changes []routes.Route, done func(error)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.changes = append(r.changes, changes...)
	r.done = append(r.done, done)
}

func (r *recorded) Link(string) *mesh.Link { return nil }

func (r *recorded) Reachable(time.Duration) ([]*mesh.Link, bool) {
	r.rounds.Add(1)
	return nil, true
}

func (r *recorded) SendOn(_ string, _ time.Duration, done func(bool)) { done(true) }

// taken returns what was announced since the last call.
func (r *recorded) taken() []routes.Route {
	r.mu.Lock()
	defer r.mu.Unlock()
	c := r.changes
	r.changes = nil
	return c
}

func (r *recorded) want(t *testing.T, changes ...routes.Route) {
	t.Helper()
	if diff := cmp.Diff(changes, r.taken()); diff != "" {
		t.Errorf("announced (-want +got):\n%s", diff)
	}
}

func alone() (*Broker, *recorded) {
	b := New(Config{Incarnation: "a", MaxClients: 10, GroupMembers: 2}, Deps{
		Routes: routes.NewTable[*mesh.Link](), Metrics: NewMetrics(prometheus.NewRegistry()), Logger: slog.New(slog.DiscardHandler),
	})
	m := new(recorded)
	b.Use(m, nil, nil)
	return b, m
}

func TestARouteIsWithdrawnWithItsLastSubscriber(t *testing.T) {
	b, m := alone()
	x, y := &client.Client{ID: "x"}, &client.Client{ID: "y"}
	none := func(error) bool { return true }
	b.Subscribe(x, "a/+", subscriptions.Options{}, none)
	m.want(t, routes.Route{Filter: "a/+", Members: 1})
	b.Subscribe(y, "a/+", subscriptions.Options{}, none)
	m.want(t, routes.Route{Filter: "a/+", Members: 1}) // said again: its acknowledgement is awaited again
	b.Unsubscribe(x, "a/+")
	m.want(t)
	b.Unsubscribe(x, "a/+")
	m.want(t)
	b.Unsubscribe(y, "a/+")
	m.want(t, routes.Route{Filter: "a/+"})
}

func TestTheMembersOfASharedSubscriptionAreAnnounced(t *testing.T) {
	b, m := alone()
	x, y := &client.Client{ID: "x"}, &client.Client{ID: "y"}
	none := func(error) bool { return true }
	members := func(n uint32) routes.Route { return routes.Route{Group: "g", Filter: "a/+", Members: n} }
	b.Subscribe(x, "$share/g/a/+", subscriptions.Options{}, none)
	m.want(t, members(1))
	b.Subscribe(y, "$share/g/a/+", subscriptions.Options{}, none)
	m.want(t, members(2))
	b.Subscribe(y, "$share/g/a/+", subscriptions.Options{QoS: 1}, none)
	m.want(t, members(2))
	if shares := b.deps.Routes.Shares("a/1", nil); len(shares) != 1 {
		t.Errorf("%d shared subscriptions match here", len(shares))
	}
	var refused error
	b.Subscribe(&client.Client{ID: "z"}, "$share/g/a/+", subscriptions.Options{}, func(err error) bool { refused = err; return true })
	if !errors.Is(refused, client.ErrTooManyMembers) {
		t.Errorf("a third member: %v, want %v", refused, client.ErrTooManyMembers)
	}
	m.want(t)
	b.Unsubscribe(x, "$share/g/a/+")
	m.want(t, members(1))
	b.Unsubscribe(x, "$share/g/a/+")
	m.want(t)
	b.Unsubscribe(y, "$share/g/a/+")
	m.want(t, members(0))
	if shares := b.deps.Routes.Shares("a/1", nil); len(shares) != 0 {
		t.Errorf("%d shared subscriptions match here", len(shares))
	}
}

func TestASubscriptionThatDoesNotReachTheOthersIsTakenBack(t *testing.T) {
	tests := []struct {
		name, filter string
		err          error
		withdrawn    []routes.Route
	}{
		{"acknowledged", "a", nil, nil},
		{"not acknowledged", "a", mesh.ErrNotAcknowledged, []routes.Route{{Filter: "a"}}},
		{"shared, not acknowledged", "$share/g/a", mesh.ErrNotAcknowledged, []routes.Route{{Group: "g", Filter: "a"}}},
		{"the gateway is going away", "a", mesh.ErrClosed, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b, m := alone()
			c := &client.Client{ID: "c"}
			var got []error
			b.Subscribe(c, tt.filter, subscriptions.Options{}, func(err error) bool { got = append(got, err); return true })
			m.taken()
			m.done[0](tt.err)
			if len(got) != 1 || !errors.Is(got[0], tt.err) {
				t.Errorf("done with %v, want once %v", got, tt.err)
			}
			m.want(t, tt.withdrawn...)
		})
	}
}

// announcing is a Mesh that takes announcements down and passes them on.
type announcing struct {
	*recorded
	Mesh
}

func (a announcing) Announce(changes []routes.Route, done func(error)) {
	a.recorded.Announce(changes, nil)
	a.Mesh.Announce(changes, done)
}

func (a announcing) Link(incarnation string) *mesh.Link { return a.Mesh.Link(incarnation) }

func (a announcing) Reachable(while time.Duration) ([]*mesh.Link, bool) {
	return a.Mesh.Reachable(while)
}

func (a announcing) SendOn(client string, patience time.Duration, done func(bool)) {
	a.Mesh.SendOn(client, patience, done)
}
