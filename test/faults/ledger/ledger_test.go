package ledger_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/beeline-mqtt/beeline/test/faults/ledger"
)

// book is a ledger with one publisher, whose messages have a QoS, and one receiver.
type book struct {
	*ledger.Ledger
	s ledger.Stream
}

func fixed() time.Time { return time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC) }

// begin opens the session r, which subscribes.
func begin(qos byte, publisher, receiver bool) book {
	b := book{ledger.New(fixed), ledger.Stream{Publisher: "p", Topic: "crowd/p", QoS: qos, Durable: publisher}}
	b.Open("r", receiver)
	b.Subscribe("r", "crowd/#")
	b.Subscribed("r")
	return b
}

// sent has n messages sent on connection 1 and acknowledged.
func (b book) sent(n int) (all []ledger.Message) {
	for range n {
		m := b.Send(b.s, 1)
		b.Acknowledge(m, 0)
		all = append(all, m)
	}
	return all
}

// came has r receive a message under a packet identifier, and complete it.
func (b book) came(m ledger.Message, id uint16) {
	b.Received(ledger.Delivery{Session: "r", Topic: m.Topic, Payload: m.Payload(), QoS: m.QoS, PacketID: id})
	b.Released("r", id)
}

// all has r receive messages in this order.
func (b book) all(messages ...ledger.Message) {
	for i, m := range messages {
		b.came(m, uint16(i+1))
	}
}

