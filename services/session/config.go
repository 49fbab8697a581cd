package session

import (
	"errors"
	"strings"
	"time"

	"github.com/beeline-mqtt/beeline/internal/config"
	"github.com/beeline-mqtt/beeline/services/session/internal/claims"
	"github.com/beeline-mqtt/beeline/services/session/internal/store"
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
	// Data is the directory of the store. Instances that are to take each other's place have the same: the active one
	// has it open, and the others wait for it.
	Data string `koanf:"data" help:"directory of what clients are owed; the same for the active instance and its standbys"`
	// InboxMessages, InboxBytes and InboxAge bound the inbox of one durable session; the oldest messages make room.
	InboxMessages uint64        `koanf:"inbox_messages" help:"messages in the inbox of one durable session"`
	InboxBytes    config.Bytes  `koanf:"inbox_bytes" help:"bytes in the inbox of one durable session"`
	InboxAge      time.Duration `koanf:"inbox_age" help:"how long a message waits in an inbox"`
	// RetainedMessages bounds the topics that have a retained message.
	RetainedMessages uint64 `koanf:"retained_messages" help:"topics with a retained message"`
	// PresenceHistory is how many events of clients that connect and disconnect are kept for watchers that come back.
	PresenceHistory int `koanf:"presence_history" help:"events of clients that connect and disconnect that are kept for watchers"`
	// BlindAfter is how long etcd has to be silent before this instance bears witness that it cannot reach it. It
	// has to be below half of the gateways' TTL.
	BlindAfter time.Duration `koanf:"blind_after" help:"how long etcd is silent before this instance says that it cannot reach it"`
}

// DefaultConfig returns the configuration that suits most clusters.
func DefaultConfig() Config {
	l := store.DefaultLimits()
	return Config{
		InboxMessages: l.InboxMessages, InboxBytes: config.Bytes(l.InboxBytes), InboxAge: l.InboxAge, RetainedMessages: l.Retained,
		Cluster:      "default",
		TTL:          10 * time.Second,
		EvictTimeout: time.Second,
		FlapLimit:    100,
		SweepRate:    20_000,

		PresenceHistory: 100_000,
		BlindAfter:      3 * time.Second,
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
	check(c.Data != "", "data", "is missing: the directory of what clients are owed")
	check(c.InboxMessages > 0, "inbox_messages", "must be above zero")
	check(c.InboxBytes > 0, "inbox_bytes", "must be above zero")
	check(c.InboxAge > 0, "inbox_age", "must be above zero, is %v", c.InboxAge)
	check(c.RetainedMessages > 0, "retained_messages", "must be above zero")
	check(c.PresenceHistory >= 1000 && c.PresenceHistory <= 10_000_000, "presence_history", "must be 1,000 to 10,000,000, is %d", c.PresenceHistory)
	check(c.BlindAfter > 0, "blind_after", "must be above zero, is %v", c.BlindAfter)
	return errors.Join(errs...)
}

func (c Config) limits() store.Limits {
	return store.Limits{
		InboxMessages: c.InboxMessages, InboxBytes: uint64(c.InboxBytes), InboxAge: c.InboxAge, Retained: c.RetainedMessages,
	}
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
