package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/beeline-mqtt/beeline/internal/cluster"
	"github.com/beeline-mqtt/beeline/internal/cluster/clustertest"
	"github.com/beeline-mqtt/beeline/services/gateway/internal/auth"
	"github.com/beeline-mqtt/beeline/test/rawmqtt"
)

func TestRoutersReachTheFirstPlainListenerThatBelievesThem(t *testing.T) {
	plain, ws := Listener{Name: "mqtt", Address: "127.0.0.1:0"}, Listener{Name: "ws", Address: "127.0.0.1:0", WebSocket: true}
	other, trusting := Listener{Name: "other", Address: "127.0.0.1:0"}, plain
	trusting.ProxyFrom = []string{"loopback"}
	for _, tt := range []struct {
		name      string
		listeners []Listener
		set, want string // want: P stands for the port of mqtt
		proxy     bool
	}{
		{"beside a WebSocket", []Listener{ws, plain, other}, "", "10.0.0.7:P", false},
		{"none", []Listener{ws}, "", "", false},
		{"another name", []Listener{plain}, "gateway-1:1883", "gateway-1:1883", false},
		{"one that takes headers", []Listener{other, trusting}, "", "10.0.0.7:P", true},
		{"and under another name", []Listener{other, trusting}, "gateway-1:1884", "gateway-1:1884", true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := DefaultConfig()
			c.Listeners, c.RouterAddress = tt.listeners, tt.set
			g, err := New(c, Deps{Metrics: prometheus.NewRegistry(), Logger: slog.New(slog.DiscardHandler)})
			if err != nil {
				t.Fatal(err)
			}
			defer g.listeners.Close()
			want := tt.want
			if a := g.Addr("mqtt"); a != nil {
				_, port, _ := net.SplitHostPort(a.String())
				want = strings.Replace(want, "P", port, 1)
			}
			if got, proxy := g.forRouters("10.0.0.7:7946"); got != want || proxy != tt.proxy {
				t.Errorf("%q, headers %v; want %q, %v", got, proxy, want, tt.proxy)
			}
		})
	}
}

func TestAGatewayThatLosesItsLeaseBeginsANewIncarnation(t *testing.T) {
	etcd := clustertest.StartEtcd(t)
	startSessions(t, etcd.Address())
	g := start(t, etcd.Address(), testConfig())
	g.awaitReady()
	first, lease := g.incarnation()
	a, b := g.connect(v5, "a"), g.connect(v3, "b")
	a.MustSubscribe("news/#", 1)

	if _, err := g.etcd.Revoke(t.Context(), lease); err != nil {
		t.Fatal(err)
	}
	if reason := a.ExpectClosed(); reason != 0x8B {
		t.Errorf("DISCONNECT %#x, want 0x8B (server shutting down)", reason)
	}
	b.ExpectClosed()

	clustertest.Wait(t, "a new incarnation", func() bool {
		id, _ := g.incarnation()
		return id != "" && id != first
	})
	g.awaitReady()
	again, old := g.connect(v5, "a"), g.connect(v3, "b")
	again.MustSubscribe("news/#", 1)
	old.Publish("news/today", "m", 1)
	again.ReceivePayload("m")
	if n, _ := g.metric("beeline_gateway_incarnations_total"); n != 2 {
		t.Errorf("%v incarnations are counted, want 2", n)
	}
	if n, _ := g.metric("beeline_gateway_clients"); n != 2 {
		t.Errorf("%v clients are counted, want 2: those of the former incarnation are gone", n)
	}
	for _, name := range []string{"beeline_mesh_peers", "beeline_gateway_session_attached", "beeline_cluster_renewals_total"} {
		clustertest.Wait(t, "the new incarnation has "+name, func() bool { // of renewals, from the first on
			_, found := g.metric(name)
			return found
		})
	}
}

func TestWithoutAnIncarnationClientsAreToldToComeBack(t *testing.T) {
	etcd := clustertest.StartEtcd(t)
	etcd.Stop()
	g := start(t, etcd.Address(), testConfig())
	g.awaitReason("joining the cluster")
	g.refused()

	etcd.Start()
	startSessions(t, etcd.Address())
	g.awaitReady()
	g.connect(v5, "a").ExpectNothing()
}

func TestAGatewayWaitsForTheRoutesOfThoseBeforeIt(t *testing.T) {
	etcd := clustertest.StartEtcd(t)
	startSessions(t, etcd.Address())
	dead, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer dead.Close() // it takes connections and says nothing
	older, err := json.Marshal(cluster.Member{Address: dead.Addr().String(), State: cluster.Active})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := etcd.Client().Put(t.Context(), keys.Member(cluster.Gateway, "older"), string(older)); err != nil {
		t.Fatal(err)
	}
	g := start(t, etcd.Address(), testConfig())
	g.awaitReason("waiting for the routes of the other gateways")
	g.refused()
	if _, err := g.etcd.Delete(t.Context(), keys.Member(cluster.Gateway, "older")); err != nil {
		t.Fatal(err)
	}
	g.awaitReady()
	g.connect(v5, "a").ExpectNothing()
}

