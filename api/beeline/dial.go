package beeline

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
)

// Options say how a router is reached, and who calls. Give a token or a certificate.
type Options struct {
	// CAFile is the authority of the router's certificate (PEM); empty: those of the system.
	CAFile string
	// CertFile and KeyFile are a client certificate (PEM) that names who calls: beeline://<role>/<name>.
	CertFile, KeyFile string
	// Token is a bearer token; TokenFile is a file with one, which is read anew for each call, so that it may be replaced.
	// At most one of the two.
	Token, TokenFile string
	// ServerName is the name that the router's certificate has to have; empty: the host of the address.
	ServerName string
	// Insecure is for a router without TLS. A token is sent in the clear then.
	Insecure bool
	// FailFast has Dial return after the first attempt that fails, as a program does in front of which somebody sits.
	FailFast bool
	// DialOptions are added to those of this package.
	DialOptions []grpc.DialOption
}

// connectTimeout bounds one attempt to connect.
const connectTimeout = 10 * time.Second

// serviceConfig spreads calls over all addresses of a name, and repeats reads, and nothing else, when a router cannot be reached.
const serviceConfig = `{
	"loadBalancingConfig": [{"round_robin": {}}],
	"methodConfig": [{
		"name": [
			{"service": "beeline.messaging.v1.GroupService", "method": "ListGroups"},
			{"service": "beeline.messaging.v1.GroupService", "method": "ListMembers"},
			{"service": "beeline.messaging.v1.GroupService", "method": "ListMemberGroups"},
			{"service": "beeline.admin.v1.AdminService", "method": "ListClients"},
			{"service": "beeline.admin.v1.AdminService", "method": "GetClient"},
			{"service": "beeline.admin.v1.AdminService", "method": "ExplainTopic"},
			{"service": "beeline.admin.v1.AdminService", "method": "ListRetained"},
			{"service": "beeline.admin.v1.GatewayService", "method": "ListGateways"},
			{"service": "beeline.admin.v1.PlacementService", "method": "Explain"},
			{"service": "beeline.admin.v1.PlacementService", "method": "ListAssignments"},
			{"service": "beeline.admin.v1.PlacementService", "method": "ListClusters"}
		],
		"retryPolicy": {
			"maxAttempts": 4, "initialBackoff": "0.1s", "maxBackoff": "2s", "backoffMultiplier": 3,
			"retryableStatusCodes": ["UNAVAILABLE"]
		}
	}]
}`

// Dial connects to the router at host:port, or at any address that gRPC has a form for, and returns when it answers. It tries
// again until ctx is over; the error says then what was wrong last. A connection that breaks later is made again by itself.
func Dial(ctx context.Context, address string, o Options) (*Client, error) {
	options, err := o.dial()
	if err != nil {
		return nil, fmt.Errorf("dial %s: %w", address, err)
	}
	conn, err := grpc.NewClient(address, append(options, o.DialOptions...)...)
	if err != nil {
		return nil, fmt.Errorf("dial %s: %w", address, err)
	}
	// Health is served to everybody, so that a wrong token fails where it is used, and says so there.
	if _, err := healthv1.NewHealthClient(conn).Check(ctx, &healthv1.HealthCheckRequest{}, grpc.WaitForReady(!o.FailFast)); err != nil {
		return nil, fmt.Errorf("dial %s: %w", address, errors.Join(err, conn.Close()))
	}
	c := New(conn)
	c.close = conn.Close
	return c, nil
}

// dial is what gRPC is told.
func (o *Options) dial() ([]grpc.DialOption, error) {
	transport, err := o.transport()
	if err != nil {
		return nil, err
	}
	options := []grpc.DialOption{
		grpc.WithTransportCredentials(transport),
		grpc.WithDefaultServiceConfig(serviceConfig),
		grpc.WithDisableServiceConfig(), // of the DNS: whoever has no answer there may take ten seconds to say so
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 30 * time.Second, Timeout: 10 * time.Second, PermitWithoutStream: true}),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 5 * time.Second},
			MinConnectTimeout: connectTimeout,
		}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(64 << 20)), // a receipt for each member of a large group
	}
	switch {
	case o.Token != "" && o.TokenFile != "":
		return nil, errors.New("a Token and a TokenFile: one of them is enough")
	case o.Token == "" && o.TokenFile == "":
		return options, nil
	}
	b := bearer{token: o.Token, file: o.TokenFile, insecure: o.Insecure}
	_, err = b.read()
	return append(options, grpc.WithPerRPCCredentials(b)), err
}

func (o *Options) transport() (credentials.TransportCredentials, error) {
	if o.Insecure {
		return insecure.NewCredentials(), nil
	}
	c := &tls.Config{ServerName: o.ServerName, MinVersion: tls.VersionTLS12}
	if o.CAFile != "" {
		pem, err := os.ReadFile(o.CAFile)
		if err != nil {
			return nil, fmt.Errorf("CAFile: %w", err)
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("CAFile: no certificate in %s", o.CAFile)
		}
	}
	if o.CertFile != "" || o.KeyFile != "" {
		pair, err := tls.LoadX509KeyPair(o.CertFile, o.KeyFile)
		if err != nil {
			return nil, fmt.Errorf("CertFile and KeyFile: %w", err)
		}
		c.Certificates = []tls.Certificate{pair}
	}
	return credentials.NewTLS(c), nil
}

// bearer puts a token on each call.
type bearer struct {
	token, file string
	insecure    bool
}

// read returns the token as it is now.
func (b bearer) read() (string, error) {
	if b.file == "" {
		return b.token, nil
	}
	text, err := os.ReadFile(b.file)
	if err != nil {
		return "", fmt.Errorf("TokenFile: %w", err)
	}
	return strings.TrimSpace(string(text)), nil
}

// GetRequestMetadata implements credentials.PerRPCCredentials.
func (b bearer) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	token, err := b.read()
	if err != nil {
		return nil, err
	}
	return map[string]string{"authorization": "Bearer " + token}, nil
}

// RequireTransportSecurity implements credentials.PerRPCCredentials.
func (b bearer) RequireTransportSecurity() bool { return !b.insecure }
