package broker

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/beeline-mqtt/beeline/internal/packet"
	"github.com/beeline-mqtt/beeline/services/gateway/internal/client"
	"github.com/beeline-mqtt/beeline/services/gateway/internal/lease"
	"github.com/beeline-mqtt/beeline/test/rawmqtt"
)

// hello sends a CONNECT and does not wait for the answer.
func (g *gateway) hello(version byte, id string) *rawmqtt.Client {
	g.t.Helper()
	c := rawmqtt.Dial(g.t, g.mqtt, version)
	c.Send(rawmqtt.ConnectPacket(version, id))
	return c
}

func wantConnack(t testing.TB, c *rawmqtt.Client, code packet.Code) {
	t.Helper()
	if ack := c.Expect(packets.Connack); ack.ReasonCode != byte(code) {
		t.Errorf("CONNACK %#x, want %#x", ack.ReasonCode, byte(code))
	}
}

func (g *gateway) wantReleased(t testing.TB, want ...uint64) {
	t.Helper()
	g.mu.Lock()
	defer g.mu.Unlock()
	if diff := cmp.Diff(want, g.released); diff != "" {
		t.Errorf("released (-want +got):\n%s", diff)
	}
}

// replaced waits until somebody newer than c has come for c's client id.
func (g *gateway) replaced(c *client.Client) *client.Client {
	g.t.Helper()
	eventually(g.t, "a newer connection", func() bool { return g.client(c.ID) != c })
	return g.client(c.ID)
}

// versions runs f for both versions of MQTT.
func versions(t *testing.T, f func(t *testing.T, version byte)) {
	t.Helper()
	t.Run("3.1.1", func(t *testing.T) { f(t, v3) })
	t.Run("5", func(t *testing.T) { f(t, v5) })
}

func TestAConnectionIsGoneBeforeTheNextOfItsClientIsClaimed(t *testing.T) {
	versions(t, func(t *testing.T, version byte) {
		g := start(t, 1, options{})[0]
		first := g.connect(version, "x")
		old := g.client("x")
		g.claims(func(context.Context, string) error {
			select {
			case <-old.Gone():
			default:
				t.Error("the older connection is still there")
			}
			return nil
		})
		second := g.connect(version, "x")
		if reason := first.ExpectClosed(); version == v5 && reason != byte(packet.SessionTakenOver) {
			t.Errorf("closed with %#x, want 0x8E", reason)
		}
		second.ExpectNothing()
		if l, _ := g.registry.lease("x"); l.Epoch != 2 {
			t.Errorf("epoch %d in force, want 2", l.Epoch)
		}
		g.wantReleased(t)
	})
}

