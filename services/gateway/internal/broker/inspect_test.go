package broker

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/beeline-mqtt/beeline/internal/mesh"
	"github.com/beeline-mqtt/beeline/internal/pages"
	"github.com/beeline-mqtt/beeline/internal/routes"
	"github.com/beeline-mqtt/beeline/internal/subscriptions"
	"github.com/beeline-mqtt/beeline/internal/topic"
	"github.com/beeline-mqtt/beeline/internal/trace"
	"github.com/beeline-mqtt/beeline/services/gateway/internal/auth"
	"github.com/beeline-mqtt/beeline/services/gateway/internal/client"
	"github.com/beeline-mqtt/beeline/test/rawmqtt"
)

// quick is a broker with connections that nobody serves: their leases are granted.
func quick(ids ...string) *Broker {
	b := New(Config{CachedLeases: 1}, Deps{Routes: routes.NewTable[*mesh.Link]()})
	for i, id := range ids {
		c := &client.Client{ID: id, Identity: auth.Identity{Username: fmt.Sprint("u", i%2)}}
		b.clients.put(c, 1_000_000)
		c.Granted(uint64(i + 1))
	}
	return b
}

func TestClientsAreListedByTheirIDs(t *testing.T) {
	var ids []string
	for i := range 1000 {
		ids = append(ids, fmt.Sprintf("a/%03d", i))
	}
	b := quick(slices.Concat(ids, []string{"b"})...)
	b.clients.put(&client.Client{ID: "a/attaching"}, 1_000_000)
	var got []string
	r := pages.Range{Prefix: "a/"}
	for {
		page, complete := b.List(r, "", 300)
		for _, c := range page {
			got = append(got, c.ID)
		}
		if r.After = complete; complete == "" {
			break
		}
	}
	if diff := cmp.Diff(ids, got); diff != "" {
		t.Error(diff)
	}
	if page, complete := b.List(pages.Range{Prefix: "a/00"}, "u1", 100); len(page) != 5 || complete != "" {
		t.Errorf("%d of a user, more behind %q, want 5 and no more", len(page), complete)
	}
	if b.Find("a/attaching") != nil || b.Find("nobody") != nil || b.Find("b") == nil {
		t.Error("Find does not find who holds a lease, and nobody else")
	}
}

func TestReceiversAreWhomAMessageWouldGoTo(t *testing.T) {
	g := start(t, 2, options{durable: true})
	a, b := g[0].connect(v5, "a"), g[0].connect(v3, "b")
	a.Subscribe(packets.Subscription{Filter: "x/+", Qos: 1, NoLocal: true, RetainHandling: 1}, packets.Subscription{Filter: "x/1", Qos: 0})
	a.MustSubscribe("$share/g/x/#", 2)
	b.MustSubscribe("x/#", 2)
	g[1].connect(v5, "c").MustSubscribe("x/1", 1)
	got, total := g[0].Receivers("x/1", 10)
	want := []Receiver{
		{ClientID: "a", Filters: []string{"x/+", "x/1"}, QoS: 1},
		{ClientID: "a", Filters: []string{"$share/g/x/#"}, QoS: 2, OneOfMany: true},
		{ClientID: "b", Filters: []string{"x/#"}, QoS: 2},
	}
	if diff := cmp.Diff(want, got); diff != "" || total != 3 {
		t.Errorf("%d receivers: %s", total, diff)
	}
	if got, total := g[0].Receivers("x/1", 1); len(got) != 1 || total != 3 {
		t.Errorf("%v of %d, want one of 3", got, total)
	}
	for name, want := range map[string]int{"p2p/a/x": 1, "p2p/c/x": 0, "p2p/%zz/x": 0, "y": 0} {
		if got, total := g[0].Receivers(name, 10); len(got) != want || total != want {
			t.Errorf("receivers of %s: %v, want %d", name, got, want)
		}
	}
	subs, _ := g[0].Subscriptions(g[0].Find("a"))
	wantSubs := []Subscription{
		{"$share/g/x/#", subscriptions.Options{QoS: 2}}, {"x/+", subscriptions.Options{QoS: 1, NoLocal: true, RetainHandling: 1}}, {"x/1", subscriptions.Options{}},
	}
	if diff := cmp.Diff(wantSubs, subs); diff != "" {
		t.Errorf("subscriptions: %s", diff)
	}
	wantRoutes := []Route{
		{"a", routes.Route{Filter: "x/#", Members: 1}},
		{"a", routes.Route{Filter: "x/+", Members: 1}},
		{"a", routes.Route{Filter: "x/1", Members: 1}},
		{"a", routes.Route{Filter: "x/#", Group: "g", Members: 1}},
		{"b", routes.Route{Filter: "x/1", Members: 1}},
	}
	if diff := cmp.Diff(wantRoutes, g[0].Routes("x/1", 100)); diff != "" {
		t.Errorf("routes: %s", diff)
	}
	if got := g[0].Routes("p2p/a/x", 100); len(got) > 0 {
		t.Errorf("routes of a direct topic: %v", got)
	}
}

