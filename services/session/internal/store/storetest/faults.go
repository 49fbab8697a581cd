package storetest

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/beeline-mqtt/beeline/internal/journal"
	"github.com/beeline-mqtt/beeline/services/session/internal/store"
)

func faultTests() []test {
	return []test{
		{"what was answered survives a crash", crash},
		{"nothing is answered before the disk has it", slowDisk},
		{"a slow disk slows writers down", backpressure},
		{"a full disk has no room for entries", fullDisk},
		{"a broken disk is told", brokenDisk},
	}
}

// crash lets several clients write, each waiting for its answers, and crashes in the middle. Everything that was
// answered has to be there, and of what was not each write as a whole or not at all.
func crash(t *testing.T, engine New) {
	for round := range 10 {
		b := start(t, engine, store.DefaultLimits())
		if b.Crash == nil {
			t.Skip("the engine cannot crash")
		}
		const clients = 8
		var mu sync.Mutex
		answered := make([]journal.Position, clients)
		stop := make(chan struct{})
		var writers sync.WaitGroup
		for c := range clients {
			client, id := fmt.Sprint(c), journal.SessionID(c+1)
			b.session(client, id)
			writers.Go(func() {
				for at := journal.Position(1); ; at += 2 {
					done := make(chan error, 1)
					second := entry(at+1, 2)
					second.Entry.Message.Payload = make([]byte, 1000)
					w := journal.Write{Client: client, Session: id, Epoch: 1, Changes: []journal.Change{entry(at, 1), second}}
					b.Write(w, func(_ []journal.LeftOut, err error) { done <- err })
					select {
					case err := <-done:
						if err != nil {
							return
						}
						mu.Lock()
						answered[c] = at + 1
						mu.Unlock()
					case <-stop:
						return
					}
				}
			})
		}
		time.Sleep(time.Duration(1+3*round) * time.Millisecond) // any moment will do
		mu.Lock()
		b.Crash()
		want := append([]journal.Position(nil), answered...)
		mu.Unlock()
		close(stop)
		writers.Wait()
		b.open()
		for c := range clients {
			client, id := fmt.Sprint(c), journal.SessionID(c+1)
			n := journal.Position(len(b.all(client, id)))
			if n < want[c] || n%2 != 0 || b.state(client, id).Next != n+1 || b.stats(client).Messages != uint64(n) {
				t.Errorf("client %d: %d entries, %d were answered, state %+v", c, n, want[c], b.state(client, id))
			}
		}
	}
}

func slowDisk(t *testing.T, engine New) {
	b := start(t, engine, store.DefaultLimits())
	if b.Hold == nil {
		t.Skip("the engine's disk is never slow")
	}
	b.session("c", 7)
	release := b.Hold()
	answers := make(chan error, 3)
	w := journal.Write{Client: "c", Session: 7, Epoch: 1, Changes: []journal.Change{entry(1, 1)}}
	b.Write(w, func(_ []journal.LeftOut, err error) { answers <- err })
	b.Retain(text(1, "x"), func(_ uint64, err error) { answers <- err })
	b.Put(1, store.Record{Client: "c", Session: 7, Epoch: 2}, func(err error) { answers <- err })
	b.equal("entries that can be read", len(b.all("c", 7)), 1)
	select {
	case err := <-answers:
		t.Errorf("answer %v before the disk's", err)
	case <-time.After(50 * time.Millisecond):
	}
	release()
	for range 3 {
		wantErr(t, "answer", wait(b, answers), nil)
	}
}

func backpressure(t *testing.T, engine New) {
	b := start(t, engine, store.DefaultLimits())
	if b.Hold == nil {
		t.Skip("the engine's disk is never slow")
	}
	b.session("c", 7)
	release := b.Hold()
	const writes, size = 400, 1 << 20
	var answered, called sync.WaitGroup
	answered.Add(writes)
	progress := make(chan int, writes)
	called.Go(func() {
		for i := range writes {
			c := entry(journal.Position(i+1), 1)
			c.Entry.Message.Payload = make([]byte, size)
			w := journal.Write{Client: "c", Session: 7, Epoch: 1, Changes: []journal.Change{c, change(journal.Done, c.Entry.Position)}}
			b.Write(w, func(_ []journal.LeftOut, err error) {
				wantErr(t, "Write", err, nil)
				answered.Done()
			})
			progress <- i
		}
	})
	n := 0
	for waits := false; !waits; {
		select {
		case <-progress:
			n++
		case <-time.After(100 * time.Millisecond):
			waits = true
		}
	}
	if n == writes {
		t.Errorf("%d MiB wait for the disk, and nobody is told to wait", writes)
	}
	done := make(chan error, 1)
	go b.Put(1, store.Record{Client: "c", Session: 7, Epoch: 1}, func(err error) { done <- err }) // is admitted
	release()
	called.Wait()
	answered.Wait()
	wantErr(t, "Put", wait(b, done), nil)
}

func fullDisk(t *testing.T, engine New) {
	b := start(t, engine, store.DefaultLimits())
	if b.Fill == nil {
		t.Skip("the engine's disk is never full")
	}
	b.session("c", 7)
	b.must("c", 7, entry(1, 1), entry(2, 1))
	b.Fill(true)
	left := []journal.LeftOut{{Position: 3}, {Position: 4}}
	adds := []journal.Change{
		entry(3, 1), entry(4, 2), change(journal.Done, 1),
		{Kind: journal.Taken, PacketID: 5, Message: text(9, "x").ID},
		{Kind: journal.Subscribed, Filter: "f"},
	}
	b.equal("left out", b.must("c", 7, adds...), left)
	b.equal("left out, when it is repeated", b.must("c", 7, adds...), left)
	_, err := b.retain(text(1, "x"))
	wantErr(t, "Retain", err, store.ErrFull)
	wantErr(t, "claim", b.put(1, store.Record{Client: "c", Session: 7, Epoch: 1, Holder: "g2"}), nil)
	b.equal("the rest", len(b.state("c", 7).Taken)+len(b.state("c", 7).Subscriptions), 2)
	b.Fill(false)
	b.equal("left out, when there is room", len(b.must("c", 7, duplicate(5, 4))), 0)
	b.equal("entries", positions(b.all("c", 7)), []journal.Position{2, 5})
}

func brokenDisk(t *testing.T, engine New) {
	b := start(t, engine, store.DefaultLimits())
	if b.Break == nil {
		t.Skip("the engine's disk does not break")
	}
	b.session("c", 7)
	b.must("c", 7, entry(1, 1))
	b.Break()
	for i := range 3 {
		_, err := b.write(journal.Write{Client: "c", Session: 7, Epoch: 1, Changes: []journal.Change{entry(journal.Position(2+i), 1)}})
		wantErr(t, "append", err, store.ErrFailed)
	}
	wantErr(t, "Put", b.put(1, store.Record{Client: "c", Session: 7, Epoch: 2}), store.ErrFailed)
	_, err := b.Inbox("c", 7, 0, 1, 1)
	wantErr(t, "Inbox", err, store.ErrFailed)
	wantErr(t, "Close", b.Close(), store.ErrFailed)
}
