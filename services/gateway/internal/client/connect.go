package client

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/beeline-mqtt/beeline/internal/engine"
	"github.com/beeline-mqtt/beeline/internal/journal"
	"github.com/beeline-mqtt/beeline/internal/listener"
	"github.com/beeline-mqtt/beeline/internal/message"
	"github.com/beeline-mqtt/beeline/internal/packet"
	"github.com/beeline-mqtt/beeline/services/gateway/internal/auth"
	"github.com/beeline-mqtt/beeline/services/gateway/internal/conn"
	"github.com/beeline-mqtt/beeline/services/gateway/internal/rules"
)

// Errors of Broker.Attach that have a reason code of their own; any other is Server unavailable.
var (
	// ErrReplaced: the client connected once more before this connection was attached.
	ErrReplaced = errors.New("replaced by a newer connection")
	// ErrTooManyClients: the gateway holds as many clients as it may.
	ErrTooManyClients = errors.New("too many clients")
)

// ErrTooManyMembers is what Broker.Subscribe reports when a shared subscription takes no further member; with any
// other error the filter could not be announced.
var ErrTooManyMembers = errors.New("too many members of the shared subscription")

// errStopped: the connection was stopped before it had become a client.
var errStopped = errors.New("stopped before CONNACK")

// refusal ends a connection before it has become a client.
type refusal struct {
	// code goes into the CONNACK. Success: none is sent, because nothing says that the other side speaks MQTT.
	code   packet.Code
	detail string
	// reference is the Server Reference, with UseAnotherServer.
	reference string
	// label is for the metric; empty: the code's name.
	label string
}

func (r *refusal) Error() string { return fmt.Sprintf("%s: %s", r.code, r.detail) }

// noConnect refuses what is not MQTT as far as we can see.
func noConnect(detail string) *refusal { return &refusal{label: "no_connect", detail: detail} }

