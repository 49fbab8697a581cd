package storetest

import (
	"testing"
	"time"

	"github.com/beeline-mqtt/beeline/internal/journal"
	"github.com/beeline-mqtt/beeline/services/session/internal/store"
)

func boundTests() []test {
	return []test{
		{"the oldest makes room: messages", boundOfMessages},
		{"the oldest makes room: bytes", boundOfBytes},
		{"one message may be larger than the bound", largerThanBound},
		{"QoS 2 in flight is not dropped", inFlightStays},
		{"a write of more than the bound", largeWrite},
		{"what has waited for too long is dropped", boundOfAge},
		{"what has expired is passed over and trimmed", expired},
	}
}

func limits(messages, bytes uint64) store.Limits {
	l := store.DefaultLimits()
	l.InboxMessages, l.InboxBytes = messages, bytes
	return l
}

func (b *bench) wantDrops(dropped uint64, reason store.DropReason) {
	b.Helper()
	if got := b.stats("c"); got.Dropped != dropped || got.LastDropReason != reason {
		b.Fatalf("stats %+v, want %d dropped, the last for its %v", got, dropped, reason)
	}
}

func boundOfMessages(t *testing.T, engine New) {
	b := start(t, engine, limits(3, 1<<30))
	b.session("c", 7)
	for at := range journal.Position(5) {
		b.equal("left out", len(b.must("c", 7, entry(at+1, 1))), 0)
	}
	for range 2 {
		b.equal("entries", positions(b.all("c", 7)), []journal.Position{3, 4, 5})
		b.wantDrops(2, store.TooMany)
		b.reopen()
	}
	// What is dropped is done with: saying so changes nothing.
	b.must("c", 7, change(journal.Done, 1), change(journal.Released, 2), change(journal.Done, 4), entry(6, 1))
	b.equal("entries", positions(b.all("c", 7)), []journal.Position{3, 5, 6})
	b.wantDrops(2, store.TooMany)
}

func boundOfBytes(t *testing.T, engine New) {
	b := start(t, engine, limits(1000, 10_000))
	b.session("c", 7)
	for at := range journal.Position(20) {
		c := entry(at+1, 1)
		c.Entry.Message.Payload = make([]byte, 900)
		b.must("c", 7, c)
		if got := b.stats("c"); got.Bytes > 10_000 || got.Bytes < 900*got.Messages {
			t.Fatalf("stats %+v", got)
		}
	}
	entries := b.all("c", 7)
	if n := len(entries); n < 8 || n > 11 || entries[n-1].Position != 20 {
		t.Fatalf("entries %v", positions(entries))
	}
	b.wantDrops(uint64(20-len(entries)), store.TooBig)
}

func largerThanBound(t *testing.T, engine New) {
	b := start(t, engine, limits(1000, 10_000))
	b.session("c", 7)
	large := entry(3, 1)
	large.Entry.Message.Payload = make([]byte, 50_000)
	b.must("c", 7, entry(1, 1), entry(2, 1), large)
	b.equal("entries", positions(b.all("c", 7)), []journal.Position{3})
	b.must("c", 7, entry(4, 1))
	b.equal("entries", positions(b.all("c", 7)), []journal.Position{4})
	b.wantDrops(3, store.TooBig)
}

func sent(at journal.Position, packet uint16) journal.Change {
	return journal.Change{Kind: journal.Sent, Position: at, PacketID: packet}
}

func inFlightStays(t *testing.T, engine New) {
	b := start(t, engine, limits(3, 1<<30))
	b.session("c", 7)
	withID := entry(2, 2)
	withID.Entry.PacketID = 9
	b.must("c", 7, entry(1, 2), withID, entry(3, 1), sent(1, 1), sent(3, 2))
	b.reopen()
	b.must("c", 7, entry(4, 2)) // the one at QoS 1 makes room, in flight or not
	b.equal("entries", positions(b.all("c", 7)), []journal.Position{1, 2, 4})
	b.must("c", 7, sent(4, 3))
	b.equal("left out", b.must("c", 7, entry(5, 1)), []journal.LeftOut{{Position: 5}})
	b.wantDrops(2, store.TooMany)
	b.equal("entries", positions(b.all("c", 7)), []journal.Position{1, 2, 4})
	b.must("c", 7, change(journal.Released, 1), change(journal.Done, 1), entry(6, 1))
	b.equal("entries", positions(b.all("c", 7)), []journal.Position{2, 4, 6})
	b.equal("next", b.state("c", 7).Next, journal.Position(7))
}

func largeWrite(t *testing.T, engine New) {
	b := start(t, engine, limits(3, 1<<30))
	b.session("c", 7)
	b.must("c", 7, entry(1, 1), entry(2, 1))
	var changes []journal.Change
	for at := journal.Position(3); at <= 9; at++ {
		changes = append(changes, entry(at, 2))
		if at == 4 {
			changes = append(changes, sent(4, 1))
		}
	}
	b.equal("left out", len(b.must("c", 7, changes...)), 0)
	b.equal("entries", positions(b.all("c", 7)), []journal.Position{4, 8, 9})
	b.wantDrops(6, store.TooMany)
}

func boundOfAge(t *testing.T, engine New) {
	l := store.DefaultLimits()
	l.InboxAge = time.Hour
	b := start(t, engine, l)
	b.session("c", 7)
	b.must("c", 7, entry(1, 1), entry(2, 1), entry(3, 2), sent(2, 5))
	b.Advance(40 * time.Minute)
	b.must("c", 7, entry(4, 1))
	b.reopen()
	b.Advance(30 * time.Minute)
	b.equal("entries", positions(b.all("c", 7)), []journal.Position{2, 4})
	b.wantDrops(2, store.TooOld)
	b.Advance(time.Hour)
	b.wantDrops(3, store.TooOld)
	b.equal("messages", b.stats("c").Messages, uint64(1))
}

func expired(t *testing.T, engine New) {
	b := start(t, engine, store.DefaultLimits())
	b.session("c", 7)
	for at := range journal.Position(6) {
		c := entry(at+1, 1+byte(at%2))
		if at%3 != 2 {
			c.Entry.Message.Expires = b.Now().Add(time.Minute)
		}
		b.must("c", 7, c)
	}
	b.must("c", 7, sent(4, 1)) // its delivery has begun: it is not given up half way
	b.equal("entries", len(b.all("c", 7)), 6)
	b.Advance(2 * time.Minute)
	b.reopen()
	b.equal("first of a page", positions(b.page("c", 7, 0, 1, 1)), []journal.Position{3})
	b.equal("entries", positions(b.all("c", 7)), []journal.Position{3, 4, 6})
	b.equal("messages", b.stats("c").Messages, uint64(3))
	b.wantDrops(0, store.NotDropped)
}
