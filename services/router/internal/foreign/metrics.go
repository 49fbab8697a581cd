package foreign

import "github.com/prometheus/client_golang/prometheus"

// Metrics are shared by everything that is watched in one process.
type Metrics struct {
	polls, checks, lookups *prometheus.CounterVec
}

// NewMetrics registers the metrics with r.
func NewMetrics(r prometheus.Registerer) *Metrics {
	m := &Metrics{
		polls: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "beeline_router_foreign_polls_total",
			Help: "Times the management API of a foreign cluster was asked for its nodes.",
		}, []string{"cluster", "outcome"}),
		checks: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "beeline_router_foreign_checks_total",
			Help: "Connections made to nodes of a foreign cluster to see whether they answer.",
		}, []string{"cluster", "outcome"}),
		lookups: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "beeline_router_foreign_lookups_total",
			Help: "Times the name of a node of a foreign cluster was resolved.",
		}, []string{"cluster", "outcome"}),
	}
	r.MustRegister(m.polls, m.checks, m.lookups)
	return m
}

func (m *Metrics) polled(cluster string, err error) {
	if m != nil {
		m.polls.WithLabelValues(cluster, outcomeOf(err)).Inc()
	}
}

func (m *Metrics) checked(cluster string, err error) {
	if m != nil {
		m.checks.WithLabelValues(cluster, outcomeOf(err)).Inc()
	}
}

func (m *Metrics) resolved(cluster string, err error) {
	if m != nil {
		m.lookups.WithLabelValues(cluster, outcomeOf(err)).Inc()
	}
}

func outcomeOf(err error) string {
	if err != nil {
		return "failed"
	}
	return "ok"
}
