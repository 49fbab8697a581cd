package bench

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"strings"
	"time"
)

// Result is what one run has shown. docs/operations.md describes the fields.
type Result struct {
	Scenario string         `json:"scenario"`
	Config   map[string]any `json:"config"`
	Seconds  float64        `json:"seconds"`

	Sent           uint64  `json:"sent"`
	Delivered      uint64  `json:"delivered"`
	Lost           uint64  `json:"lost"`
	Doubled        uint64  `json:"doubled"`
	OutOfOrder     uint64  `json:"out_of_order"`
	Corrupt        uint64  `json:"corrupt"`
	Refused        uint64  `json:"refused"`
	RefusedBecause string  `json:"refused_because,omitempty"` // the first of them
	Unsent         uint64  `json:"unsent"`
	Unacknowledged uint64  `json:"unacknowledged"`
	LostInWarmup   uint64  `json:"lost_in_warmup"`
	DeliveryRate   float64 `json:"delivery_rate"`

	Latency    *Latencies `json:"latency_us"`
	SentLate   *Latencies `json:"sent_late_us,omitempty"`
	Subscribed *Latencies `json:"subscribed_us,omitempty"`
	Closed     *Latencies `json:"closed_us,omitempty"`
	Served     *Latencies `json:"served_us,omitempty"`
	Clients    uint64     `json:"clients_served,omitempty"` // receivers that have got everything
	Forgotten  uint64     `json:"forgotten"`                // durable sessions that were not there any more
	TwoOwners  uint64     `json:"two_owners"`
	Unclosed   uint64     `json:"unclosed"` // first connections that are open still

	CPU       CPU             `json:"cpu_us"`
	Processes []ProcessResult `json:"processes"`

	MemoryPerConnection     *float64 `json:"memory_per_connection,omitempty"`
	MemoryPerConnectionHeld *float64 `json:"memory_per_connection_held,omitempty"`
}

// Latencies are percentiles in microseconds.
type Latencies struct {
	P50  float64 `json:"p50"`
	P90  float64 `json:"p90"`
	P99  float64 `json:"p99"`
	P999 float64 `json:"p999"`
	Max  float64 `json:"max"`
}

// CPU is user and system time in microseconds for each delivery, accepted message, connection, move or client.
type CPU struct {
	Total     float64 `json:"total"`     // of all processes that were named
	Generator float64 `json:"generator"` // of this one
}

// ProcessResult is what one process has used. Memory is resident, in bytes.
type ProcessResult struct {
	Name      string  `json:"name"`
	PID       int     `json:"pid"`
	CPU       float64 `json:"cpu_us_per_op"`
	RSSBefore int64   `json:"rss_before"`
	RSSAfter  int64   `json:"rss_after"`
	RSSHeld   int64   `json:"rss_held,omitempty"`
}

// ErrNotClean says that messages were lost, doubled, changed or out of order, that two connections were one client,
// or that a durable session was not there any more.
var ErrNotClean = errors.New("not clean")

// Check returns an ErrNotClean that says what happened that may not. At QoS 0 messages may be lost.
func (r *Result) Check(qos byte) error {
	var bad []string
	for _, x := range []struct {
		n    uint64
		what string
	}{
		{r.Lost, "lost"},
		{r.Doubled, "doubled"},
		{r.OutOfOrder, "out of order"},
		{r.Corrupt, "corrupt"},
		{r.TwoOwners, "with two owners"},
		{r.Forgotten, "forgotten"},
	} {
		messages := r.Scenario == "pairs" || r.Scenario == "fanout"
		if x.n > 0 && (x.what != "lost" || qos > 0 || !messages) {
			bad = append(bad, fmt.Sprintf("%d %s", x.n, x.what))
		}
	}
	if len(bad) > 0 {
		return fmt.Errorf("%w: %s", ErrNotClean, strings.Join(bad, ", "))
	}
	return nil
}

// JSON writes the result as one object.
func (r *Result) JSON(w io.Writer) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	if err := e.Encode(r); err != nil {
		return fmt.Errorf("write result: %w", err)
	}
	return nil
}

func latencies(h *histogram) *Latencies {
	p := h.percentiles(0.5, 0.9, 0.99, 0.999, 1)
	return &Latencies{micros(p[0]), micros(p[1]), micros(p[2]), micros(p[3]), micros(p[4])}
}

// micros are microseconds, to a tenth.
func micros(d time.Duration) float64 { return tenths(float64(d) / 1000) }

func tenths(f float64) float64 { return math.Round(f*10) / 10 }

// charge fills in what the processes have used between two accounts, for each of so many operations. begin is when
// nobody was connected.
func (r *Result) charge(processes []Process, begin, before, after account, operations int64) {
	share := func(d time.Duration) float64 {
		if operations == 0 {
			return 0
		}
		return math.Round(float64(d)/10/float64(operations)) / 100
	}
	var total time.Duration
	r.Processes = make([]ProcessResult, len(processes))
	for i, p := range processes {
		used := after.of[i].cpu - before.of[i].cpu
		total += used
		r.Processes[i] = ProcessResult{
			Name: p.Name, PID: p.PID, CPU: share(used), RSSBefore: begin.of[i].rss, RSSAfter: after.of[i].rss,
		}
	}
	r.CPU = CPU{Total: share(total), Generator: share(after.myself - before.myself)}
}

// remember fills in the memory that so many connections take: at once, and when they were held for a while.
func (r *Result) remember(before, after, held account, hold time.Duration, connections uint64) {
	var grown, grownHeld int64
	for i := range r.Processes {
		grown += after.of[i].rss - before.of[i].rss
		grownHeld += held.of[i].rss - before.of[i].rss
	}
	each := func(bytes int64) *float64 {
		f := math.Round(float64(bytes) / float64(connections))
		return &f
	}
	r.MemoryPerConnection = each(grown)
	if hold > 0 {
		r.MemoryPerConnectionHeld = each(grownHeld)
		for i := range r.Processes {
			r.Processes[i].RSSHeld = held.of[i].rss
		}
	}
}

// result sums up a run that has ended.
func (t *traffic) result(scenario string, begin account, m *measured) *Result {
	seconds := m.after.account.at.Sub(m.before.account.at).Seconds()
	delivered := m.after.delivered - m.before.delivered
	r := &Result{
		Scenario: scenario, Seconds: math.Round(seconds*1000) / 1000,
		Delivered:    uint64(delivered),
		DeliveryRate: tenths(float64(delivered) / seconds),
		Doubled:      uint64(t.total.doubled.Load()),
		OutOfOrder:   uint64(t.total.late.Load()),
		Corrupt:      uint64(t.total.corrupt.Load()),
		Latency:      latencies(&t.latency),
	}
	if t.load.Rate > 0 {
		r.SentLate = latencies(&t.late)
	}
	for _, p := range t.publishers {
		first, end := p.counted()
		r.Sent += end - first
		r.Unsent += p.unsent(min(t.until, m.after.account.at.Sub(t.start)))
		r.Unacknowledged += p.unacknowledged()
	}
	for _, s := range t.subscribers {
		first, end := s.p.counted()
		r.Lost += s.seq.lost(first, end)
		r.LostInWarmup += s.seq.lost(0, first)
	}
	r.charge(t.cfg.Processes, begin, m.before.account, m.after.account, delivered)
	return r
}
