package mqtt

// ConnectFlags say what is in a CONNECT (3.1.2.3).
type ConnectFlags byte

const (
	reserved   ConnectFlags = 1 << 0
	cleanStart ConnectFlags = 1 << 1
	will       ConnectFlags = 1 << 2
	willQoS    ConnectFlags = 3 << 3
	willRetain ConnectFlags = 1 << 5
	password   ConnectFlags = 1 << 6
	username   ConnectFlags = 1 << 7
)

// level5 is the Protocol Level of MQTT 5.
const level5 = 5

// FlagsOf are the flags of a CONNECT without Will.
func FlagsOf(clean, hasUsername, hasPassword bool) (f ConnectFlags) {
	if clean {
		f |= cleanStart
	}
	if hasUsername {
		f |= username
	}
	if hasPassword {
		f |= password
	}
	return f
}

// CleanStart is Clean Session before MQTT 5.
func (f ConnectFlags) CleanStart() bool { return f&cleanStart != 0 }

// Will says that there is one.
func (f ConnectFlags) Will() bool { return f&will != 0 }

// Username and Password say that there is one.
func (f ConnectFlags) Username() bool { return f&username != 0 }

// Password is like Username.
func (f ConnectFlags) Password() bool { return f&password != 0 }

// Fault is what they say and must not, at a Protocol Level, with the statement of the standard; empty: nothing.
func (f ConnectFlags) Fault(level byte) string {
	switch {
	case f&reserved != 0:
		return "reserved bit of the Connect Flags (MQTT-3.1.2-3)"
	case f&willQoS == willQoS:
		return "Will QoS 3 (MQTT-3.1.2-12, in 3.1.1 MQTT-3.1.2-14)"
	case !f.Will() && f&willQoS != 0:
		return "Will QoS without Will Flag (MQTT-3.1.2-11, in 3.1.1 MQTT-3.1.2-13)"
	case !f.Will() && f&willRetain != 0:
		return "Will Retain without Will Flag (MQTT-3.1.2-13, in 3.1.1 MQTT-3.1.2-15)"
	case level < level5 && !f.Username() && f.Password():
		return "Password without User Name (in 3.1.1 MQTT-3.1.2-22)"
	}
	return ""
}
