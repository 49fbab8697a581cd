package bench

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
)

var some = Latencies{P50: 90, P90: 900, P99: 1234.5, P999: 99_990, Max: 123_456}

// example is a result of the scenario, in which no number is there twice.
func example(scenario string) *Result {
	each := 5000.0
	r := &Result{
		Scenario: scenario, Seconds: 10, Sent: 101, Delivered: 102, DeliveryRate: 10.2, Latency: &some,
		CPU:       CPU{Total: 17.25, Generator: 5.5},
		Processes: []ProcessResult{{Name: "gateway", PID: 4711, CPU: 17.25, RSSBefore: 1 << 20, RSSAfter: 3 << 20}},
	}
	switch scenario {
	case "connect":
		r.Subscribed, r.MemoryPerConnection, r.MemoryPerConnectionHeld = &some, &each, &each
		r.Refused, r.RefusedBecause = 111, "broker a: CONNECT refused with code 0x89"
	case "move":
		r.Closed, r.TwoOwners, r.Unclosed = &some, 112, 113
	case "away":
		r.Unsent, r.Unacknowledged = 107, 108
	case "resume", "storm":
		r.Lost, r.Doubled, r.OutOfOrder, r.Corrupt = 103, 104, 105, 106
		r.Served, r.Clients, r.Forgotten = &some, 114, 115
	default:
		r.Lost, r.Doubled, r.OutOfOrder, r.Corrupt = 103, 104, 105, 106
		r.Unsent, r.Unacknowledged, r.LostInWarmup, r.SentLate = 107, 108, 109, &some
	}
	return r
}

func TestTheJSONHasAllThatMakesSense(t *testing.T) {
	always := []string{
		"scenario", "config", "seconds", "sent", "delivered", "lost", "doubled", "out_of_order", "corrupt", "refused",
		"delivery_rate", "latency_us", "two_owners", "cpu_us", "processes",
	}
	for scenario, more := range map[string][]string{
		"pairs": {"sent_late_us"}, "connect": {"subscribed_us", "memory_per_connection"}, "move": {"closed_us"},
		"resume": {"served_us", "clients_served", "forgotten"},
	} {
		var out strings.Builder
		if err := example(scenario).JSON(&out); err != nil {
			t.Fatal(err)
		}
		var got map[string]any
		if err := json.Unmarshal([]byte(out.String()), &got); err != nil {
			t.Fatal(err)
		}
		for _, field := range append(more, always...) {
			if _, ok := got[field]; !ok {
				t.Errorf("%s: no %s in %s", scenario, field, &out)
			}
		}
		for _, part := range []string{
			`"p50": 90`, `"p999": 99990`, `"max": 123456`, `"total": 17.25`, `"cpu_us_per_op": 17.25`, `"rss_after": 3145728`,
		} {
			if !strings.Contains(out.String(), part) {
				t.Errorf("%s: no %s in %s", scenario, part, &out)
			}
		}
	}
}

func TestTheTableSaysEverything(t *testing.T) {
	for scenario, parts := range map[string][]string{
		"pairs": {
			"101", "102, 10/s", "103", "104", "105", "106", "107", "108", "109", "CPU of a delivery   17.2 us; of the generator 5.5 us",
			"p50 0.090, p90 0.900, p99 1.2, p99.9 100.0, max 123 ms", "sent late by", "gateway", "3.0 MiB, before 1.0 MiB",
		},
		"fanout":  {"out of order", "105"},
		"connect": {"connected", "102, 10/s", "111", "refused with code 0x89", "CONNACK after", "SUBACK after", "4.9 KiB", "held", "CPU of a connection"},
		"move":    {"moved", "112", "113", "CONNACK after", "closed after", "CPU of a move"},
		"away":    {"101", "107", "108", "accepted", "102, 10/s", "accepted after", "CPU of an accepted message"},
		"resume": {
			"101", "102, 10/s", "103", "104", "105", "106", "114, the last after 10.000 s", "115", "CONNACK after", "served after",
			"CPU of a delivery",
		},
		"storm": {"114, the last after 10.000 s", "CPU of a client"},
	} {
		var out strings.Builder
		if err := example(scenario).Table(&out); err != nil {
			t.Fatal(err)
		}
		for _, part := range parts {
			if !strings.Contains(out.String(), part) {
				t.Errorf("%s: no %q in\n%s", scenario, part, &out)
			}
		}
	}
}

func TestAWriterThatFailsIsAnError(t *testing.T) {
	for name, write := range map[string]func(r *Result) error{
		"JSON":  func(r *Result) error { return r.JSON(broken{}) },
		"table": func(r *Result) error { return r.Table(broken{}) },
	} {
		if err := write(example("pairs")); !errors.Is(err, errBroken) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

var errBroken = errors.New("broken")

type broken struct{}

func (broken) Write([]byte) (int, error) { return 0, errBroken }

func TestWhatIsNotClean(t *testing.T) {
	for _, tt := range []struct {
		name string
		r    Result
		qos  byte
		want string // empty: it is
	}{
		{"nothing", Result{Scenario: "pairs"}, 2, ""},
		{"lost at QoS 0", Result{Scenario: "pairs", Lost: 3}, 0, ""},
		{"lost at QoS 0, fanned out", Result{Scenario: "fanout", Lost: 3}, 0, ""},
		{"lost at QoS 1", Result{Scenario: "pairs", Lost: 3}, 1, "3 lost"},
		{"lost clients", Result{Scenario: "move", Lost: 3}, 0, "3 lost"},
		{"doubled", Result{Scenario: "pairs", Doubled: 3}, 0, "3 doubled"},
		{"out of order", Result{Scenario: "pairs", OutOfOrder: 3}, 0, "3 out of order"},
		{"corrupt", Result{Scenario: "pairs", Corrupt: 3}, 0, "3 corrupt"},
		{"two owners", Result{Scenario: "move", TwoOwners: 3}, 0, "3 with two owners"},
		{"forgotten", Result{Scenario: "storm", Forgotten: 3}, 1, "3 forgotten"},
		{"several", Result{Scenario: "fanout", Lost: 1, Doubled: 2}, 2, "1 lost, 2 doubled"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			err := tt.r.Check(tt.qos)
			if (err == nil) != (tt.want == "") || err != nil && (!errors.Is(err, ErrNotClean) || !strings.HasSuffix(err.Error(), ": "+tt.want)) {
				t.Errorf("%v, want %q", err, tt.want)
			}
		})
	}
}