func TestWhatIsWrongIsFound(t *testing.T) {
	deliver := func(m ledger.Message, id uint16, dup bool) ledger.Delivery {
		return ledger.Delivery{Session: "r", Topic: m.Topic, Payload: m.Payload(), QoS: m.QoS, PacketID: id, DUP: dup}
	}
	type count = map[ledger.Kind]int
	tests := []struct {
		name  string
		story func(b book)
		want  [3]count // by QoS
	}{
		{"nothing is wrong", func(b book) { b.all(b.sent(5)...) }, [3]count{}},
		{"nobody says anything", func(book) {}, [3]count{}},
		{"the middle is missing", func(b book) {
			m := b.sent(3)
			b.all(m[0], m[2])
		}, [3]count{1: {ledger.Lost: 1}, 2: {ledger.Lost: 1}}},
		{"all are missing", func(b book) { b.sent(3) }, [3]count{1: {ledger.Lost: 3}, 2: {ledger.Lost: 3}}},
		{"the missing was not acknowledged", func(b book) { b.Send(b.s, 1) }, [3]count{}},
		{"the missing was refused", func(b book) { b.Acknowledge(b.Send(b.s, 1), 0x97) }, [3]count{}},
		{
			"the missing was said to match nobody", func(b book) { b.Acknowledge(b.Send(b.s, 1), 0x10) },
			[3]count{1: {ledger.Lost: 1}, 2: {ledger.Lost: 1}},
		},
		{"the missing was acknowledged when it was sent again", func(b book) {
			m := b.Send(b.s, 1)
			b.Resend(m, 2)
			b.Acknowledge(m, 0)
		}, [3]count{1: {ledger.Lost: 1}, 2: {ledger.Lost: 1}}},
		{"the session of the missing is over", func(b book) {
			b.sent(1)
			b.Ended("r")
		}, [3]count{}},
		{"one twice", func(b book) {
			m := b.sent(2)
			b.all(m[0], m[1], m[0])
		}, [3]count{2: {ledger.Doubled: 1}}},
		{"one twice in a row", func(b book) {
			m := b.sent(2)
			b.all(m[0], m[0], m[1])
		}, [3]count{2: {ledger.Doubled: 1}}},
		{"one again under its packet before PUBREL", func(b book) {
			m := b.sent(1)[0]
			b.Received(deliver(m, 7, false))
			b.Received(deliver(m, 7, true))
		}, [3]count{}},
		{"one again under its packet without DUP", func(b book) {
			m := b.sent(1)[0]
			b.Received(deliver(m, 7, false))
			b.Received(deliver(m, 7, false))
		}, [3]count{2: {ledger.Reused: 1}}},
		{"one again under its packet after PUBREL", func(b book) {
			m := b.sent(1)[0]
			b.came(m, 7)
			b.Received(deliver(m, 7, true))
		}, [3]count{2: {ledger.Doubled: 1}}},
		{"one again under another packet before PUBREL", func(b book) {
			m := b.sent(1)[0]
			b.Received(deliver(m, 7, false))
			b.Received(deliver(m, 8, true))
		}, [3]count{2: {ledger.Doubled: 1}}},
		{"another under a packet before PUBREL", func(b book) {
			m := b.sent(2)
			b.Received(deliver(m[0], 7, false))
			b.Received(deliver(m[1], 7, false))
		}, [3]count{2: {ledger.Reused: 1, ledger.Lost: 1}}},
		{"two have changed places", func(b book) {
			m := b.sent(3)
			b.all(m[0], m[2], m[1])
		}, [3]count{{ledger.Reordered: 1}, {ledger.Reordered: 1}, {ledger.Reordered: 1}}},
		{"all come again, in order", func(b book) {
			m := b.sent(3)
			b.all(append(m, m...)...)
		}, [3]count{2: {ledger.Doubled: 3}}},
		{"what was never sent", func(b book) {
			m := b.sent(1)[0]
			b.came(m, 1)
			m.Number++
			b.came(m, 2)
		}, [3]count{{ledger.Invented: 1}, {ledger.Invented: 1}, {ledger.Invented: 1}}},
		{"what was sent elsewhere", func(b book) {
			m := b.sent(1)[0]
			b.came(m, 1)
			m.Topic = "crowd/q"
			b.came(m, 2)
		}, [3]count{{ledger.Invented: 1}, {ledger.Invented: 1}, {ledger.Invented: 1}}},
		{"what says nothing", func(b book) {
			b.Received(ledger.Delivery{Session: "r", Topic: b.s.Topic, Payload: "rubbish", QoS: b.s.QoS})
			b.Received(ledger.Delivery{Session: "r", Topic: b.s.Topic, Payload: "p x", QoS: b.s.QoS})
			b.Received(ledger.Delivery{Session: "r", Topic: b.s.Topic, Payload: "p -1", QoS: b.s.QoS})
		}, [3]count{{ledger.Invented: 3}, {ledger.Invented: 3}, {ledger.Invented: 3}}},
		{"a higher QoS than it was sent with", func(b book) {
			m := b.sent(1)[0]
			b.came(m, 1)
			d := deliver(m, 2, false)
			d.QoS++
			b.Received(d)
		}, [3]count{{ledger.Invented: 1}, {ledger.Invented: 1}, {ledger.Invented: 1}}},
		{"what nobody has subscribed to", func(b book) {
			b.s.Topic = "else"
			b.all(b.sent(1)...)
		}, [3]count{{ledger.Invented: 1}, {ledger.Invented: 1}, {ledger.Invented: 1}}},
		{
			"a session that is not there any more", func(b book) { b.Forgotten("r") },
			[3]count{{ledger.Forgotten: 1}, {ledger.Forgotten: 1}, {ledger.Forgotten: 1}},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			for qos := range byte(3) {
				b := begin(qos, true, true)
				tt.story(b)
				r := b.Report()
				want := tt.want[qos]
				if want == nil {
					want = count{}
				}
				if qos == 0 {
					delete(r.Count, ledger.Lost) // nothing is ever acknowledged at QoS 0: the stories do it all the same
				}
				if diff := cmp.Diff(want, r.Count); diff != "" {
					t.Errorf("QoS %d (-want +got):\n%s\n%v", qos, diff, r)
				}
				if r.Clean() != (len(want) == 0) {
					t.Errorf("QoS %d: clean is %v", qos, r.Clean())
				}
			}
		})
	}
}

