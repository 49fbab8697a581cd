package mesh

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	meshv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/mesh/v1"
	"github.com/beeline-mqtt/beeline/internal/routes"
)

// ordinary makes ordinary routes.
func ordinary(filters ...string) (rs []routes.Route) {
	for _, f := range filters {
		rs = append(rs, routes.Route{Filter: f, Members: 1})
	}
	return rs
}

func withdrawn(filters ...string) (rs []routes.Route) {
	for _, f := range filters {
		rs = append(rs, routes.Route{Filter: f})
	}
	return rs
}

func TestWhateverPartsAndVersionsAPeerGetsItsTableIsTheAnnouncersInTheEnd(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a := newAnnouncer[string]()
		table := routes.NewTable[*int]()
		peer := new(int)
		var in routesIn
		catchUp := func(t *rapid.T) {
			for u := a.since(in.version); ; {
				p := u.part()
				if _, err := applyRoutes(&in, p, table, peer); err != nil {
					t.Fatal(err)
				}
				if !p.GetMore() {
					return
				}
				if rapid.IntRange(0, 9).Draw(t, "break") == 0 {
					in.restart()
					return
				}
			}
		}
		t.Repeat(map[string]func(*rapid.T){
			"announce": func(t *rapid.T) {
				var rs []routes.Route
				for range rapid.IntRange(1, 8).Draw(t, "changes") {
					r := routes.Route{
						Filter:  rapid.SampledFrom([]string{"a", "b/+", "c/#"}).Draw(t, "filter"),
						Group:   rapid.SampledFrom([]string{"", "g", "h"}).Draw(t, "group"),
						Members: rapid.Uint32Range(0, 2).Draw(t, "members"),
						Durable: rapid.Bool().Draw(t, "durable"),
					}
					if r.Group == "" {
						r.Members = min(r.Members, 1)
					}
					// Long enough for several parts of an update.
					r.Filter += "/" + strings.Repeat("x", 10<<10)
					rs = append(rs, r)
				}
				a.announce(rs, time.Time{}, func(error) {}, nil)
			},
			"catch up": catchUp,
			"": func(t *rapid.T) {
				if count, hash := routes.DigestOf(a.all()); hash != a.hash || count != uint64(len(a.own)) {
					t.Fatalf("the sum that is kept, %x, is not that of the table, %x", a.hash, hash)
				}
			},
		})
		for in.version != a.version {
			catchUp(t)
		}
		d := &meshv1.RouteDigest{Version: a.version, Count: uint64(len(a.own)), Hash: a.hash}
		if differs(&in, d, table, peer) {
			count, hash := table.Digest(peer)
			t.Fatalf("%d routes %x at the peer, %d routes %x here", count, hash, len(a.own), a.hash)
		}
	})
}

func TestASnapshotGoesInPartsOfLessThan64KiB(t *testing.T) {
	a := newAnnouncer[string]()
	var rs []routes.Route
	for i := range 5000 {
		rs = append(rs, routes.Route{Filter: fmt.Sprintf("some/filter/of/ordinary/length/%d", i), Group: "group", Members: 1 << 31})
	}
	a.announce(rs, time.Time{}, func(error) {}, nil)
	u := a.snapshot()
	parts, count := 0, 0
	for more := true; more; parts++ {
		p := u.part()
		more = p.GetMore()
		count += len(p.GetAnnounced())
		if size := proto.Size(routesFrame(p)); size > 64<<10 {
			t.Errorf("a part of %d bytes", size)
		}
	}
	if parts < 3 || count != 5000 {
		t.Errorf("%d routes in %d parts", count, parts)
	}
}

func TestRouteUpdatesThatMakeNoSenseAreRefused(t *testing.T) {
	snapshot := &meshv1.RouteUpdate{Version: 5, Snapshot: true}
	first := &meshv1.RouteUpdate{Version: 6, Snapshot: true, More: true}
	cases := []struct {
		name   string
		before []*meshv1.RouteUpdate
		update *meshv1.RouteUpdate
	}{
		{"a delta before any snapshot", nil, &meshv1.RouteUpdate{Version: 2}},
		{"no version", nil, &meshv1.RouteUpdate{Snapshot: true}},
		{"a version that goes back", []*meshv1.RouteUpdate{snapshot}, &meshv1.RouteUpdate{Version: 4}},
		{"a delta inside a snapshot", []*meshv1.RouteUpdate{snapshot, first}, &meshv1.RouteUpdate{Version: 6}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			table := routes.NewTable[*int]()
			var in routesIn
			for _, u := range c.before {
				if _, err := applyRoutes(&in, u, table, new(int)); err != nil {
					t.Fatal(err)
				}
			}
			if _, err := applyRoutes(&in, c.update, table, new(int)); !errors.Is(err, errProtocol) {
				t.Errorf("error %v", err)
			}
		})
	}
}

