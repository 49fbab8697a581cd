package consume

import "github.com/prometheus/client_golang/prometheus"

// Metrics are those of all streams of a router.
type Metrics struct {
	open      prometheus.Gauge
	taken     prometheus.Counter
	dropped   prometheus.Counter
	discarded prometheus.Counter
}

// NewMetrics registers them.
func NewMetrics(r prometheus.Registerer) *Metrics {
	m := &Metrics{
		open: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "beeline_router_subscribe_streams", Help: "Streams of Subscribe that are open.",
		}),
		taken: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "beeline_router_subscribe_messages_total", Help: "Messages taken from gateways for streams of Subscribe.",
		}),
		dropped: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "beeline_router_subscribe_dropped_total", Help: "QoS 0 messages dropped because a stream of Subscribe was slow.",
		}),
		discarded: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "beeline_router_subscribe_discarded_total",
			Help: "Messages settled without being given to a stream of Subscribe, which does not ask for them: they were kept for filters of earlier streams.",
		}),
	}
	r.MustRegister(m.open, m.taken, m.dropped, m.discarded)
	return m
}

func (m *Metrics) received(taken bool) {
	if taken {
		m.taken.Inc()
	} else {
		m.dropped.Inc()
	}
}