// Which connection a message came from decides whether it is out of order.
func TestAnOrderIsThatOfOneConnection(t *testing.T) {
	tests := []struct {
		name  string
		story func(b book)
		want  [2]int // reordered, overtaken
	}{
		{"an older connection's message after a newer one's", func(b book) {
			old, young := b.Send(b.s, 1), b.Send(b.s, 2)
			b.all(young, old)
		}, [2]int{}},
		{"what was sent again after what was not", func(b book) {
			first, second := b.Send(b.s, 1), b.Send(b.s, 1)
			b.came(second, 1)
			b.Resend(first, 2)
			b.came(first, 2)
		}, [2]int{}},
		{"what was sent again before, after what was sent behind it", func(b book) {
			first := b.Send(b.s, 1)
			b.Resend(first, 2)
			second := b.Send(b.s, 2)
			b.all(second, first)
		}, [2]int{0, 1}},
		{"both sent again: either may be from either", func(b book) {
			first, second := b.Send(b.s, 1), b.Send(b.s, 1)
			b.Resend(first, 2)
			b.Resend(second, 2)
			b.all(second, first)
		}, [2]int{}},
		{"reordered first, sent again later", func(b book) {
			first, second := b.Send(b.s, 1), b.Send(b.s, 1)
			b.all(second, first)
			b.Resend(first, 2)
		}, [2]int{1, 0}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := begin(1, true, true)
			tt.story(b)
			r := b.Report()
			if got := [2]int{r.Count[ledger.Reordered], r.Count[ledger.Overtaken]}; got != tt.want {
				t.Errorf("reordered, overtaken: %v, want %v\n%v", got, tt.want, r)
			}
			if !r.Clean(ledger.Reordered, ledger.Overtaken) || r.Clean() != (tt.want == [2]int{}) {
				t.Errorf("clean is %v", r.Clean())
			}
		})
	}
}

// QoS 2 is exactly once between durable sessions, whatever is sent again.
func TestWhoMayGetAMessageTwiceAtQoS2(t *testing.T) {
	for _, tt := range []struct {
		name                       string
		publisher, receiver, again bool
		want                       int
	}{
		{"sent once", false, false, false, 1},
		{"sent again between durable sessions", true, true, true, 1},
		{"sent again to a transient session", true, false, true, 0},
		{"sent again by a transient publisher", false, true, true, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := begin(2, tt.publisher, tt.receiver)
			m := b.Send(b.s, 1)
			if tt.again {
				b.Resend(m, 2)
			}
			b.Acknowledge(m, 0)
			b.all(m, m)
			if r := b.Report(); r.Count[ledger.Doubled] != tt.want || r.Rows[0].Repeated != 1 {
				t.Errorf("want %d doubled\n%v", tt.want, r)
			}
		})
	}
}

