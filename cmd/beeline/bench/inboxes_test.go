package bench

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	beeline "github.com/beeline-mqtt/beeline/internal/message"
	"github.com/beeline-mqtt/beeline/internal/packet"
)

// inboxes are small ones.
func inboxes(qos byte, receivers, publishers, messages int) Inboxes {
	return Inboxes{Receivers: receivers, Publishers: publishers, Messages: messages, QoS: qos, Size: MinSize, Window: 8}
}

// What publishers send is what receivers get, and every one of them has his part.
func TestInboxesAreShared(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		x := inboxes(1, rapid.IntRange(1, 40).Draw(t, "receivers"), rapid.IntRange(1, 40).Draw(t, "publishers"), rapid.IntRange(1, 500).Draw(t, "messages"))
		sent, got, all := 0, 0, 0
		for i := range x.Publishers {
			sent += x.sends(i)
		}
		for i := range x.Receivers {
			n := x.gets(i)
			if got += n; n == 0 && x.Messages >= x.streams() {
				t.Errorf("receiver %d gets nothing", i)
			}
		}
		for i := range x.streams() {
			all += x.of(i)
		}
		if diff := cmp.Diff([]int{x.Messages, x.Messages, x.Messages}, []int{sent, got, all}); diff != "" {
			t.Errorf("sent, got, of all streams (-want +got):\n%s", diff)
		}
	})
}

// returns has receivers of a broker be away and return.
func returns(t *testing.T, c Config, x Inboxes, rate int) (away, back *Result) {
	t.Helper()
	away, err := Away{Config: c, Inboxes: x}.Run(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if back, err = (Resume{Config: c, Inboxes: x, Rate: rate}).Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	return away, back
}

func TestReceiversThatWereAwayGetEverything(t *testing.T) {
	both(t, func(t *testing.T, v5 bool) {
		for _, x := range []Inboxes{inboxes(1, 3, 10, 1000), inboxes(2, 10, 3, 1000), inboxes(1, 1, 1, 1), inboxes(2, 8, 8, 3)} {
			c := config(t, v5, (&fake{}).start(t), (&fake{}).start(t))
			c.Brokers = c.Brokers[:1]
			for rate := range 2 {
				away, back := returns(t, c, x, rate*1000)
				n := uint64(x.Messages)
				if away.Sent != n || away.Delivered != n || away.Unacknowledged+away.Unsent != 0 || away.DeliveryRate == 0 || away.Latency.P50 <= 0 {
					t.Errorf("%+v: away %+v", x, away)
				}
				if back.Sent != n || back.Delivered != n || back.Clients != uint64(x.Receivers) || back.Served.Max < back.Latency.P50 || back.Seconds < 0 {
					t.Errorf("%+v: back %+v", x, back)
				}
				if err := errors.Join(away.Check(x.QoS), back.Check(x.QoS)); err != nil {
					t.Errorf("%+v: %v", x, err)
				}
				if len(away.Processes) != 1 || len(back.Processes) != 1 {
					t.Errorf("processes %v, %v", away.Processes, back.Processes)
				}
			}
		}
	})
}

func TestAStormIsOverWhenTheLastIsServed(t *testing.T) {
	both(t, func(t *testing.T, v5 bool) {
		s := Storm{Config: config(t, v5, (&fake{}).start(t)), Inboxes: inboxes(1, 50, 2, 100), Within: 100 * time.Millisecond}
		r, err := s.Run(t.Context())
		if err != nil || r.Check(1) != nil || r.Scenario != "storm" {
			t.Fatalf("%+v, %v", r, err)
		}
		if r.Clients != 50 || r.Delivered != 100 || r.Seconds < 0.09 || r.Seconds > 5 {
			t.Errorf("50 clients within 100 ms: %+v", r)
		}
	})
}

func TestWhatBecomesOfAMessageThatWaitsIsCounted(t *testing.T) {
	swap := func(w []beeline.Message) []beeline.Message {
		w[3], w[4] = w[4], w[3]
		return w
	}
	corrupt := func(f func(m *beeline.Message)) func(w []beeline.Message) []beeline.Message {
		return func(w []beeline.Message) []beeline.Message {
			w[3].Payload = slices.Clone(w[3].Payload)
			f(&w[3])
			return w
		}
	}
	for _, tt := range []struct {
		name string
		wake func(w []beeline.Message) []beeline.Message
		want [4]uint64 // lost, doubled, out of order, corrupt
	}{
		{"nothing", nil, [4]uint64{}},
		{"loses one", func(w []beeline.Message) []beeline.Message { return slices.Delete(w, 3, 4) }, [4]uint64{1, 0, 0, 0}},
		{"loses the last", func(w []beeline.Message) []beeline.Message { return w[:len(w)-1] }, [4]uint64{1, 0, 0, 0}},
		{"loses all", func([]beeline.Message) []beeline.Message { return nil }, [4]uint64{10, 0, 0, 0}},
		{"doubles one", func(w []beeline.Message) []beeline.Message { return append(w[:4:4], w[3:]...) }, [4]uint64{0, 1, 0, 0}},
		{"doubles the last", func(w []beeline.Message) []beeline.Message { return append(w, w[9]) }, [4]uint64{0, 1, 0, 0}},
		{"changes places", swap, [4]uint64{0, 0, 1, 0}},
		{"changes a byte", corrupt(func(m *beeline.Message) { m.Payload[20] ^= 1 }), [4]uint64{1, 0, 0, 1}},
		{"makes it longer", corrupt(func(m *beeline.Message) { m.Payload = append(m.Payload, 0) }), [4]uint64{1, 0, 0, 1}},
		{"renames it", corrupt(func(m *beeline.Message) { m.Topic += "x" }), [4]uint64{1, 0, 0, 1}},
		{"says a number that there is not", corrupt(func(m *beeline.Message) { stamp{seq: 10}.put(m.Payload) }), [4]uint64{1, 0, 0, 1}},
		{"says a publisher that there is not", corrupt(func(m *beeline.Message) { stamp{publisher: 9}.put(m.Payload) }), [4]uint64{1, 0, 0, 1}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for qos := byte(1); qos <= 2; qos++ {
				c := config(t, true, (&fake{wake: tt.wake}).start(t))
				c.quiet = 200 * time.Millisecond
				_, r := returns(t, c, inboxes(qos, 1, 1, 10), 0)
				if got := [4]uint64{r.Lost, r.Doubled, r.OutOfOrder, r.Corrupt}; got != tt.want {
					t.Errorf("QoS %d: lost, doubled, out of order, corrupt: %v, want %v", qos, got, tt.want)
				}
				if err := r.Check(qos); (err != nil) != (tt.want != [4]uint64{}) {
					t.Errorf("QoS %d: check says %v", qos, err)
				}
			}
		})
	}
}

