package gateway

import (
	"net"
	"strings"
	"time"

	"github.com/beeline-mqtt/beeline/internal/config"
	"github.com/beeline-mqtt/beeline/internal/listener"
	"github.com/beeline-mqtt/beeline/services/gateway/internal/auth"
	"github.com/beeline-mqtt/beeline/services/gateway/internal/client"
	"github.com/beeline-mqtt/beeline/services/gateway/internal/drain"
)

// Listener configures one place where clients connect.
type Listener = listener.Config

// Limits bound each client.
type Limits = client.Limits

// AuthConfig says how clients are authenticated, and what they may do.
type AuthConfig = auth.Config

// Config is everything that one gateway has to know, beside what it is given in Deps.
type Config struct {
	// Cluster names the cluster: its keys in etcd stand under it.
	Cluster string `koanf:"cluster" help:"name of the cluster, a word without slashes"`
	// Zone and Weight are told to whoever places clients.
	Zone   string `koanf:"zone" help:"where this gateway runs"`
	Weight uint32 `koanf:"weight" help:"share of new clients, relative to other gateways"`
	// RouterAddress is where routers reach this gateway.
	RouterAddress string `koanf:"router_address" help:"host:port at which routers reach the MQTT listener; default: the host of the gRPC server, and the first listener without TLS and WebSocket"`
	// PublicAddress is where clients reach this gateway from wherever they are: MQTT 5 clients of a gateway that is
	// drained are sent there.
	PublicAddress string `koanf:"public_address" help:"host:port at which clients reach this gateway, for those that another one sends here (Server Reference); default: none"`
	// LeaseTTL is how long the cluster waits for a gateway that is silent.
	LeaseTTL time.Duration `koanf:"lease_ttl" help:"how long the cluster waits for a silent gateway"`
	// MaxClients bounds the clients, MaxConnections the sockets on each listener.
	MaxClients     int `koanf:"max_clients" help:"clients connected at once"`
	MaxConnections int `koanf:"max_connections" help:"connections of one listener, clients or not yet"`
	// GroupMembers bounds the members of one shared subscription.
	GroupMembers int `koanf:"group_members" help:"members of one shared subscription on this gateway"`
	// LinkBytes bounds what is kept for one peer until it has taken it.
	LinkBytes config.Bytes `koanf:"link_bytes" help:"bytes kept for one peer until it has taken them"`
	// CachedLeases bounds the cache of who holds whom.
	CachedLeases int `koanf:"cached_leases" help:"holders of clients remembered for direct messages"`
	// UnresolvedBytes bounds the direct messages that wait for their receiver to be found.
	UnresolvedBytes config.Bytes `koanf:"unresolved_bytes" help:"bytes of direct messages whose receiver is being looked up"`
	// RouteAckTimeout is how long a SUBSCRIBE waits for the other gateways.
	RouteAckTimeout time.Duration `koanf:"route_ack_timeout" help:"how long a SUBSCRIBE waits for the other gateways"`
	// Listeners are where clients connect.
	Listeners []Listener `koanf:"listeners" help:"where clients connect"`
	// Auth says who is let in, and what for; without methods that is for whoever makes the gateway to say (Deps).
	Auth AuthConfig `koanf:"auth"`
	// Drain sets how fast clients are moved away when the gateway is drained or stopped.
	Drain DrainConfig `koanf:"drain"`
	// Limits bound each client.
	Limits Limits `koanf:"limits"`
}

// DefaultConfig is a gateway that listens for MQTT on port 1883.
func DefaultConfig() Config {
	return Config{
		Cluster:         "default",
		Weight:          1,
		LeaseTTL:        10 * time.Second,
		MaxClients:      100_000,
		MaxConnections:  110_000,
		GroupMembers:    1000,
		LinkBytes:       64 * config.MiB,
		CachedLeases:    100_000,
		UnresolvedBytes: 64 * config.MiB,
		RouteAckTimeout: 5 * time.Second,
		Listeners:       []Listener{{Name: "tcp", Address: ":1883"}},
		Auth:            auth.DefaultConfig(),
		Drain:           drain.DefaultConfig(),
		Limits:          client.DefaultLimits(),
	}
}

func isHostPort(address string) bool {
	_, _, err := net.SplitHostPort(address)
	return err == nil
}

// Validate reports the first setting that cannot work, by its key.
func (c Config) Validate() error {
	switch {
	case c.Cluster == "" || strings.Contains(c.Cluster, "/"):
		return config.Invalid("cluster", "must be a word without slashes")
	case c.RouterAddress != "" && !isHostPort(c.RouterAddress):
		return config.Invalid("router_address", "is not host:port")
	case c.PublicAddress != "" && !isHostPort(c.PublicAddress):
		return config.Invalid("public_address", "is not host:port")
	case c.LeaseTTL < 2*time.Second || c.LeaseTTL%time.Second != 0:
		return config.Invalid("lease_ttl", "must be whole seconds, at least 2s")
	case c.MaxClients < 1:
		return config.Invalid("max_clients", "must be positive")
	case c.MaxConnections < 1:
		return config.Invalid("max_connections", "must be positive")
	case c.GroupMembers < 1:
		return config.Invalid("group_members", "must be positive")
	case c.LinkBytes < 128*config.KiB:
		return config.Invalid("link_bytes", "must be at least 128KiB")
	case c.CachedLeases < 1:
		return config.Invalid("cached_leases", "must be positive")
	case c.UnresolvedBytes < 1:
		return config.Invalid("unresolved_bytes", "must be positive")
	case c.RouteAckTimeout <= 0:
		return config.Invalid("route_ack_timeout", "must be positive")
	}
	return listener.ValidateNames("listeners", c.Listeners)
}
