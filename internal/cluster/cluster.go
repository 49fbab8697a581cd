// Package cluster keeps in etcd who is where: which gateways and session instances are alive, which session
// instance is the active one, and which of them holds a client. Nothing that a client is owed is here.
//
// A process is alive as long as its Incarnation is: one key under one etcd lease that the incarnation renews by
// itself. Leases of clients are records without an etcd lease. They name an incarnation and are in force while
// its key exists, so that all of a dead process's leases end at one stroke; a sweep deletes the records later.
// Only the active session instance changes records, through its Recorder; everybody may LookUp.
//
// All types may be used from any goroutine, unless they say otherwise. Callbacks run on goroutines of this
// package, one at a time for each watch, and must not block.
//
// The protocol is described in docs/architecture.md.
package cluster

import (
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
)

// What this package reports.
var (
	// ErrLost says that the incarnation is over. Whoever lived under it ends everything done in its name.
	ErrLost = errors.New("incarnation lost")
	// ErrNotActive says that another session instance is active now; nothing was changed.
	ErrNotActive = errors.New("not the active session instance")
	// ErrHolderDead says that a lease was claimed for an incarnation whose key does not exist.
	ErrHolderDead = errors.New("the claiming incarnation is dead")
	// ErrUnavailable says that etcd did not answer in time, and that nothing was changed.
	ErrUnavailable = errors.New("etcd is unavailable")
)

// Etcd says how etcd is reached.
type Etcd struct {
	// Endpoints are host:port, at least one.
	Endpoints []string
	// TLS is nil for plain text.
	TLS                *tls.Config
	Username, Password string
}

// Connect makes a client that reconnects within a second and notices a dead connection within 15 s. It returns
// without waiting for a connection. The caller closes it.
func Connect(e Etcd) (*clientv3.Client, error) {
	reconnect := backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: time.Second}
	c, err := clientv3.New(clientv3.Config{
		Endpoints: e.Endpoints,
		TLS:       e.TLS,
		Username:  e.Username,
		Password:  e.Password,
		// etcd refuses pings more often than every five seconds.
		DialKeepAliveTime:    10 * time.Second,
		DialKeepAliveTimeout: 5 * time.Second,
		Logger:               zap.NewNop(),
		DialOptions: []grpc.DialOption{
			grpc.WithConnectParams(grpc.ConnectParams{Backoff: reconnect, MinConnectTimeout: 2 * time.Second}),
		},
	})
	if err != nil {
		return nil, fmt.Errorf("connect to etcd at %v: %w", e.Endpoints, err)
	}
	return c, nil
}

// Deps are what every part of this package works with.
type Deps struct {
	Client *clientv3.Client
	Keys   Keys
	Logger *slog.Logger
	// Metrics is nil when nothing is to be counted.
	Metrics prometheus.Registerer
}

// Keys are the names of everything that one cluster keeps in etcd: its name, a word without slashes.
type Keys string

// Prefix begins every key of the cluster.
func (k Keys) Prefix() string { return "/beeline/" + string(k) + "/" }

// Members begins the keys of all incarnations of a kind.
func (k Keys) Members(kind Kind) string { return k.Prefix() + kind.String() + "/" }

// Member is the key of one incarnation.
func (k Keys) Member(kind Kind, id string) string { return k.Members(kind) + id }

// Active is the key that names the active session instance.
func (k Keys) Active() string { return k.Prefix() + "session-active" }

// Clients begins the keys of all clients' records.
func (k Keys) Clients() string { return k.Prefix() + "clients/" }

// Client is the key of a client's record. A client id stands in it as it is, slashes included.
func (k Keys) Client(id string) string { return k.Clients() + id }

// Kind says what an incarnation is a run of.
type Kind byte

// The two kinds of incarnations.
const (
	Gateway Kind = iota
	Session
)

// String is the kind as it stands in keys.
func (k Kind) String() string {
	if k == Session {
		return "sessions"
	}
	return "gateways"
}

// State says whether new clients are welcome at a member.
type State string

// The states of a member.
const (
	// Joining: it does not take clients yet.
	Joining  State = "joining"
	Active   State = "active"
	Draining State = "draining"
)

// Member is one living incarnation as all others see it. In etcd it is JSON; unknown fields are ignored, so that
// neighbouring releases understand each other.
type Member struct {
	// ID is the last part of its key.
	ID string `json:"-"`
	// Address is host:port of its gRPC server.
	Address string `json:"address"`
	// MQTT is host:port at which routers reach a gateway's MQTT listener, in plain TCP; empty: it has none.
	MQTT string `json:"mqtt,omitempty"`
	// Proxy says that a connection to MQTT may begin with a PROXY header: routers are among those who are believed.
	Proxy bool `json:"proxy,omitempty"`
	// Public is host:port at which clients reach a gateway from wherever they are; empty: they are not sent there.
	Public string `json:"public,omitempty"`
	// Zone is where it runs; may be empty.
	Zone string `json:"zone,omitempty"`
	// Weight is its share of new clients, relative to others.
	Weight uint32 `json:"weight,omitempty"`
	State  State  `json:"state"`
	// Revision is the etcd revision that created its key: of two members the later one has the larger.
	Revision int64 `json:"-"`
}

// View is the list of living members of a kind, ordered by Revision, as of an etcd revision. It is not changed
// after it has been handed out.
type View struct {
	Members []Member
	// Revision is that of the change that made the list, or of the read: everything up to it is in the list.
	Revision int64
}

// Find returns the member with an id.
func (v View) Find(id string) (Member, bool) {
	for _, m := range v.Members {
		if m.ID == id {
			return m, true
		}
	}
	return Member{}, false
}

// Lease says who holds a client. The zero Lease says that nobody does.
type Lease struct {
	// Holder is an incarnation id.
	Holder string
	// Epoch grows with every change of holder. It fences what is done in the name of the client.
	Epoch uint64
}

// record is the value of a client's key. It is JSON to leave room for more; unknown fields are ignored. The epoch is
// Base + the key's mod revision.
type record struct {
	Holder string `json:"holder"`
	Base   uint64 `json:"base,omitempty"`
}

func encodeRecord(holder string, base uint64) (string, error) {
	b, err := json.Marshal(record{Holder: holder, Base: base})
	if err != nil {
		return "", fmt.Errorf("encode record of holder %q: %w", holder, err)
	}
	return string(b), nil
}

func decodeRecord(value []byte) (record, error) {
	var r record
	if err := json.Unmarshal(value, &r); err != nil {
		return record{}, fmt.Errorf("decode record: %w", err)
	}
	if r.Holder == "" {
		return record{}, errors.New("decode record: no holder")
	}
	return r, nil
}