// holdClaims keeps claims until they are let go, one by one, or given up.
func (g *gateway) holdClaims() (claiming chan string, decide chan error) {
	claiming, decide = make(chan string, 100), make(chan error)
	g.claims(func(ctx context.Context, id string) error {
		claiming <- id
		select {
		case err := <-decide:
			return err
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	})
	return claiming, decide
}

func TestAConnectionIsReplacedWhileItWaitsForItsLease(t *testing.T) {
	versions(t, func(t *testing.T, version byte) {
		g := start(t, 1, options{})[0]
		first := g.connect(version, "x")
		claiming, decide := g.holdClaims()
		second := g.hello(version, "x")
		receive(t, claiming, "the second claim")
		first.ExpectClosed()
		third := g.hello(version, "x")
		second.ExpectClosed() // without a CONNACK: there is no code for it
		receive(t, claiming, "the third claim")
		decide <- nil
		wantConnack(t, third, packet.Success)
		third.ExpectNothing()
		g.wantReleased(t)
		if e := g.clients.get("x"); e.current != g.client("x") || e.former != nil {
			t.Errorf("entry %+v", e)
		}
	})
}

func TestOfManyConnectionsThatComeTogetherTheNewestIsLeft(t *testing.T) {
	g := start(t, 1, options{})[0]
	claiming, decide := g.holdClaims()
	var all []*rawmqtt.Client
	for range 5 {
		all = append(all, g.hello(v5, "x"))
		receive(t, claiming, "a claim")
	}
	decide <- nil
	for _, c := range all[:4] {
		c.ExpectClosed()
	}
	wantConnack(t, all[4], packet.Success)
	all[4].ExpectNothing()
	if n := g.clients.count.Load(); n != 1 {
		t.Errorf("%d clients", n)
	}
}

func TestAClaimThatIsGrantedTooLateIsTheNextConnections(t *testing.T) {
	g := start(t, 1, options{})[0]
	claiming, decide := make(chan struct{}, 10), make(chan error)
	g.claims(func(context.Context, string) error { // deaf to its context
		claiming <- struct{}{}
		return <-decide
	})
	first := g.hello(v5, "x")
	receive(t, claiming, "the first claim")
	c := g.client("x")
	second := g.hello(v5, "x")
	g.replaced(c)
	receive(t, c.Stopped(), "the end of the first connection")
	decide <- nil // epoch 1
	first.ExpectClosed()
	receive(t, claiming, "the second claim")
	decide <- errTest
	wantConnack(t, second, packet.ServerUnavailable)
	second.ExpectClosed()
	eventually(t, "it is forgotten", func() bool { return g.clients.count.Load() == 0 })
	g.wantReleased(t, 1)
}

func TestALeaseIsGivenUpWhenTheConnectionsAfterItGetNone(t *testing.T) {
	tests := []struct {
		name  string
		newer int // connections that are refused, after one that had a lease
	}{
		{"one", 1},
		{"two, the first of them replaced while it waited", 2},
		{"five", 5},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			g := start(t, 1, options{})[0]
			g.connect(v5, "x")
			claiming, decide := g.holdClaims()
			var last *rawmqtt.Client
			for range tt.newer {
				last = g.hello(v5, "x")
				receive(t, claiming, "a claim")
			}
			decide <- errTest
			wantConnack(t, last, packet.ServerUnavailable)
			eventually(t, "the client is gone", func() bool { return g.clients.count.Load() == 0 })
			g.wantReleased(t, 1)
			if l, held := g.registry.lease("x"); held {
				t.Errorf("%+v is in force, and nobody is connected", l)
			}
		})
	}
}

func TestALeaseThatAnotherGatewayHasIsNotGivenUp(t *testing.T) {
	g := start(t, 1, options{})[0]
	g.claims(func(context.Context, string) error { return fmt.Errorf("claim: %w", lease.ErrSuperseded) })
	c := g.hello(v5, "x")
	c.ExpectClosed() // no CONNACK: the client has a newer connection to look at
	eventually(t, "it is forgotten", func() bool { return g.clients.count.Load() == 0 })
	g.wantReleased(t)
}

func TestAConnectionThatEndsGivesItsLeaseUp(t *testing.T) {
	g := start(t, 1, options{})[0]
	c := g.connect(v5, "x")
	c.MustSubscribe("a/+", 1)
	c.MustSubscribe("$share/g/a/+", 1)
	c.Disconnect()
	eventually(t, "the lease is given up", func() bool {
		_, held := g.registry.lease("x")
		return !held
	})
	g.wantReleased(t, 1)
	if g.subs.Len() != 0 || g.groups.m[sharedOf("g", "a/+")] != nil {
		t.Error("a subscription is left")
	}
}

func TestAGatewayTakesNoMoreClientsThanItMay(t *testing.T) {
	g := start(t, 1, options{config: func(c *Config) { c.MaxClients = 2 }})[0]
	a, b := g.connect(v5, "a"), g.connect(v3, "b")
	for _, version := range []byte{v3, v5} {
		c := g.hello(version, "c")
		want := packet.ServerBusy
		if version == v3 {
			want = packet.Code(3)
		}
		wantConnack(t, c, want)
	}
	again := g.connect(v5, "a") // in the place of its own former connection
	a.ExpectClosed()
	again.Disconnect()
	eventually(t, "there is room", func() bool { return g.clients.count.Load() == 1 })
	g.connect(v5, "c").ExpectNothing()
	b.ExpectNothing()
}

