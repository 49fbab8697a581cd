// Package report makes of what was measured what people read: medians over rounds, tables with the ratios first, and
// which targets are met. It is pure: it measures nothing, and reads and writes no files.
//
// Its values belong to whoever has them; nothing here is shared.
package report

import (
	"encoding/json"
	"slices"
	"strings"
)

// Load is one load, which several systems are put under.
type Load struct {
	// Name is what it is chosen by and what targets refer to, Group the title of its table, Title its rows'.
	Name, Group, Title string
	// Scenario is that of beeline bench: pairs, fanout, connect or move.
	Scenario string
	// Rate is how many deliveries or connections a second are asked for; 0: as many as there can be.
	Rate float64
	// Systems are the names of those that are put under it, One is the one whose figures are 1 in ratios.
	Systems []string
	One     string
	// Proxied says that clients know a proxy only, whose figures are told apart.
	Proxied bool
}

// Quantiles are those of a duration, in microseconds.
type Quantiles struct {
	P50 float64 `json:"p50"`
	P99 float64 `json:"p99"`
}

// Process is what one process has used.
type Process struct {
	Name      string  `json:"name"`
	CPUPerOp  float64 `json:"cpu_us_per_op"`
	RSSBefore float64 `json:"rss_before"`
	RSSAfter  float64 `json:"rss_after"`
}

// Result is what one run of beeline bench has said, as far as it is used here. An operation is a delivery, or the
// connecting of one client.
type Result struct {
	Seconds      float64   `json:"seconds"`
	Sent         int64     `json:"sent"`
	Delivered    int64     `json:"delivered"`
	Lost         int64     `json:"lost"`
	Doubled      int64     `json:"doubled"`
	OutOfOrder   int64     `json:"out_of_order"`
	Corrupt      int64     `json:"corrupt"`
	Refused      int64     `json:"refused"`
	DeliveryRate float64   `json:"delivery_rate"`
	Latency      Quantiles `json:"latency_us"`
	Closed       Quantiles `json:"closed_us"`
	TwoOwners    int64     `json:"two_owners"`
	CPU          struct {
		Total     float64 `json:"total"` // of all processes, for an operation
		Generator float64 `json:"generator"`
	} `json:"cpu_us"`
	Processes           []Process `json:"processes"`
	MemoryPerConnection float64   `json:"memory_per_connection"`
}

// Sample is one system under one load in one round.
type Sample struct {
	Load, System string
	Round        int
	// Raw is all that beeline bench has said, Result the part of it that is used here.
	Raw    json.RawMessage `json:",omitempty"`
	Result Result          `json:"-"`
	// Mesh is what went between gateways, nil when that is not known.
	Mesh *Mesh `json:",omitempty"`
	// Failure says why there is no result, "" when there is one.
	Failure string `json:",omitempty"`
}

// Mesh is what went between gateways during a load.
type Mesh struct {
	// PerMessage is how many deliveries a PUBLISH of a client became between gateways.
	PerMessage float64
	// Bystanders are how many gateways had no client of the load, the others what those have sent and received.
	Bystanders int
	Deliveries float64
	Bytes      float64
}

// MeshOf compares the metrics of all gateways before and after a load, of which those from bystanders on had no
// client. It is nil without gateways.
func MeshOf(before, after []map[string]float64, bystanders int) *Mesh {
	if len(before) == 0 || len(before) != len(after) {
		return nil
	}
	m := &Mesh{Bystanders: max(0, len(after)-bystanders)}
	var published, forwarded float64
	for i := range after {
		grown := func(name string) float64 { return sum(after[i], name) - sum(before[i], name) }
		published += grown("beeline_gateway_publishes_received_total")
		forwarded += grown(`beeline_mesh_deliveries_total{direction="out"}`)
		if i >= bystanders {
			m.Deliveries += grown("beeline_mesh_deliveries_total")
			m.Bytes += grown("beeline_mesh_payload_bytes_total")
		}
	}
	if published > 0 {
		m.PerMessage = forwarded / published
	}
	return m
}

// sum adds up all metrics that begin with name: those of all labels.
func sum(metrics map[string]float64, name string) float64 {
	total := 0.0
	for key, value := range metrics {
		if strings.HasPrefix(key, name) {
			total += value
		}
	}
	return total
}

// Key names a row: a system under a load.
type Key struct{ Load, System string }