func TestOnlyWhatWasSentAfterTheSubackIsOwed(t *testing.T) {
	b := book{ledger.New(fixed), ledger.Stream{Publisher: "p", Topic: "crowd/p", QoS: 1, Durable: true}}
	b.Open("r", true)
	b.sent(1)
	b.Subscribe("r", "crowd/#")
	early := b.sent(1)[0]
	b.came(early, 1) // it may come before the SUBACK
	b.Subscribed("r")
	b.sent(1)
	r := b.Report()
	if diff := cmp.Diff(map[ledger.Kind]int{ledger.Lost: 1}, r.Count); diff != "" {
		t.Errorf("(-want +got):\n%s\n%v", diff, r)
	}
	want := []ledger.Row{{Publishers: "durable", Receivers: "durable", QoS: 1, Owed: 1, Lost: 1}}
	if diff := cmp.Diff(want, r.Rows); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// A second SUBSCRIBE takes nothing back of what the first has made owed.
// What is for one client alone is owed to that one, and to nobody who subscribes to everything.
func TestDirectMessagesAreForOne(t *testing.T) {
	b := book{ledger.New(fixed), ledger.Stream{Publisher: "p", Topic: "p2p/r/x", QoS: 1, Durable: true}}
	for _, name := range []string{"r", "s", "all"} {
		b.Open(name, true)
		b.Subscribe(name, map[string]string{"r": "p2p/r/#", "s": "p2p/s/#", "all": "#"}[name])
		b.Subscribed(name)
	}
	m := b.sent(2)
	b.came(m[0], 1)
	for _, name := range []string{"s", "all"} {
		b.Received(ledger.Delivery{Session: name, Topic: m[0].Topic, Payload: m[0].Payload(), QoS: 1, PacketID: 1})
	}
	r := b.Report()
	if diff := cmp.Diff(map[ledger.Kind]int{ledger.Lost: 1, ledger.Invented: 2}, r.Count); diff != "" || r.Wrongs[2].Client != "r" {
		t.Errorf("(-want +got):\n%s\n%v", diff, r)
	}
}

func TestTheFirstSubackOfAFilterCounts(t *testing.T) {
	b := begin(1, true, true)
	b.sent(1)
	b.Subscribe("r", "crowd/#")
	b.Subscribed("r")
	if r := b.Report(); r.Count[ledger.Lost] != 1 {
		t.Errorf("%v", r)
	}
}

// A group gets a message by whichever member, and perhaps by two; nothing is owed to it.
func TestTheMembersOfAGroupShare(t *testing.T) {
	deliver := func(b book, member string, m ledger.Message, id uint16) {
		b.Received(ledger.Delivery{Session: member, Group: "g", Topic: m.Topic, Payload: m.Payload(), QoS: m.QoS, PacketID: id, DUP: true})
	}
	type count = map[ledger.Kind]int
	for _, tt := range []struct {
		name  string
		story func(b book, m []ledger.Message)
		want  [3]count // by QoS
	}{
		{"each once", func(b book, m []ledger.Message) {
			deliver(b, "a", m[0], 1)
			deliver(b, "b", m[1], 1)
			deliver(b, "a", m[2], 2)
		}, [3]count{1: {}, 2: {}}},
		{"one after a later one, by another member", func(b book, m []ledger.Message) {
			deliver(b, "a", m[1], 1)
			deliver(b, "b", m[0], 1)
			deliver(b, "b", m[2], 2)
		}, [3]count{1: {}, 2: {}}},
		{"one by nobody", func(b book, m []ledger.Message) {
			deliver(b, "a", m[0], 1)
			deliver(b, "b", m[2], 1)
		}, [3]count{1: {}, 2: {}}},
		{"one by both", func(b book, m []ledger.Message) {
			for i, x := range m {
				deliver(b, "a", x, uint16(i+1))
			}
			deliver(b, "b", m[1], 1)
		}, [3]count{1: {}, 2: {}}},
		{"one under the packet of another", func(b book, m []ledger.Message) {
			deliver(b, "a", m[0], 1)
			deliver(b, "a", m[1], 1)
		}, [3]count{1: {}, 2: {ledger.Reused: 1}}},
		{"one again under its packet", func(b book, m []ledger.Message) {
			for i, x := range m {
				deliver(b, "a", x, uint16(i+1))
			}
			deliver(b, "a", m[2], 3)
		}, [3]count{1: {}, 2: {}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for qos := byte(1); qos <= 2; qos++ {
				b := book{ledger.New(fixed), ledger.Stream{Publisher: "p", Topic: "crowd/p", QoS: qos, Durable: true}}
				b.OpenGroup("g")
				b.Subscribe("g", "crowd/#")
				b.Subscribed("g")
				b.Open("a", true)
				b.Open("b", true)
				tt.story(b, b.sent(3))
				if diff := cmp.Diff(tt.want[qos], b.Report().Count); diff != "" {
					t.Errorf("QoS %d (-want +got):\n%s\n%v", qos, diff, b.Report())
				}
			}
		})
	}
}

func TestWhatIsOutstandingIsKnownMeanwhile(t *testing.T) {
	b := begin(1, true, true)
	m := b.sent(3)
	b.came(m[0], 1)
	mark := b.Now()
	b.sent(4)
	if n, first := b.Outstanding(mark); n != 2 || !strings.Contains(first, `"r" has not got p 1, sent at 03:04:05.000 on connection 1`) {
		t.Errorf("%d, %s", n, first)
	}
	if n, _ := b.Outstanding(b.Now()); n != 6 {
		t.Errorf("%d", n)
	}
	b.all(m[1], m[2])
	if n, first := b.Outstanding(mark); n != 0 || first != "" {
		t.Errorf("%d, %s", n, first)
	}
	b.Ended("r")
	if n, _ := b.Outstanding(b.Now()); n != 0 {
		t.Errorf("%d after the end of the session", n)
	}
}

func TestAClientIsToldWhatIsNew(t *testing.T) {
	b := begin(2, true, true)
	m := b.sent(1)[0]
	d := ledger.Delivery{Session: "r", Topic: m.Topic, Payload: m.Payload(), QoS: 2, PacketID: 3}
	var got []bool
	got = append(got, b.Received(d))
	d.DUP = true
	got = append(got, b.Received(d))
	b.Released("r", 3)
	b.Released("r", 3) // a PUBREL may come again
	got = append(got, b.Received(d))
	d.Payload = "rubbish"
	got = append(got, b.Received(d))
	if want := []bool{true, false, true, false}; !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}

func TestAReportShowsEverything(t *testing.T) {
	b := begin(1, true, true)
	b.Open("r", false)
	b.Open("t", false)
	b.Subscribe("t", "+/p")
	b.Subscribed("t")
	m := b.sent(20)
	b.Acknowledge(b.Send(b.s, 1), 0x97)
	again := b.Send(b.s, 1)
	b.Resend(again, 2)
	for _, x := range append(m[2:], m[1], again, again) {
		b.Received(ledger.Delivery{Session: "t", Topic: x.Topic, Payload: x.Payload(), QoS: 1})
	}
	b.Forgotten("r")
	want := `22 messages sent, 20 acknowledged, 1 refused, 1 sent again
     from         to  QoS  owed  lost  extra  repeated  doubled  reordered
  durable  transient    1    20     1      1         1        0          1
lost: 1
reordered: 1
forgotten: 1
  reordered: "t": p 1 on "crowd/p" after 19, packet 0 (DUP false) on connection 0; sent at 03:04:05.000 on connection 1, acknowledged with 0x0 at 03:04:05.000 (03:04:05.000)
  forgotten: "r": its session is not present any more (03:04:05.000)
  lost: "t": p 0 on "crowd/p", sent at 03:04:05.000 on connection 1, acknowledged with 0x0 at 03:04:05.000
`
	if diff := cmp.Diff(want, b.Report().String()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestManyWrongsAreCountedAndFewDescribed(t *testing.T) {
	b := begin(2, true, true)
	m := b.sent(100)
	b.all(append(m[:50:50], m[:50]...)...)
	r := b.Report()
	if len(r.Wrongs) != 20 || r.Count[ledger.Lost] != 50 || r.Count[ledger.Doubled] != 50 {
		t.Errorf("%d described\n%v", len(r.Wrongs), r)
	}
	if again := b.Report(); again.Count[ledger.Lost] != 50 {
		t.Errorf("a second report has %d lost", again.Count[ledger.Lost])
	}
}

// Whatever order one connection's messages come in, the ledger counts what a simple model counts.
func TestALedgerIsExact(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		qos := byte(rapid.IntRange(1, 2).Draw(t, "QoS"))
		b := begin(qos, true, true)
		m := b.sent(12)
		came := rapid.SliceOf(rapid.IntRange(0, len(m)-1)).Draw(t, "came")
		seen, highest := map[int]bool{}, -1
		doubled, reordered := 0, 0
		for i, n := range came {
			switch {
			case seen[n] && qos == 2:
				doubled++
			case !seen[n] && n < highest:
				reordered++
			}
			seen[n], highest = true, max(highest, n)
			b.came(m[n], uint16(i+1))
		}
		r := b.Report()
		got := []int{r.Count[ledger.Lost], r.Count[ledger.Doubled], r.Count[ledger.Reordered], r.Count[ledger.Invented]}
		if diff := cmp.Diff([]int{len(m) - len(seen), doubled, reordered, 0}, got); diff != "" {
			t.Errorf("lost, doubled, reordered, invented (-want +got):\n%s\n%v", diff, r)
		}
	})
}
