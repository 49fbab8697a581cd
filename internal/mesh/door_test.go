package mesh

import (
	"context"
	"errors"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	meshv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/mesh/v1"
)

// fakeService is a mesh of which a test wants to know whether it is called.
type fakeService struct {
	meshv1.UnimplementedMeshServiceServer

	err error
}

func (s fakeService) Connect(meshv1.MeshService_ConnectServer) error { return s.err }

// caller is the stream of somebody who dials.
type caller struct {
	meshv1.MeshService_ConnectServer

	ctx context.Context
}

func (s caller) Context() context.Context { return s.ctx }

func TestTheDoorIsForPeersOnly(t *testing.T) {
	var d Door
	d.Open(fakeService{})
	if err := d.Connect(caller{ctx: t.Context()}); status.Code(err) != codes.PermissionDenied {
		t.Errorf("%v, want PermissionDenied", err)
	}
}

func TestTheDoorLeadsToTheMeshInForce(t *testing.T) {
	var d Door
	in := caller{ctx: peer.NewContext(t.Context(), new(peer.Peer))}
	closed := func(when string) {
		t.Helper()
		if err := d.Connect(in); status.Code(err) != codes.Unavailable {
			t.Errorf("%s: %v, want Unavailable: the peer is to try again", when, err)
		}
	}
	closed("before the first incarnation")
	first, second := fakeService{err: context.Canceled}, fakeService{err: context.DeadlineExceeded}
	shutFirst := d.Open(first)
	if err := d.Connect(in); !errors.Is(err, first.err) {
		t.Errorf("%v", err)
	}
	shutFirst()
	closed("between two incarnations")
	shutSecond := d.Open(second)
	shutFirst() // late
	if err := d.Connect(in); !errors.Is(err, second.err) {
		t.Errorf("%v: a former incarnation has shut the door of a later one", err)
	}
	shutSecond()
	closed("at the end")
}
