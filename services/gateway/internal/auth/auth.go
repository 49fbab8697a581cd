// Package auth is the seam between the gateway and whoever knows its users: one function says who a client
// is, one what it may do. The gateway asks the first once per connection, the second for every PUBLISH,
// SUBSCRIBE and will; it caches nothing and never goes on without an answer.
//
// A Guard has both functions, by the methods and the rules that are configured. It is safe for concurrent use; the caller
// runs it.
package auth

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"time"

	"github.com/beeline-mqtt/beeline/services/gateway/internal/rules"
)

// Refusals an Authenticator may give. Any other error means that the answer is not known: the client is told
// to come back later.
var (
	// ErrBadCredentials: user name or password are wrong (MQTT 5 reason 0x86).
	ErrBadCredentials = errors.New("bad user name or password")
	// ErrNotAuthorized: the client is known and may not connect (0x87).
	ErrNotAuthorized = errors.New("not authorized")
	// ErrBanned: the client is banned (0x8A).
	ErrBanned = errors.New("banned")
	// ErrBusy: too many others are being authenticated (0x89).
	ErrBusy = errors.New("too many clients are being authenticated")
	// ErrTooManyFailures: too many attempts from the client's address have failed (0x9F).
	ErrTooManyFailures = errors.New("too many failed attempts")
)

// Attempt is one CONNECT, as far as it says who the client is.
type Attempt struct {
	ClientID    string
	Username    string
	HasUsername bool
	// Password is valid during the call only and must not be logged.
	Password    []byte
	HasPassword bool
	// Listener is the configured name of the listener; Remote the client's address.
	Listener string
	Remote   net.Addr
	// TLS is nil on a plain connection.
	TLS *tls.ConnectionState
	// Via is nil unless the connection comes from a proxy: then TLS is what the proxy speaks with the gateway, and Remote
	// is the client's address all the same.
	Via *Via
}

// Via is what a trusted proxy says about the client's connection to it.
type Via struct {
	// TLS says that the client speaks TLS with the proxy; Version which, in the proxy's words ("TLSv1.3").
	TLS     bool
	Version string
	// CommonName is that of the client's certificate; empty unless Verified.
	CommonName string
	// Verified says that the client has presented a certificate, and the proxy found it good.
	Verified bool
	// Authority is the host that the client asked for (SNI).
	Authority string
}

// Identity is who a client turned out to be, for as long as its connection lasts.
type Identity struct {
	ClientID string
	// Username is empty for an anonymous client.
	Username string
	// Service says that it is one of the cluster's own services, behind a tunnel. No Authenticate for sockets says so.
	Service bool
	// Expires is when the connection has to end; zero: never.
	Expires time.Time
	// Rules are its own, which come before those for everybody; nil: it has none.
	Rules *rules.Set
}

// Authenticate decides on an attempt. It may block, within the context.
type Authenticate func(ctx context.Context, a Attempt) (Identity, error)

// Authorize decides on a request. It is on the path of every message: it must not block.
type Authorize func(id Identity, q rules.Request) bool

// AllowAnonymous lets everybody in under the name given, unverified. It is for laptops and closed networks.
func AllowAnonymous(_ context.Context, a Attempt) (Identity, error) {
	return Identity{ClientID: a.ClientID, Username: a.Username}, nil
}

// OwnService lets one of the cluster's own services in, which whoever calls has made sure of.
func OwnService(_ context.Context, a Attempt) (Identity, error) {
	return Identity{ClientID: a.ClientID, Service: true}, nil
}

// RefuseAll lets nobody in. It is what a gateway without a configured authenticator does.
func RefuseAll(context.Context, Attempt) (Identity, error) {
	return Identity{}, ErrNotAuthorized
}

// AllowAll permits everything.
func AllowAll(Identity, rules.Request) bool { return true }
