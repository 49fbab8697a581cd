package report

import (
	"encoding/json"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// sample is a round of a row that says its CPU, with further changes.
func sample(load, system string, cpu float64, changes ...func(*Sample)) Sample {
	s := Sample{Load: load, System: system, Round: 1}
	s.Result.CPU.Total = cpu
	for _, change := range changes {
		change(&s)
	}
	return s
}

func failed(why string) func(*Sample) { return func(s *Sample) { s.Failure = why } }

func TestARowHasTheMedianOfItsRounds(t *testing.T) {
	tests := []struct {
		name   string
		rounds []float64
		want   float64
	}{
		{"one round", []float64{7}, 7},
		{"two rounds: what is between them", []float64{8, 6}, 7},
		{"three rounds: one that is far off does not count", []float64{1000, 6, 7}, 7},
		{"four rounds", []float64{9, 1, 7, 3}, 5},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var samples []Sample
			for _, cpu := range tt.rounds {
				samples = append(samples, sample("l", "s", cpu))
			}
			f := Medians(samples)[Key{"l", "s"}]
			if f.CPU != tt.want || f.Rounds != len(tt.rounds) {
				t.Errorf("CPU %v of %d rounds, want %v", f.CPU, f.Rounds, tt.want)
			}
		})
	}
}