func TestWithoutTheSessionServiceClientsStayAndNoneCome(t *testing.T) {
	etcd := clustertest.StartEtcd(t)
	g := start(t, etcd.Address(), testConfig())
	g.awaitReason("the session service cannot be reached")
	g.refused()

	stop := startSessions(t, etcd.Address())
	g.awaitReady()
	a, b := g.connect(v5, "a"), g.connect(v3, "b")
	a.MustSubscribe("news", 1)
	stop()
	g.awaitReason("the session service cannot be reached")
	g.refused()
	b.Publish("news", "m", 1)
	a.ReceivePayload("m")

	startSessions(t, etcd.Address())
	g.awaitReady()
	g.connect(v5, "c").ExpectNothing()
}

func TestTwoGatewaysAreOneBroker(t *testing.T) {
	etcd := clustertest.StartEtcd(t)
	startSessions(t, etcd.Address())
	first := start(t, etcd.Address(), testConfig())
	first.awaitReady()
	second := start(t, etcd.Address(), testConfig())
	second.awaitReady()
	sub, pub := first.connect(v5, "sub"), second.connect(v3, "pub")
	sub.MustSubscribe("news/#", 2)
	pub.Publish("news/today", "m", 2)
	sub.ReceivePayload("m")

	// When the first loses its lease, its new incarnation is a peer like any other.
	r, err := first.etcd.Get(t.Context(), keys.Member(cluster.Gateway, first.life.Load().deps.Incarnation))
	if err != nil || len(r.Kvs) != 1 {
		t.Fatalf("key of the first: %v, %v", r, err)
	}
	before := first.life.Load()
	if _, err := first.etcd.Delete(t.Context(), string(r.Kvs[0].Key)); err != nil {
		t.Fatal(err)
	}
	sub.ExpectClosed()
	clustertest.Wait(t, "a new life", func() bool { l := first.life.Load(); return l != nil && l != before })
	first.awaitReady()
	sub = first.connect(v5, "sub")
	sub.MustSubscribe("news/#", 2)
	pub.Publish("news/today", "again", 2)
	sub.ReceivePayload("again")
}

func TestAGatewayThatStopsTellsItsClientsAndLeavesTheCluster(t *testing.T) {
	etcd := clustertest.StartEtcd(t)
	startSessions(t, etcd.Address())
	g := start(t, etcd.Address(), testConfig())
	if err := g.Ready(); err == nil {
		t.Error("ready before it could be")
	}
	g.awaitReady()
	a, b := g.connect(v5, "a"), g.connect(v3, "b")
	if err := g.stop(); err != nil {
		t.Errorf("Run = %v", err)
	}
	if reason := a.ExpectClosed(); reason != 0x8B {
		t.Errorf("DISCONNECT %#x, want 0x8B", reason)
	}
	b.ExpectClosed()
	if id, _ := g.incarnation(); id != "" {
		t.Errorf("the key of %s is left", id)
	}
	if err := g.Ready(); err == nil || err.Error() != "incarnation is ending" {
		t.Errorf("Ready = %v", err)
	}
	if nc, err := net.Dial("tcp", g.address()); err == nil {
		nc.Close()
		t.Error("somebody still listens")
	}
}

func TestAListenerThatCannotBeOpenedClosesThoseBeforeIt(t *testing.T) {
	first, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	first.Close()
	c := testConfig()
	c.Listeners = []Listener{{Name: "first", Address: first.Addr().String()}, {Name: "second", Address: first.Addr().String()}}
	d, _ := testDeps(t, nil)
	if _, err := New(c, d); err == nil || !strings.HasPrefix(err.Error(), `listener "second": `) {
		t.Errorf("error %v", err)
	}
	again, err := net.Listen("tcp", first.Addr().String())
	if err != nil {
		t.Fatalf("the first is left open: %v", err)
	}
	again.Close()
}

func TestALifeThatIsOverTakesNoConnection(t *testing.T) {
	l := new(life)
	l.ctx, l.end = context.WithCancel(t.Context())
	l.close()
	if l.serve(nil, "mqtt") {
		t.Error("a connection is served in an incarnation that is over")
	}
}

