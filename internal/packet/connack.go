package packet

import (
	"bytes"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/beeline-mqtt/beeline/internal/message"
)

// Connack is a CONNACK packet (3.2). Everything but SessionPresent and Code is MQTT 5 and announced only when set:
// numbers when they are not 0, strings when they are not empty, and the others when their Has field says so.
type Connack struct {
	SessionPresent bool // goes out as false with a Code that is a failure (MQTT-3.2.2-6)
	Code           Code

	AssignedClientID           string
	ServerKeepAlive            uint16 // seconds
	HasServerKeepAlive         bool
	SessionExpiry              uint32 // seconds
	HasSessionExpiry           bool
	ReceiveMaximum             uint16
	MaximumQoS                 byte // 2 is never announced
	HasMaximumQoS              bool
	RetainAvailable            bool
	HasRetainAvailable         bool
	MaximumPacketSize          uint32
	TopicAliasMaximum          uint16
	WildcardAvailable          bool
	HasWildcardAvailable       bool
	SubscriptionIDAvailable    bool
	HasSubscriptionIDAvailable bool
	SharedAvailable            bool
	HasSharedAvailable         bool
	ResponseInfo               string
	ServerReference            string
	Reason                     string
	AuthMethod                 string
	AuthData                   []byte
	User                       []message.UserProperty

	// Limit is the client's Maximum Packet Size, 0 for none. Reason and User are left out when the packet would be
	// longer with them (MQTT-3.2.2-19, MQTT-3.2.2-20).
	Limit uint32
}

// AppendConnack appends a CONNACK. In 3.1.1 the code is mapped by V311ConnackCode.
func AppendConnack(dst []byte, v Version, c Connack) []byte {
	present := byte(0)
	if c.SessionPresent && !c.Code.Failure() {
		present = 1
	}
	if v != V5 {
		return append(dst, byte(CONNACK)<<4, 2, present, V311ConnackCode(c.Code))
	}
	pk := packets.Packet{
		FixedHeader:     packets.FixedHeader{Type: byte(CONNACK)},
		ProtocolVersion: byte(V5),
		SessionPresent:  present == 1,
		ReasonCode:      byte(c.Code),
		Mods:            packets.Mods{AllowResponseInfo: true}, // the caller has decided
		Properties: packets.Properties{
			AssignedClientID:          clip(c.AssignedClientID),
			ServerKeepAlive:           c.ServerKeepAlive,
			ServerKeepAliveFlag:       c.HasServerKeepAlive,
			SessionExpiryInterval:     c.SessionExpiry,
			SessionExpiryIntervalFlag: c.HasSessionExpiry,
			ReceiveMaximum:            c.ReceiveMaximum,
			MaximumQos:                c.MaximumQoS,
			MaximumQosFlag:            c.HasMaximumQoS,
			RetainAvailable:           bit(c.RetainAvailable),
			RetainAvailableFlag:       c.HasRetainAvailable,
			MaximumPacketSize:         c.MaximumPacketSize,
			TopicAliasMaximum:         c.TopicAliasMaximum,
			WildcardSubAvailable:      bit(c.WildcardAvailable),
			WildcardSubAvailableFlag:  c.HasWildcardAvailable,
			SubIDAvailable:            bit(c.SubscriptionIDAvailable),
			SubIDAvailableFlag:        c.HasSubscriptionIDAvailable,
			SharedSubAvailable:        bit(c.SharedAvailable),
			SharedSubAvailableFlag:    c.HasSharedAvailable,
			ResponseInfo:              clip(c.ResponseInfo),
			ServerReference:           clip(c.ServerReference),
			ReasonString:              clip(c.Reason),
			AuthenticationMethod:      clip(c.AuthMethod),
			AuthenticationData:        clip(c.AuthData),
			User:                      clippedUser(c.User),
		},
	}
	return appendWithin(dst, c.Limit, &pk, (*packets.Packet).ConnackEncode)
}

// appendWithin appends pk, without Reason String and User Properties if it would be longer than limit otherwise.
func appendWithin(dst []byte, limit uint32, pk *packets.Packet, encode func(*packets.Packet, *bytes.Buffer) error) []byte {
	at := len(dst)
	buf := bytes.NewBuffer(dst)
	if err := encode(pk, buf); err != nil {
		panic("packet: encode " + Type(pk.FixedHeader.Type).String() + ": " + err.Error())
	}
	p := &pk.Properties
	if limit > 0 && buf.Len()-at > int(limit) && (p.ReasonString != "" || p.User != nil) {
		p.ReasonString, p.User = "", nil
		return appendWithin(buf.Bytes()[:at], limit, pk, encode)
	}
	return buf.Bytes()
}

func bit(b bool) byte {
	if b {
		return 1
	}
	return 0
}

func clippedUser(from []message.UserProperty) []packets.UserProperty {
	if len(from) == 0 {
		return nil
	}
	to := make([]packets.UserProperty, len(from))
	for i, u := range from {
		to[i] = packets.UserProperty{Key: clip(u.Name), Val: clip(u.Value)}
	}
	return to
}
