package storetest

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/beeline-mqtt/beeline/internal/journal"
	"github.com/beeline-mqtt/beeline/internal/message"
	"github.com/beeline-mqtt/beeline/internal/subscriptions"
	"github.com/beeline-mqtt/beeline/services/session/internal/store"
)

func sessionTests() []test {
	return []test{
		{"a record comes back as it was", recordRoundTrip},
		{"a record changes only from the epoch that is known", compareAndSet},
		{"the epoch does not fall", epochsGrow},
		{"a deleted record is gone with its session", deleted},
		{"another session has nothing of the one before", replaced},
		{"a session id is used once", sessionIDsAreUnique},
		{"an end by the thousand", endOfLargeSession},
		{"only the holder writes", fenced},
		{"a write is made as a whole or not at all", allOrNothing},
		{"all records are visited at the start", loaded},
		{"answers come in the order of the calls", answersInOrder},
		{"reads see what was called before", readsSeeCalls},
		{"what the store knows of itself", meta},
		{"a closed store does nothing", closed},
	}
}

func fullRecord(now time.Time) store.Record {
	return store.Record{
		Client: "c\x01/ü", Session: 1<<63 + 5, Epoch: 1 << 60, Holder: "g1", Former: "g0", Expiry: journal.Never,
		Away: now, WillDue: true,
		Will: &journal.Will{Message: text(0, "will"), Expiry: 3 * time.Second, HasExpiry: true, Delay: time.Minute},
	}
}

func recordRoundTrip(t *testing.T, engine New) {
	b := start(t, engine, store.DefaultLimits())
	full := fullRecord(time.Unix(1700000000, 123))
	bare := store.Record{Client: "bare", Epoch: 1}
	for _, r := range []store.Record{full, bare} {
		if err := b.put(0, r); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		for _, r := range []store.Record{full, bare} {
			got, ok, err := b.Get(r.Client)
			if err != nil || !ok {
				t.Fatalf("Get: %v, %v", ok, err)
			}
			b.equal("record", got, r)
		}
		if _, ok, err := b.Get("nobody"); ok || err != nil {
			t.Fatalf("Get of nobody: %v, %v", ok, err)
		}
		b.reopen()
	}
}

func wantErr(t tester, what string, got, want error) {
	t.Helper()
	if !errors.Is(got, want) || want == nil && got != nil {
		t.Fatalf("%s: error %v, want %v", what, got, want)
	}
}

func compareAndSet(t *testing.T, engine New) {
	b := start(t, engine, store.DefaultLimits())
	b.session("c", 7)
	for _, tt := range []struct {
		name    string
		ifEpoch uint64
		record  store.Record
		want    error
	}{
		{"new, though there is one", 0, store.Record{Client: "c", Session: 8, Epoch: 2}, store.ErrConflict},
		{"from an older epoch", 5, store.Record{Client: "c", Session: 7, Epoch: 6}, store.ErrConflict},
		{"from an epoch, though there is none", 1, store.Record{Client: "d", Session: 9, Epoch: 2}, store.ErrConflict},
		{"the same epoch", 1, store.Record{Client: "c", Session: 7, Epoch: 1, WillDue: true}, nil},
		{"the next holder", 1, store.Record{Client: "c", Session: 7, Epoch: 4, Holder: "g2"}, nil},
		{"the former holder once more", 1, store.Record{Client: "c", Session: 7, Epoch: 1}, store.ErrConflict},
	} {
		wantErr(t, tt.name, b.put(tt.ifEpoch, tt.record), tt.want)
	}
	got, _, err := b.Get("c")
	if err != nil || got.Epoch != 4 || got.Holder != "g2" {
		t.Fatalf("record %+v, %v", got, err)
	}
	if _, ok, _ := b.Get("d"); ok {
		t.Fatal("a refused record is there")
	}
}

func epochsGrow(t *testing.T, engine New) {
	b := start(t, engine, store.DefaultLimits())
	wantErr(t, "epoch 0", b.put(0, store.Record{Client: "c"}), store.ErrInvalid)
	if err := b.put(0, store.Record{Client: "c", Epoch: 9}); err != nil {
		t.Fatal(err)
	}
	wantErr(t, "epoch 8", b.put(9, store.Record{Client: "c", Epoch: 8}), store.ErrInvalid)
	b.equal("highest epoch", b.HighestEpoch(), uint64(9))
	wantErr(t, "delete", b.remove(9), nil)
	b.reopen()
	b.equal("highest epoch after the record is gone", b.HighestEpoch(), uint64(9))
}

