package foreign

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestHealthFollowsChecksInARow(t *testing.T) {
	for _, tc := range []struct {
		name   string
		up     bool
		checks string // + passed, - failed
		want   bool
	}{
		{"nothing happens", true, "", true},
		{"two failures are not enough", true, "--", true},
		{"three are", true, "---", false},
		{"three that are not in a row are not", true, "--+--+--", true},
		{"one success is not enough", false, "+", false},
		{"two are", false, "++", true},
		{"two that are not in a row are not", false, "+-+-+-", false},
		{"down and up again", true, "---++", true},
		{"up and down again", false, "++---", false},
		{"what was counted before it rose does not count", false, "++--", true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			h := health{up: tc.up}
			for _, c := range tc.checks {
				h = h.after(c == '+', 2, 3)
			}
			if h.up != tc.want {
				t.Errorf("up is %v after %q", h.up, tc.checks)
			}
		})
	}
}

func TestAnswersAreReadAsTheyAreDocumented(t *testing.T) {
	running := listed{name: "emqx@a", host: "a", running: true}
	for _, tc := range []struct {
		name string
		api  int
		body string
		want []listed
		err  string
	}{
		{"5: running", 5, `[{"node":"emqx@a","node_status":"running"}]`, []listed{running}, ""},
		{"5: in other letters", 5, `[{"node":"emqx@a","node_status":"Running"}]`, []listed{running}, ""},
		{"5: stopped", 5, `[{"node":"emqx@a","node_status":"stopped"}]`, []listed{{name: "emqx@a", host: "a"}}, ""},
		{"5: a status of the future", 5, `[{"node":"emqx@a","node_status":"evacuating"}]`, []listed{{name: "emqx@a", host: "a"}}, ""},
		{"5: no status", 5, `[{"node":"emqx@a"}]`, []listed{{name: "emqx@a", host: "a"}}, ""},
		{"5: twice", 5, `[{"node":"emqx@a","node_status":"running"},{"node":"emqx@a"}]`, []listed{running}, ""},
		{
			"5: clients that are connected", 5, `[{"node":"emqx@a","connections":9,"live_connections":0}]`,
			[]listed{{name: "emqx@a", host: "a"}},
			"",
		},
		{
			"5: sessions, where nothing else is told", 5, `[{"node":"emqx@a","connections":9}]`,
			[]listed{{name: "emqx@a", host: "a", load: 9}},
			"",
		},
		{"5: fewer than none", 5, `[{"node":"emqx@a","connections":-9}]`, []listed{{name: "emqx@a", host: "a"}}, ""},
		{"5: clients in words", 5, `[{"node":"emqx@a","connections":"9"}]`, nil, "not that of version 5"},
		{"5: what 4 answers", 5, `{"data":[{"node":"emqx@a"}],"code":0}`, nil, "not that of version 5"},
		{"5: something behind it", 5, `[{"node":"emqx@a"}] x`, nil, "not JSON from byte 21"},
		{"5: nothing", 5, ``, nil, "not JSON"},
		{"5: no host", 5, `[{"node":"emqx@"}]`, nil, "node 1 of the answer has no name"},
		{"5: no name", 5, `[{"node":"emqx@a"},{}]`, nil, "node 2 of the answer has no name"},
		{"5: an endless name", 5, `[{"node":"` + strings.Repeat("a", 600) + `@a"}]`, nil, "has no name"},
		{"5: too many", 5, "[" + strings.Repeat(`{"node":"emqx@a"},`, 10_000) + `{"node":"emqx@a"}]`, nil, "more than 10000"},
		{"4: running", 4, `{"data":[{"node":"emqx@a","node_status":"Running"}],"code":0}`, []listed{running}, ""},
		{"4: failed", 4, `{"data":[{"node":"emqx@a","node_status":"Running"}],"code":101}`, nil, "the request failed"},
		{"4: no code", 4, `{"data":[{"node":"emqx@a","node_status":"Running"}]}`, nil, "the request failed"},
		{"4: one node", 4, `{"data":{"node":"emqx@a","node_status":"Running"},"code":0}`, nil, "not that of version 4"},
		{"4: what 5 answers", 4, `[{"node":"emqx@a"}]`, nil, "not that of version 4"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, err := parseAnswer(tc.api, []byte(tc.body))
			if diff := cmp.Diff(tc.want, got, cmp.AllowUnexported(listed{})); diff != "" {
				t.Error(diff)
			}
			if (err != nil) != (tc.err != "") || err != nil && !strings.Contains(err.Error(), tc.err) {
				t.Errorf("error %v, want %q", err, tc.err)
			}
		})
	}
}

func FuzzAnswer(f *testing.F) {
	f.Add(true, []byte(`{"data":[{"node":"emqx@a","node_status":"Running","connections":1}],"code":0}`))
	f.Add(false, []byte(`[{"node":"emqx@a","node_status":"running","live_connections":1}]`))
	f.Fuzz(func(t *testing.T, old bool, body []byte) {
		api := 5
		if old {
			api = 4
		}
		got, err := parseAnswer(api, body)
		if (err == nil) != (len(got) > 0) {
			t.Fatalf("%v and %d nodes", err, len(got))
		}
		for _, n := range got {
			if !isHost(n.host) || n.load < 0 {
				t.Errorf("%+v", n)
			}
		}
	})
}

