package client

import (
	"errors"
	"time"

	"github.com/beeline-mqtt/beeline/internal/packet"
)

var (
	// errNotServing ends a read on behalf of an incarnation that is not in force any more.
	errNotServing = errors.New("this gateway's incarnation has ended")
	// errPanic is what a panic has been turned into.
	errPanic = errors.New("panic")
)

// closedReason is why a connection ended, as the metric names it.
type closedReason string

const (
	closedByClient    closedReason = "client"
	closedByNetwork   closedReason = "network"
	closedKeepAlive   closedReason = "keep_alive"
	closedMalformed   closedReason = "malformed"
	closedProtocol    closedReason = "protocol"
	closedTooLarge    closedReason = "too_large"
	closedTakenOver   closedReason = "taken_over"
	closedSlow        closedReason = "slow"
	closedUndelivered closedReason = "undelivered"
	closedDenied      closedReason = "denied"
	closedQuota       closedReason = "quota"
	closedShutdown    closedReason = "shutdown"
	closedPanic       closedReason = "panic"
	closedMoved       closedReason = "moved"
	closedByOperator  closedReason = "operator"
	closedExpired     closedReason = "expired"
)

// shown is the reason in the words of PresenceEvent in beeline.messaging.v1, which tells fewer of them apart.
func (r closedReason) shown() string {
	switch r {
	case closedByClient, closedByNetwork, closedProtocol, closedSlow, closedShutdown, closedMoved:
		return string(r)
	case closedKeepAlive:
		return "keepalive"
	case closedTakenOver:
		return "replaced"
	case closedByOperator:
		return "kicked"
	case closedExpired:
		return "expired"
	case closedMalformed, closedTooLarge, closedDenied, closedQuota:
		return "protocol"
	case closedUndelivered, closedPanic:
	}
	return "unknown"
}

// Cause is why a connection ends, and what the client is told about it.
type Cause struct {
	// Code goes into the DISCONNECT that an MQTT 5 client gets. Success: none is sent.
	Code packet.Code
	// Reason is the Reason String, for a client that wants to know.
	Reason string
	// Reference is the Server Reference: where the client may go instead; empty: none.
	Reference string
	// NoWill keeps the will from being published.
	NoWill bool
	// expiry is the Session Expiry Interval that the client's DISCONNECT gave; nil: the one before stands.
	expiry *uint32

	reason closedReason
}

// TakenOver is the cause when the client has connected anew, here or elsewhere (MQTT-3.1.4-3).
func TakenOver() Cause {
	return Cause{Code: packet.SessionTakenOver, Reason: "connected elsewhere", reason: closedTakenOver}
}

// ShuttingDown is the cause when the gateway stops or its incarnation ends. A planned end publishes no wills.
func ShuttingDown() Cause {
	return Cause{Code: packet.ServerShuttingDown, Reason: "gateway is stopping", NoWill: true, reason: closedShutdown}
}

// Moved is the cause when the client is to go to another gateway: reference is the public address of one, empty when none
// is known. The client is expected back, so its will is not published; it comes again with the next CONNECT.
func Moved(reference string) Cause {
	c := Cause{Code: packet.AdministrativeAction, Reason: "this gateway is being drained", NoWill: true, reason: closedMoved}
	if reference != "" {
		c.Code, c.Reference = packet.UseAnotherServer, reference
	}
	return c
}

// ByOperator is the cause when an operator ends the connection, or the session with it. The will is published.
func ByOperator(withSession bool) Cause {
	c := Cause{Code: packet.AdministrativeAction, Reason: "ended by an operator", reason: closedByOperator}
	if withSession {
		c.expiry = new(uint32)
	}
	return c
}

// expired is the cause when the time of the client's identity is over. The will is published.
func expired() Cause {
	return Cause{Code: packet.MaximumConnectTime, Reason: "the token has expired", reason: closedExpired}
}

// notDelivered is the cause when a message of an MQTT 3.1.1 client cannot be acknowledged.
func notDelivered(code packet.Code) Cause {
	c := Cause{Code: code, Reason: "message not delivered", reason: closedUndelivered}
	if code == packet.NotAuthorized {
		c.reason = closedDenied
	}
	return c
}

// causeOf maps what ended the reading to what the client is told. No error is no cause to tell anything.
func causeOf(err error) Cause {
	var pe *packet.Error
	switch {
	case errors.As(err, &pe):
		return Cause{Code: pe.Code, Reason: pe.Detail, reason: closedFor(pe.Code)}
	case errors.Is(err, errNotServing):
		return ShuttingDown()
	case errors.Is(err, errPanic):
		return Cause{Code: packet.UnspecifiedError, reason: closedPanic}
	default:
		return Cause{reason: closedByNetwork}
	}
}

func closedFor(code packet.Code) closedReason {
	switch code {
	case packet.MalformedPacket:
		return closedMalformed
	case packet.PacketTooLarge:
		return closedTooLarge
	case packet.QuotaExceeded, packet.ReceiveMaximumExceeded:
		return closedQuota
	default:
		return closedProtocol
	}
}

// Stop ends the connection, for the first cause that is given, and reports whether this was the first. It does not wait:
// Gone tells when it is over. It may be called on any goroutine.
//
// What waits in the output is written before, within Limits.Patience: messages, and acknowledgements of all that has
// been done so far.
func (c *Client) Stop(cause Cause) (first bool) {
	c.mu.Lock()
	if c.cause != nil {
		c.mu.Unlock()
		return false
	}
	c.cause = &cause
	state, abort := c.state, c.abort
	c.mu.Unlock()

	switch state {
	case unknown:
		c.out.Close()
	case open:
		c.out.CloseAfter(c.farewell(cause), c.limits.Patience)
	default: // the goroutine that opens the connection sees the cause and answers the CONNECT
	}
	// The reading goroutine may be in a read: it has to come and clean up.
	_ = c.nc.SetReadDeadline(time.Now())
	if abort != nil {
		abort()
	}
	close(c.stopped) // last: who sees it finds the last packet on its way and the deadline his own
	return true
}

// farewell is the DISCONNECT for a client that understands one.
func (c *Client) farewell(cause Cause) []byte {
	if c.Version < packet.V5 || cause.Code == packet.Success {
		return nil
	}
	d := packet.Disconnect{Limit: uint32(c.maximumPacket), ServerReference: cause.Reference}
	if c.problemInfo {
		d.Reason = cause.Reason
	}
	return packet.AppendDisconnect(nil, cause.Code, d)
}
