package lease

import (
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	claims    *prometheus.CounterVec
	granted   prometheus.Counter // of claims
	latency   prometheus.Histogram
	evictions prometheus.Counter
	lost      prometheus.Counter
	attached  prometheus.Gauge
	// durable and fenced are writes by their outcome, retained and quota retained messages.
	durable, fenced, retained, quota prometheus.Counter
	writing                          prometheus.Histogram
}

func newMetrics(r prometheus.Registerer, k *Keeper) *metrics {
	writes := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "beeline_gateway_journal_writes_total", Help: "Writes of durable sessions, by outcome.",
	}, []string{"outcome"})
	retains := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "beeline_gateway_retains_total", Help: "Retained messages given to the session service, by outcome.",
	}, []string{"outcome"})
	m := &metrics{
		claims: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "beeline_gateway_claims_total", Help: "Claims of clients, by outcome.",
		}, []string{"outcome"}),
		latency: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "beeline_gateway_claim_duration_seconds", Help: "Time of granted claims.",
			Buckets: prometheus.ExponentialBuckets(0.00025, 2, 14),
		}),
		evictions: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "beeline_gateway_evictions_total", Help: "Clients that another gateway has taken over.",
		}),
		lost: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "beeline_gateway_lost_releases_total", Help: "Releases that were left out because too many wait.",
		}),
		attached: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "beeline_gateway_session_attached", Help: "1 while attached to the active session instance.",
		}),
	}
	m.granted = m.claims.WithLabelValues("granted")
	m.durable, m.fenced = writes.WithLabelValues("durable"), writes.WithLabelValues("fenced")
	m.retained, m.quota = retains.WithLabelValues("stored"), retains.WithLabelValues("quota_exceeded")
	m.writing = prometheus.NewHistogram(prometheus.HistogramOpts{
		Name: "beeline_gateway_journal_write_duration_seconds", Help: "Time until a write of a durable session was durable.",
		Buckets: prometheus.ExponentialBuckets(0.00025, 2, 14),
	})
	waiting := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "beeline_gateway_journal_waiting", Help: "Writes and retained messages that are not answered.",
	}, func() float64 { return float64(k.waiting.Load()) })
	bytes := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "beeline_gateway_journal_waiting_bytes", Help: "Bytes of writes and retained messages that are not answered.",
	}, func() float64 { return float64(k.bytes.Load()) })
	r.MustRegister(m.claims, m.latency, m.evictions, m.lost, m.attached, writes, retains, m.writing, waiting, bytes)
	return m
}

func (m *metrics) claimed(took time.Duration, err error) {
	switch {
	case err == nil:
		m.granted.Inc()
		m.latency.Observe(took.Seconds())
	case errors.Is(err, ErrSuperseded):
		m.claims.WithLabelValues("superseded").Inc()
	case errors.Is(err, ErrIncarnationDead):
		m.claims.WithLabelValues("incarnation_dead").Inc()
	case errors.Is(err, ErrUnavailable):
		m.claims.WithLabelValues("unavailable").Inc()
	default:
		m.claims.WithLabelValues("cancelled").Inc()
	}
}