func TestConnectionsThatComeTogetherDoNotExceedTheBound(t *testing.T) {
	const most, all = 3, 20
	g := start(t, 1, options{config: func(c *Config) { c.MaxClients = most }})[0]
	var wg sync.WaitGroup
	codes := make([]byte, all)
	for i := range all {
		c := g.hello(v5, fmt.Sprintf("c%d", i))
		wg.Go(func() { codes[i] = c.Expect(packets.Connack).ReasonCode })
	}
	wg.Wait()
	accepted := 0
	for _, code := range codes {
		switch packet.Code(code) {
		case packet.Success:
			accepted++
		case packet.ServerBusy:
		default:
			t.Errorf("CONNACK %#x", code)
		}
	}
	if accepted != most {
		t.Errorf("%d clients, want %d", accepted, most)
	}
}

func TestAnEvictionEndsConnectionsOfOlderEpochsOnly(t *testing.T) {
	g := start(t, 1, options{})[0]
	x := g.connect(v5, "x") // epoch 1
	for _, tt := range []struct {
		name  string
		id    string
		epoch uint64
	}{
		{"another client", "y", 9}, {"an older epoch", "x", 0}, {"its own epoch", "x", 1},
	} {
		done := false
		g.Evict(tt.id, tt.epoch, func() { done = true })
		if !done {
			t.Errorf("%s: not done at once", tt.name)
		}
	}
	x.ExpectNothing()
	done := make(chan struct{})
	c := g.client("x")
	g.Evict("x", 2, func() {
		select {
		case <-c.Gone():
		default:
			t.Error("done before it was gone")
		}
		close(done)
	})
	if reason := x.ExpectClosed(); reason != byte(packet.SessionTakenOver) {
		t.Errorf("closed with %#x, want 0x8E", reason)
	}
	receive(t, done, "the end of the eviction")
}

func TestAnEvictionWaitsForAConnectionThatIsBeingReplaced(t *testing.T) {
	g := start(t, 1, options{})[0]
	g.connect(v5, "x") // epoch 1
	c := g.client("x")
	// Nobody knows of the end of c but the one that replaces it.
	former, ok := g.clients.put(&client.Client{ID: "x"}, 10)
	if former != c || !ok {
		t.Fatal("c is not the connection of x")
	}
	done := make(chan struct{})
	g.Evict("x", 5, func() { close(done) })
	receive(t, done, "the end of the eviction")
	receive(t, c.Gone(), "the end of c")
	g.clients.ended(c)
	at := false
	g.Evict("x", 5, func() { at = true })
	if !at {
		t.Error("the newer connection is evicted, which has not been granted its lease yet")
	}
}

func TestHoldingsAreTheClientsWithALease(t *testing.T) {
	g := start(t, 1, options{})[0]
	for i := range 200 {
		g.connect(v5, fmt.Sprintf("c%d", i))
	}
	claiming, decide := g.holdClaims()
	waiting := g.hello(v5, "new")
	receive(t, claiming, "a claim")
	again := g.hello(v5, "c7")
	receive(t, claiming, "a claim")

	all := maps.Collect(g.Holdings())
	if len(all) != 200 || all["c0"].Epoch != 1 || all["c199"].Epoch != 200 {
		t.Errorf("%d holdings, c0 %v, c199 %v", len(all), all["c0"], all["c199"])
	}
	if all["c7"].Epoch != 8 {
		t.Errorf("c7, which is being replaced, is shown as %v, want 8", all["c7"])
	}
	for range g.Holdings() {
		break // whoever has seen enough may stop
	}
	decide <- nil
	decide <- nil
	wantConnack(t, waiting, packet.Success)
	wantConnack(t, again, packet.Success)
	if after := maps.Collect(g.Holdings()); after["c7"].Epoch < 201 || after["new"].Epoch < 201 || len(after) != 201 {
		t.Errorf("c7 %v, new %v of %v", after["c7"], after["new"], len(slices.Collect(maps.Keys(after))))
	}
}

func TestATakeoverAcrossGatewaysLeavesOneConnection(t *testing.T) {
	g := start(t, 2, options{})
	old := g[0].connect(v5, "x")
	for i := range 20 {
		c := g[(i+1)%2].connect(v5, "x")
		if reason := old.ExpectClosed(); reason != byte(packet.SessionTakenOver) {
			t.Errorf("closed with %#x", reason)
		}
		old = c
	}
	old.ExpectNothing()
}