// announce waits for Announce.
func announce(t testing.TB, n *node, rs []routes.Route) error {
	t.Helper()
	done := make(chan error, 2)
	n.Announce(rs, func(err error) { done <- err })
	select {
	case err := <-done:
		return err
	case <-time.After(patience):
		t.Fatal("Announce is never done")
		return nil
	}
}

func wants(n *node, topic string) (ids []string) {
	for _, to := range n.table.Match(topic, nil) {
		ids = append(ids, to.Peer.Peer().ID)
	}
	slices.Sort(ids)
	return ids
}

func TestAnAnnouncedRouteIsInForceAtEveryPeerWhenDoneIsCalled(t *testing.T) {
	x := startNode(t, "x", nodeOptions{revision: 1})
	y := startNode(t, "y", nodeOptions{revision: 2})
	z := startNode(t, "z", nodeOptions{revision: 3})
	introduce(x, y, z)
	synced(t, y, z)
	for i := range 50 {
		filter := fmt.Sprintf("f/%d", i)
		if err := announce(t, y, ordinary(filter)); err != nil {
			t.Fatal(err)
		}
		// z has had a snapshot of y; x may still be waiting for its first one.
		if got := wants(z, filter); !slices.Equal(got, []string{"y"}) {
			t.Fatalf("after done z routes %s to %v", filter, got)
		}
	}
	if err := announce(t, y, withdrawn("f/7")); err != nil {
		t.Fatal(err)
	}
	if got := wants(z, "f/7"); len(got) != 0 {
		t.Errorf("after it is withdrawn z routes it to %v", got)
	}
}

func TestAProcessWithoutPeersNeedsNoAcknowledgement(t *testing.T) {
	x := startNode(t, "x", nodeOptions{})
	if x.Synced() {
		t.Error("synced before the registry has said who is there")
	}
	x.SetPeers(nil)
	synced(t, x)
	if err := announce(t, x, ordinary("a")); err != nil {
		t.Error(err)
	}
}

func TestASharedSubscriptionIsAnnouncedWithItsMembers(t *testing.T) {
	x := startNode(t, "x", nodeOptions{revision: 1})
	y := startNode(t, "y", nodeOptions{revision: 2})
	introduce(x, y)
	synced(t, y)
	if err := announce(t, y, []routes.Route{{Filter: "s/#", Group: "g", Members: 3}}); err != nil {
		t.Fatal(err)
	}
	shares := x.table.Shares("s/1", nil)
	if len(shares) != 1 || shares[0].Group() != "g" || shares[0].Filter() != "s/#" {
		t.Fatalf("shares %v", shares)
	}
	if p, ok := shares[0].Pick(func(*Link) bool { return false }); !ok || p.Peer().ID != "y" {
		t.Errorf("picked %v", p)
	}
	if err := announce(t, y, []routes.Route{{Filter: "s/#", Group: "g"}}); err != nil {
		t.Fatal(err)
	}
	if shares := x.table.Shares("s/1", nil); len(shares) != 0 {
		t.Errorf("after it is withdrawn: %v", shares)
	}
}

func TestTenThousandSubscriptionsTakeFewFrames(t *testing.T) {
	x := startNode(t, "x", nodeOptions{revision: 1})
	y := startNode(t, "y", nodeOptions{revision: 2})
	introduce(x, y)
	synced(t, y)

	var rs []routes.Route
	for i := range 10_000 {
		rs = append(rs, routes.Route{Filter: fmt.Sprintf("at/once/%d", i), Members: 1})
	}
	before := x.Stats().FramesOut
	if err := announce(t, y, rs); err != nil {
		t.Fatal(err)
	}
	if frames := x.Stats().FramesOut - before; frames > 3 {
		t.Errorf("%d frames to acknowledge one announcement", frames)
	}

	done := make(chan error, 10_000)
	for i := range 10_000 {
		y.Announce(ordinary(fmt.Sprintf("one/by/one/%d", i)), func(err error) { done <- err })
	}
	for range 10_000 {
		select {
		case err := <-done:
			if err != nil {
				t.Fatal(err)
			}
		case <-time.After(patience):
			t.Fatal("not all are done")
		}
	}
	if count, _ := x.table.Digest(x.link(t, "y")); count != 20_000 {
		t.Errorf("%d routes at the peer", count)
	}
	if frames := x.Stats().FramesOut - before; frames > 5_000 {
		t.Errorf("%d frames to acknowledge 10,000 announcements", frames)
	}
}