// readConnect reads the first packet, which has to be a CONNECT, within its bounds of bytes and time.
func (c *Client) readConnect() (*packet.Connect, error) {
	c.mu.Lock()
	if c.cause == nil {
		// Writes too: a TLS handshake has some. Under the lock: Stop, which cuts the read short, comes before or after.
		_ = c.nc.SetDeadline(time.Now().Add(c.limits.ConnectTimeout))
	}
	c.mu.Unlock()
	first, body, _, err := c.reader.Next(int(c.limits.ConnectBytes))
	if err != nil {
		return nil, noConnect(err.Error())
	}
	if packet.Type(first>>4) != packet.CONNECT {
		// MQTT-3.1.0-1.
		return nil, noConnect("first packet is not a CONNECT")
	}
	p, err := packet.DecodeConnect(body)
	if err != nil {
		return nil, c.malformed(body, err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.state = opening
	c.Version = p.Version
	return p, nil
}

// malformed decides who is told what is wrong with a CONNECT that cannot be decoded: a client of MQTT 5, and
// one of 3.1.1 where that has a word for it; else it says to close without a CONNACK (MQTT-3.1.4-1).
func (c *Client) malformed(body []byte, err error) *refusal {
	c.Version = packet.ConnectVersion(body)
	var pe *packet.Error
	if c.Version == 0 || !errors.As(err, &pe) {
		return noConnect(err.Error())
	}
	told := pe.Code == packet.UnsupportedProtocolVersion || pe.Code == packet.ClientIdentifierNotValid
	if c.Version < packet.V5 && !told {
		return noConnect(err.Error())
	}
	return &refusal{code: pe.Code, detail: pe.Detail}
}

// accept decides on a CONNECT and prepares the client for it; everything but the lease.
func (c *Client) accept(ctx context.Context, p *packet.Connect, listener string) (packet.Connack, error) {
	c.listener, c.receiveMax, c.problemInfo = listener, p.ReceiveMaximum, p.RequestProblemInfo
	c.maximumPacket = int(p.MaximumPacketSize)
	ack, err := c.name(p)
	if err != nil {
		return ack, err
	}
	if reference, draining := c.draining(); draining {
		return ack, elsewhere(reference)
	}
	if p.AuthMethod != "" {
		return ack, &refusal{code: packet.BadAuthenticationMethod, detail: "enhanced authentication is not supported"}
	}
	if !c.deps.Available() {
		return ack, unavailable()
	}
	if err := c.authenticate(ctx, p, listener); err != nil {
		return ack, err
	}
	if strings.HasPrefix(c.ID, message.ServicePrefix) != c.Identity.Service {
		// A device under such an id would take over a session of the cluster's own.
		return ack, &refusal{code: packet.ClientIdentifierNotValid, detail: "the client id is reserved"}
	}
	if err := c.checkWill(p.Will); err != nil {
		return ack, err
	}
	c.will = p.Will
	c.negotiate(p, &ack)
	if c.maximumPacket > 0 && len(packet.AppendConnack(nil, c.Version, ack)) > c.maximumPacket {
		// MQTT-3.1.2-24: it could not even be told that it is connected.
		return ack, &refusal{code: packet.PacketTooLarge, detail: "Maximum Packet Size is too small"}
	}
	return ack, nil
}

func unavailable() *refusal {
	return &refusal{code: packet.ServerUnavailable, detail: "the cluster cannot take clients now"}
}

// draining reports whether no new clients are taken because the gateway is being drained, and where they may go.
func (c *Client) draining() (reference string, yes bool) {
	if c.deps.Draining == nil {
		return "", false
	}
	return c.deps.Draining()
}

// elsewhere refuses a client that is to go to another gateway. Without an address it is told what makes every client
// try again: 0x98 does not exist in a CONNACK.
func elsewhere(reference string) *refusal {
	r := &refusal{code: packet.ServerUnavailable, detail: Moved("").Reason, label: "draining"}
	if reference != "" {
		r.code, r.reference = packet.UseAnotherServer, reference
	}
	return r
}

// name settles the client id.
func (c *Client) name(p *packet.Connect) (packet.Connack, error) {
	var ack packet.Connack
	switch {
	case p.ClientID == "":
		c.ID = assignedID()
		ack.AssignedClientID = c.ID
	case len(p.ClientID) > c.limits.ClientIDBytes:
		return ack, &refusal{code: packet.ClientIdentifierNotValid, detail: "client id too long"}
	default:
		c.ID = p.ClientID
	}
	return ack, nil
}

func (c *Client) authenticate(ctx context.Context, p *packet.Connect, name string) error {
	ctx, cancel := context.WithTimeout(ctx, c.limits.ConnectTimeout)
	defer cancel()
	a := auth.Attempt{
		ClientID: c.ID, Username: p.Username, HasUsername: p.HasUsername, Password: p.Password, HasPassword: p.HasPassword,
		Listener: name, Remote: c.nc.RemoteAddr(),
	}
	if t, ok := c.nc.(interface{ ConnectionState() tls.ConnectionState }); ok {
		if s := t.ConnectionState(); s.HandshakeComplete {
			a.TLS = &s
		}
	}
	if via, ok := listener.ProxiedOf(c.nc); ok {
		a.Via = (*auth.Via)(&via)
	}
	id, err := c.deps.Authenticate(ctx, a)
	switch {
	case err == nil:
		c.Identity = id
		return nil
	case errors.Is(err, auth.ErrBadCredentials):
		return &refusal{code: packet.BadUserNameOrPassword, detail: "bad user name or password"}
	case errors.Is(err, auth.ErrNotAuthorized):
		return &refusal{code: packet.NotAuthorized, detail: "not authorized"}
	case errors.Is(err, auth.ErrBanned):
		return &refusal{code: packet.Banned, detail: "banned"}
	case errors.Is(err, auth.ErrBusy):
		return &refusal{code: packet.ServerBusy, detail: "too many clients are being authenticated"}
	case errors.Is(err, auth.ErrTooManyFailures):
		return &refusal{code: packet.ConnectionRateExceeded, detail: "too many failed attempts"}
	default:
		return &refusal{code: packet.ServerUnavailable, detail: "authentication is not available"}
	}
}

func (c *Client) checkWill(w *packet.Will) error {
	switch {
	case w == nil:
		return nil
	case c.limits.ValidName(w.Topic) != nil:
		return &refusal{code: packet.TopicNameInvalid, detail: "will topic"}
	case len(w.Payload) > int(c.limits.WillBytes):
		return &refusal{code: packet.PacketTooLarge, detail: "will too large"}
	case !c.mayAddress(w.Topic) || !c.deps.Authorize(c.Identity, rules.Request{Action: rules.Publish, Topic: w.Topic, QoS: w.QoS, Retain: w.Retain}):
		return &refusal{code: packet.NotAuthorized, detail: "will topic"}
	}
	return nil
}

// negotiate makes the session within both sides' limits and writes ours into the CONNACK.
func (c *Client) negotiate(p *packet.Connect, ack *packet.Connack) {
	l := c.limits
	receive := l.ReceiveMaximum
	if p.Version < packet.V5 {
		// Nothing is announced to 3.1.1: it is held back by not being read instead (overBounds).
		receive = 65535
	}
	c.sessionLimits = engine.Limits{
		QueueMessages: l.QueueMessages, QueueBytes: int(l.QueueBytes),
		SendMaximum:    min(l.SendMaximum, int(p.ReceiveMaximum)),
		ReceiveMaximum: receive,
	}
	c.session = engine.New[Ticket](c.sessionLimits)
	c.cleanStart, c.expiry = p.CleanStart, c.sessionExpiry(p)
	c.aliases.maximum = uint16(min(int(p.TopicAliasMaximum), l.TopicAliases))
	c.keepAlive = time.Duration(p.KeepAlive) * time.Second
	if p.Version < packet.V5 {
		return
	}
	if c.keepAlive == 0 || c.keepAlive > l.KeepAliveMaximum {
		c.keepAlive = l.KeepAliveMaximum
		ack.ServerKeepAlive, ack.HasServerKeepAlive = uint16(l.KeepAliveMaximum/time.Second), true
	}
	if c.expiry != p.SessionExpiry {
		// 3.2.2.3.2.
		ack.SessionExpiry, ack.HasSessionExpiry = c.expiry, true
	}
	ack.ReceiveMaximum = uint16(l.ReceiveMaximum)
	ack.MaximumPacketSize = uint32(l.PacketBytes)
	ack.TopicAliasMaximum = uint16(l.TopicAliases)
	ack.RetainAvailable, ack.HasRetainAvailable = true, true
}

// sessionExpiry is how long the session may outlive its connection, in seconds. In 3.1.1 it has no end of its own.
func (c *Client) sessionExpiry(p *packet.Connect) uint32 {
	asked := p.SessionExpiry
	if p.Version < packet.V5 {
		asked = journal.Never
		if p.CleanStart {
			asked = 0
		}
	}
	return c.limits.capExpiry(asked)
}

// refusalFor says how to refuse a connection that err kept from becoming a client.
func (c *Client) refusalFor(err error) *refusal {
	c.mu.Lock()
	state := c.state
	var cause Cause
	if c.cause != nil {
		cause = *c.cause
	}
	c.mu.Unlock()
	var r *refusal
	switch {
	case errors.As(err, &r):
		return r
	case state == unknown:
		return noConnect(err.Error())
	case cause.Code == packet.SessionTakenOver, errors.Is(err, ErrReplaced):
		// There is no CONNACK code for it, and the client has a newer connection to look at.
		return &refusal{label: "replaced", detail: "connected elsewhere"}
	case cause.reason == closedMoved:
		return elsewhere(cause.Reference)
	case errors.Is(err, ErrTooManyClients):
		return &refusal{code: packet.ServerBusy, detail: "too many clients"}
	case errors.Is(err, errPanic):
		return &refusal{code: packet.UnspecifiedError}
	default:
		return unavailable()
	}
}

// refuse answers a connection that does not become a client.
func (c *Client) refuse(err error) {
	r := c.refusalFor(err)
	label := r.label
	if label == "" {
		label = strings.ReplaceAll(strings.ToLower(r.code.String()), " ", "_")
	}
	c.deps.Metrics.refused.WithLabelValues(label).Inc()
	if r.code == packet.Success {
		return
	}
	ack := packet.Connack{Code: r.code, Limit: uint32(c.maximumPacket), ServerReference: r.reference}
	if c.problemInfo {
		ack.Reason = r.detail
	}
	c.out.CloseAfter(packet.AppendConnack(nil, c.Version, ack), c.limits.Patience)
	c.out.Wait()
	linger(c.nc, c.limits.Patience)
}

// linger reads what a peer still sends, until it closes or for as long as patience: closing a socket with
// unread bytes resets it, and the peer may lose our last packet.
func linger(nc net.Conn, patience time.Duration) {
	_ = nc.SetReadDeadline(time.Now().Add(patience))
	var b [512]byte
	for {
		if _, err := nc.Read(b[:]); err != nil {
			return
		}
	}
}

// newOutput makes the client's output: a write that fails ends the connection, and nothing is written on behalf of
// an incarnation that has ended, but the DISCONNECT.
func (c *Client) newOutput() *conn.Output {
	out := conn.NewOutput(c.nc, &c.mu, c.limits.WriteTimeout, c.refill, func(err error) {
		cause := Cause{reason: closedByNetwork}
		if errors.Is(err, conn.ErrSlow) {
			cause = Cause{Code: packet.QuotaExceeded, reason: closedSlow}
		}
		c.Stop(cause)
	})
	out.WriteWhile(c.deps.Serving)
	return out
}
