package gateway

import (
	"sync/atomic"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	meshv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/mesh/v1"
	"github.com/beeline-mqtt/beeline/internal/rpc"
)

// meshDoor is the MeshService of the process: it passes streams on to the mesh of the incarnation in force.
type meshDoor struct {
	meshv1.UnimplementedMeshServiceServer

	current atomic.Pointer[meshv1.MeshServiceServer]
}

// open leads new streams to s, until shut is called. An incarnation that ends late shuts its own door only.
func (d *meshDoor) open(s meshv1.MeshServiceServer) (shut func()) {
	d.current.Store(&s)
	return func() { d.current.CompareAndSwap(&s, nil) }
}

// Connect implements meshv1.MeshServiceServer.
func (d *meshDoor) Connect(s meshv1.MeshService_ConnectServer) error {
	if err := rpc.RequireRole(s.Context(), "gateway"); err != nil {
		return err
	}
	m := d.current.Load()
	if m == nil {
		return status.Error(codes.Unavailable, "no incarnation is in force")
	}
	return (*m).Connect(s)
}
