package gateway

import (
	"context"
	"errors"
	"io"
	"net"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/mochi-mqtt/server/v2/packets"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	gatewayv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/gateway/v1"
	"github.com/beeline-mqtt/beeline/internal/cluster/clustertest"
	"github.com/beeline-mqtt/beeline/test/rawmqtt"
)

// tunnelTo returns one end of a pipe whose other end is a tunnel to a gateway; ended has how the call ends.
func (p *process) tunnelTo(address string) (nc net.Conn, ended <-chan error) {
	p.t.Helper()
	conn, err := dial(address)
	if err != nil {
		p.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	s, err := gatewayv1.NewTunnelServiceClient(conn).Connect(ctx)
	if err != nil {
		p.t.Fatal(err)
	}
	near, far := net.Pipe()
	over := make(chan error, 1)
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		b := make([]byte, 4096)
		for {
			n, err := far.Read(b)
			if err != nil {
				_ = s.CloseSend()
				return
			}
			if s.Send(&gatewayv1.ConnectRequest{Bytes: b[:n]}) != nil {
				return
			}
		}
	}()
	received := make(chan struct{})
	go func() {
		defer close(received)
		defer far.Close()
		for {
			r, err := s.Recv()
			if err != nil {
				over <- err
				return
			}
			if _, err := far.Write(r.GetBytes()); err != nil {
				_, err := s.Recv()
				over <- err
				return
			}
		}
	}()
	p.t.Cleanup(func() {
		_ = near.Close()
		cancel()
		<-sent
		<-received
		_ = conn.Close()
	})
	return near, over
}

// startWithTunnels runs a gateway with a session service, and returns the address of its gRPC server too.
func startWithTunnels(t *testing.T, changes ...func(*Config)) (*process, string) {
	t.Helper()
	etcd := clustertest.StartEtcd(t).Address()
	startSessions(t, etcd)
	c := testConfig()
	for _, change := range changes {
		change(&c)
	}
	p := start(t, etcd, c)
	p.awaitReady()
	server := grpc.NewServer()
	p.Register(server)
	return p, serve(t, server)
}

func TestATunnelIsServedAsASocketIs(t *testing.T) {
	p, address := startWithTunnels(t)
	nc, ended := p.tunnelTo(address)
	service := rawmqtt.Over(t, nc, v5)
	if ack := service.Hello("$service-x"); ack.ReasonCode != 0 {
		t.Fatalf("CONNACK %#x", ack.ReasonCode)
	}
	service.MustSubscribe("a/#", 1)
	device := p.connect(v5, "device")
	device.Publish("a/b", "hello", 1)
	m := service.ReceivePayload("hello")
	service.Ack(packets.Puback, m.PacketID)
	device.MustSubscribe("b", 1)
	service.Publish("b", "back", 1)
	device.ReceivePayload("back")
	service.Disconnect()
	if err := <-ended; !errors.Is(err, io.EOF) {
		t.Errorf("the call ends with %v, want io.EOF", err)
	}
}

func TestOnATunnelTheLastUserPropertyNamesThePublisher(t *testing.T) {
	p, address := startWithTunnels(t)
	nc, _ := p.tunnelTo(address)
	service := rawmqtt.Over(t, nc, v5)
	service.Hello("$service-x")
	service.MustSubscribe("#", 0)
	other := p.connect(v5, "other")
	other.MustSubscribe("#", 0)
	device := p.connect(v5, "device")
	device.Publish("plain", "1", 0)
	forged := rawmqtt.PublishPacket("forged", "2", 0)
	forged.Properties.User = []packets.UserProperty{{Key: "beeline-publisher", Val: "somebody else"}, {Key: "a", Val: "b"}}
	device.Send(forged)
	publisher := packets.UserProperty{Key: "beeline-publisher", Val: "device"}
	first, second := service.ReceivePayload("1"), service.ReceivePayload("2")
	if diff := cmp.Diff([]packets.UserProperty{publisher}, first.Properties.User); diff != "" {
		t.Errorf("user properties (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(append(forged.Properties.User[:2:2], publisher), second.Properties.User); diff != "" {
		t.Errorf("user properties (-want +got):\n%s", diff)
	}
	if got := other.ReceivePayload("1").Properties.User; len(got) > 0 {
		t.Errorf("a client on a socket gets %v", got)
	}
}

func TestClientIDsOfServicesAreForTunnelsOnly(t *testing.T) {
	p, address := startWithTunnels(t)
	device := rawmqtt.Dial(t, p.address(), v5)
	if ack := device.Hello("$service-x"); ack.ReasonCode != packets.ErrClientIdentifierNotValid.Code {
		t.Errorf("on a socket: CONNACK %#x, want %#x", ack.ReasonCode, packets.ErrClientIdentifierNotValid.Code)
	}
	nc, _ := p.tunnelTo(address)
	service := rawmqtt.Over(t, nc, v5)
	if ack := service.Hello("device"); ack.ReasonCode != packets.ErrClientIdentifierNotValid.Code {
		t.Errorf("on a tunnel: CONNACK %#x, want %#x", ack.ReasonCode, packets.ErrClientIdentifierNotValid.Code)
	}
}

func TestTunnelsDoNotCountAsClients(t *testing.T) {
	p, address := startWithTunnels(t, func(c *Config) { c.MaxClients = 1 })
	for _, id := range []string{"$service-x", "$service-y"} {
		nc, _ := p.tunnelTo(address)
		if ack := rawmqtt.Over(t, nc, v5).Hello(id); ack.ReasonCode != 0 {
			t.Fatalf("CONNACK %#x", ack.ReasonCode)
		}
	}
	p.connect(v5, "device").Publish("a", "b", 1)
	if n := p.clientsLeft(); n != 1 {
		t.Errorf("%d clients are left to move, want 1", n)
	}
}

func TestATunnelWhoseCallerHasGoneIsAClientThatHasGone(t *testing.T) {
	p, address := startWithTunnels(t)
	nc, _ := p.tunnelTo(address)
	service := rawmqtt.Over(t, nc, v5)
	service.Hello("$service-x")
	service.MustSubscribe("a", 1)
	if n := count(p); n != 1 {
		t.Fatalf("%d connections, want 1", n)
	}
	_ = nc.Close()
	clustertest.Wait(t, "nothing is left of it", func() bool { return count(p) == 0 })
}

// count is how many connections a gateway has, those of services too.
func count(p *process) (n int) {
	for range p.clientsHere() {
		n++
	}
	return n
}

func TestWithoutAnIncarnationThereAreNoTunnels(t *testing.T) {
	etcd := clustertest.StartEtcd(t).Address()
	deps, _ := testDeps(t, clustertest.Client(t, etcd))
	g, err := New(testConfig(), deps)
	if err != nil {
		t.Fatal(err)
	}
	defer g.listeners.Close()
	server := grpc.NewServer()
	g.Register(server)
	p := &process{t: t}
	_, ended := p.tunnelTo(serve(t, server))
	if err := <-ended; status.Code(err) != codes.Unavailable {
		t.Errorf("the call ends with %v, want UNAVAILABLE", err)
	}
}
