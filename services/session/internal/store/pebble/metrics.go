package pebble

import (
	"fmt"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/beeline-mqtt/beeline/internal/telemetry"
	"github.com/beeline-mqtt/beeline/services/session/internal/store"
)

// metrics of one open store. The registry knows them from open to close, so that a store can be opened again.
type metrics struct {
	scope *telemetry.Scope

	commits    prometheus.Counter
	operations prometheus.Histogram
	sync       prometheus.Histogram
	dropped    *prometheus.CounterVec
	refused    prometheus.Counter
	background prometheus.Counter
	corruption prometheus.Counter

	inboxMessages, inboxBytes atomic.Int64
	retained, buckets         atomic.Int64
}

// reasonExpired is the one reason for which inboxes drop that is no bound.
const reasonExpired = "expired"

func newMetrics(r prometheus.Registerer, q *queue) (*metrics, error) {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: "beeline_store_" + name, Help: help})
	}
	gauge := func(name, help string, value func() float64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "beeline_store_" + name, Help: help}, value)
	}
	m := &metrics{
		scope:   telemetry.NewScope(r),
		commits: counter("commits_total", "Groups of changes made durable by one sync."),
		operations: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "beeline_store_commit_operations",
			Help:    "Operations made durable by one sync.",
			Buckets: prometheus.ExponentialBuckets(1, 2, 14),
		}),
		sync: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "beeline_store_sync_duration_seconds",
			Help:    "Time that changes wait for the disk after they were staged.",
			Buckets: prometheus.ExponentialBuckets(0.0001, 2, 15),
		}),
		dropped: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "beeline_store_inbox_dropped_messages_total",
			Help: "Messages that inboxes dropped.",
		}, []string{"reason"}),
		refused:    counter("disk_full_refusals_total", "Messages that were not stored because the disk is all but full."),
		background: counter("background_errors_total", "Flushes and compactions that failed and are repeated."),
		corruption: counter("corruptions_total", "Damaged blocks that were read."),
	}
	for _, reason := range []store.DropReason{store.TooMany, store.TooBig, store.TooOld} {
		m.dropped.WithLabelValues(reason.String())
	}
	m.dropped.WithLabelValues(reasonExpired)
	for _, c := range []prometheus.Collector{
		m.commits, m.operations, m.sync, m.dropped, m.refused, m.background, m.corruption,
		gauge("inbox_messages", "Messages in all inboxes.", func() float64 { return float64(m.inboxMessages.Load()) }),
		gauge("inbox_bytes", "Bytes of the messages in all inboxes.", func() float64 { return float64(m.inboxBytes.Load()) }),
		gauge("retained_messages", "Topics with a retained message.", func() float64 { return float64(m.retained.Load()) }),
		gauge("message_buckets", "Buckets of messages that several inboxes may share.", func() float64 { return float64(m.buckets.Load()) }),
		gauge("queue_operations", "Operations that wait to be staged.", func() float64 { n, _ := q.load(); return float64(n) }),
		gauge("queue_bytes", "Their bytes.", func() float64 { _, n := q.load(); return float64(n) }),
	} {
		if err := m.scope.Register(c); err != nil {
			m.scope.End()
			return nil, fmt.Errorf("register store metrics: %w", err)
		}
	}
	return m, nil
}
