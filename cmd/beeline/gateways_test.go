package main

import (
	"bytes"
	"context"
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"

	adminv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/admin/v1"
)

// column returns one column of a table, without its head.
func column(table string, i int) []string {
	var all []string
	for line := range strings.Lines(table) {
		if fields := strings.Fields(line); len(fields) > i {
			all = append(all, fields[i])
		}
	}
	return all[1:]
}

func TestGatewaysAreDrainedAndResumedFromTheCommandLine(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	up := begin(t, nil, "up", "--gateways", "2", "--first-port", "0", "--data", dir)
	e := up.endpointsIn(dir)
	run := func(args ...string) string {
		t.Helper()
		return begin(t, nil, append(args, "--data", dir)...).done()
	}
	states := func(want ...string) {
		t.Helper()
		if diff := cmp.Diff(want, column(run("gateways"), 5)); diff != "" {
			t.Errorf("states (-want +got)\n%s", diff)
		}
	}
	states("active", "active")
	list := run("gateways")
	if diff := cmp.Diff([]string{e.Gateways[0].GRPC, e.Gateways[1].GRPC}, column(list, 1)); diff != "" {
		t.Errorf("addresses (-want +got)\n%s", diff)
	}
	sub := beginSub(t, "-u", e.Gateways[0].MQTT, "-i", "ann", "-t", "news/#")
	if got := column(run("gateways"), 6); got[0] != "1" || got[1] != "0" {
		t.Errorf("clients: %v", got)
	}
	plan := run("rebalance", "--dry-run")
	if got := column(plan, 3); len(got) != 2 || got[0] != "1" || got[1] != "0" {
		t.Errorf("the plan:\n%s", plan)
	}
	got := run("gateways", "drain", e.Gateways[0].GRPC, "--wait", "--rate", "10")
	if !strings.HasPrefix(got, "1 clients are to go\n") || !strings.HasSuffix(got, "drained: 1 moved, 0 to move\n") {
		t.Errorf("drained:\n%s", got)
	}
	if _, err := sub.wait(); err == nil {
		t.Error("the client was not told to go")
	}
	states("drained", "active")
	fails(t, "no other gateway takes clients", "gateways", "drain", e.Gateways[1].GRPC, "--data", dir)
	fails(t, "(FailedPrecondition)", "rebalance", "--data", dir)
	succeeds(t, "pub", "-u", e.Router.MQTT, "-t", "news/today", "-m", "hello", "-q", "1")
	if got := run("gateways", "resume", column(list, 0)[0]); got != "active\n" {
		t.Errorf("resumed: %q", got)
	}
	states("active", "active")
	if got := column(run("rebalance", "--rate", "100"), 5); len(got) != 2 || got[0] != "0" || got[1] != "0" {
		t.Errorf("to move, with nobody there: %v", got)
	}

	fails(t, "(NotFound)", "gateways", "drain", "nowhere:1", "--data", dir)
	fails(t, "(NotFound)", "gateways", "resume", "nowhere:1", "--data", dir)
	fails(t, "which router?", "gateways", "--data", t.TempDir())
	fails(t, "(PermissionDenied)", "rebalance", "--router", e.Router.GRPC, "--ca-file", e.CAFile,
		"--cert-file", filepath.Join(dir, "pki", "gateway.crt"), "--key-file", filepath.Join(dir, "pki", "gateway.key"))
	up.stop()
	up.done()
}

// script answers ListGateways with one gateway after the other.
type script struct {
	adminv1.GatewayServiceClient

	gateways []*adminv1.Gateway // nil: there is none
}

func (s *script) ListGateways(context.Context, *adminv1.ListGatewaysRequest, ...grpc.CallOption) (*adminv1.ListGatewaysResponse, error) {
	if len(s.gateways) == 0 {
		return nil, errors.New("by order of the test")
	}
	x := s.gateways[0]
	s.gateways = s.gateways[1:]
	if x == nil {
		return &adminv1.ListGatewaysResponse{}, nil
	}
	x.Id = "g"
	return &adminv1.ListGatewaysResponse{Gateways: []*adminv1.Gateway{{Id: "other"}, x}}, nil
}

func TestADrainIsFollowedToItsEnd(t *testing.T) {
	draining := &adminv1.Gateway{State: adminv1.GatewayState_GATEWAY_STATE_DRAINING, Moved: 1, Left: 2}
	drained := adminv1.GatewayState_GATEWAY_STATE_DRAINED
	const begins = "draining: 1 moved, 2 to move\n"
	for _, tt := range []struct {
		name       string
		answers    []*adminv1.Gateway
		says, fail string
	}{
		{"all go", []*adminv1.Gateway{draining, draining, {State: drained, Moved: 3}}, begins + "drained: 3 moved, 0 to move\n", ""},
		{
			"all are told, one is slow",
			[]*adminv1.Gateway{draining, {State: drained, Moved: 3, Left: 1}, {State: drained, Moved: 3}},
			begins + "drained: 3 moved, 1 to move\ndrained: 3 moved, 0 to move\n", "",
		},
		{
			"they have nowhere to go",
			[]*adminv1.Gateway{draining, {State: drained, Moved: 2, Left: 1, Trouble: "nowhere"}},
			begins + "drained: 2 moved, 1 to move\n", "nowhere",
		},
		{
			"it is resumed",
			[]*adminv1.Gateway{draining, {State: adminv1.GatewayState_GATEWAY_STATE_ACTIVE, Moved: 2}},
			begins + "active: 2 moved, 0 to move\n", "somebody has told it something else",
		},
		{"it ends", []*adminv1.Gateway{draining, nil}, begins + "unknown: 0 moved, 0 to move\n", "the gateway has ended"},
		{"the router ends", []*adminv1.Gateway{draining}, begins, "by order of the test"},
	} {
		follows := func(t *testing.T) {
			var out bytes.Buffer
			err := follow(t.Context(), &out, &script{gateways: tt.answers}, "g")
			if diff := cmp.Diff(tt.says, out.String()); diff != "" {
				t.Errorf("said (-want +got)\n%s", diff)
			}
			if (err != nil) != (tt.fail != "") || err != nil && !strings.Contains(err.Error(), tt.fail) {
				t.Errorf("error %v, want %q in it", err, tt.fail)
			}
		}
		t.Run(tt.name, func(t *testing.T) { synctest.Test(t, follows) })
	}
}