func TestASessionThatIsForgottenIsCounted(t *testing.T) {
	_, r := returns(t, config(t, true, (&fake{forgets: true}).start(t)), inboxes(1, 3, 1, 9), 0)
	if err := r.Check(1); r.Forgotten != 3 || r.Delivered != 9 || err == nil || !strings.HasSuffix(err.Error(), ": 3 forgotten") {
		t.Errorf("%+v, %v", r, err)
	}
}

func TestTheSessionsAreGoneAfterwards(t *testing.T) {
	both(t, func(t *testing.T, v5 bool) {
		f := &fake{}
		c := config(t, v5, f.start(t))
		for range 2 {
			returns(t, c, inboxes(1, 3, 1, 9), 0)
		}
		if _, err := (Away{Config: c, Inboxes: inboxes(1, 3, 1, 9)}).Run(t.Context()); err != nil {
			t.Fatal(err)
		}
		_, err := Away{Config: c, Inboxes: inboxes(1, 3, 1, 9)}.Run(t.Context())
		if err == nil || !strings.Contains(err.Error(), "has a session already") {
			t.Errorf("a second time with the same prefix: %v", err)
		}
	})
}

func TestABrokerThatDoesNotTakeMessagesForThoseWhoAreAway(t *testing.T) {
	refused := func(id string) packet.Code {
		if strings.Contains(id, "p") {
			return packet.NotAuthorized
		}
		return packet.Success
	}
	for _, tt := range []struct {
		name string
		f    *fake
		want string
	}{
		{"refuses publishers", &fake{refuse: refused}, "CONNECT refused with code 0x87"},
		{"refuses all", &fake{refuse: func(string) packet.Code { return packet.NotAuthorized }}, "CONNECT refused with code 0x87"},
		{"closes the connection", &fake{takes: 5}, ""}, // who reads or who writes notices it first
		{"acknowledges twice", &fake{acks: 2}, "was not awaited"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := tt.f.start(t)
			c := config(t, true, b)
			c.Prefix = "x"
			_, err := Away{Config: c, Inboxes: inboxes(1, 1, 1, 100)}.Run(t.Context())
			if err == nil || !strings.Contains(err.Error(), "broker "+b.Name) || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want %q in it", err, tt.want)
			}
		})
	}
}

