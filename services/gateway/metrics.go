package gateway

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/beeline-mqtt/beeline/services/gateway/internal/broker"
	"github.com/beeline-mqtt/beeline/services/gateway/internal/client"
	"github.com/beeline-mqtt/beeline/services/gateway/internal/publish"
)

// metrics are those that outlive incarnations.
type metrics struct {
	clients      *client.Metrics
	broker       *broker.Metrics
	publish      *publish.Metrics
	incarnations prometheus.Counter
	draining     prometheus.Gauge
	moved        prometheus.Counter
}

func newMetrics(r prometheus.Registerer) metrics {
	m := metrics{
		clients: client.NewMetrics(r),
		broker:  broker.NewMetrics(r),
		publish: publish.NewMetrics(r),
		incarnations: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "beeline_gateway_incarnations_total", Help: "Incarnations that this process has begun.",
		}),
		draining: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "beeline_gateway_draining", Help: "1 while the gateway is being drained, or has been.",
		}),
		moved: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "beeline_gateway_clients_moved_total", Help: "Clients that were told to go to another gateway.",
		}),
	}
	r.MustRegister(m.incarnations, m.draining, m.moved)
	return m
}
