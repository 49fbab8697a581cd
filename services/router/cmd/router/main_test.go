package main

import (
	"testing"

	"github.com/beeline-mqtt/beeline/internal/cluster/clustertest"
	"github.com/beeline-mqtt/beeline/internal/node/nodetest"
)

func TestMain(m *testing.M) { nodetest.Main(m, main) }

func TestConfiguration(t *testing.T) {
	nodetest.Configuration(t, "router", "BEELINE_ROUTER__SECRET="+secret)
}

const secret = "0123456789abcdef0123456789abcdef"

func TestWrongConfigurationOfTheRouterNamesTheKey(t *testing.T) {
	for argument, want := range map[string]string{
		"--router.secret=short":                            "router.secret: must have at least 32 characters",
		"--router.attempts=0":                              "router.attempts: must be positive",
		"--router.book.sweep_rate=0":                       "router.book.sweep_rate: must be positive",
		"--router.source_connections=-1":                   "router.source_connections: must not be negative",
		"--router.connect_bytes=100":                       "router.connect_bytes: must be at least 1KiB",
		"--router.rest.address=:8080":                      "router.rest.cert_file: is missing",
		"--router.access.rates.viewer.calls=-1":            "router.access.rates.viewer.calls: must not be negative",
		"--router.access.jwt.jwks_url=http://keys.example": "router.access.jwt.jwks_url: must be https",
		"--router.access.tokens_file=/none/there":          "token file: stat /none/there",
	} {
		nodetest.Fails(t, nodetest.Call{Args: []string{"--rpc.tls.insecure", "--router.secret=" + secret, argument}}, want)
	}
}

func TestTheSecretMayBeInAFile(t *testing.T) {
	file := func(text string) string { return "--router.secret_file=" + nodetest.File(t, text) }
	r := nodetest.Run(t, nodetest.Call{Args: []string{"--rpc.tls.insecure", file(secret + "\n"), "--check-config"}})
	if r.Code != 0 {
		t.Errorf("exit code %d: %s", r.Code, r.Stderr)
	}
	for _, tt := range []struct {
		want string
		args []string
	}{
		{"router.secret: must have at least 32 characters", nil},
		{"router.secret: and secret_file: give one of them", []string{file(secret), "--router.secret=" + secret}},
		{"router.secret_file: open /no/secret: no such file", []string{"--router.secret_file=/no/secret"}},
		{"router.secret_file: must have at least 32 characters", []string{file(secret[1:] + "\n")}},
	} {
		nodetest.Fails(t, nodetest.Call{Args: append(tt.args, "--rpc.tls.insecure")}, tt.want)
	}
}

func TestARouterProcess(t *testing.T) {
	etcd := clustertest.StartEtcd(t)
	p := nodetest.Start(t, nodetest.Call{
		Env: []string{
			"BEELINE_ETCD__ENDPOINTS=" + etcd.Address(), "BEELINE_ROUTER__SECRET=" + secret,
			"BEELINE_CONFIG=" + nodetest.File(t, "router: {listeners: [{name: mqtt, address: \"127.0.0.1:0\"}]}\n"),
		},
		Args: []string{"--rpc.tls.insecure", "--listen", "127.0.0.1:0", "--admin.address", "127.0.0.1:0"},
	})
	p.AwaitReady()
	p.Probe(0, "ready")
	p.AwaitMetric("beeline_router_connections 0")
	if code := p.Terminate(); code != 0 {
		t.Errorf("exit code %d; log:\n%s", code, p.Log())
	}
}