// Figure is a row: medians over the rounds, but faults are of all rounds together.
type Figure struct {
	Rounds int
	// CPU is that of all server processes, Generator that of the load, in microseconds for an operation.
	CPU, Generator float64
	// ProxyCPU and StoreCPU are the parts of CPU that proxies and etcd have used.
	ProxyCPU, StoreCPU float64
	// P50 and P99 are latencies, ClosedP99 of the end of the older connection, in milliseconds.
	P50, P99, ClosedP99 float64
	// Rate is operations a second.
	Rate float64
	// Memory is bytes for a connection in all processes, Front in those that clients connect to.
	Memory, Front                                          float64
	Lost, Doubled, OutOfOrder, Corrupt, Refused, TwoOwners int64
	// Mesh is the worst of the rounds, nil when it is not known.
	Mesh *Mesh
	// Failure is why rounds are missing, "" when none is.
	Failure string
}

// Figures are all rows that there are.
type Figures map[Key]Figure

// Medians makes rows of samples.
func Medians(samples []Sample) Figures {
	rows := map[Key][]Sample{}
	figures := Figures{}
	for _, s := range samples {
		key := Key{s.Load, s.System}
		if s.Failure != "" {
			f := figures[key]
			f.Failure = s.Failure
			figures[key] = f
			continue
		}
		rows[key] = append(rows[key], s)
	}
	for key, row := range rows {
		f := ofRounds(row)
		f.Failure = figures[key].Failure
		figures[key] = f
	}
	return figures
}

func ofRounds(row []Sample) Figure {
	f := Figure{
		Rounds:    len(row),
		CPU:       median(row, func(r Result) float64 { return r.CPU.Total }),
		Generator: median(row, func(r Result) float64 { return r.CPU.Generator }),
		P50:       median(row, func(r Result) float64 { return r.Latency.P50 / 1000 }),
		P99:       median(row, func(r Result) float64 { return r.Latency.P99 / 1000 }),
		ClosedP99: median(row, func(r Result) float64 { return r.Closed.P99 / 1000 }),
		Rate:      median(row, func(r Result) float64 { return r.DeliveryRate }),
		Memory:    median(row, func(r Result) float64 { return r.MemoryPerConnection }),
		Front:     median(row, frontMemory),
		ProxyCPU:  median(row, func(r Result) float64 { return cpuOf(r, proxies()...) }),
		StoreCPU:  median(row, func(r Result) float64 { return cpuOf(r, "etcd") }),
	}
	for _, s := range row {
		r := s.Result
		f.Lost += r.Lost
		f.Doubled += r.Doubled
		f.OutOfOrder += r.OutOfOrder
		f.Corrupt += r.Corrupt
		f.Refused += r.Refused
		f.TwoOwners += r.TwoOwners
		f.Mesh = worse(f.Mesh, s.Mesh)
	}
	return f
}

func median(row []Sample, of func(Result) float64) float64 {
	values := make([]float64, len(row))
	for i, s := range row {
		values[i] = of(s.Result)
	}
	slices.Sort(values)
	middle := len(values) / 2
	if len(values)%2 == 0 {
		return (values[middle-1] + values[middle]) / 2
	}
	return values[middle]
}

// proxies are the names of processes that stand before brokers.
func proxies() []string { return []string{"router", "haproxy"} }

// cpuOf is what the processes with some names have used for an operation.
func cpuOf(r Result, names ...string) float64 {
	used := 0.0
	for _, p := range r.Processes {
		if slices.Contains(names, p.Name) {
			used += p.CPUPerOp
		}
	}
	return used
}

// frontMemory is the part of the memory for a connection that is in the processes that clients connect to: proxies if
// there are any, else gateways, else all.
func frontMemory(r Result) float64 {
	for _, names := range [][]string{proxies(), {"gateway"}} {
		all, front := 0.0, 0.0
		for _, p := range r.Processes {
			all += p.RSSAfter - p.RSSBefore
			if slices.Contains(names, p.Name) {
				front += p.RSSAfter - p.RSSBefore
			}
		}
		if front != 0 && all != 0 {
			return r.MemoryPerConnection * front / all
		}
	}
	return r.MemoryPerConnection
}

func worse(a, b *Mesh) *Mesh {
	switch {
	case a == nil:
		return b
	case b == nil:
		return a
	}
	return &Mesh{
		PerMessage: max(a.PerMessage, b.PerMessage),
		Bystanders: b.Bystanders,
		Deliveries: a.Deliveries + b.Deliveries,
		Bytes:      a.Bytes + b.Bytes,
	}
}