// furnish gives a session of epoch 1 some of everything.
func (b *bench) furnish(client string, id journal.SessionID) {
	b.Helper()
	b.must(client, id,
		entry(1, 1), entry(2, 2), journal.Change{Kind: journal.Sent, Position: 2, PacketID: 7},
		journal.Change{Kind: journal.Taken, PacketID: 3, Message: message.ID{Origin: "g", Seq: 1}},
		journal.Change{Kind: journal.Subscribed, Filter: "$share/g/a/+", Options: subscriptions.Options{QoS: 2, ID: 1 << 27, NoLocal: true}},
		journal.Change{Kind: journal.Subscribed, Filter: "#", Options: subscriptions.Options{QoS: 1, RetainAsPublished: true, RetainHandling: 2}},
	)
}

func deleted(t *testing.T, engine New) {
	b := start(t, engine, store.DefaultLimits())
	b.session("c", 7)
	b.furnish("c", 7)
	wantErr(t, "delete under another epoch", b.remove(2), store.ErrConflict)
	wantErr(t, "delete", b.remove(1), nil)
	wantErr(t, "delete again", b.remove(1), nil)
	for range 2 {
		if _, ok, err := b.Get("c"); ok || err != nil {
			t.Fatalf("Get: %v, %v", ok, err)
		}
		_, err := b.State("c", 7)
		wantErr(t, "State", err, store.ErrFenced)
		_, err = b.Inbox("c", 7, 0, 1, 1)
		wantErr(t, "Inbox", err, store.ErrFenced)
		b.equal("stats", b.stats("c"), store.Stats{})
		b.reopen()
	}
}

func replaced(t *testing.T, engine New) {
	b := start(t, engine, store.DefaultLimits())
	b.session("c", 7)
	b.furnish("c", 7)
	state := b.state("c", 7)
	if len(state.Subscriptions) != 2 || len(state.Taken) != 1 || state.First != 1 || state.Next != 3 || !state.Present || state.ID != 7 {
		t.Fatalf("state %+v", state)
	}
	if err := b.put(1, store.Record{Client: "c", Session: 8, Epoch: 1}); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		b.equal("state", b.state("c", 8), journal.State{ID: 8, Present: true, Taken: map[uint16]message.ID{}, First: 1, Next: 1})
		b.equal("inbox", len(b.all("c", 8)), 0)
		_, err := b.State("c", 7)
		wantErr(t, "State of the former session", err, store.ErrFenced)
		b.reopen()
	}
	// The former session's message ids do not count.
	b.equal("left out", len(b.must("c", 8, entry(1, 1), entry(2, 2))), 0)
	// Only a will is left.
	if err := b.put(1, store.Record{Client: "c", Epoch: 2, WillDue: true}); err != nil {
		t.Fatal(err)
	}
	_, err := b.write(journal.Write{Client: "c", Epoch: 2, Changes: []journal.Change{entry(1, 1)}})
	wantErr(t, "write without a session", err, store.ErrFenced)
}

func sessionIDsAreUnique(t *testing.T, engine New) {
	b := start(t, engine, store.DefaultLimits())
	b.session("c", 7)
	wantErr(t, "a session of another client", b.put(0, store.Record{Client: "d", Session: 7, Epoch: 1}), store.ErrInvalid)
}

// endOfLargeSession ends sessions while others are written to.
func endOfLargeSession(t *testing.T, engine New) {
	b := start(t, engine, store.DefaultLimits())
	b.session("c", 7)
	b.session("d", 8)
	for from := journal.Position(1); from < 3000; from += 500 {
		var changes []journal.Change
		for at := from; at < from+500; at++ {
			c := entry(at, 1+byte(at%2))
			c.Entry.Message.Payload = make([]byte, 100*(at%8))
			changes = append(changes, c)
		}
		b.must("c", 7, changes...)
		b.must("d", 8, changes...)
	}
	wantErr(t, "delete", b.remove(1), nil)
	b.reopen()
	b.session("c", 9)
	b.equal("messages of the other", b.stats("d").Messages, uint64(3000))
	b.equal("messages that can be read", len(b.all("d", 8)), 3000)
	b.equal("messages of the new session", len(b.all("c", 9)), 0)
}

