package packet

import "fmt"

// Code is an MQTT 5 Reason Code (2.4). Beeline uses them inside for MQTT 3.1.1 too, and maps them when it encodes.
type Code byte

// The Reason Codes. 0x00 has three names, depending on the packet.
const (
	Success                             Code = 0x00
	NormalDisconnection                 Code = 0x00
	GrantedQoS0                         Code = 0x00
	GrantedQoS1                         Code = 0x01
	GrantedQoS2                         Code = 0x02
	DisconnectWithWillMessage           Code = 0x04
	NoMatchingSubscribers               Code = 0x10
	NoSubscriptionExisted               Code = 0x11
	ContinueAuthentication              Code = 0x18
	ReAuthenticate                      Code = 0x19
	UnspecifiedError                    Code = 0x80
	MalformedPacket                     Code = 0x81
	ProtocolError                       Code = 0x82
	ImplementationSpecificError         Code = 0x83
	UnsupportedProtocolVersion          Code = 0x84
	ClientIdentifierNotValid            Code = 0x85
	BadUserNameOrPassword               Code = 0x86
	NotAuthorized                       Code = 0x87
	ServerUnavailable                   Code = 0x88
	ServerBusy                          Code = 0x89
	Banned                              Code = 0x8A
	ServerShuttingDown                  Code = 0x8B
	BadAuthenticationMethod             Code = 0x8C
	KeepAliveTimeout                    Code = 0x8D
	SessionTakenOver                    Code = 0x8E
	TopicFilterInvalid                  Code = 0x8F
	TopicNameInvalid                    Code = 0x90
	PacketIdentifierInUse               Code = 0x91
	PacketIdentifierNotFound            Code = 0x92
	ReceiveMaximumExceeded              Code = 0x93
	TopicAliasInvalid                   Code = 0x94
	PacketTooLarge                      Code = 0x95
	MessageRateTooHigh                  Code = 0x96
	QuotaExceeded                       Code = 0x97
	AdministrativeAction                Code = 0x98
	PayloadFormatInvalid                Code = 0x99
	RetainNotSupported                  Code = 0x9A
	QoSNotSupported                     Code = 0x9B
	UseAnotherServer                    Code = 0x9C
	ServerMoved                         Code = 0x9D
	SharedSubscriptionsNotSupported     Code = 0x9E
	ConnectionRateExceeded              Code = 0x9F
	MaximumConnectTime                  Code = 0xA0
	SubscriptionIdentifiersNotSupported Code = 0xA1
	WildcardSubscriptionsNotSupported   Code = 0xA2
)

// codeNames has the names of table 2-6 of the standard.
var codeNames = map[Code]string{ //nolint:gochecknoglobals // a table that nobody changes
	Success:                             "Success",
	GrantedQoS1:                         "Granted QoS 1",
	GrantedQoS2:                         "Granted QoS 2",
	DisconnectWithWillMessage:           "Disconnect with Will Message",
	NoMatchingSubscribers:               "No matching subscribers",
	NoSubscriptionExisted:               "No subscription existed",
	ContinueAuthentication:              "Continue authentication",
	ReAuthenticate:                      "Re-authenticate",
	UnspecifiedError:                    "Unspecified error",
	MalformedPacket:                     "Malformed Packet",
	ProtocolError:                       "Protocol Error",
	ImplementationSpecificError:         "Implementation specific error",
	UnsupportedProtocolVersion:          "Unsupported Protocol Version",
	ClientIdentifierNotValid:            "Client Identifier not valid",
	BadUserNameOrPassword:               "Bad User Name or Password",
	NotAuthorized:                       "Not authorized",
	ServerUnavailable:                   "Server unavailable",
	ServerBusy:                          "Server busy",
	Banned:                              "Banned",
	ServerShuttingDown:                  "Server shutting down",
	BadAuthenticationMethod:             "Bad authentication method",
	KeepAliveTimeout:                    "Keep Alive timeout",
	SessionTakenOver:                    "Session taken over",
	TopicFilterInvalid:                  "Topic Filter invalid",
	TopicNameInvalid:                    "Topic Name invalid",
	PacketIdentifierInUse:               "Packet Identifier in use",
	PacketIdentifierNotFound:            "Packet Identifier not found",
	ReceiveMaximumExceeded:              "Receive Maximum exceeded",
	TopicAliasInvalid:                   "Topic Alias invalid",
	PacketTooLarge:                      "Packet too large",
	MessageRateTooHigh:                  "Message rate too high",
	QuotaExceeded:                       "Quota exceeded",
	AdministrativeAction:                "Administrative action",
	PayloadFormatInvalid:                "Payload format invalid",
	RetainNotSupported:                  "Retain not supported",
	QoSNotSupported:                     "QoS not supported",
	UseAnotherServer:                    "Use another server",
	ServerMoved:                         "Server moved",
	SharedSubscriptionsNotSupported:     "Shared Subscriptions not supported",
	ConnectionRateExceeded:              "Connection rate exceeded",
	MaximumConnectTime:                  "Maximum connect time",
	SubscriptionIdentifiersNotSupported: "Subscription Identifiers not supported",
	WildcardSubscriptionsNotSupported:   "Wildcard Subscriptions not supported",
}

// String returns the name of the standard, and the number of a code that has none.
func (c Code) String() string {
	if name, ok := codeNames[c]; ok {
		return name
	}
	return fmt.Sprintf("reason code 0x%02X", byte(c))
}

// Failure reports whether the code says that the operation failed (2.4).
func (c Code) Failure() bool {
	return c >= 0x80
}

// The return codes of a CONNACK of MQTT 3.1.1 (3.2.2.3).
const (
	v311Accepted             = 0
	v311UnacceptableVersion  = 1
	v311IdentifierRejected   = 2
	v311ServerUnavailable    = 3
	v311BadUserNamePassword  = 4
	v311NotAuthorized        = 5
	v311SubscriptionRejected = 0x80
)

// v311ConnackCodes has the failures that are not just "try again later".
var v311ConnackCodes = map[Code]byte{ //nolint:gochecknoglobals // a table that nobody changes
	UnsupportedProtocolVersion: v311UnacceptableVersion,
	ClientIdentifierNotValid:   v311IdentifierRejected,
	BadUserNameOrPassword:      v311BadUserNamePassword,
	BadAuthenticationMethod:    v311BadUserNamePassword,
	NotAuthorized:              v311NotAuthorized,
	Banned:                     v311NotAuthorized,
	// Nothing that trying again would change, and 3.1.1 has no other word for that.
	TopicNameInvalid:     v311NotAuthorized,
	PacketTooLarge:       v311NotAuthorized,
	PayloadFormatInvalid: v311NotAuthorized,
	RetainNotSupported:   v311NotAuthorized,
	QoSNotSupported:      v311NotAuthorized,
}

// V311ConnackCode returns the MQTT 3.1.1 return code, 0 to 5, for the reason code of a CONNACK. Failures that have
// no code of their own in 3.1.1 and may pass become 3, Server unavailable.
func V311ConnackCode(c Code) byte {
	if !c.Failure() {
		return v311Accepted
	}
	if code, ok := v311ConnackCodes[c]; ok {
		return code
	}
	return v311ServerUnavailable
}
