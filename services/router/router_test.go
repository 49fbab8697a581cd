package router

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/mochi-mqtt/server/v2/packets"
	"github.com/pires/go-proxyproto/tlvparse"

	"github.com/beeline-mqtt/beeline/internal/cluster"
	"github.com/beeline-mqtt/beeline/internal/cluster/clustertest"
	"github.com/beeline-mqtt/beeline/internal/listener/listenertest"
	"github.com/beeline-mqtt/beeline/services/router/internal/book"
	"github.com/beeline-mqtt/beeline/services/router/internal/connect"
	"github.com/beeline-mqtt/beeline/test/rawmqtt"
)

// echoes proves that bytes pass both ways: a PINGREQ comes back as it is.
func echoes(t *testing.T, c *rawmqtt.Client) {
	t.Helper()
	c.SendRaw([]byte{0xC0, 0})
	buf := make([]byte, 2)
	_ = c.Conn().SetReadDeadline(time.Now().Add(10 * time.Second))
	if _, err := c.Conn().Read(buf); err != nil || buf[0] != 0xC0 {
		t.Fatalf("%x comes back, %v", buf, err)
	}
}

func TestAClientIsTakenToANodeAndComesBackToIt(t *testing.T) {
	r := start(t, clustertest.StartEtcd(t).Client())
	nodes := r.nodes(3)
	seen := map[int]int{}
	first := map[string]int{}
	for i := range 30 {
		id := fmt.Sprint("client-", i)
		c := rawmqtt.Connect(t, r.address(), []byte{v311, v5}[i%2], id)
		echoes(t, c)
		first[id] = at(t, nodes, id)
		seen[first[id]]++
		c.Close()
	}
	if len(seen) != 3 {
		t.Errorf("the clients are at %v, want all three", seen)
	}
	for id, where := range first {
		rawmqtt.Connect(t, r.address(), v5, id).Close()
		if again := at(t, nodes, id); again != where {
			t.Errorf("%s was at %d and comes to %d", id, where, again)
		}
	}
	if n := r.metric("beeline_router_routed_total", "reason=recorded"); n != 30 {
		t.Errorf("%v came to their recorded nodes, want all 30", n)
	}
}

func TestAClientFollowsItsSession(t *testing.T) {
	etcd := clustertest.StartEtcd(t).Client()
	r := start(t, etcd)
	nodes := r.nodes(2)
	rawmqtt.Connect(t, r.address(), v5, "x").Close()
	was := at(t, nodes, "x")
	// Its session is at the other gateway by now.
	v := r.placer.own.view.Load()
	for _, m := range v.Members {
		if m.MQTT == nodes[1-was].address() {
			if _, err := etcd.Put(t.Context(), cluster.Keys("test").Client("x"), fmt.Sprintf(`{"holder":%q}`, m.ID)); err != nil {
				t.Fatal(err)
			}
		}
	}
	rawmqtt.Connect(t, r.address(), v5, "x").Close()
	if is := at(t, nodes, "x"); is != 1-was {
		t.Errorf("it comes to %d, its session is at %d", is, 1-was)
	}
	if n := r.metric("beeline_router_routed_total", "reason=holder"); n != 1 {
		t.Errorf("%v routed to the holder", n)
	}
}

func TestADrainingGatewayGetsNobody(t *testing.T) {
	etcd := clustertest.StartEtcd(t).Client()
	r := start(t, etcd)
	leaving, staying := startNode(t, nil), startNode(t, nil)
	i := leaving.join(etcd, cluster.Active)
	r.knows(1)
	c := rawmqtt.Connect(t, r.address(), v5, "x")
	at(t, []*node{leaving}, "x")
	staying.join(etcd, cluster.Active)
	if err := i.UpdateState(t.Context(), cluster.Draining); err != nil {
		t.Fatal(err)
	}
	clustertest.Wait(t, "the router knows it", func() bool {
		nodes := r.placer.own.nodes()
		return len(nodes) == 2 && nodes[0].State == cluster.Draining
	})
	echoes(t, c) // it stays where it is
	rawmqtt.Connect(t, r.address(), v5, "x").Close()
	if at(t, []*node{staying, leaving}, "x") != 0 {
		t.Error("it came to the one that is draining")
	}
}

func TestANodeThatDoesNotAcceptIsPassedOver(t *testing.T) {
	r := start(t, clustertest.StartEtcd(t).Client())
	nodes := r.nodes(2)
	_ = nodes[0].l.Close() // and its registry entry stays
	for i := range 10 {
		id := fmt.Sprint("client-", i)
		echoes(t, rawmqtt.Connect(t, r.address(), v5, id))
		at(t, nodes[1:], id)
	}
	if r.metric("beeline_router_dials_failed_total") == 0 {
		t.Error("no failure is counted: nobody was to go there")
	}
}

