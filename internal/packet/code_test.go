package packet

import (
	"testing"
)

// The table 2-6 of the standard.
func TestCodesHaveTheNumbersAndNamesOfTheStandard(t *testing.T) {
	for number, name := range map[int]string{
		0x00: "Success", 0x01: "Granted QoS 1", 0x02: "Granted QoS 2", 0x04: "Disconnect with Will Message",
		0x10: "No matching subscribers", 0x11: "No subscription existed", 0x18: "Continue authentication",
		0x19: "Re-authenticate", 0x80: "Unspecified error", 0x81: "Malformed Packet", 0x82: "Protocol Error",
		0x83: "Implementation specific error", 0x84: "Unsupported Protocol Version", 0x85: "Client Identifier not valid",
		0x86: "Bad User Name or Password", 0x87: "Not authorized", 0x88: "Server unavailable", 0x89: "Server busy",
		0x8A: "Banned", 0x8B: "Server shutting down", 0x8C: "Bad authentication method", 0x8D: "Keep Alive timeout",
		0x8E: "Session taken over", 0x8F: "Topic Filter invalid", 0x90: "Topic Name invalid",
		0x91: "Packet Identifier in use", 0x92: "Packet Identifier not found", 0x93: "Receive Maximum exceeded",
		0x94: "Topic Alias invalid", 0x95: "Packet too large", 0x96: "Message rate too high", 0x97: "Quota exceeded",
		0x98: "Administrative action", 0x99: "Payload format invalid", 0x9A: "Retain not supported",
		0x9B: "QoS not supported", 0x9C: "Use another server", 0x9D: "Server moved",
		0x9E: "Shared Subscriptions not supported", 0x9F: "Connection rate exceeded", 0xA0: "Maximum connect time",
		0xA1: "Subscription Identifiers not supported", 0xA2: "Wildcard Subscriptions not supported",
		0x03: "reason code 0x03", 0xFF: "reason code 0xFF",
	} {
		if got := Code(number).String(); got != name {
			t.Errorf("0x%02X is called %q, want %q", number, got, name)
		}
	}
	if len(codeNames) != 43 {
		t.Errorf("%d codes, the standard has 43", len(codeNames))
	}
}

func TestFailuresBeginAt0x80(t *testing.T) {
	for code := range 256 {
		if got := Code(code).Failure(); got != (code >= 0x80) {
			t.Errorf("0x%02X: %v", code, got)
		}
	}
}

func TestEveryConnackCodeHasAReturnCodeIn311(t *testing.T) {
	want := map[Code]byte{
		Success: 0, UnsupportedProtocolVersion: 1, ClientIdentifierNotValid: 2,
		UnspecifiedError: 3, MalformedPacket: 3, ProtocolError: 3, ImplementationSpecificError: 3, ServerUnavailable: 3,
		ServerBusy: 3, QuotaExceeded: 3, UseAnotherServer: 3, ServerMoved: 3, ConnectionRateExceeded: 3,
		BadUserNameOrPassword: 4, BadAuthenticationMethod: 4,
		NotAuthorized: 5, Banned: 5, TopicNameInvalid: 5, PacketTooLarge: 5, PayloadFormatInvalid: 5,
		RetainNotSupported: 5, QoSNotSupported: 5,
	}
	for code, number := range want {
		if got := V311ConnackCode(code); got != number {
			t.Errorf("%v becomes %d, want %d", code, got, number)
		}
	}
	for code := range 256 {
		if got := V311ConnackCode(Code(code)); got > 5 || (got == 0) != (code < 0x80) {
			t.Errorf("0x%02X becomes %d", code, got)
		}
	}
}

func TestTypesHaveTheirNames(t *testing.T) {
	for number, name := range map[int]string{
		1: "CONNECT", 3: "PUBLISH", 8: "SUBSCRIBE", 15: "AUTH", 0: "packet type 0", 16: "packet type 16",
	} {
		if got := Type(number).String(); got != name {
			t.Errorf("%d is called %q, want %q", number, got, name)
		}
	}
}

func TestAnErrorSaysItsReasonAndDetail(t *testing.T) {
	err := &Error{Code: PacketTooLarge, Detail: "longer than allowed"}
	if got := err.Error(); got != "Packet too large: longer than allowed" {
		t.Error(got)
	}
}
