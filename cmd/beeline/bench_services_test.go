package main

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"
)

// services are the arguments of a run of services that is soon over.
func services(scenario string, flags ...string) []string {
	r := shared.Router()
	args := []string{
		"bench", "services", scenario, "-u", gateways(), "--router", r.Node.Address(), "--ca-file", r.Operator.CA,
		"--cert-file", r.Operator.Cert, "--key-file", r.Operator.Key, "--duration", "200ms", "--pid", fmt.Sprintf("me=%d", os.Getpid()),
	}
	return append(args, flags...)
}

func TestWhatServicesAskIsMeasured(t *testing.T) {
	for _, tt := range [][]string{
		services("publish", "--devices", "0"),
		services("publish", "--parallel", "100"),
		services("send", "--devices", "20"),
		services("command", "--devices", "5", "--parallel", "3"),
		services("subscribe", "--devices", "2", "--parallel", "10"),
	} {
		var got struct {
			Scenario              string
			Sent, Delivered, Lost uint64
			Latency               struct{ P50, Max float64 } `json:"latency_us"`
			CPU                   struct{ Total float64 }    `json:"cpu_us"`
		}
		if err := json.Unmarshal([]byte(begin(t, nil, append(tt, "-o", "json")...).done()), &got); err != nil {
			t.Fatalf("%v: %v", tt[2:3], err)
		}
		if got.Scenario != tt[2] || got.Delivered == 0 || got.Lost > 0 || got.Latency.P50 <= 0 || got.Latency.Max < got.Latency.P50 || got.CPU.Total <= 0 {
			t.Errorf("%v: %+v", tt[2], got)
		}
	}
	if out := begin(t, nil, services("command", "--devices", "1")...).done(); !strings.Contains(out, "done") || !strings.Contains(out, "\n  me  ") {
		t.Errorf("a table: %q", out)
	}
}

func TestServicesThatCannotBeMeasuredAreErrors(t *testing.T) {
	fails(t, "devices: at least 1", services("command", "--devices", "0")...)
	fails(t, "parallel: at least 1", services("publish", "--parallel", "0")...)
	fails(t, "refused", services("command", "-u", "mqtt://127.0.0.1:1")...)
}
