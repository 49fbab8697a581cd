package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/beeline-mqtt/beeline/cmd/beeline/bench"
)

// gateways is the value of --broker for both.
func gateways() string { return at("mqtt", 0, "mqtt") + "," + at("mqtt", 1, "mqtt") }

// short are flags for a run that is soon over.
func short(scenario string, flags ...string) []string {
	args := []string{"bench", scenario, "-u", gateways(), "-Q", "--warmup", "50ms", "--duration", "300ms", "--check"}
	return append(args, flags...)
}

func TestABenchPrintsATable(t *testing.T) {
	me := fmt.Sprintf("me=%d", os.Getpid())
	for _, tt := range []struct {
		want  string
		flags []string
	}{
		{"delivered", short("pairs", "--pairs", "4", "--rate", "500", "-q", "1", "--pid", me)},
		{"delivered", short("pairs", "--pairs", "4", "--rate", "0", "-q", "2", "--to", at("mqtt", 1, "mqtt"), "--pid", me)},
		{"delivered", short("pairs", "--pairs", "4", "--rate", "500", "-u", at("mqtts", 1, "mqtts"), "--ca-file", shared.CAFile(), "--pid", me)},
		{"delivered", short("fanout", "--subscribers", "4", "--rate", "100", "--pid", me)},
		{"connected", short("connect", "--clients", "10", "--pid", me)},
	} {
		p := begin(t, nil, tt.flags...)
		if out := p.done(); !strings.Contains(out, tt.want) || !strings.Contains(out, "\n  me  ") || p.stderr.String() != "" {
			t.Errorf("%v: %q, %q", tt.flags, out, p.stderr.String())
		}
	}
}

func TestABenchPrintsJSONWithItsFlags(t *testing.T) {
	p := begin(t, nil, short("pairs", "--pairs", "4", "--rate", "500", "-o", "json", "--clients-prefix", "mine", "--username", "ann", "--password-file", "/dev/null")...)
	var got struct {
		Scenario  string
		Config    map[string]any
		Delivered int
	}
	if err := json.Unmarshal([]byte(p.done()), &got); err != nil {
		t.Fatal(err)
	}
	var brokers []any
	for _, b := range strings.Split(gateways(), ",") {
		brokers = append(brokers, b)
	}
	want := map[string]any{
		"broker": brokers, "to": []any{}, "pid": []any{}, "mqtt-version": "3.1.1", "clients-prefix": "mine", "warmup": "50ms",
		"duration": "300ms", "rate": 500.0, "qos": 0.0, "size": 64.0, "window": 64.0, "tick": "250µs", "pairs": 4.0, "shift": 1.0,
		"durable":  false,
		"username": "ann", "password-file": "/dev/null", "ca-file": "", "cert-file": "", "key-file": "",
	}
	if diff := cmp.Diff(want, got.Config); diff != "" || got.Scenario != "pairs" || got.Delivered == 0 {
		t.Errorf("%+v (-want +got):\n%s", got, diff)
	}
}

func TestABenchSaysHowItGoes(t *testing.T) {
	p := begin(t, nil, "bench", "pairs", "-u", gateways(), "--pairs", "4", "--rate", "500", "--warmup", "1ms", "--duration", "1h")
	p.await("delivered/s", &p.stderr)
	p.stop() // as Ctrl-C does
	if out := p.done(); !strings.Contains(out, "delivered") {
		t.Errorf("printed %q", out)
	}
}

func TestABenchThatIsInterruptedBeforeItHasAResultIsAnError(t *testing.T) {
	p := begin(t, nil, "bench", "pairs", "-u", gateways(), "--pairs", "4", "--rate", "500", "--warmup", "1h")
	p.await("warming up", &p.stderr)
	p.stop()
	if out, err := p.wait(); err == nil || !strings.Contains(err.Error(), "before there was a result") || out != "" {
		t.Errorf("printed %q, error %v", out, err)
	}
}

func TestFlagsOfABenchThatCannotBe(t *testing.T) {
	for _, tt := range []struct{ want, args string }{
		{"--broker: parse", "pairs -u 127.0.0.1:1883"},
		{`--broker "http://a": the scheme`, "connect -u http://a"},
		{`--to "http://a": the scheme`, "pairs --to http://a"},
		{"--mqtt-version", "fanout -V 3"},
		{"--password-file", "move --password-file /nowhere"},
		{"without a --username", "move --password-file /dev/null"},
		{`--pid "4711"`, "pairs --pid 4711"},
		{`--pid "a=b"`, "pairs --pid a=b"},
		{`--pid "a=0"`, "pairs --pid a=0"},
		{"--output", "pairs -o xml"},
		{"size: at least 24", "pairs --size 10"},
		{"none of the others can be", "pairs --to mqtt://a --shift 2"},
		{"process gone", "pairs --pid gone=999999999"},
		{"broker mqtt://127.0.0.1:1: ", "pairs -u mqtt://127.0.0.1:1"},
		{"qos: 1 or 2", "away -q 0"},
		{"receivers: at least 1", "resume --clients-prefix x --receivers 0"},
		{`required flag(s) "clients-prefix"`, "resume"},
		{"within: more than 0", "storm --within 0"},
		{"--output", "storm -o xml"},
		{"unknown command", "x"},
	} {
		fails(t, tt.want, append([]string{"bench"}, strings.Fields(tt.args)...)...)
	}
}

func TestTheExitCodeTellsWhatIsNotCleanFromWhatCouldNotBeDone(t *testing.T) {
	if got := exitCode(errors.New("broker is not there")); got != 1 {
		t.Errorf("exit code %d", got)
	}
	if got := exitCode((&bench.Result{Scenario: "pairs", Doubled: 1}).Check(0)); got != 2 {
		t.Errorf("exit code %d for a message that came twice", got)
	}
}

func TestClientsMoveBetweenGateways(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: it looks five seconds later whether they have stayed")
	}
	both(t, func(t *testing.T, version string) {
		out := begin(t, nil, short("move", "-V", version, "--clients", "10", "-o", "json")...).done()
		var got bench.Result
		if err := json.Unmarshal([]byte(out), &got); err != nil || got.Delivered != 10 || got.TwoOwners != 0 || got.Closed == nil {
			t.Errorf("%s: %v", out, err)
		}
	})
}

func TestReceiversAreAwayAndReturn(t *testing.T) {
	both(t, func(t *testing.T, version string) {
		shape := func(scenario string, more ...string) []string {
			return short(scenario, append(more, "-V", version, "--receivers", "4", "--publishers", "8", "--messages", "400", "-o", "json")...)
		}
		for _, args := range [][]string{
			shape("away", "--clients-prefix", "away"+version),
			shape("resume", "--clients-prefix", "away"+version),
			shape("storm", "--within", "100ms"),
		} {
			out := begin(t, nil, args...).done()
			var got bench.Result
			if err := json.Unmarshal([]byte(out), &got); err != nil || got.Scenario != args[1] || got.Delivered != 400 {
				t.Errorf("%s: %v", out, err)
			}
		}
	})
}