func TestAddressesOfANameAreSettled(t *testing.T) {
	many := make([]netip.Addr, 300)
	for i := range many {
		many[i] = netip.AddrFrom4([4]byte{10, 0, byte(i / 256), byte(i)})
	}
	for name, tc := range map[string]struct{ addrs, want []netip.Addr }{
		"in order":             {parse("10.0.0.2", "10.0.0.1"), parse("10.0.0.1", "10.0.0.2")},
		"once":                 {parse("10.0.0.1", "10.0.0.1", "::ffff:10.0.0.1"), parse("10.0.0.1")},
		"not IPv6 beside IPv4": {parse("::1", "10.0.0.1"), parse("10.0.0.1")},
		"IPv6 alone":           {parse("::2", "::1"), parse("::1", "::2")},
		"what is an address":   {append(parse("10.0.0.1"), netip.Addr{}), parse("10.0.0.1")},
		"at most 256":          {many, many[:256]},
		"none":                 {nil, nil},
	} {
		t.Run(name, func(t *testing.T) {
			got := fmt.Sprint(settle(tc.addrs))
			if want := fmt.Sprint(tc.want); got != want {
				t.Errorf("%s, want %s", got, want)
			}
		})
	}
}

func parse(addrs ...string) []netip.Addr {
	var out []netip.Addr
	for _, a := range addrs {
		out = append(out, netip.MustParseAddr(a))
	}
	return out
}

func emqxState() *state {
	return newState(Definition{Kind: KindEMQX, EMQX: new(EMQX)}.withDefaults())
}

// A check may have been under way when EMQX answered again: it says nothing then.
func TestWhatEMQXSaysGoesBeforeAnEarlierCheck(t *testing.T) {
	s := emqxState()
	nodes := []listed{{name: "emqx@10.0.0.1", host: "10.0.0.1", running: true}}
	s.polled(nodes, nil)
	away := errors.New("away")
	s.polled(nil, away)
	s.due()
	s.checked("10.0.0.1:1883", false)
	s.checked("10.0.0.1:1883", false)
	s.polled(nodes, nil)
	s.checked("10.0.0.1:1883", false)
	if v := s.view(); !v.Nodes[0].Active || v.Err != nil {
		t.Errorf("%+v", v)
	}
	// What failed before the answer does not count in the next outage.
	s.polled(nil, away)
	s.due()
	s.checked("10.0.0.1:1883", false)
	if v := s.view(); !v.Nodes[0].Active {
		t.Errorf("%+v", v)
	}
}

func TestWhatIsNotWantedAnyMoreIsForgotten(t *testing.T) {
	s := emqxState()
	for i := range 100 {
		host := fmt.Sprintf("host-%d", i)
		s.polled([]listed{{name: "emqx@" + host, host: host, running: true}}, nil)
		if got := s.hosts(); len(got) != 1 || got[0] != host {
			t.Fatalf("hosts %v", got)
		}
		if got := s.due(); got != nil {
			t.Fatalf("checks %v although EMQX answers", got)
		}
		s.polled(nil, errors.New("away"))
		for _, a := range parse("10.0.0.1", "10.0.0.2") {
			s.resolved(host, []netip.Addr{a}, nil)
			due := s.due()
			if len(due) != 1 || due[0] != a.String()+":1883" {
				t.Fatalf("checks %v", due)
			}
			s.checked(due[0], true)
		}
		if len(s.names) > 1 || len(s.health) > 1 {
			t.Fatalf("%d names and %d checks are kept", len(s.names), len(s.health))
		}
	}
}

func TestAClusterHasAtMostTenThousandNodes(t *testing.T) {
	d := Definition{Kind: KindStatic, Static: new(Static)}
	for i := range 100 {
		d.Static.Nodes = append(d.Static.Nodes, StaticNode{Address: fmt.Sprintf("host-%d:1883", i)})
	}
	s := newState(d.withDefaults())
	for i, host := range s.hosts() {
		addrs := make([]netip.Addr, 256)
		for j := range addrs {
			addrs[j] = netip.AddrFrom4([4]byte{10, 0, byte(i), byte(j)})
		}
		s.resolved(host, addrs, nil)
	}
	if v := s.view(); len(v.Nodes) != 10_000 || v.Err == nil {
		t.Errorf("%d nodes, %v", len(v.Nodes), v.Err)
	}
	if got := len(s.due()); got != 10_000 {
		t.Errorf("%d checks", got)
	}
}

// Each time another local port would be a change each time.
func TestTheSameReasonIsTheSameError(t *testing.T) {
	timeout := func(port int) error {
		return &net.DNSError{Err: fmt.Sprintf("read udp 10.0.0.2:%d->10.0.0.3:53: i/o timeout", port), Name: "a", IsTimeout: true}
	}
	reset := func(port int) error {
		return &net.OpError{
			Op: "read", Net: "tcp", Source: &net.TCPAddr{IP: net.IPv4(10, 0, 0, 2), Port: port}, Err: errors.New("connection reset"),
		}
	}
	for name, pair := range map[string][2]error{
		"a name":         {steady(timeout(1)), steady(timeout(2))},
		"a deadline":     {steady(context.DeadlineExceeded), steady(fmt.Errorf("look up: %w", context.DeadlineExceeded))},
		"a request":      {plain(t.Context(), reset(1)), plain(t.Context(), reset(2))},
		"a server's":     {plain(t.Context(), &net.OpError{Op: "dial", Err: timeout(1)}), plain(t.Context(), timeout(2))},
		"nothing at all": {steady(nil), steady(nil)},
	} {
		if text(pair[0]) != text(pair[1]) {
			t.Errorf("%s: %v, then %v", name, pair[0], pair[1])
		}
	}
}

func TestIntervalsVaryByAQuarter(t *testing.T) {
	seen := map[time.Duration]bool{}
	for range 1000 {
		d := jitter(time.Second)
		if d < 750*time.Millisecond || d > 1250*time.Millisecond {
			t.Fatalf("%v", d)
		}
		seen[d] = true
	}
	if len(seen) < 100 {
		t.Errorf("only %d different ones", len(seen))
	}
}
