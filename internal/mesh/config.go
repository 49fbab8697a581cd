package mesh

import (
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"

	"github.com/beeline-mqtt/beeline/internal/routes"
	"github.com/beeline-mqtt/beeline/internal/trace"
)

// Config is what a Mesh has to know. Zero durations and sizes stand for their defaults.
type Config struct {
	// Incarnation is the id of this process; Revision the etcd create revision of its key.
	Incarnation string
	Revision    int64
	// LinkBytes bounds what is kept for one peer because it has not said that it took it, in bytes as
	// message.Size counts them; one message may always exceed it. Default 16 MiB, at least 128 KiB.
	LinkBytes int
	// RouteAckTimeout is how long Announce waits for the peers. Default 5 s.
	RouteAckTimeout time.Duration
	// DigestInterval is the time between two comparisons of routes. Default 5 s.
	DigestInterval time.Duration
	// ConnectTimeout bounds one attempt to open a stream, up to Welcome. Default 5 s.
	ConnectTimeout time.Duration
	// AdmitTimeout is how long a stream from a process that the registry has not shown yet is held before it is
	// refused. Default 5 s.
	AdmitTimeout time.Duration
	// ReconnectMin and ReconnectMax bound the pause before a stream is opened again. Defaults 50 ms and 2 s.
	ReconnectMin time.Duration
	ReconnectMax time.Duration
}

// Deps is what a Mesh works with. Every field but Trace is required.
type Deps struct {
	Logger  *slog.Logger
	Metrics prometheus.Registerer
	// Routes is where the routes of the peers go. A peer is known there by its Link.
	Routes *routes.Table[*Link]
	// Accept makes the taker of a peer's deliveries. It is called once for each peer that connects.
	Accept func(peer string) Inbound
	// Dial makes a connection to a peer, normally with DialOptions. The mesh closes it.
	Dial func(address string) (*grpc.ClientConn, error)
	// Serving says whether this incarnation is in force. Nothing received is handed on when it is not.
	Serving func() bool
	// SendOn calls done once, when this process has sent on what is older than the call for a durable session that has come
	// to a peer, or to this process if to is nil: what it had sent to any peer has been answered, and what has come back for
	// the client has gone to where it is; or when that takes too long. It must not block. nil: nothing is ever sent on here.
	SendOn func(to *Link, client string, done func())
	// Trace shows what becomes of messages to whoever follows them; nil: nobody can.
	Trace *trace.Tap
}

// minLinkBytes leaves room for what a receiver holds back before it returns credit.
const minLinkBytes = 128 << 10

func (c Config) withDefaults() Config {
	def := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	if c.LinkBytes == 0 {
		c.LinkBytes = 16 << 20
	}
	def(&c.RouteAckTimeout, 5*time.Second)
	def(&c.DigestInterval, 5*time.Second)
	def(&c.ConnectTimeout, 5*time.Second)
	def(&c.AdmitTimeout, 5*time.Second)
	def(&c.ReconnectMin, 50*time.Millisecond)
	def(&c.ReconnectMax, 2*time.Second)
	return c
}

func (c Config) validate() error {
	switch {
	case c.Incarnation == "":
		return errors.New("mesh: Incarnation is empty")
	case c.LinkBytes < minLinkBytes:
		return fmt.Errorf("mesh: LinkBytes is %d, want at least %d", c.LinkBytes, minLinkBytes)
	case c.RouteAckTimeout < 0 || c.DigestInterval < 0 || c.ConnectTimeout < 0 || c.AdmitTimeout < 0:
		return errors.New("mesh: a duration is negative")
	case c.ReconnectMin < 0 || c.ReconnectMax < c.ReconnectMin:
		return fmt.Errorf("mesh: ReconnectMin %v and ReconnectMax %v are not in order", c.ReconnectMin, c.ReconnectMax)
	}
	return nil
}

func (d Deps) validate() error {
	if d.Logger == nil || d.Metrics == nil || d.Routes == nil || d.Accept == nil || d.Dial == nil || d.Serving == nil {
		return errors.New("mesh: a dependency is nil")
	}
	return nil
}
