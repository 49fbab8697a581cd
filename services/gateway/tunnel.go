package gateway

import (
	"io"
	"net"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	gatewayv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/gateway/v1"
	"github.com/beeline-mqtt/beeline/internal/config"
	"github.com/beeline-mqtt/beeline/internal/rpc"
	"github.com/beeline-mqtt/beeline/services/gateway/internal/auth"
	"github.com/beeline-mqtt/beeline/services/gateway/internal/client"
)

// tunnelListener is what tunnels are called where sockets have the name of their listener.
const tunnelListener = "tunnel"

// tunnelBytes is how much of a tunnel's output goes into one message.
const tunnelBytes = 64 << 10

// tunnels is the TunnelService. It is used from New on.
type tunnels struct {
	gatewayv1.UnimplementedTunnelServiceServer

	serve func(net.Conn) bool // returns when the connection is over; false: there is no incarnation to serve it
}

// Connect implements TunnelService. The connection is a pipe: no byte waits in it, so a client that is not read holds its
// output up as a socket does, and a client that is not served holds its stream up.
func (t *tunnels) Connect(s gatewayv1.TunnelService_ConnectServer) error {
	if err := rpc.RequireRole(s.Context(), "router"); err != nil {
		return err
	}
	near, far := net.Pipe()
	go receive(s, far) // ends with the call, which nothing else ends while it waits
	served := make(chan bool, 1)
	go func() {
		served <- t.serve(near)
		_ = near.Close() // for whoever was not served
	}()
	err := send(s, far)
	_ = far.Close()
	if ok := <-served; !ok {
		return status.Error(codes.Unavailable, "no incarnation is in force")
	}
	return err
}

// receive writes what comes on a stream, until either ends.
func receive(s gatewayv1.TunnelService_ConnectServer, to net.Conn) {
	defer to.Close()
	for {
		r, err := s.Recv()
		if err != nil {
			return
		}
		if _, err := to.Write(r.GetBytes()); err != nil {
			return
		}
	}
}

// send sends what a connection writes, until it is over or the stream has ended, of which this returns the error.
func send(s gatewayv1.TunnelService_ConnectServer, from net.Conn) error {
	to := &responses{stream: s}
	_, _ = io.CopyBuffer(to, struct{ io.Reader }{from}, make([]byte, tunnelBytes))
	return to.err
}

// responses writes to a stream.
type responses struct {
	stream gatewayv1.TunnelService_ConnectServer
	err    error
}

func (r *responses) Write(p []byte) (int, error) {
	if r.err = r.stream.Send(&gatewayv1.ConnectResponse{Bytes: p}); r.err != nil {
		return 0, r.err
	}
	return len(p), nil
}

// serveTunnel handles the connection of one of the cluster's own services in the incarnation that is in force.
func (g *Gateway) serveTunnel(nc net.Conn) bool {
	l := g.life.Load()
	return l != nil && l.serveTunnel(nc)
}

// Bounds of tunnels. What one service consumes is what many clients publish: it has the window that it asks for, and the
// queue to fill it.
const (
	tunnelWindow        = 10_000
	tunnelQueueBytes    = 32 * config.MiB
	tunnelUnsettled     = 64 * config.MiB
	tunnelSubscriptions = 4096
	tunnelFilters       = 128
	tunnelClientID      = 512
)

// tunnelLimits are the limits of the cluster's own services, where those of clients are l.
func tunnelLimits(l client.Limits) client.Limits {
	l.SendMaximum = max(l.SendMaximum, tunnelWindow)
	l.ReceiveMaximum = max(l.ReceiveMaximum, tunnelWindow)
	l.QueueMessages = max(l.QueueMessages, tunnelWindow)
	l.QueueBytes = max(l.QueueBytes, tunnelQueueBytes)
	l.UnsettledBytes = max(l.UnsettledBytes, tunnelUnsettled)
	l.Subscriptions = max(l.Subscriptions, tunnelSubscriptions)
	l.FiltersPerPacket = max(l.FiltersPerPacket, tunnelFilters)
	l.ClientIDBytes = max(l.ClientIDBytes, tunnelClientID)
	return l
}

// tunnelDeps are what connections of the cluster's own services work with, where those of clients have d. Who may do what
// with them is for the router to decide, which knows its callers.
func tunnelDeps(d client.Deps) client.Deps {
	d.Authenticate, d.Authorize = auth.OwnService, auth.AllowAll
	return d
}
