package packet

import (
	"bytes"
	"strings"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/beeline-mqtt/beeline/internal/message"
	"github.com/beeline-mqtt/beeline/internal/mqtt"
)

// Connect is a CONNECT packet (3.1). It shares no memory with the bytes that it came from.
type Connect struct {
	Version     Version
	ClientID    string // may be empty: the server then assigns one
	CleanStart  bool   // Clean Session in 3.1.1
	KeepAlive   uint16 // seconds
	Username    string
	HasUsername bool
	Password    []byte
	HasPassword bool
	Will        *Will // nil when there is none

	// The rest is MQTT 5. SessionExpiry is in seconds.
	SessionExpiry       uint32
	HasSessionExpiry    bool
	ReceiveMaximum      uint16 // 65535 when absent
	MaximumPacketSize   uint32 // 0: no limit
	TopicAliasMaximum   uint16
	RequestResponseInfo bool
	RequestProblemInfo  bool // true when absent
	AuthMethod          string
	AuthData            []byte // nil when absent
	User                []message.UserProperty
}

// Will is the Will Message of a CONNECT, whose topic has not been checked beyond UTF-8. Delay and Expiry are in seconds.
type Will struct {
	Topic     string
	Payload   []byte
	QoS       byte
	Retain    bool
	Delay     uint32
	Expiry    uint32
	HasExpiry bool
	Props     *message.Properties // nil when there are none
}

// ConnectVersion returns the version in which to answer a CONNECT that DecodeConnect refuses: the nearest that is
// spoken, or 0 when the packet is no CONNECT of MQTT, which deserves no answer.
func ConnectVersion(body []byte) Version {
	c := cursor{rest: body}
	name := string(c.binary("Protocol Name"))
	level := c.uint8("Protocol Version")
	switch {
	case c.err != nil || name != "MQTT" && name != "MQIsdp":
		return 0
	case level < byte(V5) || name == "MQIsdp":
		return V311
	default:
		return V5
	}
}

// DecodeConnect decodes a CONNECT. Errors are *Error: UnsupportedProtocolVersion for anything but MQTT 3.1.1 and 5,
// ClientIdentifierNotValid for the empty Client Identifier without Clean Session in 3.1.1 (MQTT-3.1.3-8),
// MalformedPacket or ProtocolError for the rest. The topic of the Will is the caller's to check.
func DecodeConnect(body []byte) (*Connect, error) {
	props, will, err := checkConnect(body)
	if err != nil {
		return nil, err
	}
	pk := packets.Packet{FixedHeader: packets.FixedHeader{Type: byte(CONNECT), Remaining: len(body)}}
	if err := pk.ConnectDecode(body); err != nil {
		return nil, malformed(err.Error())
	}
	p := &pk.Properties
	c := &Connect{
		Version:             Version(pk.ProtocolVersion),
		ClientID:            strings.Clone(pk.Connect.ClientIdentifier),
		CleanStart:          pk.Connect.Clean,
		KeepAlive:           pk.Connect.Keepalive,
		Username:            string(pk.Connect.Username),
		HasUsername:         pk.Connect.UsernameFlag,
		Password:            bytes.Clone(pk.Connect.Password),
		HasPassword:         pk.Connect.PasswordFlag,
		SessionExpiry:       p.SessionExpiryInterval,
		HasSessionExpiry:    p.SessionExpiryIntervalFlag,
		ReceiveMaximum:      p.ReceiveMaximum,
		MaximumPacketSize:   p.MaximumPacketSize,
		TopicAliasMaximum:   p.TopicAliasMaximum,
		RequestResponseInfo: p.RequestResponseInfo == 1,
		RequestProblemInfo:  !p.RequestProblemInfoFlag || p.RequestProblemInfo == 1,
		AuthMethod:          strings.Clone(p.AuthenticationMethod),
		AuthData:            bytes.Clone(p.AuthenticationData),
		User:                userProperties(p.User),
	}
	if !props.present.Has(mqtt.ReceiveMaximum) {
		c.ReceiveMaximum = 1<<16 - 1
	}
	if pk.Connect.WillFlag {
		c.Will = takeWill(&pk.Connect, will.present)
	}
	return c, nil
}

// checkConnect checks every byte of a CONNECT and returns which properties it and its Will have.
func checkConnect(body []byte) (props, will properties, err error) {
	c := cursor{rest: body}
	name := c.binary("Protocol Name")
	v := Version(c.uint8("Protocol Version"))
	if c.err == nil && (string(name) != "MQTT" || v != V311 && v != V5) {
		c.fail(&Error{Code: UnsupportedProtocolVersion, Detail: "neither MQTT 3.1.1 nor MQTT 5 (MQTT-3.1.2-1, MQTT-3.1.2-2)"})
	}
	flags := mqtt.ConnectFlags(c.uint8("Connect Flags"))
	if fault := flags.Fault(byte(v)); fault != "" {
		c.fail(malformed(fault))
	}
	c.uint16("Keep Alive")
	if v == V5 {
		props = c.properties(mqtt.ConnectProperties)
	}
	if props.present.Has(mqtt.AuthData) && !props.present.Has(mqtt.AuthMethod) {
		c.fail(protocolError("Authentication Data without Authentication Method (3.1.2.11.10)"))
	}
	id := c.text("Client Identifier")
	if flags.Will() {
		if v == V5 {
			will = c.properties(mqtt.WillProperties)
		}
		c.text("Will Topic")
		c.binary("Will Payload")
	}
	if flags.Username() {
		c.text("User Name")
	}
	if flags.Password() {
		c.binary("Password")
	}
	c.end(CONNECT)
	if v == V311 && len(id) == 0 && !flags.CleanStart() {
		c.fail(&Error{Code: ClientIdentifierNotValid, Detail: "empty without Clean Session (MQTT-3.1.3-8)"})
	}
	if c.err != nil {
		return properties{}, properties{}, c.err
	}
	return props, will, nil
}

// takeWill copies the Will out of a decoded CONNECT; present has its properties.
func takeWill(c *packets.ConnectParams, present mqtt.PropertySet) *Will {
	p := &c.WillProperties
	w := &Will{
		Topic:     strings.Clone(c.WillTopic),
		Payload:   bytes.Clone(c.WillPayload),
		QoS:       c.WillQos,
		Retain:    c.WillRetain,
		Delay:     p.WillDelayInterval,
		Expiry:    p.MessageExpiryInterval,
		HasExpiry: present.Has(mqtt.MessageExpiry),
	}
	if present&messageProperties != 0 {
		w.Props = &message.Properties{
			PayloadFormat:    p.PayloadFormat,
			HasPayloadFormat: p.PayloadFormatFlag,
			ContentType:      strings.Clone(p.ContentType),
			ResponseTopic:    strings.Clone(p.ResponseTopic),
			CorrelationData:  bytes.Clone(p.CorrelationData),
			User:             userProperties(p.User),
		}
	}
	return w
}

// userProperties copies User Properties.
func userProperties(from []packets.UserProperty) []message.UserProperty {
	if len(from) == 0 {
		return nil
	}
	to := make([]message.UserProperty, len(from))
	for i, u := range from {
		to[i] = message.UserProperty{Name: strings.Clone(u.Key), Value: strings.Clone(u.Val)}
	}
	return to
}
