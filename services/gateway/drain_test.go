package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/beeline-mqtt/beeline/internal/cluster"
	"github.com/beeline-mqtt/beeline/internal/cluster/clustertest"
	"github.com/beeline-mqtt/beeline/services/gateway/internal/drain"
	"github.com/beeline-mqtt/beeline/test/rawmqtt"
)

func TestClientsAreSentToPublicAddressesInTurnsByWeight(t *testing.T) {
	type m = cluster.Member
	tests := []struct {
		name    string
		members []cluster.Member
		want    map[string]int // in 12 turns
	}{
		{"nobody", nil, map[string]int{"": 12}},
		{"nobody has an address", []m{{Weight: 1}, {Weight: 2}}, map[string]int{"": 12}},
		{"one", []m{{Public: "a", Weight: 1}}, map[string]int{"a": 12}},
		{"one that is not weighted", []m{{Public: "a"}}, map[string]int{"a": 12}},
		{"one of two has an address", []m{{Public: "a", Weight: 1}, {Weight: 9}}, map[string]int{"a": 12}},
		{"three alike", []m{{Public: "a", Weight: 1}, {Public: "b", Weight: 1}, {Public: "c", Weight: 1}}, map[string]int{"a": 4, "b": 4, "c": 4}},
		{"three, not weighted", []m{{Public: "a"}, {Public: "b"}, {Public: "c"}}, map[string]int{"a": 4, "b": 4, "c": 4}},
		{"by weight", []m{{Public: "a", Weight: 1}, {Public: "b", Weight: 3}}, map[string]int{"a": 3, "b": 9}},
		{"one is to get nobody", []m{{Public: "a", Weight: 0}, {Public: "b", Weight: 3}}, map[string]int{"b": 12}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := map[string]int{}
			for turn := range uint64(12) {
				got[turnOf(tt.members, turn)]++
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestOthersAreTheGatewaysThatTakeClients(t *testing.T) {
	p := newPeers("self")
	if got := p.others(); got != nil {
		t.Errorf("%v before anybody is known", got)
	}
	p.views[cluster.Gateway] = cluster.View{Members: []cluster.Member{
		{ID: "a", State: cluster.Draining}, {ID: "b", State: cluster.Active}, {ID: "self", State: cluster.Active},
	}}
	p.views[cluster.Session] = cluster.View{Members: []cluster.Member{{ID: "s", State: cluster.Active}}}
	want := []cluster.Member{{ID: "b", State: cluster.Active}}
	if diff := cmp.Diff(want, p.others()); diff != "" {
		t.Error(diff)
	}
}

// pair starts a gateway and another one, of which public is the public address.
func pair(t *testing.T, public string, change func(*Config)) (g, other *process) {
	t.Helper()
	etcd := clustertest.StartEtcd(t)
	startSessions(t, etcd.Address())
	c := testConfig()
	c.PublicAddress = public
	other = start(t, etcd.Address(), c)
	other.awaitReady()
	c = testConfig()
	c.Drain.Grace = 0
	if change != nil {
		change(&c)
	}
	g = start(t, etcd.Address(), c)
	g.awaitReady()
	clustertest.Wait(t, "it has seen the other one", g.somewhere)
	return g, other
}

// shown is what etcd shows of the present incarnation.
func (p *process) shown() cluster.Member {
	p.t.Helper()
	l := p.life.Load()
	if l == nil {
		return cluster.Member{}
	}
	r, err := p.etcd.Get(p.t.Context(), keys.Member(cluster.Gateway, l.deps.Incarnation))
	if err != nil {
		p.t.Fatal(err)
	}
	var m cluster.Member
	for _, kv := range r.Kvs {
		if err := json.Unmarshal(kv.Value, &m); err != nil {
			p.t.Fatal(err)
		}
	}
	return m
}

// showsAs waits until etcd shows a state.
func (p *process) showsAs(s cluster.State) {
	p.t.Helper()
	clustertest.Wait(p.t, "etcd shows it as "+string(s), func() bool { return p.shown().State == s })
}

// tell orders clients to be moved; carriedOut waits until that is over.
func (p *process) tell(o drain.Order) {
	p.t.Helper()
	if err := p.order(o); err != nil {
		p.t.Fatal(err)
	}
}

func (p *process) carriedOut(want drain.Progress) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.t.Context(), rawmqtt.Patience)
	defer cancel()
	got, err := p.drainer.await(ctx)
	if err != nil || got.Phase != want.Phase || got.Told != want.Told || !errors.Is(got.Err, want.Err) {
		p.t.Errorf("carried out to %+v, %v; want %+v", got, err, want)
	}
}

// moved expects that a client is told to go, and where.
func moved(t *testing.T, c *rawmqtt.Client, reference string) {
	t.Helper()
	if c.Version == v5 {
		p := c.Expect(packets.Disconnect)
		want := byte(0x98)
		if reference != "" {
			want = 0x9C
		}
		if p.ReasonCode != want || p.Properties.ServerReference != reference {
			t.Errorf("DISCONNECT %#x to %q, want %#x to %q", p.ReasonCode, p.Properties.ServerReference, want, reference)
		}
	}
	c.ExpectClosed()
}

func TestADrainedGatewaySendsItsClientsElsewhere(t *testing.T) {
	for _, public := range []string{"gateway-2.example:1883", ""} {
		t.Run("to "+public, func(t *testing.T) {
			g, other := pair(t, public, nil)
			if got := other.shown(); got.Public != public || got.State != cluster.Active {
				t.Errorf("the other is shown as %+v", got)
			}
			a, b := g.connect(v5, "a"), g.connect(v3, "b")
			stays := other.connect(v5, "c")
			g.tell(drain.Order{})
			moved(t, a, public)
			moved(t, b, public)
			g.carriedOut(drain.Progress{Phase: drain.Drained, Told: 2})
			if err := g.Ready(); err == nil || err.Error() != "draining" {
				t.Errorf("Ready = %v", err)
			}
			g.showsAs(cluster.Draining)
			if other.shown().State != cluster.Active {
				t.Error("the other one drains too")
			}
			clustertest.Wait(t, "the other one knows", func() bool { return !other.somewhere() })

			refusal := byte(0x88)
			if public != "" {
				refusal = 0x9C
			}
			for version, want := range map[byte]byte{v3: 3, v5: refusal} {
				c := rawmqtt.Dial(t, g.address(), version)
				if ack := c.Hello("late"); ack.ReasonCode != want || version == v5 && ack.Properties.ServerReference != public {
					t.Errorf("MQTT %d: CONNACK %#x, to %q; want %#x, to %q", version, ack.ReasonCode, ack.Properties.ServerReference, want, public)
				}
				c.ExpectClosed()
			}
			for name, want := range map[string]float64{
				"beeline_gateway_draining": 1, "beeline_gateway_clients_moved_total": 2, "beeline_gateway_clients_closed_total": 2,
			} {
				if got, _ := g.metric(name); got != want {
					t.Errorf("%s is %v, want %v", name, got, want)
				}
			}
			stays.ExpectNothing()
			other.connect(v5, "a").ExpectNothing()
			g.tell(drain.Order{})
			g.carriedOut(drain.Progress{Phase: drain.Drained})
		})
	}
}

func TestAGatewayThatIsToldToStopIsDrainedFirst(t *testing.T) {
	g, other := pair(t, "", func(c *Config) { c.Drain.Rate = 10 })
	const clients = 5
	var all []*rawmqtt.Client
	for i := range clients {
		all = append(all, g.connect([]byte{v3, v5}[i%2], string(rune('a'+i))))
	}
	began := time.Now()
	var wg sync.WaitGroup
	var err error
	wg.Go(func() { err = g.stop() })
	for _, c := range all {
		wg.Go(func() { moved(t, c, "") })
	}
	wg.Wait()
	if err != nil {
		t.Errorf("Run = %v", err)
	}
	if took := time.Since(began); took < clients*time.Second/10 {
		t.Errorf("all had gone after %v", took)
	}
	if n, _ := g.metric("beeline_gateway_clients_moved_total"); n != clients {
		t.Errorf("%v clients moved, want %d", n, clients)
	}
	if id, _ := other.incarnation(); id != other.life.Load().deps.Incarnation {
		t.Errorf("%q has a key still", id)
	}
	if nc, err := net.Dial("tcp", g.address()); err == nil {
		nc.Close()
		t.Error("somebody still listens")
	}
}

func TestTheEndComesInTimeForClientsThatDoNotGo(t *testing.T) {
	g, _ := pair(t, "", func(c *Config) {
		c.Drain.Timeout, c.Drain.Rate = 500*time.Millisecond, 1
		c.Limits.Patience = time.Millisecond
	})
	for i := range 20 {
		g.connect(v5, string(rune('a'+i)))
	}
	began := time.Now()
	if err := g.stop(); err != nil {
		t.Errorf("Run = %v", err)
	}
	if took := time.Since(began); took < 400*time.Millisecond || took > 5*time.Second {
		t.Errorf("it took %v", took)
	}
	if n, _ := g.metric("beeline_gateway_clients_moved_total"); n != 20 {
		t.Errorf("%v clients moved, want 20", n)
	}
}

func TestWithoutTimeToMoveThemClientsAreToldAtTheEnd(t *testing.T) {
	g, _ := pair(t, "gateway-2:1883", func(c *Config) { c.Drain.Timeout = 0 })
	a := g.connect(v5, "a")
	if err := g.stop(); err != nil {
		t.Errorf("Run = %v", err)
	}
	if reason := a.ExpectClosed(); reason != 0x8B {
		t.Errorf("DISCONNECT %#x, want 0x8B", reason)
	}
}

func TestWhileTheGraceLastsClientsAreServedAndTaken(t *testing.T) {
	g, _ := pair(t, "", func(c *Config) { c.Drain.Grace, c.Drain.Timeout = time.Hour, 2*time.Hour })
	a := g.connect(v5, "a")
	g.tell(drain.Order{})
	g.awaitReason("draining")
	g.showsAs(cluster.Draining)
	g.connect(v3, "b").ExpectNothing()
	a.ExpectNothing()
	if err := g.resume(); err != nil {
		t.Errorf("resume = %v", err)
	}
	g.showsAs(cluster.Active)
	g.awaitReady()
	a.ExpectNothing()
}

func TestClientsThatCanGoNowhereStay(t *testing.T) {
	etcd := clustertest.StartEtcd(t)
	startSessions(t, etcd.Address())
	c := testConfig()
	c.Drain.Grace = 0
	g := start(t, etcd.Address(), c)
	g.awaitReady()
	a := g.connect(v5, "a")
	g.tell(drain.Order{})
	g.carriedOut(drain.Progress{Phase: drain.Drained, Err: drain.ErrNowhere})
	a.ExpectNothing()
	g.connect(v5, "b").ExpectNothing()
	g.awaitReason("draining")
	g.showsAs(cluster.Draining)

	other := start(t, etcd.Address(), testConfig())
	other.awaitReady()
	clustertest.Wait(t, "it has seen the other one", g.somewhere)
	g.tell(drain.Order{})
	moved(t, a, "")
}

func TestANewIncarnationOfADrainedGatewayIsDraining(t *testing.T) {
	g, _ := pair(t, "gateway-2:1883", nil)
	g.tell(drain.Order{})
	g.carriedOut(drain.Progress{Phase: drain.Drained})
	g.showsAs(cluster.Draining)
	first := g.life.Load()
	if _, err := g.etcd.Delete(t.Context(), keys.Member(cluster.Gateway, first.deps.Incarnation)); err != nil {
		t.Fatal(err)
	}
	clustertest.Wait(t, "a new life", func() bool { l := g.life.Load(); return l != nil && l != first })
	if m := g.shown(); m.State != cluster.Draining {
		t.Errorf("shown as %+v", m)
	}
	clustertest.Wait(t, "it has seen the other one", g.somewhere)
	g.awaitReason("draining")
	clustertest.Wait(t, "it refuses clients", func() bool {
		return rawmqtt.Dial(t, g.address(), v5).Hello("a").ReasonCode == 0x9C
	})
}

// Until it takes clients a gateway is not shown as one that does: routers would send clients there, to be refused.
func TestAGatewayIsActiveWhenItTakesClients(t *testing.T) {
	etcd := clustertest.StartEtcd(t)
	g := start(t, etcd.Address(), testConfig())
	var id string
	clustertest.Wait(t, "it has joined", func() bool {
		id, _ = g.incarnation()
		return id != ""
	})
	state := func() cluster.State {
		r, err := g.etcd.Get(t.Context(), keys.Member(cluster.Gateway, id))
		if err != nil || len(r.Kvs) == 0 {
			return ""
		}
		var m cluster.Member
		if err := json.Unmarshal(r.Kvs[0].Value, &m); err != nil {
			t.Fatal(err)
		}
		return m.State
	}
	if s := state(); s != cluster.Joining {
		t.Errorf("without a session service it is %q, want joining", s)
	}
	startSessions(t, etcd.Address())
	clustertest.Wait(t, "it is active", func() bool { return state() == cluster.Active })
	g.connect(v5, "x")
}
