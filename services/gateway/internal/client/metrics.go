package client

import "github.com/prometheus/client_golang/prometheus"

// Metrics count what happens to clients. No label names a client or a topic.
type Metrics struct {
	Connected prometheus.Gauge
	accepted  prometheus.Counter
	refused   *prometheus.CounterVec
	closed    *prometheus.CounterVec
	panics    prometheus.Counter
	drops     *prometheus.CounterVec
	unordered prometheus.Counter
	inByQoS   [3]prometheus.Counter
	outByQoS  [3]prometheus.Counter
}

// NewMetrics registers the metrics of clients.
func NewMetrics(r prometheus.Registerer) *Metrics {
	m := &Metrics{
		Connected: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "beeline_gateway_clients", Help: "Clients connected now.",
		}),
		accepted: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "beeline_gateway_connects_accepted_total", Help: "CONNECTs accepted.",
		}),
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "beeline_gateway_connects_refused_total", Help: "Connections that did not become clients.",
		}, []string{"reason"}),
		closed: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "beeline_gateway_clients_closed_total", Help: "Connections of clients that ended.",
		}, []string{"reason"}),
		panics: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "beeline_gateway_client_panics_total", Help: "Connections ended by a panic in their handling.",
		}),
		drops: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "beeline_gateway_messages_dropped_total", Help: "Messages not delivered to a client that they were for, or not taken from one.",
		}, []string{"reason"}),
	}
	m.unordered = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "beeline_gateway_order_given_up_total",
		Help: "Times that so much was held back for a session that had come, or for so long, that order was given up.",
	})
	in := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "beeline_gateway_publishes_received_total", Help: "PUBLISH packets from clients.",
	}, []string{"qos"})
	out := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "beeline_gateway_publishes_sent_total", Help: "PUBLISH packets to clients.",
	}, []string{"qos"})
	for q, label := range [3]string{"0", "1", "2"} {
		m.inByQoS[q], m.outByQoS[q] = in.WithLabelValues(label), out.WithLabelValues(label)
	}
	r.MustRegister(m.Connected, m.accepted, m.refused, m.closed, m.panics, m.drops, m.unordered, in, out)
	return m
}

// Refused counts a connection that was refused, for reason, before there was a client to serve.
func (m *Metrics) Refused(reason string) { m.refused.WithLabelValues(reason).Inc() }

func (m *Metrics) received(qos byte) { m.inByQoS[qos].Inc() }
func (m *Metrics) sent(qos byte)     { m.outByQoS[qos].Inc() }

func (m *Metrics) dropped(r dropReason, n uint64) {
	if n > 0 {
		m.drops.WithLabelValues(string(r)).Add(float64(n))
	}
}

// countEnded brings the metrics up to what has ended with the session. With c.mu held.
func (c *Client) countEnded() {
	ended := c.session.Counters().Ended
	c.deps.Metrics.dropped(dropEnded, ended-c.ended)
	c.ended = ended
}