func TestEtcdIsAskedOnceForAClientHoweverManyNodesAreTried(t *testing.T) {
	etcd := clustertest.StartEtcd(t)
	wire := clustertest.NewWire(t, etcd.Address())
	r := start(t, clustertest.Client(t, wire.Address()))
	var nodes []*node
	for range 3 {
		n := startNode(t, nil)
		n.join(etcd.Client(), cluster.Active)
		nodes = append(nodes, n)
	}
	r.knows(3)
	_ = nodes[0].l.Close()
	_ = nodes[1].l.Close()
	wire.Deafen()
	asked := 0.0
	for ; r.metric("beeline_router_dials_failed_total") < 2; asked++ {
		echoes(t, rawmqtt.Connect(t, r.address(), v5, fmt.Sprint("client-", asked)))
	}
	if n := r.metric("beeline_router_lookups_failed_total"); n != asked {
		t.Errorf("asked %v times who holds one of %v clients", n, asked)
	}
}

func TestWithoutANodeAClientIsTold(t *testing.T) {
	r := start(t, clustertest.StartEtcd(t).Client())
	for version, want := range map[byte]byte{v311: 3, v5: 0x88} {
		c := rawmqtt.Dial(t, r.address(), version)
		if ack := c.Hello("x"); ack.ReasonCode != want {
			t.Errorf("MQTT %d: CONNACK %#x, want %#x", version, ack.ReasonCode, want)
		}
		c.ExpectClosed()
	}
	if n := r.metric("beeline_router_refused_total", "reason=no_node"); n != 2 {
		t.Errorf("%v refused", n)
	}
}

func TestWhatIsNotMQTTIsClosed(t *testing.T) {
	r := start(t, clustertest.StartEtcd(t).Client(), func(c *Config) { c.ConnectTimeout = 300 * time.Millisecond })
	r.nodes(1)
	for _, tt := range []struct{ name, send, reason string }{
		{"HTTP", "GET / HTTP/1.1\r\n\r\n", "not_mqtt"},
		{"TLS", "\x16\x03\x01\x02\x00\x01", "not_mqtt"},
		{"another packet", "\xC0\x00", "not_mqtt"},
		{"an old protocol", "\x10\x0c\x00\x04MQTT\x02\x02\x00\x00\x00\x00", "version"},
		{"a CONNECT that does not end", "\x10\x20\x00\x04MQTT", "timeout"},
		{"nothing", "", "timeout"},
		{"a CONNECT of a gigabyte", "\x10\xff\xff\xff\x7f", "too_large"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			before := r.metric("beeline_router_refused_total", "reason="+tt.reason)
			nc, err := net.Dial("tcp", r.address())
			if err != nil {
				t.Fatal(err)
			}
			defer nc.Close()
			if _, err := nc.Write([]byte(tt.send)); err != nil {
				t.Fatal(err)
			}
			_ = nc.SetReadDeadline(time.Now().Add(10 * time.Second))
			for err == nil {
				_, err = nc.Read(make([]byte, 100))
			}
			if strings.Contains(err.Error(), "timeout") {
				t.Error("it is not closed")
			}
			clustertest.Wait(t, "it is counted as "+tt.reason, func() bool {
				return r.metric("beeline_router_refused_total", "reason="+tt.reason) == before+1
			})
		})
	}
}

func TestTheRouterAnswersForMQTTVersionsThatItCannotPassOn(t *testing.T) {
	r := start(t, clustertest.StartEtcd(t).Client())
	r.nodes(1)
	for name, send := range map[string][]byte{
		"3.1":   append([]byte{0x10, 15, 0, 6}, "MQIsdp\x03\x02\x00\x00\x00\x01x"...),
		"3.1.1": append([]byte{0x10, 13, 0, 4}, "MQTT\x04\x02\x00\x00\x00\x01x"...),
	} {
		nc, err := net.Dial("tcp", r.address())
		if err != nil {
			t.Fatal(err)
		}
		defer nc.Close()
		if _, err := nc.Write(send); err != nil {
			t.Fatal(err)
		}
		b := make([]byte, 4)
		_ = nc.SetReadDeadline(time.Now().Add(10 * time.Second))
		if _, err := nc.Read(b); err != nil || b[0] != 0x20 || b[3] != 0 {
			t.Errorf("MQTT %s: answered with %x, %v", name, b, err)
		}
	}
}

func TestClientsOfAnAssignmentGoToTheirCluster(t *testing.T) {
	r := start(t, clustertest.StartEtcd(t).Client())
	own := r.nodes(1)
	other := startNode(t, nil)
	definition := fmt.Sprintf(`{"name":"other","kind":"static","static":{"nodes":[{"address":%q}],"check_interval":"1s","rise":1}}`, other.address())
	if _, err := r.placer.book.PutCluster(t.Context(), book.Cluster{Name: "other", Definition: json.RawMessage(definition)}, 0); err != nil {
		t.Fatal(err)
	}
	if _, err := r.placer.book.PutAssignment(t.Context(), book.Assignment{Rule: book.Prefix, Value: "meter-", Cluster: "other"}, 0); err != nil {
		t.Fatal(err)
	}
	clustertest.Wait(t, "its node is active", func() bool {
		v, trouble, ok := r.placer.foreign.find("other")
		if trouble != nil {
			t.Fatal(trouble)
		}
		return ok && len(v.Nodes) == 1 && v.Nodes[0].Active
	})
	both := []*node{own[0], other}
	for id, want := range map[string]int{"meter-1": 1, "lamp-1": 0} {
		clustertest.Wait(t, "it goes to its cluster", func() bool {
			rawmqtt.Connect(t, r.address(), v311, id).Close()
			return at(t, both, id) == want
		})
	}
}