func TestAPeerThatDoesNotAnswerHoldsUpOnlyWhatItDoesNotHave(t *testing.T) {
	x := startNode(t, "x", nodeOptions{revision: 1})
	z := startNode(t, "z", nodeOptions{revision: 2})
	y := startNode(t, "y", nodeOptions{revision: 3, config: func(c *Config) { c.RouteAckTimeout = 50 * time.Millisecond }})
	introduce(x, y, z)
	synced(t, y)
	if err := announce(t, y, ordinary("old")); err != nil {
		t.Fatal(err)
	}
	z.serving.Store(false) // from now on it drops what it receives
	if err := announce(t, y, ordinary("new")); !errors.Is(err, ErrNotAcknowledged) {
		t.Errorf("new: %v", err)
	}
	if err := announce(t, y, ordinary("old")); err != nil {
		t.Errorf("old again: %v", err)
	}
	y.SetPeers([]Peer{x.peer()})
	if err := announce(t, y, ordinary("newer")); err != nil {
		t.Errorf("without it: %v", err)
	}
}

func TestNobodyWaitsUntilAQuietPeerHasTheRoutes(t *testing.T) {
	x := startNode(t, "x", nodeOptions{revision: 1})
	y := startNode(t, "y", nodeOptions{revision: 2, config: func(c *Config) { c.RouteAckTimeout = time.Hour }})
	quiet := x.peer()
	quiet.Quiet = true
	x.SetPeers([]Peer{y.peer()})
	y.SetPeers([]Peer{quiet})
	synced(t, y)
	if err := announce(t, x, ordinary("its own")); err != nil {
		t.Fatal(err)
	}
	if got := wants(y, "its own"); !slices.Equal(got, []string{"x"}) {
		t.Errorf("it wants %v", got)
	}
	x.serving.Store(false) // from now on it drops what it receives
	if err := announce(t, y, ordinary("new")); err != nil {
		t.Error(err)
	}
}

func TestThePeersDeathEndsTheWaitForIt(t *testing.T) {
	x := startNode(t, "x", nodeOptions{revision: 1})
	y := startNode(t, "y", nodeOptions{revision: 2, config: func(c *Config) { c.RouteAckTimeout = time.Hour }})
	introduce(x, y)
	synced(t, y)
	x.serving.Store(false)
	done := make(chan error, 1)
	y.Announce(ordinary("a"), func(err error) { done <- err })
	y.SetPeers(nil)
	select {
	case err := <-done:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(patience):
		t.Error("never done")
	}
}

func TestTheDigestRepairsATableThatDiffers(t *testing.T) {
	x := startNode(t, "x", nodeOptions{revision: 1})
	y := startNode(t, "y", nodeOptions{revision: 2, config: func(c *Config) { c.DigestInterval = 5 * time.Millisecond }})
	introduce(x, y)
	synced(t, y)
	if err := announce(t, y, ordinary("a", "b", "c")); err != nil {
		t.Fatal(err)
	}
	l := x.link(t, "y")
	for _, c := range []struct {
		name  string
		spoil func()
	}{
		{"a route is missing", func() { x.table.Withdraw(l, "b", "") }},
		{"there is one too many", func() { x.table.Announce(l, routes.Route{Filter: "d", Members: 1}) }},
		{"one is another", func() { x.table.Announce(l, routes.Route{Filter: "a", Members: 1, Durable: true}) }},
		{"all are gone", func() { x.table.Drop(l) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			wantCount, want := routes.DigestOf(slices.Values(ordinary("a", "b", "c")))
			c.spoil()
			eventually(t, "the table is repaired", func() bool {
				count, hash := x.table.Digest(l)
				return count == wantCount && hash == want
			})
		})
	}
}

func TestAYoungerProcessIsSyncedWhenItHasTheRoutesOfTheOlderAndTheyHaveIts(t *testing.T) {
	x := startNode(t, "x", nodeOptions{revision: 1})
	x.SetPeers(nil)
	for i := range 100 {
		if err := announce(t, x, ordinary(fmt.Sprintf("old/%d", i))); err != nil {
			t.Fatal(err)
		}
	}
	y := startNode(t, "y", nodeOptions{revision: 2})
	if err := announce(t, y, ordinary("young")); err != nil {
		t.Fatal(err)
	}
	y.SetPeers([]Peer{x.peer()})
	if y.Synced() {
		t.Error("synced while the older does not know the younger")
	}
	introduce(x, y)
	synced(t, y)
	if got := wants(x, "young"); !slices.Equal(got, []string{"y"}) {
		t.Errorf("the older routes to %v", got)
	}
	for i := range 100 {
		if got := wants(y, fmt.Sprintf("old/%d", i)); !slices.Equal(got, []string{"x"}) {
			t.Fatalf("the younger routes to %v", got)
		}
	}
	if !x.Synced() {
		t.Error("the older waits for the younger")
	}
}
