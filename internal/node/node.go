// Package node is what every service process has, whatever its service: a logger, metrics, readiness, the
// admin HTTP server, a gRPC server with the credentials to dial its peers, and a client of etcd. A main makes a
// Node, makes its service with it, and runs both; a process with several services makes several.
package node

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"

	"github.com/beeline-mqtt/beeline/internal/cluster"
	"github.com/beeline-mqtt/beeline/internal/config"
	"github.com/beeline-mqtt/beeline/internal/lifecycle"
	"github.com/beeline-mqtt/beeline/internal/pki"
	"github.com/beeline-mqtt/beeline/internal/rpc"
	"github.com/beeline-mqtt/beeline/internal/telemetry"
)

// Config configures what every process has.
type Config struct {
	Log   telemetry.LogConfig   `koanf:"log"`
	Admin telemetry.AdminConfig `koanf:"admin"`
	RPC   rpc.Config            `koanf:"rpc"`
	// Listen is where the gRPC server listens; Advertise where other processes reach it, by default the same.
	Listen    string `koanf:"listen" help:"host:port of the gRPC server"`
	Advertise string `koanf:"advertise" help:"host:port at which other services reach the gRPC server; default: where it listens"`
	Etcd      Etcd   `koanf:"etcd"`
	// StopGrace bounds the orderly end of the process.
	StopGrace time.Duration `koanf:"stop_grace" help:"how long the process may take to stop"`
}

// Etcd says how etcd is reached.
type Etcd struct {
	Endpoints []string      `koanf:"endpoints" help:"host:port of the members, comma separated"`
	Username  string        `koanf:"username" help:"user name, when etcd asks for one"`
	Password  config.Secret `koanf:"password" help:"password of the user"`
	CertFile  string        `koanf:"cert_file" help:"client certificate (PEM)"`
	KeyFile   string        `koanf:"key_file" help:"key of the client certificate (PEM)"`
	CAFile    string        `koanf:"ca_file" help:"authority of etcd's certificates (PEM); without it etcd is spoken to in plain text"`
}

// Validate checks all that can be known without asking etcd.
func (e Etcd) Validate() error {
	if len(e.Endpoints) == 0 {
		return config.Invalid("endpoints", "is missing: at least one host:port")
	}
	for _, a := range e.Endpoints {
		if _, _, err := net.SplitHostPort(a); err != nil {
			return config.Invalid("endpoints", "has %q, which is not host:port: %w", a, err)
		}
	}
	if (e.CertFile == "") != (e.KeyFile == "") {
		return config.Invalid("cert_file", "and key_file: give both or none")
	}
	if e.CertFile != "" && e.CAFile == "" {
		return config.Invalid("ca_file", "is missing beside cert_file and key_file")
	}
	if e.CAFile == "" {
		return nil
	}
	return checkFiles("", e.files())
}

func (e Etcd) files() pki.Files { return pki.Files{Cert: e.CertFile, Key: e.KeyFile, CA: e.CAFile} }

// DefaultConfig is a process on its own machine, with etcd beside it.
func DefaultConfig() Config {
	return Config{
		Log:       telemetry.DefaultLogConfig(),
		Admin:     telemetry.AdminConfig{Address: "127.0.0.1:9090"},
		RPC:       rpc.DefaultConfig(),
		Listen:    "127.0.0.1:7946",
		Etcd:      Etcd{Endpoints: []string{"127.0.0.1:2379"}},
		StopGrace: 30 * time.Second,
	}
}

// Validate checks what is not checked by the parts, and that the certificates are there.
func (c Config) Validate() error {
	if _, _, err := net.SplitHostPort(c.Listen); err != nil {
		return config.Invalid("listen", "is not host:port: %w", err)
	}
	if c.Advertise == "" && !reachable(c.Listen) {
		return config.Invalid("advertise", "is missing: %q is every address of this machine, and others have to be told one", c.Listen)
	}
	if c.Advertise != "" {
		if _, _, err := net.SplitHostPort(c.Advertise); err != nil {
			return config.Invalid("advertise", "is not host:port: %w", err)
		}
	}
	if c.StopGrace <= 0 {
		return config.Invalid("stop_grace", "must be positive")
	}
	if t := c.RPC.TLS; t.Validate() == nil && !t.Insecure {
		return checkFiles("rpc.tls.", pki.Files{Cert: t.CertFile, Key: t.KeyFile, CA: t.CAFile})
	}
	return nil
}