func TestWhatASessionLeavesBehindIsNobody(t *testing.T) {
	g := start(t, 2, options{durable: true})
	g[0].registry.silent = true
	c := g[0].connect(v5, "d", rawmqtt.Durable(60))
	c.MustSubscribe("x", 1)
	c.Disconnect()
	eventually(t, "it has gone", func() bool { return g[0].Find("d") == nil })
	if got, total := g[0].Receivers("x", 10); total != 0 {
		t.Errorf("%v of %d, want nobody", got, total)
	}
}

// followed follows everything at a gateway.
func (g *gateway) followed() *trace.Follower {
	g.t.Helper()
	f, err := g.tap.Follow(trace.Filter{})
	if err != nil {
		g.t.Fatal(err)
	}
	g.t.Cleanup(f.Leave)
	return f
}

// kinds waits until there are so many steps, and returns what they are.
func kinds(t *testing.T, f *trace.Follower, n int) (all []trace.Kind) {
	t.Helper()
	for len(all) < n {
		for _, s := range f.Take() {
			all = append(all, s.Kind)
		}
		if len(all) < n {
			select {
			case <-f.Filled():
			case <-time.After(rawmqtt.Patience):
				t.Fatalf("steps %v, want %d", all, n)
			}
		}
	}
	return all
}

func TestEachStepOfAMessageIsShown(t *testing.T) {
	g := start(t, 2, options{})
	sub, pub := g[1].connect(v5, "s"), g[0].connect(v5, "p")
	sub.MustSubscribe("x", 1)
	here, there := g[0].followed(), g[1].followed()
	pub.Publish("x", "1", 1)
	sub.Receive()
	if got, want := kinds(t, here, 4), []trace.Kind{trace.Received, trace.Forwarded, trace.Receipt, trace.Answered}; !slices.Equal(got, want) {
		t.Errorf("where it was published: %v, want %v", got, want)
	}
	if got, want := kinds(t, there, 1), []trace.Kind{trace.Arrived}; !slices.Equal(got, want) {
		t.Errorf("where it is received: %v, want %v", got, want)
	}
	pub.Publish(topic.Direct("nobody", "x"), "1", 1)
	if got, want := kinds(t, here, 3), []trace.Kind{trace.Received, trace.Dropped, trace.Answered}; !slices.Equal(got, want) {
		t.Errorf("for nobody: %v, want %v", got, want)
	}
}

// BenchmarkList measures a page of 1,000 out of 100,000 clients.
func BenchmarkList(b *testing.B) {
	ids := make([]string, 100_000)
	for i := range ids {
		ids[i] = fmt.Sprintf("client-%06d", i)
	}
	x := quick(ids...)
	b.ReportAllocs()
	for b.Loop() {
		if page, _ := x.List(pages.Range{After: "client-050000"}, "", 1000); len(page) != 1000 {
			b.Fatalf("%d on a page", len(page))
		}
	}
}