func TestAGatewayThatHasNotRunIsNotReady(t *testing.T) {
	d, _ := testDeps(t, nil)
	g, err := New(testConfig(), d)
	if err != nil {
		t.Fatal(err)
	}
	defer g.listeners.Close()
	if err := g.Ready(); err == nil || err.Error() != "not started" {
		t.Errorf("Ready = %v", err)
	}
	if g.Addr("mqtt") == nil || g.Addr("other") != nil {
		t.Errorf("addresses %v and %v", g.Addr("mqtt"), g.Addr("other"))
	}
}

func TestWithoutAnAuthenticatorNobodyIsLetIn(t *testing.T) {
	etcd := clustertest.StartEtcd(t)
	startSessions(t, etcd.Address())
	p := start(t, etcd.Address(), testConfig(), func(d *Deps) { d.Authenticate, d.Authorize = nil, nil })
	p.awaitReady()
	for version, want := range map[byte]byte{v3: 5, v5: 0x87} {
		if ack := rawmqtt.Dial(t, p.address(), version).Hello("a"); ack.ReasonCode != want {
			t.Errorf("CONNACK %#x, want %#x", ack.ReasonCode, want)
		}
	}
}

func TestBehindAProxyClientsAreTakenAndOthersCounted(t *testing.T) {
	etcd := clustertest.StartEtcd(t)
	startSessions(t, etcd.Address())
	cfg := testConfig()
	cfg.Listeners[0].ProxyFrom = []string{"loopback"}
	remotes := make(chan string, 1)
	p := start(t, etcd.Address(), cfg, func(d *Deps) {
		d.Authenticate = func(ctx context.Context, a auth.Attempt) (auth.Identity, error) {
			remotes <- a.Remote.String()
			return auth.AllowAnonymous(ctx, a)
		}
	})
	p.awaitReady()
	c := rawmqtt.Dial(t, p.address(), v5)
	c.SendRaw([]byte("PROXY TCP4 203.0.113.7 10.0.0.1 4711 1883\r\n"))
	if ack := c.Hello("a"); ack.ReasonCode != 0 {
		t.Fatalf("CONNACK %#x", ack.ReasonCode)
	}
	if got := <-remotes; got != "203.0.113.7:4711" {
		t.Errorf("client's address %q", got)
	}
	c.MustSubscribe("news", 0)
	c.Publish("news", "m", 0)
	c.ReceivePayload("m")

	other := rawmqtt.Dial(t, p.address(), v5)
	other.SendRaw(rawmqtt.Bytes(t, rawmqtt.ConnectPacket(v5, "b")))
	other.ExpectClosed()
	clustertest.Wait(t, "the refusal to be counted", func() bool {
		n, _ := p.metric("beeline_gateway_connects_refused_total")
		return n == 1
	})
	c.ExpectNothing()
}

func TestAListenerThatBreaksEndsTheGateway(t *testing.T) {
	etcd := clustertest.StartEtcd(t)
	d, _ := testDeps(t, etcd.Client())
	g, err := New(testConfig(), d)
	if err != nil {
		t.Fatal(err)
	}
	g.listeners.Close()
	if err := g.Run(t.Context(), "127.0.0.1:1"); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Run = %v, want %v", err, net.ErrClosed)
	}
}

func TestAGatewayIsNotMadeOfWrongConfiguration(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	tests := []struct {
		name   string
		change func(*Config)
		want   string
	}{
		{"gateway", func(c *Config) { c.Cluster = "" }, "cluster: "},
		{"limits", func(c *Config) { c.Limits.ReceiveMaximum = 0 }, "limits.receive_maximum: "},
		{"drain", func(c *Config) { c.Drain.Timeout = -1 }, "drain.timeout: "},
		{"listener", func(c *Config) { c.Listeners[0].Address = "nowhere" }, `listener "mqtt": address: is not host:port`},
		{"address in use", func(c *Config) { c.Listeners[0].Address = taken.Addr().String() }, `listener "mqtt": listen tcp ` + taken.Addr().String()},
		{"certificate is not there", func(c *Config) {
			c.Listeners[0].CertFile, c.Listeners[0].KeyFile = "/no/crt", "/no/key"
		}, `listener "mqtt": cert_file`},
		{"the second listener", func(c *Config) {
			c.Listeners = append(c.Listeners, Listener{Name: "second", Address: taken.Addr().String()})
		}, `listener "second": `},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := testConfig()
			tt.change(&c)
			d, metrics := testDeps(t, nil)
			g, err := New(c, d)
			if err == nil {
				g.listeners.Close()
				t.Fatal("no error")
			}
			if !strings.HasPrefix(err.Error(), tt.want) {
				t.Errorf("error %q, want it to begin with %q", err, tt.want)
			}
			// Whoever corrects it may try again with what he has.
			d.Metrics = metrics
			if g, err = New(testConfig(), d); err != nil {
				t.Fatalf("the second try: %v", err)
			}
			g.listeners.Close()
		})
	}
}
