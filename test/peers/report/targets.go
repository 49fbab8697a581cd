package report

import (
	"fmt"
	"math"
	"slices"
)

// Names of systems that targets are about.
const (
	Ours      = "Beeline, 3 gateways"
	OursAlone = "Beeline, 1 gateway"
	OursMany  = "Beeline, 9 gateways"
	NATS      = "NATS, 3 nodes"
	Mosquitto = "mosquitto, 1 node"

	RouterAlone  = "Beeline's router, 1 mosquitto"
	RouterMany   = "Beeline's router, 3 mosquitto"
	HAProxyAlone = "HAProxy, 1 mosquitto"
)

// Where the two clients of a pair are.
const (
	Cross    = "cross"    // on different nodes
	Same     = "same"     // on one node
	Directed = "directed" // all publishers on the first node, all subscribers on the second
	Spread   = "spread"   // as Cross, over more nodes
	Proxied  = "proxied"  // on one node, which they know only the proxy of
)

// Names of the loads that are no pairs.
const (
	FanOut      = "fanout-10000"
	FanOutFast  = "fanout-100000"
	FanOutMost  = "fanout-300000"
	Connect     = "connect-1000"
	ConnectFast = "connect-4000"
	Move        = "move-500"

	ConnectProxied = "proxied-connect-1000"
)

// PairsName is the name of a load of pairs. With a rate of 0 they go as fast as they can.
func PairsName(where string, qos, rate int) string {
	if rate == 0 {
		return fmt.Sprintf("%s-qos%d-full", where, qos)
	}
	return fmt.Sprintf("%s-qos%d-%d", where, qos, rate)
}

// Verdict is a target beside what was measured.
type Verdict struct {
	ID, What string
	// Want and Got are the bound and the figure. Ratio is how much of the bound is used: up to 1 the target is met.
	Want, Got, Ratio string
	// Met is "met", "not met" or "not measured".
	Met string
}

// Judge compares figures with the targets for some loads.
func Judge(loads []Load, figures Figures) []Verdict {
	var verdicts []Verdict
	for _, t := range targets() {
		if slices.ContainsFunc(loads, func(l Load) bool { return l.Name == t.row.Load }) {
			verdicts = append(verdicts, t.judge(figures))
		}
	}
	return verdicts
}

// target is a quantity of one row and its bound.
type target struct {
	id, what string
	row      Key
	quantity quantity
	bound    bound
}

// quantity is a figure of a row, in a unit.
type quantity struct {
	unit string
	of   func(Figure) float64
}

// bound is a number, or what is the most of several rows' figures, each multiplied: to be within one is enough.
type bound struct {
	atLeast bool // a lower bound, otherwise an upper one
	limit   float64
	of      []share
}

// share is the figure of a row so many times.
type share struct {
	times float64
	row   Key
}

func atMost(limit float64) bound  { return bound{limit: limit} }
func atLeast(limit float64) bound { return bound{limit: limit, atLeast: true} }

// within bounds a figure by those of other rows.
func within(of ...share) bound { return bound{of: of} }

func (t target) judge(figures Figures) Verdict {
	v := Verdict{ID: t.id, What: t.what, Want: "-", Got: "-", Ratio: "-", Met: "not measured"}
	limit, known := t.limit(figures)
	if known {
		v.Want = t.quantity.show(limit)
	}
	f := figures[t.row]
	if f.Rounds == 0 {
		return v
	}
	got := t.quantity.of(f)
	v.Got = t.quantity.show(got)
	if !known {
		return v
	}
	used, most := got, limit
	if t.bound.atLeast {
		used, most = limit, got
	}
	if most > 0 {
		v.Ratio = number(used / most)
	}
	v.Met = "not met"
	if used <= most {
		v.Met = "met"
	}
	return v
}

func (t target) limit(figures Figures) (limit float64, known bool) {
	if len(t.bound.of) == 0 {
		return t.bound.limit, true
	}
	for _, s := range t.bound.of {
		if f := figures[s.row]; f.Rounds > 0 {
			limit, known = max(limit, s.times*t.quantity.of(f)), true
		}
	}
	return limit, known
}

func (q quantity) show(x float64) string {
	if q.unit == "" {
		return number(x)
	}
	return number(x) + " " + q.unit
}

