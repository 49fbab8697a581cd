package packet

// Ack is a PUBACK, PUBREC, PUBREL or PUBCOMP (3.4 to 3.7). Code is Success in 3.1.1, which has none.
type Ack struct {
	Type     Type
	PacketID uint16
	Code     Code
}

// DecodeAck decodes a PUBACK, PUBREC, PUBREL or PUBCOMP. Their properties are checked and not kept.
func DecodeAck(v Version, first byte, body []byte) (Ack, error) {
	a := Ack{Type: Type(first >> 4)}
	if a.Type < PUBACK || a.Type > PUBCOMP {
		return Ack{}, protocolError(a.Type.String() + " in place of an acknowledgement")
	}
	if err := checkFirst(first); err != nil {
		return Ack{}, err
	}
	c := cursor{rest: body}
	a.PacketID = c.packetID()
	if v == V5 && len(body) > 2 {
		a.Code = Code(c.uint8("Reason Code"))
		if !ackCode(a.Type, a.Code) {
			c.fail(protocolError("a Reason Code that " + a.Type.String() + " cannot have"))
		}
		if len(body) > 3 {
			c.properties(ackProperties)
		}
	}
	c.end(a.Type)
	if c.err != nil {
		return Ack{}, c.err
	}
	return a, nil
}

// ackCode reports whether t can have the code c (MQTT-3.4.2-1, MQTT-3.5.2-1, MQTT-3.6.2-1, MQTT-3.7.2-1).
func ackCode(t Type, c Code) bool {
	if t == PUBREL || t == PUBCOMP {
		return c == Success || c == PacketIdentifierNotFound
	}
	switch c {
	case Success, NoMatchingSubscribers, UnspecifiedError, ImplementationSpecificError, NotAuthorized,
		TopicNameInvalid, PacketIdentifierInUse, QuotaExceeded, PayloadFormatInvalid:
		return true
	default:
		return false
	}
}

// AppendAck appends a PUBACK, PUBREC, PUBREL or PUBCOMP, in MQTT 5 without the code when it is Success. In 3.1.1
// there is no code: whether a failure may be acknowledged at all is the caller's to know.
func AppendAck(dst []byte, v Version, t Type, id uint16, c Code) []byte {
	first := byte(t)<<4 | t.flags()
	if v != V5 || c == Success {
		return append(dst, first, 2, byte(id>>8), byte(id))
	}
	return append(dst, first, 3, byte(id>>8), byte(id), byte(c))
}
