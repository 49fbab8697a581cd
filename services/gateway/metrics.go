package gateway

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/beeline-mqtt/beeline/services/gateway/internal/broker"
	"github.com/beeline-mqtt/beeline/services/gateway/internal/client"
)

// metrics are those that outlive incarnations.
type metrics struct {
	clients      *client.Metrics
	broker       *broker.Metrics
	incarnations prometheus.Counter
}

func newMetrics(r prometheus.Registerer) metrics {
	m := metrics{
		clients: client.NewMetrics(r),
		broker:  broker.NewMetrics(r),
		incarnations: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "beeline_gateway_incarnations_total", Help: "Incarnations that this process has begun.",
		}),
	}
	r.MustRegister(m.incarnations)
	return m
}
