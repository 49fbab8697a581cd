package bench

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	beeline "github.com/beeline-mqtt/beeline/internal/message"
	"github.com/beeline-mqtt/beeline/internal/packet"
)

// What each broker does to message 20, which is in the middle of the run.
func TestWhatABrokerDoesToAMessageIsCounted(t *testing.T) {
	const which = 20
	var held []beeline.Message
	for _, tt := range []struct {
		name  string
		route func(n int, m beeline.Message) []beeline.Message
		want  [4]uint64 // lost, doubled, out of order, corrupt
	}{
		{"nothing", func(_ int, m beeline.Message) []beeline.Message { return []beeline.Message{m} }, [4]uint64{}},
		{"loses", func(n int, m beeline.Message) []beeline.Message {
			if n == which {
				return nil
			}
			return []beeline.Message{m}
		}, [4]uint64{1, 0, 0, 0}},
		{"doubles", func(n int, m beeline.Message) []beeline.Message {
			if n == which {
				return []beeline.Message{m, m}
			}
			return []beeline.Message{m}
		}, [4]uint64{0, 1, 0, 0}},
		{"overtakes", func(n int, m beeline.Message) []beeline.Message {
			if n == which {
				held = []beeline.Message{m}
				return nil
			}
			all := append([]beeline.Message{m}, held...)
			held = nil
			return all
		}, [4]uint64{0, 0, 1, 0}},
		{"corrupts", func(n int, m beeline.Message) []beeline.Message {
			if n == which {
				m.Payload = slices.Clone(m.Payload)
				m.Payload[len(m.Payload)-1] ^= 1
			}
			return []beeline.Message{m}
		}, [4]uint64{1, 0, 0, 1}},
		{"makes longer", func(n int, m beeline.Message) []beeline.Message {
			if n == which {
				m.Payload = append(slices.Clone(m.Payload), 0)
			}
			return []beeline.Message{m}
		}, [4]uint64{1, 0, 0, 1}},
		{"renames", func(n int, m beeline.Message) []beeline.Message {
			if n == which {
				m.Topic += "/other"
			}
			return []beeline.Message{m}
		}, [4]uint64{1, 0, 0, 1}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			both(t, func(t *testing.T, v5 bool) {
				for qos := range byte(3) {
					held = nil
					b := (&fake{route: tt.route}).start(t)
					c := config(t, v5, b)
					c.Warmup = 0
					r, err := Pairs{Config: c, Load: load(qos, 500), Pairs: 1}.Run(t.Context())
					if err != nil {
						t.Fatal(err)
					}
					if got := [4]uint64{r.Lost, r.Doubled, r.OutOfOrder, r.Corrupt}; got != tt.want {
						t.Errorf("QoS %d: lost, doubled, out of order, corrupt: %v, want %v", qos, got, tt.want)
					}
					bad := tt.want != [4]uint64{} && (qos > 0 || tt.want != [4]uint64{1, 0, 0, 0})
					if err := r.Check(qos); (err != nil) != bad {
						t.Errorf("QoS %d: check says %v", qos, err)
					}
				}
			})
		})
	}
}

// A message of one publisher that comes to the subscriber of another is none of it.
func TestAMessageForSomebodyElseIsCorrupt(t *testing.T) {
	var first []byte
	f := &fake{route: func(n int, m beeline.Message) []beeline.Message {
		if n == 0 {
			first = m.Payload
		}
		if n == 21 {
			m.Payload = first
		}
		return []beeline.Message{m}
	}}
	c := config(t, false, f.start(t))
	c.Warmup = 0
	r, err := Pairs{Config: c, Load: load(0, 500), Pairs: 2}.Run(t.Context())
	if err != nil || r.Corrupt+r.Doubled != 1 || r.Lost != 1 {
		t.Errorf("%+v, %v", r, err)
	}
}

func TestWhatIsNotAcknowledgedIsCounted(t *testing.T) {
	for qos, deaf := range map[byte]packet.Type{1: packet.PUBLISH, 2: packet.PUBREL} {
		f := &fake{hears: func(_ *fakeConn, t packet.Type) bool { return t != deaf }}
		c := config(t, true, f.start(t))
		r, err := Pairs{Config: c, Load: load(qos, 500), Pairs: 1}.Run(t.Context())
		if err != nil || r.Unacknowledged != 8 || r.Unsent == 0 {
			t.Errorf("QoS %d: %+v, %v", qos, r, err)
		}
	}
}

// Losses while everything is still being set up are not held against a broker, but said.
func TestLossesInTheWarmUpAreCountedApart(t *testing.T) {
	f := &fake{route: func(n int, m beeline.Message) []beeline.Message {
		if n < 3 {
			return nil
		}
		return []beeline.Message{m}
	}}
	c := config(t, false, f.start(t))
	c.Warmup = 100 * time.Millisecond
	r, err := Pairs{Config: c, Load: load(1, 500), Pairs: 1}.Run(t.Context())
	if err != nil || r.Lost != 0 || r.LostInWarmup != 3 || r.Sent == 0 {
		t.Errorf("%+v, %v", r, err)
	}
}

