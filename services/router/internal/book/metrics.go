package book

import "github.com/prometheus/client_golang/prometheus"

// outcome is what became of the look for a recorded node, as the metric names it.
type outcome string

const (
	readCached   outcome = "cached"
	readRecorded outcome = "recorded"
	readAbsent   outcome = "absent"
	readTimedOut outcome = "timed_out"
	readFull     outcome = "queue_full"
	readFailed   outcome = "failed"
)

// dropReason is why a node was not recorded.
type dropReason string

const (
	dropFull    dropReason = "queue_full"
	dropTooLong dropReason = "too_long"
	dropRefused dropReason = "refused"
	dropStopped dropReason = "stopped"
)

type metrics struct {
	entries, unreadable *prometheus.GaugeVec
	reads, dropped      *prometheus.CounterVec
	written, swept      prometheus.Counter
	readsWaiting        prometheus.Gauge
	writesWaiting       prometheus.Gauge
}

func newMetrics(r prometheus.Registerer) *metrics {
	m := &metrics{
		entries: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "beeline_router_book_entries", Help: "Assignments and clusters in memory.",
		}, []string{"kind"}),
		unreadable: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "beeline_router_book_unreadable_entries", Help: "Assignments and clusters in etcd that this router cannot read.",
		}, []string{"kind"}),
		reads: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "beeline_router_node_reads_total", Help: "Recorded nodes that were asked for.",
		}, []string{"outcome"}),
		readsWaiting: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "beeline_router_node_reads_waiting", Help: "Recorded nodes that wait to be read from etcd.",
		}),
		written: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "beeline_router_node_records_written_total", Help: "Nodes of clients recorded in etcd.",
		}),
		dropped: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "beeline_router_node_records_dropped_total", Help: "Nodes of clients that were not recorded.",
		}, []string{"reason"}),
		writesWaiting: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "beeline_router_node_writes_waiting", Help: "Nodes of clients that wait to be recorded in etcd.",
		}),
		swept: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "beeline_router_node_records_swept_total", Help: "Recorded nodes that were deleted because of their age.",
		}),
	}
	if r != nil {
		r.MustRegister(m.entries, m.unreadable, m.reads, m.readsWaiting, m.written, m.dropped, m.writesWaiting, m.swept)
	}
	return m
}

func (m *metrics) read(o outcome) { m.reads.WithLabelValues(string(o)).Inc() }

func (m *metrics) drop(r dropReason, n int) {
	if n > 0 {
		m.dropped.WithLabelValues(string(r)).Add(float64(n))
	}
}
