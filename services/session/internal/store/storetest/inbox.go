package storetest

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/beeline-mqtt/beeline/internal/journal"
	"github.com/beeline-mqtt/beeline/internal/message"
	"github.com/beeline-mqtt/beeline/internal/subscriptions"
	"github.com/beeline-mqtt/beeline/services/session/internal/store"
)

func inboxTests() []test {
	return []test{
		{"entries come back as they were, in order", entriesRoundTrip},
		{"any message comes back as it was", messagesRoundTrip},
		{"pages", pages},
		{"changes may be repeated", repeated},
		{"the way of an entry", wayOfAnEntry},
		{"changes of one write see each other", changesSeeEachOther},
		{"the first position", firstPosition},
		{"QoS 2 comes once", exactlyOnce},
		{"QoS 2 comes once also when it is done with", exactlyOnceAfterDone},
		{"QoS 2 comes once from many origins and out of order", exactlyOnceOutOfOrder},
		{"a message is shared by inboxes", shared},
		{"subscriptions and inbound QoS 2", subscribed},
	}
}

func entriesRoundTrip(t *testing.T, engine New) {
	b := start(t, engine, store.DefaultLimits())
	b.session("c", 7)
	want := []journal.Entry{
		{Position: 1, QoS: 1, Message: text(1, "small")},
		{Position: 2, QoS: 2, Retain: true, IDs: []uint32{1, 1 << 27}, Message: text(2, strings.Repeat("large", 1000)), PacketID: 65535},
		{Position: 9, QoS: 2, PacketID: 4, Released: true},
		{Position: 1 << 40, QoS: 1, Message: text(4, "")},
	}
	for _, e := range want {
		b.must("c", 7, journal.Change{Kind: journal.Append, Entry: e})
	}
	want[3].Message.Payload = nil
	for range 2 {
		b.equal("entries", b.all("c", 7), want)
		b.equal("next", b.state("c", 7).Next, journal.Position(1<<40+1))
		b.reopen()
	}
}

func messagesRoundTrip(t *testing.T, engine New) {
	b := start(t, engine, store.DefaultLimits())
	b.session("c", 7)
	at := journal.Position(0)
	rapid.Check(t, func(t *rapid.T) {
		at++
		m := anyMessage(b.Now()).Draw(t, "message")
		b.must("c", 7, journal.Change{Kind: journal.Append, Entry: journal.Entry{Position: at, QoS: 1, Message: m}})
		got := b.page("c", 7, at-1, 1, 1)
		if diff := cmp.Diff([]journal.Entry{{Position: at, QoS: 1, Message: m}}, got); diff != "" {
			t.Fatalf("entry (-want +got):\n%s", diff)
		}
		m.Topic = fmt.Sprint(at, "/", m.Topic)
		if len(m.Payload) == 0 {
			m.Payload = []byte{0}
		}
		version, err := b.retain(m)
		wantErr(t, "Retain", err, nil)
		page, err := b.Retained(m.Topic, nil, 1)
		wantErr(t, "Retained", err, nil)
		want := []store.RetainedMessage{{Message: m, Version: version}}
		if diff := cmp.Diff(want, page.Messages); diff != "" {
			t.Fatalf("retained (-want +got):\n%s", diff)
		}
	})
}

