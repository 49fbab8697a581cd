package session

import (
	"fmt"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/beeline-mqtt/beeline/services/session/internal/claims"
)

type metrics struct {
	claims        prometheus.Counter
	releases      prometheus.Counter
	latency       prometheus.Histogram
	evictions     prometheus.Counter
	evictTimeouts prometheus.Counter
	refusals      *prometheus.CounterVec
	delayed       prometheus.Counter
	cutOff        prometheus.Counter
	presence      prometheus.Counter
	watchers      prometheus.Gauge
	slowWatchers  prometheus.Counter
	active        prometheus.Gauge
	attached      prometheus.Gauge
}

func newMetrics(r prometheus.Registerer) (*metrics, error) {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: "beeline_session_" + name, Help: help})
	}
	gauge := func(name, help string) prometheus.Gauge {
		return prometheus.NewGauge(prometheus.GaugeOpts{Name: "beeline_session_" + name, Help: help})
	}
	m := &metrics{
		claims:   counter("claims_total", "Claims that gateways sent."),
		releases: counter("releases_total", "Releases that gateways sent."),
		latency: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "beeline_session_claim_duration_seconds",
			Help:    "Time from a claim to the answer that grants it.",
			Buckets: prometheus.ExponentialBuckets(0.00025, 2, 14),
		}),
		evictions:     counter("evictions_total", "Clients that a former holder was told to end."),
		evictTimeouts: counter("evict_timeouts_total", "Claims granted although a former holder had not answered in time."),
		refusals: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "beeline_session_refusals_total",
			Help: "Requests that were refused.",
		}, []string{"reason"}),
		delayed:      counter("flapping_claims_total", "Claims that were slowed down because their client is replaced again and again."),
		cutOff:       counter("cut_off_gateways_total", "Streams ended because the gateway did not read."),
		presence:     counter("presence_events_total", "Clients that were seen to connect or to disconnect."),
		watchers:     gauge("presence_watchers", "Streams that watch who connects and disconnects."),
		slowWatchers: counter("cut_off_watchers_total", "Watchers cut off because they did not read."),
		active:       gauge("active", "1 while this is the active instance and serves gateways."),
		attached:     gauge("attached_gateways", "Gateways attached to this instance."),
	}
	for _, c := range []prometheus.Collector{
		m.claims, m.releases, m.latency, m.evictions, m.evictTimeouts, m.refusals, m.delayed, m.cutOff, m.active, m.attached,
		m.presence, m.watchers, m.slowWatchers,
	} {
		if err := r.Register(c); err != nil {
			return nil, fmt.Errorf("register session metrics: %w", err)
		}
	}
	return m, nil
}

func (m *metrics) count(c claims.Counters) {
	m.evictions.Add(float64(c.Evictions))
	m.evictTimeouts.Add(float64(c.EvictTimeouts))
	m.delayed.Add(float64(c.Delayed))
}
