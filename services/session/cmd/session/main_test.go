package main

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/beeline-mqtt/beeline/internal/cluster/clustertest"
	"github.com/beeline-mqtt/beeline/internal/node/nodetest"
)

func TestMain(m *testing.M) { nodetest.Main(m, main) }

func TestConfiguration(t *testing.T) {
	nodetest.Configuration(t, "session", "BEELINE_SESSION__DATA=data")
}

func TestWrongConfigurationOfTheSessionServiceNamesTheKey(t *testing.T) {
	for _, tt := range []struct{ name, argument, want string }{
		{"cluster", "--session.cluster=a/b", "session.cluster: "},
		{"time to live", "--session.ttl=1500ms", "session.ttl: "},
		{"limit of flaps", "--session.flap_limit=0", "session.flap_limit: "},
		{"sweep rate", "--session.sweep_rate=1", "session.sweep_rate: "},
		{"directory", "--session.data=", "session.data: "},
	} {
		t.Run(tt.name, func(t *testing.T) {
			nodetest.Fails(t, nodetest.Call{Args: []string{"--rpc.tls.insecure", "--session.data=data", tt.argument}}, tt.want)
		})
	}
}

func TestASessionProcess(t *testing.T) {
	etcd := clustertest.StartEtcd(t)
	call := nodetest.Call{
		Env:  []string{"BEELINE_ETCD__ENDPOINTS=" + etcd.Address(), "BEELINE_SESSION__DATA=" + filepath.Join(t.TempDir(), "store")},
		Args: []string{"--rpc.tls.insecure", "--listen", "127.0.0.1:0", "--admin.address", "127.0.0.1:0"},
	}
	active := nodetest.Start(t, call)
	active.AwaitReady()
	active.AwaitMetric("beeline_session_active 1")
	standby := nodetest.Start(t, call)
	standby.AwaitReady()
	active.Probe(0, "ready")
	active.Probe(0, "health")
	admin := func(p *nodetest.Process) []string {
		return []string{"--rpc.tls.insecure", "--admin.address", strings.TrimPrefix(p.Admin, "http://")}
	}
	r := nodetest.Run(t, nodetest.Call{Env: call.Env, Args: append([]string{"backup", "monday"}, admin(active)...)})
	if r.Code != 0 || !strings.HasSuffix(r.Stdout, "-backups/monday\n") {
		t.Errorf("back-up: %+v", r)
	}
	nodetest.Fails(t, nodetest.Call{Env: call.Env, Args: append([]string{"backup"}, admin(standby)...)}, "back up: this is not the active session instance")
	restore := nodetest.Call{Env: call.Env, Args: []string{"restore", strings.TrimSpace(r.Stdout), "--rpc.tls.insecure"}}
	nodetest.Fails(t, restore, "restore: stop all session instances first: ")
	for _, p := range []*nodetest.Process{active, standby} {
		if code := p.Terminate(); code != 0 {
			t.Errorf("exit code %d; log:\n%s", code, p.Log())
		}
	}
	if r := nodetest.Run(t, restore); r.Code != 0 || !strings.HasPrefix(r.Stdout, "the former store is ") {
		t.Errorf("restore: %+v", r)
	}
	nodetest.Fails(t, nodetest.Call{Env: call.Env, Args: []string{"restore", "--rpc.tls.insecure"}}, "restore: which directory?")
	again := nodetest.Start(t, call)
	again.AwaitReady()
	if code := again.Terminate(); code != 0 {
		t.Errorf("exit code %d; log:\n%s", code, again.Log())
	}
}