func TestEveryFigureHasItsOwnMedian(t *testing.T) {
	round := func(cpu, p50, p99 float64) Sample {
		return sample("l", "s", cpu, func(s *Sample) {
			s.Result.Latency = Quantiles{P50: p50, P99: p99}
			s.Result.Closed = Quantiles{P99: 2 * p99}
			s.Result.CPU.Generator = cpu / 2
			s.Result.DeliveryRate = 100 * cpu
			s.Result.MemoryPerConnection = 1000 * cpu
		})
	}
	got := Medians([]Sample{round(1, 3000, 20000), round(2, 1000, 30000), round(3, 2000, 10000)})[Key{"l", "s"}]
	want := Figure{
		Rounds: 3, CPU: 2, Generator: 1, P50: 2, P99: 20, ClosedP99: 40, Rate: 200,
		Memory: 2000, Front: 2000,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestFaultsOfAllRoundsCount(t *testing.T) {
	faulty := func(s *Sample) {
		s.Result.Lost, s.Result.Doubled, s.Result.OutOfOrder = 1, 2, 3
		s.Result.Corrupt, s.Result.Refused, s.Result.TwoOwners = 4, 5, 6
	}
	got := Medians([]Sample{sample("l", "s", 1, faulty), sample("l", "s", 1), sample("l", "s", 1, faulty)})[Key{"l", "s"}]
	want := Figure{Rounds: 3, CPU: 1, Lost: 2, Doubled: 4, OutOfOrder: 6, Corrupt: 8, Refused: 10, TwoOwners: 12}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestARoundThatFailedLeavesTheOthers(t *testing.T) {
	figures := Medians([]Sample{
		sample("l", "some", 5), sample("l", "some", 0, failed("it hung")),
		sample("l", "none", 0, failed("not installed")),
	})
	want := Figures{
		{"l", "some"}: {Rounds: 1, CPU: 5, Failure: "it hung"},
		{"l", "none"}: {Failure: "not installed"},
	}
	if diff := cmp.Diff(want, figures); diff != "" {
		t.Error(diff)
	}
}

func TestRowsOfOtherLoadsAndSystemsAreKeptApart(t *testing.T) {
	figures := Medians([]Sample{sample("a", "x", 1), sample("a", "y", 2), sample("b", "x", 3)})
	for key, want := range map[Key]float64{{"a", "x"}: 1, {"a", "y"}: 2, {"b", "x"}: 3} {
		if got := figures[key].CPU; got != want {
			t.Errorf("%v has CPU %v, want %v", key, got, want)
		}
	}
}

func TestMemoryOfGatewaysOrProxiesIsTheirPartOfTheWhole(t *testing.T) {
	tests := []struct {
		name      string
		processes []Process
		want      float64
	}{
		{"with others beside", []Process{{Name: "gateway", RSSBefore: 10, RSSAfter: 40}, {Name: "gateway", RSSAfter: 30}, {Name: "etcd", RSSAfter: 40}}, 600},
		{"behind a proxy", []Process{{Name: "gateway", RSSAfter: 40}, {Name: "router", RSSBefore: 10, RSSAfter: 30}, {Name: "etcd", RSSAfter: 40}}, 200},
		{"no gateways", []Process{{Name: "node", RSSAfter: 100}}, 1000},
		{"nothing grew", []Process{{Name: "gateway", RSSBefore: 5, RSSAfter: 5}}, 1000},
		{"no processes", nil, 1000},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := sample("l", "s", 1, func(s *Sample) {
				s.Result.MemoryPerConnection = 1000
				s.Result.Processes = tt.processes
			})
			if got := Medians([]Sample{s})[Key{"l", "s"}].Front; got != tt.want {
				t.Errorf("%v bytes, want %v", got, tt.want)
			}
		})
	}
}

func TestWhatProxiesAndEtcdUseIsToldApart(t *testing.T) {
	for name, tt := range map[string]struct {
		processes    []Process
		proxy, store float64
	}{
		"a router":  {[]Process{{Name: "router", CPUPerOp: 3}, {Name: "etcd", CPUPerOp: 2}, {Name: "mosquitto", CPUPerOp: 7}}, 3, 2},
		"HAProxy":   {[]Process{{Name: "mosquitto", CPUPerOp: 7}, {Name: "haproxy", CPUPerOp: 4}}, 4, 0},
		"no proxy":  {[]Process{{Name: "gateway", CPUPerOp: 5}, {Name: "etcd", CPUPerOp: 1}}, 0, 1},
		"two at it": {[]Process{{Name: "router", CPUPerOp: 3}, {Name: "router", CPUPerOp: 2}}, 5, 0},
	} {
		got := Medians([]Sample{sample("l", "s", 1, func(s *Sample) { s.Result.Processes = tt.processes })})[Key{"l", "s"}]
		if got.ProxyCPU != tt.proxy || got.StoreCPU != tt.store {
			t.Errorf("%s: proxies %v, etcd %v; want %v and %v", name, got.ProxyCPU, got.StoreCPU, tt.proxy, tt.store)
		}
	}
}

// metrics are those of a gateway: what it got from clients, and deliveries and bytes out and in.
func metrics(published, out, in, bytes float64) map[string]float64 {
	return map[string]float64{
		`beeline_gateway_publishes_received_total{qos="0"}`:   published,
		`beeline_gateway_publishes_received_total{qos="1"}`:   1, // does not grow
		`beeline_mesh_deliveries_total{direction="out"}`:      out,
		`beeline_mesh_deliveries_total{direction="in"}`:       in,
		`beeline_mesh_payload_bytes_total{direction="in"}`:    bytes / 2,
		`beeline_mesh_payload_bytes_total{direction="out"}`:   bytes / 2,
		`beeline_mesh_deliveries_resent_total`:                99,
		`beeline_gateway_publishes_sent_total{qos="0"}`:       99,
		`beeline_mesh_batches_total{direction="out"}`:         99,
		`beeline_mesh_receipts_total{outcome="acknowledged"}`: 99,
	}
}

func TestTheMeshIsWhatItsMetricsHaveGrownBy(t *testing.T) {
	idle := metrics(10, 20, 30, 40)
	tests := []struct {
		name          string
		before, after []map[string]float64
		involved      int
		want          *Mesh
	}{
		{
			"one other",
			[]map[string]float64{idle, idle},
			[]map[string]float64{metrics(110, 120, 30, 6440), metrics(10, 20, 130, 6440)},
			2,
			&Mesh{PerMessage: 1},
		},
		{
			"all others",
			[]map[string]float64{idle, idle, idle},
			[]map[string]float64{metrics(20, 40, 30, 1320), metrics(10, 20, 40, 680), metrics(10, 20, 40, 680)},
			3, &Mesh{PerMessage: 2},
		},
		{
			"others get nothing",
			[]map[string]float64{idle, idle, idle, idle},
			[]map[string]float64{metrics(20, 30, 30, 680), metrics(10, 20, 40, 680), idle, idle},
			2, &Mesh{PerMessage: 1, Bystanders: 2},
		},
		{
			"others get what is not theirs",
			[]map[string]float64{idle, idle, idle},
			[]map[string]float64{metrics(20, 40, 30, 680), metrics(10, 20, 40, 680), metrics(10, 23, 37, 140)},
			2,
			&Mesh{PerMessage: 2.3, Bystanders: 1, Deliveries: 10, Bytes: 100},
		},
		{"nothing was published", []map[string]float64{idle, idle}, []map[string]float64{idle, idle}, 2, &Mesh{}},
		{"no gateways", nil, nil, 3, nil},
		{"a gateway is missing", []map[string]float64{idle, idle}, []map[string]float64{idle}, 2, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, MeshOf(tt.before, tt.after, tt.involved)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestTheMeshOfARowIsTheWorstOfItsRounds(t *testing.T) {
	with := func(m *Mesh) Sample { return sample("l", "s", 1, func(s *Sample) { s.Mesh = m }) }
	got := Medians([]Sample{
		with(&Mesh{PerMessage: 1, Bystanders: 7}),
		with(nil),
		with(&Mesh{PerMessage: 1.5, Bystanders: 7, Deliveries: 2, Bytes: 128}),
		with(&Mesh{PerMessage: 1, Bystanders: 7, Deliveries: 1, Bytes: 64}),
	})[Key{"l", "s"}].Mesh
	want := &Mesh{PerMessage: 1.5, Bystanders: 7, Deliveries: 3, Bytes: 192}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestAResultIsReadFromWhatBenchSays(t *testing.T) {
	const text = `{"scenario":"connect","config":{"clients":6000},"seconds":1.5,"sent":9,"delivered":8,"lost":1,"doubled":2,
		"out_of_order":3,"corrupt":4,"refused":5,"delivery_rate":4000,"latency_us":{"p50":100.5,"p90":1,"p99":200,"p999":1,"max":1},
		"subscribed_us":{"p50":1},"closed_us":{"p50":7,"p99":8},"two_owners":6,"cpu_us":{"total":120.5,"generator":30},
		"processes":[{"name":"gateway","pid":1,"cpu_us_per_op":100,"rss_before":10,"rss_after":20}],"memory_per_connection":9000}`
	var got Result
	if err := json.Unmarshal([]byte(text), &got); err != nil {
		t.Fatal(err)
	}
	want := Result{
		Seconds: 1.5, Sent: 9, Delivered: 8, Lost: 1, Doubled: 2, OutOfOrder: 3, Corrupt: 4, Refused: 5, DeliveryRate: 4000,
		Latency: Quantiles{100.5, 200}, Closed: Quantiles{7, 8}, TwoOwners: 6,
		Processes: []Process{{Name: "gateway", CPUPerOp: 100, RSSBefore: 10, RSSAfter: 20}}, MemoryPerConnection: 9000,
	}
	want.CPU.Total, want.CPU.Generator = 120.5, 30
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}
