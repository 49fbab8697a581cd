package router

import (
	"github.com/prometheus/client_golang/prometheus"
)

// refusal is why a connection was not taken to a node, as the metric names it.
type refusal string

const (
	refusedNotMQTT    refusal = "not_mqtt"
	refusedMalformed  refusal = "malformed"
	refusedVersion    refusal = "version"
	refusedTooLarge   refusal = "too_large"
	refusedTimeout    refusal = "timeout"
	refusedSource     refusal = "source"
	refusedUnassigned refusal = "unassigned"
	refusedNoNode     refusal = "no_node"
	refusedNoAnswer   refusal = "no_answer"
)

type metrics struct {
	open     prometheus.Gauge
	routed   *prometheus.CounterVec
	refused  *prometheus.CounterVec
	failed   prometheus.Counter
	placing  prometheus.Histogram
	bytes    *prometheus.CounterVec
	lookUps  prometheus.Counter
	referred prometheus.Counter
	ended    *prometheus.CounterVec
}

func newMetrics(r prometheus.Registerer) *metrics {
	m := &metrics{
		open: prometheus.NewGauge(prometheus.GaugeOpts{Name: "beeline_router_connections", Help: "Connections that are passed on now."}),
		routed: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "beeline_router_routed_total", Help: "Connections that were taken to a node, by cluster and by why that node.",
		}, []string{"cluster", "reason"}),
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "beeline_router_refused_total", Help: "Connections that were not taken to a node, by why.",
		}, []string{"reason"}),
		failed: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "beeline_router_dials_failed_total", Help: "Nodes that did not accept a connection.",
		}),
		placing: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "beeline_router_placing_duration_seconds", Help: "From the whole CONNECT until its node has it.",
			Buckets: prometheus.ExponentialBuckets(0.0001, 2.5, 12),
		}),
		bytes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "beeline_router_bytes_total", Help: "Bytes of connections that have ended, by where they came from.",
		}, []string{"from"}),
		lookUps: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "beeline_router_lookups_failed_total", Help: "Clients placed without knowing who holds them.",
		}),
		referred: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "beeline_router_references_total", Help: "Server References of nodes that were followed.",
		}),
		ended: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "beeline_router_ended_total", Help: "Connections that have ended, by what ended them.",
		}, []string{"reason"}),
	}
	r.MustRegister(m.open, m.routed, m.refused, m.failed, m.placing, m.bytes, m.lookUps, m.referred, m.ended)
	return m
}
