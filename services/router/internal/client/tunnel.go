package client

import (
	"context"
	"errors"
	"fmt"
	"io"

	"google.golang.org/grpc"

	gatewayv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/gateway/v1"
)

// most is how many bytes go into one message of a tunnel.
const most = 256 << 10

// tunnel is a stream to a gateway as bytes. One goroutine reads and one writes.
type tunnel struct {
	stream gatewayv1.TunnelService_ConnectClient
	end    context.CancelFunc
	rest   []byte // of what has come
}

// Tunnel begins a connection to the gateway at the other end of conn. It does not wait for the gateway: a gateway that cannot
// be reached shows in the first read.
func Tunnel(conn grpc.ClientConnInterface) (io.ReadWriteCloser, error) {
	// It ends with Close, not with whoever has it made.
	ctx, cancel := context.WithCancel(context.Background())
	s, err := gatewayv1.NewTunnelServiceClient(conn).Connect(ctx)
	if err != nil {
		cancel()
		return nil, fmt.Errorf("open a tunnel: %w", err)
	}
	return &tunnel{stream: s, end: cancel}, nil
}

// Read implements io.Reader.
func (t *tunnel) Read(p []byte) (int, error) {
	for len(t.rest) == 0 {
		r, err := t.stream.Recv()
		if err != nil {
			return 0, err
		}
		t.rest = r.GetBytes()
	}
	n := copy(p, t.rest)
	t.rest = t.rest[n:]
	return n, nil
}

// Write implements io.Writer.
func (t *tunnel) Write(p []byte) (int, error) {
	written := 0
	for len(p) > 0 {
		n := min(len(p), most)
		if err := t.stream.Send(&gatewayv1.ConnectRequest{Bytes: p[:n]}); err != nil {
			return written, t.why(err)
		}
		written += n
		p = p[n:]
	}
	return written, nil
}

// why is why a write has failed: of an end of the stream the reader gets the reason.
func (t *tunnel) why(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrClosedPipe
	}
	return err
}

// Close implements io.Closer.
func (t *tunnel) Close() error {
	t.end()
	return nil
}