func fenced(t *testing.T, engine New) {
	b := start(t, engine, store.DefaultLimits())
	if err := b.put(0, store.Record{Client: "c", Session: 7, Epoch: 5}); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name    string
		client  string
		session journal.SessionID
		epoch   uint64
		want    error
	}{
		{"the holder", "c", 7, 5, nil},
		{"an older epoch", "c", 7, 4, store.ErrFenced},
		{"an epoch to come", "c", 7, 6, store.ErrFenced},
		{"another session", "c", 8, 5, store.ErrFenced},
		{"no session", "c", 0, 5, store.ErrFenced},
		{"another client", "d", 7, 5, store.ErrFenced},
	} {
		_, err := b.write(journal.Write{Client: tt.client, Session: tt.session, Epoch: tt.epoch, Changes: []journal.Change{
			{Kind: journal.Subscribed, Filter: tt.name},
		}})
		wantErr(t, tt.name, err, tt.want)
	}
	b.equal("subscriptions", b.state("c", 7).Subscriptions, []journal.Subscription{{Filter: "the holder"}})
	// A claim that was called before a write fences it, whether it is durable yet or not.
	answers := make(chan error, 2)
	b.Put(5, store.Record{Client: "c", Session: 7, Epoch: 6}, func(err error) { answers <- err })
	b.Write(journal.Write{Client: "c", Session: 7, Epoch: 5, Changes: []journal.Change{entry(1, 1)}},
		func(_ []journal.LeftOut, err error) { answers <- err })
	wantErr(t, "Put", wait(b, answers), nil)
	wantErr(t, "Write", wait(b, answers), store.ErrFenced)
}

func allOrNothing(t *testing.T, engine New) {
	b := start(t, engine, store.DefaultLimits())
	b.session("c", 7)
	_, err := b.write(journal.Write{Client: "c", Session: 7, Epoch: 1, Changes: []journal.Change{
		entry(1, 2), {Kind: journal.Subscribed, Filter: "a"}, {Kind: 99},
	}})
	wantErr(t, "an unknown change", err, store.ErrInvalid)
	b.equal("inbox", len(b.all("c", 7)), 0)
	b.equal("state", b.state("c", 7), journal.State{ID: 7, Present: true, Taken: map[uint16]message.ID{}, First: 1, Next: 1})
	b.equal("left out", len(b.must("c", 7, entry(1, 2))), 0)
}

func loaded(t *testing.T, engine New) {
	b := start(t, engine, store.DefaultLimits())
	want := make(map[string]uint64)
	for i := range 50 {
		client := fmt.Sprint(i)
		b.session(client, journal.SessionID(i+1))
		for at := range i % 5 {
			b.must(client, journal.SessionID(i+1), entry(journal.Position(at+1), 1))
		}
		want[client] = uint64(i % 5)
	}
	for range 2 {
		got := make(map[string]uint64)
		err := b.Load(func(r store.Record, stats store.Stats) error {
			got[r.Client] = stats.Messages
			if stats.Oldest.IsZero() != (stats.Messages == 0) || r.Holder != "g1" {
				t.Errorf("%+v, %+v", r, stats)
			}
			return nil
		})
		wantErr(t, "Load", err, nil)
		b.equal("messages", got, want)
		b.reopen()
	}
	enough := errors.New("enough")
	n := 0
	wantErr(t, "Load", b.Load(func(store.Record, store.Stats) error { n++; return enough }), enough)
	b.equal("visits", n, 1)
}

func answersInOrder(t *testing.T, engine New) {
	b := start(t, engine, store.DefaultLimits())
	const clients, each = 8, 200
	var mu sync.Mutex
	got := make([][]int, clients)
	var answered sync.WaitGroup
	answered.Add(clients * (each + 1))
	var callers sync.WaitGroup
	for c := range clients {
		callers.Go(func() {
			client, id := fmt.Sprint(c), journal.SessionID(c+1)
			b.Put(0, store.Record{Client: client, Session: id, Epoch: 1}, func(error) { answered.Done() })
			for i := range each {
				epoch := uint64(1)
				if i%10 == 9 {
					epoch = 2 // refused, in its turn
				}
				w := journal.Write{Client: client, Session: id, Epoch: epoch, Changes: []journal.Change{entry(journal.Position(i+1), 1)}}
				b.Write(w, func(_ []journal.LeftOut, err error) {
					if (err != nil) != (epoch == 2) {
						t.Errorf("write %d: %v", i, err)
					}
					mu.Lock()
					got[c] = append(got[c], i)
					mu.Unlock()
					answered.Done()
				})
			}
		})
	}
	callers.Wait()
	answered.Wait()
	for c := range clients {
		if !slices.IsSorted(got[c]) || len(got[c]) != each {
			t.Errorf("client %d: answers %v", c, got[c])
		}
		entries := b.all(fmt.Sprint(c), journal.SessionID(c+1))
		if !slices.IsSorted(positions(entries)) || len(entries) != each*9/10 {
			t.Errorf("client %d: entries %v", c, positions(entries))
		}
	}
}

