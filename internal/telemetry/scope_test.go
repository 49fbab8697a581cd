package telemetry

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
)

func counterOf(name string) prometheus.Counter {
	return prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: "For a test."})
}

func names(t *testing.T, r *prometheus.Registry) []string {
	t.Helper()
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, f := range families {
		all = append(all, f.GetName())
	}
	return all
}

func TestAScopeTakesItsMetricsBack(t *testing.T) {
	r := prometheus.NewRegistry()
	r.MustRegister(counterOf("of_the_process"))
	for range 3 { // incarnations
		s := NewScope(r)
		if err := s.Register(counterOf("of_the_incarnation")); err != nil {
			t.Fatal(err)
		}
		s.MustRegister(counterOf("another"), prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "vector", Help: "For a test."}, []string{"l"}))
		if diff := cmp.Diff([]string{"another", "of_the_incarnation", "of_the_process"}, names(t, r)); diff != "" {
			t.Errorf("during the incarnation (-want +got):\n%s", diff)
		}
		s.End()
		s.End()
		if diff := cmp.Diff([]string{"of_the_process"}, names(t, r)); diff != "" {
			t.Errorf("after it (-want +got):\n%s", diff)
		}
	}
}

func TestAScopeDoesNotTakeBackWhatIsNotItsOwn(t *testing.T) {
	r := prometheus.NewRegistry()
	r.MustRegister(counterOf("of_the_process"))
	s := NewScope(r)
	var taken prometheus.AlreadyRegisteredError
	if err := s.Register(counterOf("of_the_process")); !errors.As(err, &taken) {
		t.Errorf("Register = %v, want %T", err, taken)
	}
	func() {
		defer func() {
			if recover() == nil {
				t.Error("MustRegister does not panic")
			}
		}()
		s.MustRegister(counterOf("of_the_process"))
	}()
	s.End()
	if diff := cmp.Diff([]string{"of_the_process"}, names(t, r)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