func will(p *packets.Packet) {
	p.Connect.WillFlag, p.Connect.WillTopic, p.Connect.WillPayload = true, "w", []byte("x")
}

func TestAConnectionThatHasSaidHowItEndsIsReleasedBeforeTheNextOneClaims(t *testing.T) {
	tests := []struct {
		name string
		opts []rawmqtt.Option
		end  func(*rawmqtt.Client)
		want int
	}{
		{"DISCONNECT with a will", []rawmqtt.Option{will}, (*rawmqtt.Client).Disconnect, 1},
		{"DISCONNECT without one", nil, (*rawmqtt.Client).Disconnect, 0},
		{"lost", []rawmqtt.Option{will}, (*rawmqtt.Client).Close, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			g := start(t, 1, options{})[0]
			device := g.connect(v5, "x", tt.opts...)
			c := g.client("x")
			tt.end(device)
			<-c.Gone()
			g.mu.Lock()
			before := len(g.released)
			g.mu.Unlock()
			g.releaseEnded(c)
			g.mu.Lock()
			defer g.mu.Unlock()
			if got := len(g.released) - before; got != tt.want {
				t.Errorf("released %d times, want %d", got, tt.want)
			}
		})
	}
}

// The session service takes a claim elsewhere for a takeover, which publishes the will, unless it has been told before the
// eviction is answered how the connection has ended.
func TestHowAConnectionHasEndedIsToldAlsoWhenItsLeaseIsLost(t *testing.T) {
	tests := []struct {
		name  string
		opts  []rawmqtt.Option
		cause client.Cause
		want  []uint64
	}{
		{"moved, with a will", []rawmqtt.Option{will}, client.Moved(""), []uint64{1}},
		{"moved, without one", nil, client.Moved(""), nil},
		{"taken over", []rawmqtt.Option{will}, client.TakenOver(), nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			g := start(t, 1, options{})[0]
			g.connect(v5, "x", tt.opts...)
			c := g.client("x")
			c.LoseLease()
			c.Stop(tt.cause)
			receive(t, c.Gone(), "its being gone")
			g.wantReleased(t, tt.want...)
		})
	}
}

func TestAnEvictionIsAnsweredBehindWhatAMovedClientLeaves(t *testing.T) {
	g := start(t, 1, options{})[0]
	const clients = 100
	told := make(chan string, clients)
	for i := range clients {
		id := fmt.Sprintf("c%d", i)
		g.connect(v5, id, will)
		c := g.client(id)
		c.Stop(client.Moved("other:1883"))
		if i%2 == 0 {
			<-c.Stopped()
		}
		epoch := c.Epoch()
		g.Evict(id, epoch+1000, func() {
			g.mu.Lock()
			defer g.mu.Unlock()
			if !slices.Contains(g.released, epoch) {
				t.Errorf("%s: its lease has not been given up", id)
			}
			told <- id
		})
	}
	for range clients {
		receive(t, told, "the end of an eviction")
	}
	if n := g.Len(); n != 0 {
		t.Errorf("%d clients are left", n)
	}
}

func TestClientsAreThoseWhoAreHere(t *testing.T) {
	g := start(t, 1, options{})[0]
	want := make(map[*client.Client]bool)
	for i := range 200 {
		id := fmt.Sprintf("c%d", i)
		g.connect(v5, id)
		want[g.client(id)] = true
	}
	got := make(map[*client.Client]bool)
	for c := range g.Clients() {
		got[c] = true
	}
	if !maps.Equal(got, want) || g.Len() != 200 {
		t.Errorf("%d clients, Len is %d, want 200", len(got), g.Len())
	}
	n := 0
	for range g.Clients() {
		if n++; n == 3 {
			break
		}
	}
	// Whoever takes only the first takes another one each time, or nearly so.
	first := make(map[*client.Client]bool)
	for range 200 {
		for c := range g.Clients() {
			first[c] = true
			break
		}
	}
	if len(first) < 50 {
		t.Errorf("of 200 times, only %d clients come first", len(first))
	}
}
