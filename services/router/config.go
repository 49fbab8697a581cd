package router

import (
	"strings"
	"time"

	"github.com/beeline-mqtt/beeline/internal/config"
	"github.com/beeline-mqtt/beeline/internal/listener"
	"github.com/beeline-mqtt/beeline/services/router/internal/book"
	"github.com/beeline-mqtt/beeline/services/router/internal/gate"
	"github.com/beeline-mqtt/beeline/services/router/internal/rest"
)

// Listener configures one place where devices connect.
type Listener = listener.Config

// Config is everything that one router has to know, beside what it is given in Deps.
type Config struct {
	// Cluster names the cluster that the router belongs to: its keys in etcd stand under it, and its gateways are the
	// nodes of the cluster that devices go to unless they are assigned to another one.
	Cluster string `koanf:"cluster" help:"name of the cluster, a word without slashes"`
	// Secret keys the hash under which a client's node and exact assignments are stored. All routers need the same. It is
	// given itself, or as the path of a file.
	Secret     config.Secret `koanf:"secret" help:"at least 32 characters, the same for all routers: keys the hashes of what clients present"`
	SecretFile string        `koanf:"secret_file" help:"file with the secret, instead of secret"`
	// MaxConnections bounds the sockets on each listener, SourceConnections those from one address.
	MaxConnections    int `koanf:"max_connections" help:"connections of one listener"`
	SourceConnections int `koanf:"source_connections" help:"connections from one source address; 0: any number"`
	// ConnectBytes and ConnectTimeout bound the CONNECT.
	ConnectBytes   config.Bytes  `koanf:"connect_bytes" help:"bytes of a CONNECT"`
	ConnectTimeout time.Duration `koanf:"connect_timeout" help:"how long a client may take for its handshake and CONNECT"`
	// DialTimeout bounds one attempt to reach a node. Attempts is how many nodes are tried.
	DialTimeout time.Duration `koanf:"dial_timeout" help:"how long a node may take to accept a connection"`
	Attempts    int           `koanf:"attempts" help:"how many nodes are tried for one client"`
	// Idle ends a connection on which nothing has passed; 0: never.
	Idle time.Duration `koanf:"idle" help:"how long nothing may pass; 0: for ever"`
	// Book bounds what is kept of the route store.
	Book book.Config `koanf:"book"`
	// Access says who may call the public services. Holders of certificates with a role may in any case.
	Access gate.Config `koanf:"access"`
	// REST is where the public services are served over HTTP.
	REST rest.Config `koanf:"rest"`
	// Listeners are where devices connect.
	Listeners []Listener `koanf:"listeners" help:"where devices connect"`
}

// DefaultConfig is a router that listens for MQTT on port 1883. It has no secret.
func DefaultConfig() Config {
	return Config{
		Cluster:           "default",
		MaxConnections:    200_000,
		SourceConnections: 0,
		ConnectBytes:      64 * config.KiB,
		ConnectTimeout:    10 * time.Second,
		DialTimeout:       3 * time.Second,
		Attempts:          3,
		Idle:              0,
		Book:              book.DefaultConfig(),
		Access:            gate.DefaultConfig(),
		Listeners:         []Listener{{Name: "tcp", Address: ":1883"}},
	}
}

// Validate reports the first setting that cannot work, by its key.
func (c Config) Validate() error {
	switch {
	case c.Cluster == "" || strings.Contains(c.Cluster, "/"):
		return config.Invalid("cluster", "must be a word without slashes")
	case c.MaxConnections < 1:
		return config.Invalid("max_connections", "must be positive")
	case c.SourceConnections < 0:
		return config.Invalid("source_connections", "must not be negative")
	case c.ConnectBytes < config.KiB:
		return config.Invalid("connect_bytes", "must be at least 1KiB")
	case c.ConnectTimeout <= 0:
		return config.Invalid("connect_timeout", "must be positive")
	case c.DialTimeout <= 0:
		return config.Invalid("dial_timeout", "must be positive")
	case c.Attempts < 1:
		return config.Invalid("attempts", "must be positive")
	case c.Idle < 0:
		return config.Invalid("idle", "must not be negative")
	}
	if _, err := c.secret(); err != nil {
		return err
	}
	return listener.ValidateNames("listeners", c.Listeners)
}