func TestAServerReferenceIsFollowed(t *testing.T) {
	etcd := clustertest.StartEtcd(t).Client()
	r := start(t, etcd)
	target := startNode(t, nil)
	reference := startNode(t, connect.Redirect(connect.Level5, target.address()))
	reference.join(etcd, cluster.Active)
	r.knows(1)
	echoes(t, rawmqtt.Connect(t, r.address(), v5, "x"))
	at(t, []*node{target}, "x")
	if n := r.metric("beeline_router_references_total"); n != 1 {
		t.Errorf("%v references followed", n)
	}
}

func TestAGatewayThatBelievesTheRouterIsToldWhoTheClientIs(t *testing.T) {
	etcd := clustertest.StartEtcd(t).Client()
	r := start(t, etcd)
	n := startNode(t, nil, func(n *node) { n.proxy = true })
	n.join(etcd, cluster.Active)
	r.knows(1)
	c := rawmqtt.Connect(t, r.address(), v5, "x")
	echoes(t, c)
	if got, want := (<-n.headers).SourceAddr.String(), c.Conn().LocalAddr().String(); got != want {
		t.Errorf("the gateway is told %s, the client is %s", got, want)
	}
}

func TestAGatewayIsToldOfTheTLSThatEndsAtTheRouter(t *testing.T) {
	certs := listenertest.Issue(t)
	etcd := clustertest.StartEtcd(t).Client()
	r := start(t, etcd, func(c *Config) {
		secure := Listener{Name: "tls", Address: "127.0.0.1:0", CertFile: certs.Server.Cert, KeyFile: certs.Server.Key, ClientCAFile: certs.Server.CA}
		webSocket := secure
		webSocket.Name, webSocket.WebSocket = "wss", true
		c.Listeners = append(c.Listeners, secure, webSocket, Listener{Name: "ws", Address: "127.0.0.1:0", WebSocket: true})
	})
	n := startNode(t, nil, func(n *node) { n.proxy = true })
	n.join(etcd, cluster.Active)
	r.knows(1)
	client := certs.Trusting(t, certs.Client)
	for name, connect := range map[string]func() net.Conn{
		"tls": func() net.Conn { return tls.Client(dial(t, r.Addr("tls").String()), client) },
		"wss": func() net.Conn { return dialWebSocket(t, "wss://"+r.Addr("wss").String(), client) },
		"ws":  func() net.Conn { return dialWebSocket(t, "ws://"+r.Addr("ws").String(), nil) },
	} {
		c := rawmqtt.Over(t, connect(), v5)
		c.Hello("x")
		c.Close()
		tlvs, err := (<-n.headers).TLVs()
		if err != nil {
			t.Fatal(err)
		}
		facts, ok := tlvparse.FindSSL(tlvs)
		if name == "ws" {
			if ok {
				t.Errorf("told of TLS where there is none: %v", facts)
			}
			continue
		}
		version, _ := facts.SSLVersion()
		cn, _ := facts.ClientCN()
		if !ok || !facts.Verified() || version != "TLSv1.3" || cn != "client" {
			t.Errorf("%s: TLS %v, verified %v, version %q, name %q", name, ok, facts.Verified(), version, cn)
		}
	}
}

// dialWebSocket opens a WebSocket for MQTT. Closing it closes the socket.
func dialWebSocket(t *testing.T, url string, cfg *tls.Config) net.Conn {
	t.Helper()
	transport := &http.Transport{TLSClientConfig: cfg}
	t.Cleanup(transport.CloseIdleConnections)
	ws, resp, err := websocket.Dial(t.Context(), url+"/mqtt", &websocket.DialOptions{
		Subprotocols: []string{"mqtt"}, HTTPClient: &http.Client{Transport: transport},
	})
	if resp != nil && resp.Body != nil {
		defer resp.Body.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ws.CloseNow() })
	return websocket.NetConn(context.WithoutCancel(t.Context()), ws, websocket.MessageBinary)
}

func TestConnectionsEndWithTheRouter(t *testing.T) {
	etcd := clustertest.StartEtcd(t).Client()
	var c *rawmqtt.Client
	t.Run("a router", func(t *testing.T) {
		r := start(t, etcd)
		r.nodes(1)
		c = rawmqtt.Over(t, dial(t, r.address()), v5)
		c.Hello("x", func(*packets.Packet) {})
		echoes(t, c)
	})
	if _, err := c.Next(10 * time.Second); err == nil {
		t.Error("something comes after the end")
	}
}

func dial(t *testing.T, address string) net.Conn {
	t.Helper()
	nc, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = nc.Close() })
	return nc
}