// checkFiles reports the first of the files that is of no use, by its key under prefix.
func checkFiles(prefix string, f pki.Files) error {
	if f.Cert != "" {
		if _, err := tls.LoadX509KeyPair(f.Cert, f.Key); err != nil {
			key := "cert_file"
			var missing *fs.PathError
			if errors.As(err, &missing) && missing.Path == f.Key {
				key = "key_file"
			}
			return config.Invalid(prefix+key, "%w", err)
		}
	}
	if _, err := f.Client(); err != nil {
		return config.Invalid(prefix+"ca_file", "%w", err)
	}
	return nil
}

// reachable reports whether an address that is listened on is one that others can use.
func reachable(listen string) bool {
	host, _, _ := net.SplitHostPort(listen)
	ip := net.ParseIP(host)
	return host != "" && (ip == nil || !ip.IsUnspecified())
}

// Node is the common part of one service process.
type Node struct {
	Logger    *slog.Logger
	Metrics   *prometheus.Registry
	Readiness *lifecycle.Readiness
	Server    *rpc.Server
	Dialer    *rpc.Dialer
	Etcd      *clientv3.Client

	cfg   Config
	admin *telemetry.Admin
	ln    net.Listener
	ready *lifecycle.Condition
}

// New makes a node for a service and binds its gRPC address. log gets the log lines; server and dial add to the
// options of the gRPC server and of the connections to peers.
func New(ctx context.Context, cfg Config, service string, log io.Writer, opts Options) (*Node, error) {
	n := &Node{cfg: cfg, Logger: telemetry.NewLogger(log, cfg.Log, service), Readiness: new(lifecycle.Readiness)}
	n.ready = n.Readiness.Condition("started")
	var err error
	if n.Metrics, err = telemetry.NewRegistry(service); err != nil {
		return nil, fmt.Errorf("make metrics: %w", err)
	}
	n.admin = telemetry.NewAdmin(cfg.Admin, telemetry.AdminDeps{Logger: n.Logger, Metrics: n.Metrics, Readiness: n.Readiness})
	if n.Server, err = rpc.NewServer(cfg.RPC, rpc.ServerDeps{Logger: n.Logger, Metrics: n.Metrics, Public: opts.Public}, opts.Server...); err != nil {
		return nil, fmt.Errorf("rpc: %w", err)
	}
	if n.Dialer, err = rpc.NewDialer(cfg.RPC, opts.Dial...); err != nil {
		return nil, fmt.Errorf("rpc: %w", err)
	}
	if n.Etcd, err = connect(cfg.Etcd); err != nil {
		return nil, fmt.Errorf("etcd: %w", err)
	}
	if n.ln, err = rpc.Listen(ctx, cfg.Listen); err != nil {
		return nil, errors.Join(fmt.Errorf("listen: %w", err), n.Etcd.Close())
	}
	return n, nil
}

// Options add to what a node makes of its configuration.
type Options struct {
	Server []grpc.ServerOption
	Dial   []grpc.DialOption
	// Public makes the gRPC server one for others than services, too: see rpc.ServerDeps.
	Public bool
}

func connect(c Etcd) (*clientv3.Client, error) {
	var t *tls.Config
	if c.CAFile != "" {
		var err error
		if t, err = c.files().Client(); err != nil {
			return nil, err
		}
	}
	return cluster.Connect(cluster.Etcd{Endpoints: c.Endpoints, TLS: t, Username: c.Username, Password: string(c.Password)})
}

// Address is where other processes reach the gRPC server, as host:port.
func (n *Node) Address() string {
	if n.cfg.Advertise != "" {
		return n.cfg.Advertise
	}
	return n.ln.Addr().String()
}

// AdminAddress is where the admin server listens; empty before it does, or when there is none.
func (n *Node) AdminAddress() string { return n.admin.Addr() }

// Handle adds a handler to the admin server, before Run.
func (n *Node) Handle(pattern string, h http.Handler) { n.admin.Handle(pattern, h) }

// Close gives up what New has taken. A node that has been run has given it up already.
func (n *Node) Close() error {
	err := n.ln.Close()
	if errors.Is(err, net.ErrClosed) {
		err = nil
	}
	if closeErr := n.Etcd.Close(); closeErr != nil && !errors.Is(closeErr, context.Canceled) {
		err = errors.Join(err, fmt.Errorf("close etcd client: %w", closeErr))
	}
	return err
}

// Run runs the parts with the node's own around them, until ctx ends or a part does: the admin server is there
// first and goes last. Then it closes the node.
func (n *Node) Run(ctx context.Context, parts ...lifecycle.Part) error {
	all := []lifecycle.Part{n.admin.Part(), n.Server.Part(n.ln)}
	all = append(all, parts...)
	all = append(all, n.ready.Part("ready", 0))
	return errors.Join(lifecycle.Run(ctx, n.cfg.StopGrace, all...), n.Close())
}
