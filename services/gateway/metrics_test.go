package gateway

import (
	"context"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	meshv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/mesh/v1"
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
		s := &scope{Registerer: r}
		if err := s.Register(counterOf("of_the_incarnation")); err != nil {
			t.Fatal(err)
		}
		s.MustRegister(counterOf("another"), prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "vector", Help: "For a test."}, []string{"l"}))
		if diff := cmp.Diff([]string{"another", "of_the_incarnation", "of_the_process"}, names(t, r)); diff != "" {
			t.Errorf("during the incarnation (-want +got):\n%s", diff)
		}
		s.end()
		s.end()
		if diff := cmp.Diff([]string{"of_the_process"}, names(t, r)); diff != "" {
			t.Errorf("after it (-want +got):\n%s", diff)
		}
	}
}

func TestAScopeDoesNotTakeBackWhatIsNotItsOwn(t *testing.T) {
	r := prometheus.NewRegistry()
	r.MustRegister(counterOf("of_the_process"))
	s := &scope{Registerer: r}
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
	s.end()
	if diff := cmp.Diff([]string{"of_the_process"}, names(t, r)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// service is a mesh of which a test wants to know whether it is called.
type service struct {
	meshv1.UnimplementedMeshServiceServer

	err error
}

func (s service) Connect(meshv1.MeshService_ConnectServer) error { return s.err }

// stream is the stream of somebody who dials.
type stream struct {
	meshv1.MeshService_ConnectServer

	ctx context.Context
}

func (s stream) Context() context.Context { return s.ctx }

func TestTheDoorIsForPeersOnly(t *testing.T) {
	var d meshDoor
	d.open(service{})
	if err := d.Connect(stream{ctx: t.Context()}); status.Code(err) != codes.PermissionDenied {
		t.Errorf("%v, want PermissionDenied", err)
	}
}

func TestTheDoorLeadsToTheMeshInForce(t *testing.T) {
	var d meshDoor
	in := stream{ctx: peer.NewContext(t.Context(), new(peer.Peer))}
	closed := func(when string) {
		t.Helper()
		if err := d.Connect(in); status.Code(err) != codes.Unavailable {
			t.Errorf("%s: %v, want Unavailable: the peer is to try again", when, err)
		}
	}
	closed("before the first incarnation")
	first, second := service{err: context.Canceled}, service{err: context.DeadlineExceeded}
	shutFirst := d.open(first)
	if err := d.Connect(in); !errors.Is(err, first.err) {
		t.Errorf("%v", err)
	}
	shutFirst()
	closed("between two incarnations")
	shutSecond := d.open(second)
	shutFirst() // late
	if err := d.Connect(in); !errors.Is(err, second.err) {
		t.Errorf("%v: a former incarnation has shut the door of a later one", err)
	}
	shutSecond()
	closed("at the end")
}