// targets are all of them, in the order of their numbers.
func targets() []target {
	var (
		cpu        = quantity{"us", func(f Figure) float64 { return f.CPU }}
		proxy      = quantity{"us", func(f Figure) float64 { return f.ProxyCPU }}
		placed     = quantity{"us", func(f Figure) float64 { return f.ProxyCPU + f.StoreCPU }}
		front      = quantity{"KiB", func(f Figure) float64 { return f.Front / 1024 }}
		p50        = quantity{"ms", func(f Figure) float64 { return f.P50 }}
		p99        = quantity{"ms", func(f Figure) float64 { return f.P99 }}
		memory     = quantity{"KiB", func(f Figure) float64 { return f.Memory / 1024 }}
		rate       = quantity{"/s", func(f Figure) float64 { return f.Rate }}
		faults     = quantity{"", func(f Figure) float64 { return float64(f.Lost + f.Doubled + f.OutOfOrder + f.Corrupt) }}
		refused    = quantity{"", func(f Figure) float64 { return float64(f.Refused) }}
		owners     = quantity{"", func(f Figure) float64 { return float64(f.TwoOwners) }}
		perMessage = quantity{"", func(f Figure) float64 { return mesh(f).PerMessage }}
		deliveries = quantity{"", func(f Figure) float64 { return mesh(f).Deliveries }}
		bytes      = quantity{"B", func(f Figure) float64 { return mesh(f).Bytes }}
	)
	var list []target
	add := func(id, what, load, system string, q quantity, b bound) {
		list = append(list, target{id, what, Key{load, system}, q, b})
	}

	for _, r := range []int{15000, 3000} {
		load := PairsName(Cross, 0, r)
		add("P1", fmt.Sprintf("cross-node QoS 0, %s: CPU, at most that of NATS", RateTitle(r)), load, Ours, cpu, within(share{1, Key{load, NATS}}))
	}
	qos0, qos1 := PairsName(Cross, 0, 15000), PairsName(Cross, 1, 15000)
	add("P2", "cross-node QoS 1, 15,000/s: CPU, at most 1.6 x our QoS 0 or 1.75 x that of NATS", qos1, Ours, cpu,
		within(share{1.6, Key{qos0, Ours}}, share{1.75, Key{qos0, NATS}}))
	add("P2", "the same: p99", qos1, Ours, p99, atMost(5))
	add("P2", "the same: lost, doubled, out of order", qos1, Ours, faults, atMost(0))

	for _, r := range []int{15000, 3000} {
		load := PairsName(Directed, 0, r)
		add("P4", fmt.Sprintf("from one gateway to another, %s: CPU with 9 gateways, at most 1.1 x that with 3", RateTitle(r)), load, OursMany, cpu,
			within(share{1.1, Key{load, Ours}}))
		add("P4", "the same: messages at the 7 others", load, OursMany, deliveries, atMost(0))
		add("P4", "the same: payload at the 7 others", load, OursMany, bytes, atMost(0))
	}
	for _, r := range []int{3000, 15000, 0} {
		for qos := range 3 {
			load, times := PairsName(Same, qos, r), 1.5
			if r == 0 {
				times = 1
			}
			add("P5", fmt.Sprintf("same node QoS %d, %s: CPU, at most %v x that of mosquitto", qos, RateTitle(r), times), load, OursAlone, cpu,
				within(share{times, Key{load, Mosquitto}}))
		}
	}
	add("P6", "fan-out to 1,000, 10,000 deliveries/s: CPU", FanOut, Ours, cpu, atMost(3))
	add("P6", "fan-out to 1,000, 100,000 deliveries/s: CPU", FanOutFast, Ours, cpu, atMost(3))
	add("P6", "the same: messages between gateways for each, 2 others", FanOutFast, Ours, perMessage, atMost(2))
	add("P6", "fan-out to 1,000, 300,000 deliveries/s: CPU", FanOutMost, Ours, cpu, atMost(3))
	add("P7", "memory of an idle connection, all processes", Connect, Ours, memory, atMost(10))
	add("P8", "connecting at 1,000/s: CPU, all processes", Connect, Ours, cpu, atMost(300))
	add("P8", "connecting at 4,000/s: CPU, all processes", ConnectFast, Ours, cpu, atMost(300))
	add("P8", "the same: rate", ConnectFast, Ours, rate, atLeast(reached*4000))
	add("P8", "the same: refused", ConnectFast, Ours, refused, atMost(0))
	add("P9", "taking over at 500/s: p50", Move, Ours, p50, atMost(3))
	add("P9", "the same: p99", Move, Ours, p99, atMost(20))
	add("P9", "the same: ids with two owners", Move, Ours, owners, atMost(0))
	for _, r := range []struct {
		rate  int
		times float64
	}{{3000, 1.2}, {15000, 2}} {
		load := PairsName(Proxied, 0, r.rate)
		add("P11", fmt.Sprintf("router, QoS 0, %s: its CPU, at most %v x that of HAProxy", RateTitle(r.rate), r.times), load, RouterAlone, proxy,
			within(share{r.times, Key{load, HAProxyAlone}}))
	}
	add("P11", "router, connecting at 1,000/s: CPU of the router and etcd", ConnectProxied, RouterMany, placed, atMost(150))
	add("P11", "router: memory of an idle connection", ConnectProxied, RouterMany, front, atMost(10))
	return list
}

// mesh is what is known of it. What is not known meets no target.
func mesh(f Figure) Mesh {
	if f.Mesh == nil {
		return Mesh{PerMessage: math.Inf(1), Deliveries: math.Inf(1), Bytes: math.Inf(1)}
	}
	return *f.Mesh
}
