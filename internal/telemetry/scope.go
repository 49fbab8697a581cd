package telemetry

import (
	"sync"

	"github.com/prometheus/client_golang/prometheus"
)

// Scope registers the metrics of something that ends before the process does, and takes them back then, so that the
// next of its kind may register its own. It is safe for concurrent use.
type Scope struct {
	prometheus.Registerer

	mu  sync.Mutex
	all []prometheus.Collector // guarded by mu
}

// NewScope returns a Scope that registers with r.
func NewScope(r prometheus.Registerer) *Scope { return &Scope{Registerer: r} }

// Register implements prometheus.Registerer.
func (s *Scope) Register(c prometheus.Collector) error {
	if err := s.Registerer.Register(c); err != nil {
		return err //nolint:wrapcheck // a Scope stands for its Registerer
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all = append(s.all, c)
	return nil
}

// MustRegister implements prometheus.Registerer.
func (s *Scope) MustRegister(cs ...prometheus.Collector) {
	for _, c := range cs {
		if err := s.Register(c); err != nil {
			panic(err)
		}
	}
}

// End takes everything back.
func (s *Scope) End() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.all {
		s.Unregister(c)
	}
	s.all = nil
}
