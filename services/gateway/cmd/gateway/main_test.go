package main

import (
	"net"
	"strings"
	"testing"

	"github.com/beeline-mqtt/beeline/internal/cluster/clustertest"
	"github.com/beeline-mqtt/beeline/internal/node/nodetest"
	"github.com/beeline-mqtt/beeline/test/rawmqtt"
)

func TestMain(m *testing.M) { nodetest.Main(m, main) }

func TestConfiguration(t *testing.T) { nodetest.Configuration(t, "gateway") }

func TestWrongConfigurationOfTheGatewayNamesTheKey(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	tests := []struct {
		name string
		file string
		want []string
	}{
		{"lease", "gateway: {lease_ttl: 1500ms}", []string{"gateway.lease_ttl: must be whole seconds"}},
		{"limit", "gateway: {limits: {receive_maximum: 0}}", []string{"gateway.limits.receive_maximum: "}},
		{"size", "gateway: {limits: {packet_bytes: large}}", []string{"gateway.limits.packet_bytes"}},
		{"listener without port", "gateway: {listeners: [{name: a, address: nowhere}]}", []string{"gateway.listeners[0].address: is not host:port"}},
		{"unknown key of a listener", "gateway: {listeners: [{name: a, adr: ':1'}]}", []string{"gateway.listeners[0].adr"}},
		{"two of one name", "gateway: {listeners: [{name: a, address: ':1'}, {name: a, address: ':2'}]}", []string{"gateway.listeners[1].name: "}},
		{"method", "gateway: {auth: {methods: [magic]}}", []string{`gateway.auth.methods: has "magic"`}},
		{"two answers", "anonymous: true\ngateway: {auth: {methods: [anonymous]}}", []string{"anonymous: must not be set together with gateway.auth.methods"}},
		{"rules for nobody", "gateway: {auth: {rules_file: x}}", []string{"gateway.auth.rules_file: is of no use"}},
		{"keys without an issuer", "gateway: {auth: {methods: [jwt], jwt: {jwks_file: x}}}", []string{"gateway.auth.jwt.issuer: is missing"}},
		{"skew", "gateway: {auth: {methods: [jwt], jwt: {secret_file: x, skew: 2h}}}", []string{"gateway.auth.jwt.skew: must be between"}},
		{"users are not there", "gateway: {auth: {methods: [password], password: {file: /no/users}}}", []string{"auth: password: stat /no/users"}},
		{
			"certificate is not there", "gateway: {listeners: [{name: a, address: '127.0.0.1:0', cert_file: /no/crt, key_file: /no/key}]}",
			[]string{`listener "a": cert_file`, "/no/crt"},
		},
		{
			"address in use", "gateway: {listeners: [{name: a, address: '" + taken.Addr().String() + "'}]}",
			[]string{`listener "a": `, taken.Addr().String()},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			args := []string{"--rpc.tls.insecure", "--listen=127.0.0.1:0", "--admin.address=127.0.0.1:0", "--config", nodetest.File(t, tt.file)}
			nodetest.Fails(t, nodetest.Call{Args: args}, tt.want...)
		})
	}
}

// free is the address of a port that nobody listens on.
func free(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func TestAGatewayProcess(t *testing.T) {
	etcd := clustertest.StartEtcd(t)
	mqtt := free(t)
	file := nodetest.File(t, "gateway: {listeners: [{name: mqtt, address: '"+mqtt+"'}]}")
	p := nodetest.Start(t, nodetest.Call{
		Env:  []string{"BEELINE_ETCD__ENDPOINTS=" + etcd.Address(), "BEELINE_RPC__TLS__INSECURE=true"},
		Args: []string{"--config", file, "--listen", "127.0.0.1:0", "--admin.address", "127.0.0.1:0", "--anonymous"},
	})
	p.AwaitNotReady("gateway: the session service cannot be reached")
	p.Probe(1, "ready", "gateway: not ready; gateway: the session service cannot be reached")
	p.Probe(0, "health")
	c := rawmqtt.Dial(t, mqtt, rawmqtt.V5)
	if ack := c.Hello("a"); ack.ReasonCode != 0x88 {
		t.Errorf("CONNACK %#x, want 0x88", ack.ReasonCode)
	}
	if code := p.Terminate(); code != 0 {
		t.Errorf("exit code %d; log:\n%s", code, p.Log())
	}
	for _, want := range []string{"every client is let in", "services talk without TLS"} {
		if !strings.Contains(p.Log(), want) {
			t.Errorf("no %q in the log:\n%s", want, p.Log())
		}
	}
}