func readsSeeCalls(t *testing.T, engine New) {
	b := start(t, engine, store.DefaultLimits())
	b.session("c", 7)
	for i := range 200 {
		at := journal.Position(i + 1)
		b.Write(journal.Write{Client: "c", Session: 7, Epoch: 1, Changes: []journal.Change{entry(at, 1)}}, nil)
		switch i % 4 {
		case 0:
			b.equal("page", positions(b.page("c", 7, at-1, 10, 1<<20)), []journal.Position{at})
		case 1:
			b.equal("next", b.state("c", 7).Next, at+1)
		case 2:
			b.equal("messages", b.stats("c").Messages, uint64(at))
		case 3:
			b.Put(uint64(1), store.Record{Client: "c", Session: 7, Epoch: 1, Holder: fmt.Sprint(i)}, nil)
			r, _, err := b.Get("c")
			wantErr(t, "Get", err, nil)
			b.equal("holder", r.Holder, fmt.Sprint(i))
		}
	}
}

func meta(t *testing.T, engine New) {
	b := start(t, engine, store.DefaultLimits())
	id := b.ID()
	if len(id) < 8 {
		t.Fatalf("id %q", id)
	}
	call := func(f func(string, func(error)), incarnation string) {
		c := make(chan error, 1)
		f(incarnation, func(err error) { c <- err })
		wantErr(t, incarnation, wait(b, c), nil)
	}
	for _, x := range []string{"b", "a", "c", "b"} {
		call(b.AddUnadopted, x)
	}
	call(b.RemoveUnadopted, "c")
	call(b.RemoveUnadopted, "never")
	for range 2 {
		b.equal("unadopted", b.Unadopted(), []string{"a", "b"})
		b.equal("id", b.ID(), id)
		b.reopen()
	}
}

func closed(t *testing.T, engine New) {
	b := start(t, engine, store.DefaultLimits())
	b.session("c", 7)
	answered := make(chan error, 100)
	for i := range 100 {
		b.Write(journal.Write{Client: "c", Session: 7, Epoch: 1, Changes: []journal.Change{entry(journal.Position(i+1), 1)}},
			func(_ []journal.LeftOut, err error) { answered <- err })
	}
	wantErr(t, "Close", b.Close(), nil)
	if len(answered) != 100 {
		t.Fatalf("%d of 100 writes are answered when Close returns", len(answered))
	}
	for range 100 {
		wantErr(t, "Write", <-answered, nil)
	}
	wantErr(t, "Close again", b.Close(), nil)
	wantErr(t, "Put", b.put(1, store.Record{Client: "c", Session: 7, Epoch: 2}), store.ErrClosed)
	_, err := b.write(journal.Write{Client: "c", Session: 7, Epoch: 1})
	wantErr(t, "Write", err, store.ErrClosed)
	_, err = b.retain(text(1, "x"))
	wantErr(t, "Retain", err, store.ErrClosed)
	_, err = b.Inbox("c", 7, 0, 1, 1)
	wantErr(t, "Inbox", err, store.ErrClosed)
	_, err = b.State("c", 7)
	wantErr(t, "State", err, store.ErrClosed)
	_, _, err = b.Get("c")
	wantErr(t, "Get", err, store.ErrClosed)
	_, err = b.Retained("#", nil, 1)
	wantErr(t, "Retained", err, store.ErrClosed)
	wantErr(t, "Load", b.Load(func(store.Record, store.Stats) error { return nil }), store.ErrClosed)
	b.open()
	b.equal("messages", b.stats("c").Messages, uint64(100))
}
