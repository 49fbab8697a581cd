package main

import (
	"net"
	"path/filepath"
	"strings"
	"testing"
)

func TestPlacementIsAskedForAndDecidedFromTheCommandLine(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	up := begin(t, nil, "up", "--gateways", "2", "--first-port", "0", "--data", dir)
	e := up.endpointsIn(dir)
	run := func(args ...string) string {
		t.Helper()
		return begin(t, nil, append(args, "--data", dir)...).done()
	}
	// Devices know the router only.
	sub := beginSub(t, "-u", e.Router.MQTT, "-i", "ann", "-t", "news/#", "-n", "1")
	succeeds(t, "pub", "-u", e.Router.WebSocket, "-t", "news/today", "-m", "hello", "-q", "1")
	if got := sub.done(); got != "news/today hello\n" {
		t.Errorf("through the router: %q", got)
	}
	if got := run("placement", "explain", "--client-id", "ann"); !strings.Contains(got, "the cluster is assigned to clients without another assignment") {
		t.Errorf("explained:\n%s", got)
	}

	broker, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer broker.Close()
	run("cluster", "add", "old", "--static", broker.Addr().String())
	if got := run("cluster", "list"); !strings.Contains(got, broker.Addr().String()) && !strings.Contains(got, "old") {
		t.Errorf("clusters:\n%s", got)
	}
	run("placement", "assign", "--cluster", "old", "--prefix", "meter-")
	if got := run("placement", "list"); got != "client_id_prefix \"meter-\" -> old\n" {
		t.Errorf("assignments:\n%s", got)
	}
	if got := run("placement", "explain", "--client-id", "meter-7", "--username", "joe"); !strings.HasPrefix(got, "cluster old\n") ||
		!strings.Contains(got, `client id prefix "meter-"`) {
		t.Errorf("explained:\n%s", got)
	}
	fails(t, "remove: clients are assigned to it", "cluster", "remove", "old", "--data", dir)
	run("placement", "unassign", "--prefix", "meter-")
	if got := run("placement", "list"); got != "" {
		t.Errorf("assignments are left:\n%s", got)
	}
	run("cluster", "remove", "old")

	fails(t, "which clients?", "placement", "assign", "--cluster", "old", "--data", dir)
	fails(t, "which clients?", "placement", "assign", "--cluster", "old", "--client-id", "x", "--prefix", "y", "--data", dir)
	fails(t, "give --static or --emqx", "cluster", "add", "x", "--data", dir)
	fails(t, "which router?", "cluster", "list", "--data", t.TempDir())
	fails(t, "(PermissionDenied)", "cluster", "list", "--router", e.Router.GRPC, "--ca-file", e.CAFile,
		"--cert-file", filepath.Join(dir, "pki", "gateway.crt"), "--key-file", filepath.Join(dir, "pki", "gateway.key"))
	up.stop()
	up.done()
}
