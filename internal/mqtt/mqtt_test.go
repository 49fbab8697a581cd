package mqtt

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// table is table 2-4 of the standard: identifier, name, and in which of CONNECT, Will and CONNACK it may be.
const table = `
1 Payload Format Indicator: will
2 Message Expiry Interval: will
3 Content Type: will
8 Response Topic: will
9 Correlation Data: will
11 Subscription Identifier:
17 Session Expiry Interval: connect connack
18 Assigned Client Identifier: connack
19 Server Keep Alive: connack
21 Authentication Method: connect connack
22 Authentication Data: connect connack
23 Request Problem Information: connect
24 Will Delay Interval: will
25 Request Response Information: connect
26 Response Information: connack
28 Server Reference: connack
31 Reason String: connack
33 Receive Maximum: connect connack
34 Topic Alias Maximum: connect connack
35 Topic Alias:
36 Maximum QoS: connack
37 Retain Available: connack
38 User Property: connect will connack
39 Maximum Packet Size: connect connack
40 Wildcard Subscription Available: connack
41 Subscription Identifier Available: connack
42 Shared Subscription Available: connack
`

func TestPropertiesAreWhereTheStandardHasThem(t *testing.T) {
	sets := []struct {
		name string
		set  PropertySet
	}{{"connect", ConnectProperties}, {"will", WillProperties}, {"connack", ConnackProperties}}
	lines := strings.Split(strings.TrimSpace(table), "\n")
	for number := range 256 {
		p := Property(number)
		var where []string
		for _, s := range sets {
			if s.set.Has(p) {
				where = append(where, s.name)
			}
		}
		got := strings.TrimSpace(fmt.Sprintf("%d %s: %s", number, p, strings.Join(where, " ")))
		if known := slices.Contains(lines, got); known != (p.String() != "") || !known && len(where) > 0 {
			t.Errorf("%q is not in the standard", got)
		}
	}
}

func TestConnectFlagsSayWhatIsThereAndWhatMustNotBe(t *testing.T) {
	for _, tc := range []struct {
		flags         ConnectFlags
		says          string // c: Clean Start, w: Will, u: User Name, p: Password
		fault, fault5 string
	}{
		{0x00, "", "", ""},
		{0x02, "c", "", ""},
		{0xf6, "cwup", "", ""},
		{0x04, "w", "", ""},
		{0x34, "w", "", ""},
		{0x01, "", "reserved", "reserved"},
		{0x1c, "w", "Will QoS 3", "Will QoS 3"},
		{0x08, "", "Will QoS without", "Will QoS without"},
		{0x20, "", "Will Retain without", "Will Retain without"},
		{0x80, "u", "", ""},
		{0x40, "p", "Password without", ""},
	} {
		says := ""
		for _, f := range []struct {
			is   bool
			name string
		}{{tc.flags.CleanStart(), "c"}, {tc.flags.Will(), "w"}, {tc.flags.Username(), "u"}, {tc.flags.Password(), "p"}} {
			if f.is {
				says += f.name
			}
		}
		if says != tc.says {
			t.Errorf("%#x says %q, want %q", byte(tc.flags), says, tc.says)
		}
		for level, want := range map[byte]string{3: tc.fault, 4: tc.fault, 5: tc.fault5} {
			if got := tc.flags.Fault(level); !strings.HasPrefix(got, want) || (got == "") != (want == "") {
				t.Errorf("%#x at level %d: %q, want %q", byte(tc.flags), level, got, want)
			}
		}
	}
}