// With nothing under way a publisher may send its window; what is lost may not keep it from going on.
func TestWithoutARateALossDoesNotEndTheLoad(t *testing.T) {
	for qos := range byte(3) {
		f := &fake{route: func(n int, m beeline.Message) []beeline.Message {
			if n%10 == 9 {
				return nil
			}
			return []beeline.Message{m}
		}}
		c := config(t, true, f.start(t))
		r, err := Pairs{Config: c, Load: load(qos, 0), Pairs: 2}.Run(t.Context())
		if err != nil || r.Sent < 200 || r.Lost < r.Sent/20 || r.Lost > r.Sent/5 {
			t.Errorf("QoS %d: %+v, %v", qos, r, err)
		}
	}
}

func TestARunEndsWithAnErrorThatNamesTheBroker(t *testing.T) {
	refused := func(string) packet.Code { return packet.NotAuthorized }
	for _, tt := range []struct {
		name string
		f    *fake
		qos  byte
		want string
	}{
		{"refuses", &fake{refuse: refused}, 0, "CONNECT refused with code 0x87"},
		{"closes the connection", &fake{takes: 9}, 0, ""},
		{"acknowledges twice", &fake{acks: 2}, 1, "was not awaited"},
		{"ends before CONNACK", &fake{takes: 1, hears: func(*fakeConn, packet.Type) bool { return false }}, 0, "wait for CONNACK"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := tt.f.start(t)
			_, err := Pairs{Config: config(t, true, b), Load: load(tt.qos, 500), Pairs: 1}.Run(t.Context())
			if err == nil || !strings.Contains(err.Error(), "broker "+b.Name) || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want %q in it", err, tt.want)
			}
		})
	}
}

func TestABrokerThatIsNotThereIsAnError(t *testing.T) {
	b := (&fake{}).start(t)
	gone := broker("127.0.0.1:1")
	for name, run := range map[string]func(context.Context) (*Result, error){
		"pairs":   Pairs{Config: config(t, false, b), Load: load(0, 100), Pairs: 1, To: []Broker{gone}}.Run,
		"fanout":  Fanout{Config: config(t, false, gone), Load: load(0, 100), Subscribers: 1}.Run,
		"connect": Connect{Config: config(t, false, gone), Clients: 3, Parallel: 1}.Run,
		"move":    Move{Config: config(t, false, b, gone), Clients: 3}.Run,
	} {
		if _, err := run(t.Context()); err == nil || !strings.Contains(err.Error(), "broker 127.0.0.1:1: ") {
			t.Errorf("%s: error %v", name, err)
		}
	}
}

func TestRefusedConnectionsAreCountedWhileConnecting(t *testing.T) {
	f := &fake{refuse: func(id string) packet.Code {
		if strings.HasSuffix(id, "3") {
			return packet.ServerBusy
		}
		return packet.Success
	}}
	c := config(t, true, f.start(t))
	r, err := Connect{Config: c, Clients: 20, Rate: 1000, Parallel: 1}.Run(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	got := []any{r.Sent, r.Delivered, r.Refused, r.Lost, strings.Contains(r.RefusedBecause, "0x89")}
	if diff := cmp.Diff([]any{uint64(20), uint64(18), uint64(2), uint64(0), true}, got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", r.RefusedBecause, diff)
	}
}

func TestConnectionsThatDoNotStayAreCounted(t *testing.T) {
	f := &fake{takes: 2} // CONNECT and SUBSCRIBE
	r, err := Connect{Config: config(t, true, f.start(t)), Clients: 5, Parallel: 2}.Run(t.Context())
	if err != nil || r.Delivered != 5 || r.Lost != 5 || r.Check(0) == nil {
		t.Errorf("%+v, %v", r, err)
	}
}

// moved runs Move against a broker.
func moved(t testing.TB, f *fake) *Result {
	t.Helper()
	r, err := Move{Config: config(t, true, f.start(t)), Clients: 6, Rate: 1000}.Run(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestAClientThatIsOnBothConnectionsIsCounted(t *testing.T) {
	r := moved(t, &fake{keeps: true})
	if r.TwoOwners != 6 || r.Unclosed != 6 || r.Lost != 0 || r.Check(0) == nil {
		t.Errorf("%+v", r)
	}
}

func TestAConnectionThatIsOpenButDoesNotAnswerIsNoOwner(t *testing.T) {
	for deaf, want := range map[int][2]uint64{1: {0, 0}, 2: {0, 6}} { // two owners, none
		r := moved(t, &fake{keeps: true, hears: func(c *fakeConn, t packet.Type) bool {
			return t != packet.PINGREQ || c.nth != deaf
		}})
		if got := [2]uint64{r.TwoOwners, r.Lost}; got != want || r.Unclosed != 6 || r.Delivered != 6 {
			t.Errorf("with connection %d deaf: %+v", deaf, r)
		}
	}
}

func TestAClientThatHasMovedHasOneOwner(t *testing.T) {
	r := moved(t, &fake{})
	if r.TwoOwners != 0 || r.Unclosed != 0 || r.Lost != 0 || r.Delivered != 6 || r.Check(0) != nil || r.Closed.Max == 0 {
		t.Errorf("%+v", r)
	}
}