func anyMessage(now time.Time) *rapid.Generator[*message.Message] {
	return rapid.Custom(func(t *rapid.T) *message.Message {
		word := rapid.StringN(0, 12, 64)
		m := &message.Message{
			ID:        message.ID{Origin: word.Draw(t, "origin"), Seq: rapid.Uint64().Draw(t, "seq")},
			Publisher: word.Draw(t, "publisher"),
			Topic:     rapid.StringMatching(`[a-z/é]{1,20}`).Draw(t, "topic"),
			QoS:       rapid.ByteRange(0, 2).Draw(t, "qos"),
			Retain:    rapid.Bool().Draw(t, "retain"),
		}
		// A size on either side of what may be stored apart.
		if payload := rapid.SliceOfN(rapid.Byte(), 0, 40).Draw(t, "payload"); len(payload) > 0 {
			m.Payload = []byte(strings.Repeat(string(payload), rapid.IntRange(1, 40).Draw(t, "times")))
		}
		if rapid.Bool().Draw(t, "expires") {
			m.Expires = time.Unix(0, now.UnixNano()+rapid.Int64Range(1e9, 1e18).Draw(t, "expiry"))
		}
		if rapid.Bool().Draw(t, "properties") {
			p := &message.Properties{
				PayloadFormat: rapid.ByteRange(0, 1).Draw(t, "format"), HasPayloadFormat: rapid.Bool().Draw(t, "has format"),
				ContentType: word.Draw(t, "content type"), ResponseTopic: word.Draw(t, "response topic"),
			}
			if rapid.Bool().Draw(t, "correlates") {
				p.CorrelationData = append([]byte{}, rapid.SliceOfN(rapid.Byte(), 0, 20).Draw(t, "correlation")...)
			}
			for range rapid.IntRange(0, 3).Draw(t, "user") {
				p.User = append(p.User, message.UserProperty{Name: word.Draw(t, "name"), Value: word.Draw(t, "value")})
			}
			m.Props = p
		}
		return m
	})
}

func pages(t *testing.T, engine New) {
	b := start(t, engine, store.DefaultLimits())
	b.session("c", 7)
	for at := range journal.Position(10) {
		c := entry(at+1, 1)
		c.Entry.Message.Payload = make([]byte, 1000)
		b.must("c", 7, c)
	}
	b.must("c", 7, change(journal.Done, 1), change(journal.Done, 5))
	for _, tt := range []struct {
		name              string
		after             journal.Position
		entries, maxBytes int
		want              []journal.Position
	}{
		{"from the oldest", 0, 3, 1 << 20, []journal.Position{2, 3, 4}},
		{"over a gap", 3, 3, 1 << 20, []journal.Position{4, 6, 7}},
		{"from the gap", 5, 1, 1 << 20, []journal.Position{6}},
		{"to the end", 8, 100, 1 << 20, []journal.Position{9, 10}},
		{"behind the end", 10, 100, 1 << 20, []journal.Position{}},
		{"far behind the end", 1 << 50, 100, 1 << 20, []journal.Position{}},
		{"of one that is larger than the page", 0, 100, 1, []journal.Position{2}},
		{"of some bytes", 0, 100, 3500, []journal.Position{2, 3, 4}},
		{"of nothing is of one", 0, 0, 0, []journal.Position{2}},
	} {
		b.equal(tt.name, positions(b.page("c", 7, tt.after, tt.entries, tt.maxBytes)), tt.want)
	}
}

func repeated(t *testing.T, engine New) {
	b := start(t, engine, store.DefaultLimits())
	b.session("c", 7)
	changes := []journal.Change{
		entry(1, 1), entry(2, 2), entry(3, 1), change(journal.Done, 1),
		{Kind: journal.Sent, Position: 2, PacketID: 5},
		change(journal.Released, 2),
		{Kind: journal.Taken, PacketID: 1, Message: message.ID{Origin: "a", Seq: 1}},
		{Kind: journal.Completed, PacketID: 1},
		{Kind: journal.Subscribed, Filter: "a"},
		{Kind: journal.Unsubscribed, Filter: "a"},
		change(journal.Done, 77), change(journal.Released, 77),
		{Kind: journal.Sent, Position: 77, PacketID: 9},
	}
	b.equal("left out", len(b.must("c", 7, changes...)), 0)
	entries, state, stats := b.all("c", 7), b.state("c", 7), b.stats("c")
	if len(entries) != 2 || stats.Messages != 2 {
		t.Fatalf("entries %v, stats %+v", positions(entries), stats)
	}
	for range 2 {
		b.equal("left out", b.must("c", 7, changes...), []journal.LeftOut{{Position: 1}}) // it is not there
		b.equal("entries", b.all("c", 7), entries)
		b.equal("state", b.state("c", 7), state)
		b.equal("stats", b.stats("c"), stats)
		b.reopen()
	}
}

