package mesh

import (
	"sync/atomic"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	meshv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/mesh/v1"
	"github.com/beeline-mqtt/beeline/internal/rpc"
)

// Door is the MeshService of a process that lives several incarnations, each with a mesh: it passes streams on to that
// which is in force. It lets in gateways and session instances. The zero value is ready.
type Door struct {
	meshv1.UnimplementedMeshServiceServer

	current atomic.Pointer[meshv1.MeshServiceServer]
}

// Open leads new streams to s, until shut is called. An incarnation that ends late shuts its own door only.
func (d *Door) Open(s meshv1.MeshServiceServer) (shut func()) {
	d.current.Store(&s)
	return func() { d.current.CompareAndSwap(&s, nil) }
}

// Connect implements meshv1.MeshServiceServer.
func (d *Door) Connect(s meshv1.MeshService_ConnectServer) error {
	if err := rpc.RequireRole(s.Context(), "gateway", "session"); err != nil {
		return err
	}
	m := d.current.Load()
	if m == nil {
		return status.Error(codes.Unavailable, "no incarnation is in force")
	}
	return (*m).Connect(s)
}
