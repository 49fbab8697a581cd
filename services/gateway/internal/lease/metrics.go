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
}

func newMetrics(r prometheus.Registerer) *metrics {
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
	r.MustRegister(m.claims, m.latency, m.evictions, m.lost, m.attached)
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
