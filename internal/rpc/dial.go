package rpc

import (
	"context"
	"fmt"
	"net"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/keepalive"

	"github.com/beeline-mqtt/beeline/internal/tcp"
)

// How a client comes back to a server that was away. A peer that restarts should be found within a second or
// two, and not by all others at the same moment.
const (
	reconnectFirst  = 50 * time.Millisecond
	reconnectMax    = 2 * time.Second
	reconnectFactor = 1.6
	reconnectJitter = 0.2
)

// Dialer makes connections to other services.
type Dialer struct {
	opts []grpc.DialOption
}

// NewDialer reads the certificates. opts come after the dialer's own, so they win where only one can.
func NewDialer(cfg Config, opts ...grpc.DialOption) (*Dialer, error) {
	creds, err := cfg.TLS.credentials(false)
	if err != nil {
		return nil, fmt.Errorf("make gRPC dialer: %w", err)
	}
	own := []grpc.DialOption{
		grpc.WithTransportCredentials(creds),
		grpc.WithContextDialer(dialTCP),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff: backoff.Config{
				BaseDelay: reconnectFirst, Multiplier: reconnectFactor, Jitter: reconnectJitter, MaxDelay: reconnectMax,
			},
			MinConnectTimeout: reconnectMax,
		}),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: pingAfter, Timeout: pingTimeout, PermitWithoutStream: true}),
		grpc.WithStaticStreamWindowSize(window),
		grpc.WithStaticConnWindowSize(window),
		grpc.WithDefaultCallOptions(
			grpc.MaxCallRecvMsgSize(int(cfg.MaxMessageSize)),
			grpc.MaxCallSendMsgSize(int(cfg.MaxMessageSize)),
		),
		// What a connection does is written here, not in DNS or in the environment.
		grpc.WithDisableServiceConfig(),
		grpc.WithNoProxy(),
		grpc.WithIdleTimeout(0),
	}
	return &Dialer{opts: append(own, opts...)}, nil
}

func dialTCP(ctx context.Context, address string) (net.Conn, error) {
	nc, err := new(net.Dialer).DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	return tcp.Wrap(nc), nil
}

// Dial returns a connection to the service at address, host:port, which the caller closes. It does not wait: the
// connection is made by its first use, and again whenever it is lost.
func (d *Dialer) Dial(address string) (*grpc.ClientConn, error) {
	conn, err := grpc.NewClient("passthrough:///"+address, d.opts...)
	if err != nil {
		return nil, fmt.Errorf("dial %q: %w", address, err)
	}
	return conn, nil
}
