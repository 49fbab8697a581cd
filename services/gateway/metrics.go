package gateway

import (
	"sync"

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

// scope registers the metrics of one incarnation and takes them back when it ends, so that the next may
// register its own.
type scope struct {
	prometheus.Registerer

	mu  sync.Mutex
	all []prometheus.Collector
}

// Register implements prometheus.Registerer.
func (s *scope) Register(c prometheus.Collector) error {
	if err := s.Registerer.Register(c); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all = append(s.all, c)
	return nil
}

// MustRegister implements prometheus.Registerer.
func (s *scope) MustRegister(cs ...prometheus.Collector) {
	for _, c := range cs {
		if err := s.Register(c); err != nil {
			panic(err)
		}
	}
}

func (s *scope) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.all {
		s.Unregister(c)
	}
	s.all = nil
}
