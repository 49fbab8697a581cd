package session

import (
	"errors"
	"strings"
	"time"

	"github.com/beeline-mqtt/beeline/internal/config"
	"github.com/beeline-mqtt/beeline/services/session/internal/claims"
)

// Config of a session instance. The process that runs it knows its Address.
type Config struct {
	// Cluster is the name of the cluster; it begins all keys in etcd.
	Cluster string `koanf:"cluster" help:"name of the cluster, a word without slashes"`
	// Address is host:port at which gateways reach this instance's gRPC server.
	Address string `koanf:"-"`
	// Zone is where it runs; may be empty.
	Zone string `koanf:"zone" help:"where this instance runs"`
	// TTL is how long etcd waits for a silent instance before a standby takes its place: whole seconds.
	TTL time.Duration `koanf:"ttl" help:"how long a standby waits for a silent instance, whole seconds"`
	// EvictTimeout is how long a client that takes over waits for its older connection to be gone.
	EvictTimeout time.Duration `koanf:"evict_timeout" help:"how long a client that takes over waits for its older connection"`
	// FlapLimit is how often a client may be replaced within ten seconds before each further claim waits a second.
	FlapLimit int `koanf:"flap_limit" help:"how often a client may be replaced within 10s before it is slowed down"`
	// SweepRate is how many records of dead gateways are deleted in a second.
	SweepRate int `koanf:"sweep_rate" help:"records of dead gateways deleted in a second"`
	// BlindAfter is how long etcd has to be silent before this instance bears witness that it cannot reach it. It
	// has to be below half of the gateways' TTL.
	BlindAfter time.Duration `koanf:"blind_after" help:"how long etcd is silent before this instance says that it cannot reach it"`
}

// DefaultConfig returns the configuration that suits most clusters.
func DefaultConfig() Config {
	return Config{
		Cluster:      "default",
		TTL:          10 * time.Second,
		EvictTimeout: time.Second,
		FlapLimit:    100,
		SweepRate:    20_000,
		BlindAfter:   3 * time.Second,
	}
}

// Validate reports everything that is wrong.
func (c Config) Validate() error {
	var errs []error
	check := func(ok bool, key, format string, args ...any) {
		if !ok {
			errs = append(errs, config.Invalid(key, format, args...))
		}
	}
	check(c.Cluster != "" && !strings.Contains(c.Cluster, "/"), "cluster", "must be a word without slashes, is %q", c.Cluster)
	check(c.TTL >= time.Second && c.TTL%time.Second == 0, "ttl", "must be whole seconds, at least 1s, is %v", c.TTL)
	check(c.EvictTimeout > 0, "evict_timeout", "must be above zero, is %v", c.EvictTimeout)
	check(c.FlapLimit > 0, "flap_limit", "must be above zero, is %d", c.FlapLimit)
	check(c.SweepRate >= 100, "sweep_rate", "must be at least 100, is %d", c.SweepRate)
	check(c.BlindAfter > 0, "blind_after", "must be above zero, is %v", c.BlindAfter)
	return errors.Join(errs...)
}

func (c Config) claims() claims.Config {
	return claims.Config{
		EvictTimeout: c.EvictTimeout,
		FlapLimit:    c.FlapLimit,
		FlapWindow:   10 * time.Second,
		FlapDelay:    time.Second,
		Tracked:      100_000,
		Owed:         10_000,
	}
}
