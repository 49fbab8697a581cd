// Package mqtt has what the MQTT standard has numbers for, and that more than one reader of packets needs to know: the
// identifiers of properties, and the flags of CONNECT. It reads and writes no packets. It is pure.
package mqtt

// Property is the identifier of a property (2.2.2.2). They are Variable Byte Integers, but none needs a second byte.
type Property byte

// The properties.
const (
	PayloadFormat          Property = 1
	MessageExpiry          Property = 2
	ContentType            Property = 3
	ResponseTopic          Property = 8
	CorrelationData        Property = 9
	SubscriptionIdentifier Property = 11
	SessionExpiry          Property = 17
	AssignedClientID       Property = 18
	ServerKeepAlive        Property = 19
	AuthMethod             Property = 21
	AuthData               Property = 22
	RequestProblemInfo     Property = 23
	WillDelay              Property = 24
	RequestResponseInfo    Property = 25
	ResponseInfo           Property = 26
	ServerReference        Property = 28
	ReasonString           Property = 31
	ReceiveMaximum         Property = 33
	TopicAliasMaximum      Property = 34
	TopicAlias             Property = 35
	MaximumQoS             Property = 36
	RetainAvailable        Property = 37
	User                   Property = 38
	MaximumPacketSize      Property = 39
	WildcardAvailable      Property = 40
	SubIDAvailable         Property = 41
	SharedAvailable        Property = 42
)

var names = [...]string{ //nolint:gochecknoglobals // a table that nobody changes
	PayloadFormat: "Payload Format Indicator", MessageExpiry: "Message Expiry Interval", ContentType: "Content Type",
	ResponseTopic: "Response Topic", CorrelationData: "Correlation Data", SubscriptionIdentifier: "Subscription Identifier",
	SessionExpiry: "Session Expiry Interval", AssignedClientID: "Assigned Client Identifier", ServerKeepAlive: "Server Keep Alive",
	AuthMethod: "Authentication Method", AuthData: "Authentication Data", RequestProblemInfo: "Request Problem Information",
	WillDelay: "Will Delay Interval", RequestResponseInfo: "Request Response Information", ResponseInfo: "Response Information",
	ServerReference: "Server Reference", ReasonString: "Reason String", ReceiveMaximum: "Receive Maximum",
	TopicAliasMaximum: "Topic Alias Maximum", TopicAlias: "Topic Alias", MaximumQoS: "Maximum QoS",
	RetainAvailable: "Retain Available", User: "User Property", MaximumPacketSize: "Maximum Packet Size",
	WildcardAvailable: "Wildcard Subscription Available", SubIDAvailable: "Subscription Identifier Available",
	SharedAvailable: "Shared Subscription Available",
}

// String is the name of a property in the standard; empty: there is no such property.
func (p Property) String() string {
	if int(p) >= len(names) {
		return ""
	}
	return names[p]
}

// PropertySet has one bit for each identifier.
type PropertySet uint64

// Has reports whether a property, whatever its number, is in the set.
func (s PropertySet) Has(p Property) bool { return p < 64 && s&(1<<p) != 0 }

// Which properties may be in CONNECT, in its Will, and in CONNACK.
const (
	ConnectProperties PropertySet = 1<<SessionExpiry | 1<<ReceiveMaximum | 1<<MaximumPacketSize | 1<<TopicAliasMaximum |
		1<<RequestResponseInfo | 1<<RequestProblemInfo | 1<<User | 1<<AuthMethod | 1<<AuthData
	WillProperties PropertySet = 1<<WillDelay | 1<<PayloadFormat | 1<<MessageExpiry | 1<<ContentType | 1<<ResponseTopic |
		1<<CorrelationData | 1<<User
	ConnackProperties PropertySet = 1<<SessionExpiry | 1<<ReceiveMaximum | 1<<MaximumQoS | 1<<RetainAvailable |
		1<<MaximumPacketSize | 1<<AssignedClientID | 1<<TopicAliasMaximum | 1<<ReasonString | 1<<User | 1<<WildcardAvailable |
		1<<SubIDAvailable | 1<<SharedAvailable | 1<<ServerKeepAlive | 1<<ResponseInfo | 1<<ServerReference | 1<<AuthMethod |
		1<<AuthData
)
