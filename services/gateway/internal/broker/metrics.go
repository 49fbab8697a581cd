package broker

import "github.com/prometheus/client_golang/prometheus"

// dropReason is why a message went nowhere, as the metric names it.
type dropReason string

const (
	dropLinkFull      dropReason = "link_full"
	dropNoMember      dropReason = "no_member"
	dropUnknownClient dropReason = "unknown_client"
	dropUnresolved    dropReason = "unresolved"
	dropAway          dropReason = "client_away"
)

// Metrics count what the broker does with messages.
type Metrics struct {
	drops      *prometheus.CounterVec
	lookUps    prometheus.Counter
	unresolved prometheus.Gauge
	notSentOn  prometheus.Counter
}

// NewMetrics registers the broker's metrics.
func NewMetrics(r prometheus.Registerer) *Metrics {
	m := &Metrics{
		drops: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "beeline_gateway_forwards_dropped_total", Help: "QoS 0 messages that were not sent on.",
		}, []string{"reason"}),
		lookUps: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "beeline_gateway_lease_lookups_total", Help: "Receivers of direct messages looked up in etcd.",
		}),
		unresolved: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "beeline_gateway_unresolved_bytes", Help: "Bytes of direct messages whose receiver's holder is being looked up.",
		}),
	}
	m.notSentOn = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "beeline_gateway_not_sent_on_total",
		Help: "Times that a session that had come was not made to wait any longer for what this gateway had sent elsewhere before.",
	})
	r.MustRegister(m.drops, m.lookUps, m.unresolved, m.notSentOn)
	return m
}

func (m *Metrics) dropped(r dropReason) { m.drops.WithLabelValues(string(r)).Inc() }