func wayOfAnEntry(t *testing.T, engine New) {
	b := start(t, engine, store.DefaultLimits())
	b.session("c", 7)
	e := journal.Entry{Position: 1, QoS: 2, Message: text(1, strings.Repeat("x", 2000))}
	check := func() {
		t.Helper()
		b.equal("entry", b.all("c", 7), []journal.Entry{e})
	}
	b.must("c", 7, journal.Change{Kind: journal.Append, Entry: e})
	check()
	b.must("c", 7, journal.Change{Kind: journal.Sent, Position: 1, PacketID: 5})
	e.PacketID = 5
	check()
	b.must("c", 7, journal.Change{Kind: journal.Sent, Position: 1, PacketID: 6})
	e.PacketID = 6
	b.reopen()
	check()
	b.must("c", 7, change(journal.Released, 1))
	e.Released = true
	check()
	b.reopen()
	check()
	b.must("c", 7, change(journal.Done, 1))
	b.equal("entries", len(b.all("c", 7)), 0)
	b.equal("stats", b.stats("c"), store.Stats{})
}

func changesSeeEachOther(t *testing.T, engine New) {
	b := start(t, engine, store.DefaultLimits())
	b.session("c", 7)
	left := b.must("c", 7,
		entry(1, 2), change(journal.Done, 1),
		entry(2, 2), journal.Change{Kind: journal.Sent, Position: 2, PacketID: 3}, change(journal.Released, 2), change(journal.Done, 2),
		entry(3, 1), journal.Change{Kind: journal.Sent, Position: 3, PacketID: 4},
		journal.Change{Kind: journal.Append, Entry: journal.Entry{Position: 4, QoS: 2, Message: text(2, "hello")}},
	)
	b.equal("left out", left, []journal.LeftOut{{Position: 4, Duplicate: true}})
	b.equal("entries", b.all("c", 7), []journal.Entry{{Position: 3, QoS: 1, PacketID: 4, Message: text(3, "hello")}})
	b.equal("next", b.state("c", 7).Next, journal.Position(5))
}

func firstPosition(t *testing.T, engine New) {
	b := start(t, engine, store.DefaultLimits())
	b.session("c", 7)
	check := func(first, next journal.Position) {
		t.Helper()
		state := b.state("c", 7)
		if state.First != first || state.Next != next {
			t.Fatalf("first %d, next %d; want %d, %d", state.First, state.Next, first, next)
		}
		stats := b.stats("c")
		if stats.Oldest.IsZero() != (first == next) {
			t.Fatalf("stats %+v", stats)
		}
		if first != next && stats.Oldest.Sub(b.all("c", 7)[0].Message.Expires.Add(-time.Hour)).Abs() > time.Second {
			t.Fatalf("the oldest was appended at %v", stats.Oldest)
		}
	}
	check(1, 1)
	for at := range journal.Position(6) {
		c := entry(at+1, 1)
		c.Entry.Message.Expires = b.Now().Add(time.Hour)
		b.must("c", 7, c)
		b.Advance(2 * time.Second)
	}
	check(1, 7)
	for _, step := range []struct{ done, first journal.Position }{{2, 1}, {1, 3}, {4, 3}, {5, 3}, {3, 6}, {6, 7}} {
		b.must("c", 7, change(journal.Done, step.done))
		check(step.first, 7)
		b.reopen()
		check(step.first, 7)
	}
}

// duplicate appends the message of a number at another position.
func duplicate(at journal.Position, n int) journal.Change {
	return journal.Change{Kind: journal.Append, Entry: journal.Entry{Position: at, QoS: 2, Message: text(n, "hello")}}
}

func exactlyOnce(t *testing.T, engine New) {
	b := start(t, engine, store.DefaultLimits())
	b.session("c", 7)
	b.session("d", 8)
	b.must("c", 7, entry(1, 2), entry(2, 1))
	again := []journal.LeftOut{{Position: 3, Duplicate: true}}
	b.equal("the same message", b.must("c", 7, duplicate(3, 1)), again)
	b.reopen()
	b.equal("the same message, repeated", b.must("c", 7, duplicate(3, 1)), again)
	b.equal("the same message, once more", b.must("c", 7, duplicate(4, 1)), []journal.LeftOut{{Position: 4, Duplicate: true}})
	b.equal("one that was there at QoS 1", len(b.must("c", 7, duplicate(5, 2))), 0)
	b.equal("another inbox", len(b.must("d", 8, duplicate(3, 1))), 0)
	b.equal("entries", positions(b.all("c", 7)), []journal.Position{1, 2, 5})
}

