package packet

import (
	"bytes"
	"strings"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/beeline-mqtt/beeline/internal/message"
	"github.com/beeline-mqtt/beeline/internal/mqtt"
)

// Disconnect is a DISCONNECT packet (3.14). SessionExpiry, in seconds, comes from clients only, ServerReference goes
// to clients only.
type Disconnect struct {
	Code             Code
	SessionExpiry    uint32
	HasSessionExpiry bool
	Reason           string
	ServerReference  string
	User             []message.UserProperty

	// Limit is the client's Maximum Packet Size, 0 for none. Reason and User are left out when the packet would be
	// longer with them (MQTT-3.14.2-3, MQTT-3.14.2-4).
	Limit uint32
}

// clientDisconnectCode reports whether a client may disconnect with c (3.14.2.1).
func clientDisconnectCode(c Code) bool {
	switch c {
	case NormalDisconnection, DisconnectWithWillMessage, UnspecifiedError, MalformedPacket, ProtocolError,
		ImplementationSpecificError, TopicNameInvalid, ReceiveMaximumExceeded, TopicAliasInvalid, PacketTooLarge,
		MessageRateTooHigh, QuotaExceeded, AdministrativeAction, PayloadFormatInvalid:
		return true
	default:
		return false
	}
}

// DecodeDisconnect decodes the DISCONNECT of a client.
func DecodeDisconnect(v Version, first byte, body []byte) (Disconnect, error) {
	if err := expect(first, DISCONNECT); err != nil {
		return Disconnect{}, err
	}
	c := cursor{rest: body}
	var code Code
	if v == V5 && len(body) > 0 {
		code = Code(c.uint8("Reason Code"))
		if !clientDisconnectCode(code) {
			c.fail(protocolError("a Reason Code that no client may disconnect with (MQTT-3.14.2-1)"))
		}
		if len(body) > 1 {
			c.properties(disconnectProperties)
		}
	}
	c.end(DISCONNECT)
	if c.err != nil {
		return Disconnect{}, c.err
	}
	if len(body) < 2 {
		// The other codec takes no code from a body of one byte.
		return Disconnect{Code: code}, nil
	}
	pk := packets.Packet{
		FixedHeader:     packets.FixedHeader{Type: byte(DISCONNECT), Remaining: len(body)},
		ProtocolVersion: byte(V5),
	}
	if err := pk.DisconnectDecode(body); err != nil {
		return Disconnect{}, malformed(err.Error())
	}
	return Disconnect{
		Code:             code,
		SessionExpiry:    pk.Properties.SessionExpiryInterval,
		HasSessionExpiry: pk.Properties.SessionExpiryIntervalFlag,
		Reason:           strings.Clone(pk.Properties.ReasonString),
		User:             userProperties(pk.Properties.User),
	}, nil
}

// AppendDisconnect appends a DISCONNECT of the server, which exists in MQTT 5 only: in 3.1.1 a server just closes the
// connection. The code is c; that of d and its SessionExpiry (MQTT-3.14.2-2) are not used.
func AppendDisconnect(dst []byte, c Code, d Disconnect) []byte {
	pk := packets.Packet{
		FixedHeader:     packets.FixedHeader{Type: byte(DISCONNECT)},
		ProtocolVersion: byte(V5),
		ReasonCode:      byte(c),
		Properties: packets.Properties{
			ReasonString:    clip(d.Reason),
			ServerReference: clip(d.ServerReference),
			User:            clippedUser(d.User),
		},
	}
	return appendWithin(dst, d.Limit, &pk, (*packets.Packet).DisconnectEncode)
}

// Auth is an AUTH packet (3.15). Data is nil when absent.
type Auth struct {
	Code   Code
	Method string
	Data   []byte
	Reason string
	User   []message.UserProperty

	// Limit is the client's Maximum Packet Size, 0 for none. Reason and User are left out when the packet would be
	// longer with them (MQTT-3.15.2-2, MQTT-3.15.2-3).
	Limit uint32
}

// DecodeAuth decodes the AUTH of a client: its code is ContinueAuthentication or ReAuthenticate (3.15.2.1), and it
// names a method. In 3.1.1 there is no such packet.
func DecodeAuth(v Version, first byte, body []byte) (Auth, error) {
	if err := expect(first, AUTH); err != nil {
		return Auth{}, err
	}
	if v != V5 {
		return Auth{}, malformed("AUTH in MQTT 3.1.1 (2.2.1)")
	}
	c := cursor{rest: body}
	code := Success // an empty body says Success, which only servers say
	if len(body) > 0 {
		code = Code(c.uint8("Reason Code"))
	}
	if code != ContinueAuthentication && code != ReAuthenticate {
		c.fail(protocolError("a Reason Code that no client may authenticate with (MQTT-3.15.2-1)"))
	}
	props := c.properties(authProperties)
	c.end(AUTH)
	if !props.present.Has(mqtt.AuthMethod) {
		c.fail(protocolError("AUTH without Authentication Method (3.15.2.2.2)"))
	}
	if c.err != nil {
		return Auth{}, c.err
	}
	pk := packets.Packet{
		FixedHeader:     packets.FixedHeader{Type: byte(AUTH), Remaining: len(body)},
		ProtocolVersion: byte(V5),
	}
	if err := pk.AuthDecode(body); err != nil {
		return Auth{}, malformed(err.Error())
	}
	return Auth{
		Code:   code,
		Method: strings.Clone(pk.Properties.AuthenticationMethod),
		Data:   bytes.Clone(pk.Properties.AuthenticationData),
		Reason: strings.Clone(pk.Properties.ReasonString),
		User:   userProperties(pk.Properties.User),
	}, nil
}

// AppendAuth appends an AUTH of the server.
func AppendAuth(dst []byte, a Auth) []byte {
	pk := packets.Packet{
		FixedHeader:     packets.FixedHeader{Type: byte(AUTH)},
		ProtocolVersion: byte(V5),
		ReasonCode:      byte(a.Code),
		Properties: packets.Properties{
			AuthenticationMethod: clip(a.Method),
			AuthenticationData:   clip(a.Data),
			ReasonString:         clip(a.Reason),
			User:                 clippedUser(a.User),
		},
	}
	return appendWithin(dst, a.Limit, &pk, (*packets.Packet).AuthEncode)
}
