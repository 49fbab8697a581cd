package command

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/status"
)

// Metrics are those of all commands of a router.
type Metrics struct {
	ended   *prometheus.CounterVec
	dropped *prometheus.CounterVec
	took    prometheus.Histogram
	open    prometheus.Gauge
}

// NewMetrics registers them.
func NewMetrics(r prometheus.Registerer) *Metrics {
	m := &Metrics{
		ended: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "beeline_router_commands_total", Help: "Commands that have ended, by the status code.",
		}, []string{"code"}),
		dropped: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "beeline_router_command_answers_dropped_total", Help: "Messages on the topics of answers that answered nothing, by why.",
		}, []string{"reason"}),
		took: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "beeline_router_command_round_trip_seconds", Help: "From the arrival of a command until its answer.",
			Buckets: prometheus.ExponentialBuckets(0.0005, 2, 14),
		}),
		open: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "beeline_router_commands_waiting", Help: "Commands that wait for their answers.",
		}),
	}
	r.MustRegister(m.ended, m.dropped, m.took, m.open)
	return m
}

func (m *Metrics) end(err error, took time.Duration) {
	m.ended.WithLabelValues(status.Code(err).String()).Inc()
	if err == nil {
		m.took.Observe(took.Seconds())
	}
}

func (m *Metrics) answer(r refusal) {
	if r != answered {
		m.dropped.WithLabelValues(string(r)).Inc()
	}
}