func exactlyOnceAfterDone(t *testing.T, engine New) {
	b := start(t, engine, store.DefaultLimits())
	b.session("c", 7)
	b.must("c", 7, entry(1, 2), change(journal.Done, 1))
	for at := journal.Position(2); at <= 4; at++ {
		b.Advance(3 * time.Minute)
		b.reopen()
		b.equal("left out", b.must("c", 7, duplicate(at, 1)), []journal.LeftOut{{Position: at, Duplicate: true}})
	}
	b.Advance(30 * time.Minute)
	b.equal("left out after half an hour", len(b.must("c", 7, duplicate(5, 1))), 0)
	b.equal("entries", positions(b.all("c", 7)), []journal.Position{5})
}

func exactlyOnceOutOfOrder(t *testing.T, engine New) {
	b := start(t, engine, store.DefaultLimits())
	b.session("c", 7)
	at := journal.Position(0)
	add := func(origin, seq int) bool {
		t.Helper()
		at++
		m := text(seq, "hello")
		m.Origin = fmt.Sprint("g", origin)
		left := b.must("c", 7, journal.Change{Kind: journal.Append, Entry: journal.Entry{Position: at, QoS: 2, Message: m}})
		return len(left) == 0
	}
	for round, seq := range []int{10, 5, 10, 20, 5, 7, 20} {
		for origin := range 100 {
			if first := add(origin, seq); first != (round != 2 && round < 4 || round == 5) {
				t.Fatalf("message %d of origin %d: added %v", seq, origin, first)
			}
		}
		if round%2 == 0 {
			b.reopen()
			b.must("c", 7, change(journal.Done, at), change(journal.Done, at-50))
		}
	}
}

func shared(t *testing.T, engine New) {
	b := start(t, engine, store.DefaultLimits())
	const inboxes = 20
	m := text(1, strings.Repeat("x", 5000))
	m.Props = &message.Properties{User: []message.UserProperty{{Name: "n", Value: "v"}}}
	name := func(i int) (string, journal.SessionID) { return fmt.Sprint(i), journal.SessionID(i + 1) }
	for i := range inboxes {
		client, id := name(i)
		b.session(client, id)
		b.must(client, id, journal.Change{Kind: journal.Append, Entry: journal.Entry{Position: 1, QoS: 1 + byte(i%2), Message: m}})
	}
	other := text(1, strings.Repeat("y", 5000)) // the same id, by mistake
	b.session("other", 1000)
	b.must("other", 1000, journal.Change{Kind: journal.Append, Entry: journal.Entry{Position: 1, QoS: 1, Message: other}})
	b.Advance(2 * time.Minute)
	for i := range inboxes {
		client, id := name(i)
		b.equal("entry", b.all(client, id), []journal.Entry{{Position: 1, QoS: 1 + byte(i%2), Message: m}})
		b.must(client, id, change(journal.Done, 1))
		if i == inboxes/2 {
			b.reopen()
		}
	}
	b.equal("the other", b.all("other", 1000), []journal.Entry{{Position: 1, QoS: 1, Message: other}})
}

func subscribed(t *testing.T, engine New) {
	b := start(t, engine, store.DefaultLimits())
	b.session("c", 7)
	b.furnish("c", 7)
	b.must("c", 7,
		journal.Change{Kind: journal.Unsubscribed, Filter: "#"},
		journal.Change{Kind: journal.Subscribed, Filter: "$share/g/a/+", Options: subscriptions.Options{QoS: 1}},
		journal.Change{Kind: journal.Taken, PacketID: 65535, Message: message.ID{Origin: "h", Seq: 2}},
		journal.Change{Kind: journal.Taken, PacketID: 256, Message: message.ID{Origin: "h", Seq: 3}},
		journal.Change{Kind: journal.Completed, PacketID: 3},
	)
	for range 2 {
		b.equal("state", b.state("c", 7), journal.State{
			ID: 7, Present: true, First: 1, Next: 3,
			Subscriptions: []journal.Subscription{{Filter: "$share/g/a/+", Options: subscriptions.Options{QoS: 1}}},
			Taken:         map[uint16]message.ID{65535: {Origin: "h", Seq: 2}, 256: {Origin: "h", Seq: 3}},
		})
		b.reopen()
	}
}