func TestAReceiverThatIsCutOffWhileItReturnsIsAnError(t *testing.T) {
	b := (&fake{takes: 4}).start(t)
	c := config(t, true, b)
	_, err := Storm{Config: c, Inboxes: inboxes(2, 1, 1, 10), Within: time.Millisecond}.Run(t.Context())
	if err == nil || !strings.Contains(err.Error(), "broker "+b.Name) {
		t.Errorf("error %v", err)
	}
}

func TestWhatCannotBeOfInboxesIsAnErrorBeforeAnythingIsDone(t *testing.T) {
	c := config(t, false, broker("127.0.0.1:1"))
	change := func(f func(x *Inboxes)) Inboxes {
		x := inboxes(1, 1, 1, 1)
		f(&x)
		return x
	}
	for want, x := range map[string]Inboxes{
		"receivers":  change(func(x *Inboxes) { x.Receivers = 0 }),
		"publishers": change(func(x *Inboxes) { x.Publishers = 0 }),
		"messages":   change(func(x *Inboxes) { x.Messages = 0 }),
		"qos: 1 or":  change(func(x *Inboxes) { x.QoS = 0 }),
		"qos: 1":     change(func(x *Inboxes) { x.QoS = 3 }),
		"size":       change(func(x *Inboxes) { x.Size = MinSize - 1 }),
		"window":     change(func(x *Inboxes) { x.Window = 0 }),
		"window: 1":  change(func(x *Inboxes) { x.Window = 65536 }),
		"broker 127": inboxes(1, 1, 1, 1),
	} {
		for name, run := range map[string]func(context.Context) (*Result, error){
			"away":   Away{Config: c, Inboxes: x}.Run,
			"resume": Resume{Config: c, Inboxes: x}.Run,
			"storm":  Storm{Config: c, Inboxes: x, Within: time.Second}.Run,
		} {
			if _, err := run(t.Context()); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: error %v, want %q in it", name, err, want)
			}
		}
	}
	many := inboxes(1, 1<<40, 1, 1)
	for want, run := range map[string]func(context.Context) (*Result, error){
		"rate: not":  Resume{Config: c, Inboxes: inboxes(1, 1, 1, 1), Rate: -1}.Run,
		"within":     Storm{Config: c, Inboxes: inboxes(1, 1, 1, 1)}.Run,
		"ulimit":     Resume{Config: c, Inboxes: many}.Run,
		"see ulimit": Storm{Config: c, Inboxes: many, Within: 1}.Run,
	} {
		if _, err := run(t.Context()); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want %q in it", err, want)
		}
	}
}

func TestAnInterruptedReturnSaysWhatItHasSeen(t *testing.T) {
	c := config(t, true, (&fake{}).start(t))
	c.quiet = time.Hour
	x := inboxes(1, 3, 1, 30)
	if _, err := (Away{Config: c, Inboxes: x}).Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	x.Messages++ // one that never comes
	ctx, cancel := context.WithCancel(t.Context())
	var mu sync.Mutex
	var out bytes.Buffer
	c.Progress = writer(func(line string) {
		mu.Lock()
		defer mu.Unlock()
		out.WriteString(line)
		cancel()
	})
	r, err := Resume{Config: c, Inboxes: x}.Run(ctx)
	if err != nil || r.Delivered != 30 || r.Lost != 0 || r.Clients != 2 {
		t.Errorf("%+v, %v", r, err)
	}
	if text := out.String(); !strings.Contains(text, "2 of 3 served") {
		t.Errorf("progress: %q", text)
	}
}

func TestPublishersThatAreInterruptedSayWhatWasAccepted(t *testing.T) {
	f := &fake{}
	f.hears = func(c *fakeConn, p packet.Type) bool { return p != packet.PUBLISH || f.messages < 20 }
	c := config(t, true, f.start(t))
	ctx, cancel := context.WithCancel(t.Context())
	c.Progress = writer(func(line string) {
		if strings.Contains(line, "accepted/s") {
			cancel()
		}
	})
	r, err := Away{Config: c, Inboxes: inboxes(1, 1, 1, 100)}.Run(ctx)
	if err != nil || r.Delivered != 20 || r.Sent != 28 || r.Unacknowledged != 8 || r.Unsent != 72 {
		t.Errorf("%+v, %v", r, err)
	}
	if _, err := (Storm{Config: c, Inboxes: inboxes(1, 1, 1, 9), Within: 1}).Run(ctx); err == nil {
		t.Error("a storm in which nobody returns is no error")
	}
	if _, err := (Resume{Config: c, Inboxes: inboxes(1, 1, 1, 9)}).Run(ctx); err == nil {
		t.Error("a return of nobody is no error")
	}
	if _, err := (Away{Config: c, Inboxes: inboxes(1, 1, 1, 9)}).Run(ctx); err == nil {
		t.Error("nothing accepted is no error")
	}
}
