package rpc

import (
	"context"
	"fmt"
	"net"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/test/bufconn"

	"github.com/beeline-mqtt/beeline/internal/pki"
)

const (
	// withinBuffer is how many bytes may be under way on a connection within the process, each way.
	withinBuffer = 256 << 10
	// Names of metadata that say for whom a call within the process is made. They count nowhere else.
	roleKey, nameKey = "beeline-role", "beeline-name"
)

// Connect returns a connection to the server within the process, without TLS, which the caller closes. It works while the
// server's part runs. Calls over it have the identity that OnBehalfOf says, or none.
func (s *Server) Connect() (*grpc.ClientConn, error) {
	conn, err := grpc.NewClient("passthrough:///within",
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return s.within.DialContext(ctx) }),
		grpc.WithDefaultCallOptions(
			grpc.MaxCallRecvMsgSize(int(s.cfg.MaxMessageSize)),
			grpc.MaxCallSendMsgSize(int(s.cfg.MaxMessageSize)),
		),
		grpc.WithDisableServiceConfig(),
		grpc.WithIdleTimeout(0),
	)
	if err != nil {
		return nil, fmt.Errorf("connect within the process: %w", err)
	}
	return conn, nil
}

// MaxMessageSize is the bound of one message, in bytes.
func (s *Server) MaxMessageSize() int64 { return int64(s.cfg.MaxMessageSize) }

// OnBehalfOf is what a call within the process carries that is made for the holder of a certificate, who has proved to be
// that.
func OnBehalfOf(id pki.Identity) metadata.MD {
	return metadata.Pairs(roleKey, id.Role, nameKey, id.Name)
}

// represented reads what OnBehalfOf wrote.
func represented(ctx context.Context) (pki.Identity, error) {
	role, name := metadata.ValueFromIncomingContext(ctx, roleKey), metadata.ValueFromIncomingContext(ctx, nameKey)
	if len(role) != 1 || len(name) != 1 {
		return pki.Identity{}, fmt.Errorf("call within the process: %w", pki.ErrNoIdentity)
	}
	return pki.Identity{Role: role[0], Name: name[0]}, nil
}

// within is the listener for connections within the process.
type within struct{ *bufconn.Listener }

func newWithin() *within { return &within{bufconn.Listen(withinBuffer)} }

// Accept implements net.Listener. What it returns is told from other connections by its type.
func (w *within) Accept() (net.Conn, error) {
	c, err := w.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return withinConn{c}, nil
}

type withinConn struct{ net.Conn }

// inProcess says that a peer is in this process.
type inProcess struct {
	credentials.CommonAuthInfo

	trusted bool
}

// AuthType implements credentials.AuthInfo.
func (inProcess) AuthType() string { return "in-process" }

// withinCredentials are those of the server, except for connections within the process.
type withinCredentials struct {
	credentials.TransportCredentials

	trusted bool
}

// ServerHandshake implements credentials.TransportCredentials.
func (c withinCredentials) ServerHandshake(nc net.Conn) (net.Conn, credentials.AuthInfo, error) {
	if _, ok := nc.(withinConn); ok {
		return nc, inProcess{CommonAuthInfo: credentials.CommonAuthInfo{SecurityLevel: credentials.PrivacyAndIntegrity}, trusted: c.trusted}, nil
	}
	return c.TransportCredentials.ServerHandshake(nc)
}

// Clone implements credentials.TransportCredentials.
func (c withinCredentials) Clone() credentials.TransportCredentials {
	return withinCredentials{TransportCredentials: c.TransportCredentials.Clone(), trusted: c.trusted}
}
