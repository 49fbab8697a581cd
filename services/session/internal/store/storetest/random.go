package storetest

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/beeline-mqtt/beeline/internal/journal"
	"github.com/beeline-mqtt/beeline/internal/message"
	"github.com/beeline-mqtt/beeline/internal/subscriptions"
	"github.com/beeline-mqtt/beeline/services/session/internal/store"
)

// randomOperations does what comes to rapid's mind, to the store and to the model, without waiting for answers, and
// compares what is answered and read.
func randomOperations(t *testing.T, engine New) {
	rapid.Check(t, func(t *rapid.T) {
		l := store.DefaultLimits()
		l.InboxMessages, l.InboxAge, l.Retained = 6, 2*time.Hour, 5
		e := engine(l)
		defer e.End()
		r := &run{bench: &bench{tester: t, Engine: e}, model: newModel(l)}
		r.open()
		defer func() { _ = r.Close() }()
		r.id = r.ID()
		t.Repeat(map[string]func(*rapid.T){
			"put":      r.putAny,
			"delete":   r.deleteAny,
			"write":    r.writeAny,
			"write 2":  r.writeAny,
			"write 3":  r.writeAny,
			"retain":   r.retainAny,
			"adopt":    r.adoptAny,
			"read":     r.readAny,
			"retained": r.readRetained,
			"advance":  r.advanceAny,
			"reopen":   r.reopenAny,
			"":         func(*rapid.T) {},
		})
		r.settle()
		r.readAny(t)
	})
}

// run is one sequence of operations.
type run struct {
	*bench
	model *model
	id    string
	// answers wait to be compared.
	answers []func()
	session journal.SessionID
	seq     int
}

// expect compares the answer of an operation later.
func expect[V any](r *run, what string, c <-chan V, want V) {
	r.answers = append(r.answers, func() {
		r.Helper()
		got := wait(r.bench, c)
		if fmt.Sprint(got) != fmt.Sprint(want) {
			r.Fatalf("%s: answer %v, want %v", what, got, want)
		}
	})
}

func (r *run) settle() {
	for _, compare := range r.answers {
		compare()
	}
	r.answers = nil
}

// kind returns the sentinel that err wraps.
func kind(err error) error {
	for _, k := range []error{store.ErrConflict, store.ErrFenced, store.ErrInvalid, store.ErrQuota} {
		if err != nil && strings.Contains(err.Error(), k.Error()) {
			return k
		}
	}
	return err
}

func client(t *rapid.T) string { return rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "client") }

func (r *run) putAny(t *rapid.T) {
	name := client(t)
	epoch := r.model.epoch(name)
	rec := store.Record{Client: name, Holder: rapid.SampledFrom([]string{"", "g1", "g2"}).Draw(t, "holder")}
	ifEpoch := epoch + uint64(rapid.SampledFrom([]int{0, 0, 0, 0, 1}).Draw(t, "mistake"))
	rec.Epoch = epoch + uint64(rapid.IntRange(0, 2).Draw(t, "more"))
	switch x := r.model.records[name]; rapid.SampledFrom([]string{"same", "same", "new", "none"}).Draw(t, "session") {
	case "same":
		if x != nil {
			rec.Session = x.record.Session
			break
		}
		fallthrough
	case "new":
		r.session++
		rec.Session = r.session
	}
	if rapid.Bool().Draw(t, "will") {
		rec.Will = &journal.Will{Message: text(0, "will"), Delay: time.Second}
	}
	c := make(chan error, 1)
	r.Put(ifEpoch, rec, func(err error) { c <- kind(err) })
	expect(r, "Put", c, r.model.put(ifEpoch, rec))
}

func (r *run) deleteAny(t *rapid.T) {
	name := client(t)
	ifEpoch := r.model.epoch(name) + uint64(rapid.IntRange(0, 1).Draw(t, "mistake"))
	c := make(chan error, 1)
	r.Delete(name, ifEpoch, func(err error) { c <- kind(err) })
	expect(r, "Delete", c, r.model.delete(name, ifEpoch))
}

func (r *run) writeAny(t *rapid.T) {
	name := client(t)
	x := r.model.records[name]
	if x == nil {
		x = &record{}
	}
	w := journal.Write{Client: name, Session: x.record.Session, Epoch: x.record.Epoch + uint64(rapid.SampledFrom([]int{0, 0, 0, 0, 0, 1}).Draw(t, "mistake"))}
	next := max(1, x.next)
	for range rapid.IntRange(1, 5).Draw(t, "changes") {
		c := journal.Change{
			Kind:     journal.Kind(rapid.SampledFrom([]int{1, 1, 1, 1, 2, 3, 4, 4, 5, 6, 7, 8}).Draw(t, "kind")),
			PacketID: rapid.Uint16Range(1, 4).Draw(t, "packet"),
		}
		switch c.Kind {
		case journal.Append:
			c.Entry = r.anyEntry(t, x, &next)
		case journal.Sent, journal.Released, journal.Done:
			c.Position = journal.Position(rapid.Uint64Range(uint64(max(next, 8)-7), uint64(next)).Draw(t, "position"))
		case journal.Taken, journal.Completed:
			c.Message = message.ID{Origin: "p", Seq: uint64(r.seq)}
		case journal.Subscribed, journal.Unsubscribed:
			c.Filter = rapid.SampledFrom([]string{"a", "a/#", "$share/g/+"}).Draw(t, "filter")
			c.Options = subscriptions.Options{QoS: rapid.ByteRange(0, 2).Draw(t, "qos"), ID: rapid.Uint32Range(0, 300).Draw(t, "id")}
		}
		w.Changes = append(w.Changes, c)
	}
	c := make(chan written, 1)
	r.Write(w, func(left []journal.LeftOut, err error) { c <- written{left, kind(err)} })
	left, err := r.model.write(w, r.Now())
	expect(r, fmt.Sprintf("Write %+v", w), c, written{left, err})
}

// anyEntry is mostly new, at times one that was there.
func (r *run) anyEntry(t *rapid.T, x *record, next *journal.Position) journal.Entry {
	e := journal.Entry{QoS: rapid.ByteRange(1, 2).Draw(t, "qos"), Retain: rapid.Bool().Draw(t, "retain")}
	*next += journal.Position(rapid.SampledFrom([]int{0, 0, 0, 1}).Draw(t, "gap"))
	e.Position = *next
	*next++
	r.seq++
	seq := r.seq
	if ids := x.sure(r.Now()); len(ids) > 0 && rapid.IntRange(0, 4).Draw(t, "again") == 0 {
		seq = rapid.SampledFrom(ids).Draw(t, "which")
	}
	e.Message = text(seq, strings.Repeat("x", rapid.SampledFrom([]int{0, 10, 300, 3000}).Draw(t, "size")))
	if len(e.Message.Payload) == 0 {
		e.Message.Payload = nil
	}
	if rapid.IntRange(0, 2).Draw(t, "expires") == 0 {
		e.Message.Expires = time.Unix(0, r.Now().Add(time.Duration(rapid.IntRange(1, 100).Draw(t, "minutes"))*time.Minute).UnixNano())
	}
	if rapid.IntRange(0, 2).Draw(t, "flies") == 0 {
		e.PacketID = rapid.Uint16Range(1, 9).Draw(t, "packet")
	}
	if rapid.Bool().Draw(t, "ids") {
		e.IDs = []uint32{1, 300}
	}
	return e
}

func (r *run) retainAny(t *rapid.T) {
	m := topicMessage(rapid.SampledFrom([]string{"a", "a/b", "b", "b/c/d", "$S", "c", "d"}).Draw(t, "topic"), "")
	if rapid.Bool().Draw(t, "payload") {
		r.seq++
		m.Payload = []byte(fmt.Sprint(r.seq))
	}
	c := make(chan retained, 1)
	r.Retain(m, func(version uint64, err error) { c <- retained{version, kind(err)} })
	version, err := r.model.retain(m)
	expect(r, "Retain", c, retained{version, err})
}

func (r *run) adoptAny(t *rapid.T) {
	incarnation := rapid.SampledFrom([]string{"g1", "g2", "g3"}).Draw(t, "incarnation")
	c := make(chan error, 1)
	if rapid.Bool().Draw(t, "add") {
		r.model.unadopted[incarnation] = true
		r.AddUnadopted(incarnation, func(err error) { c <- err })
	} else {
		delete(r.model.unadopted, incarnation)
		r.RemoveUnadopted(incarnation, func(err error) { c <- err })
	}
	expect(r, "unadopted", c, nil)
}

func (r *run) readAny(t *rapid.T) {
	for _, name := range []string{"a", "b", "c"} {
		x := r.model.records[name]
		got, ok, err := r.Get(name)
		wantErr(r, "Get", err, nil)
		if ok != (x != nil) {
			r.Fatalf("record of %s: %v, want %v", name, ok, x != nil)
		}
		if x == nil {
			r.equal("stats", r.stats(name), store.Stats{})
			continue
		}
		r.equal("record", got, x.record)
		if x.record.Session == 0 {
			continue
		}
		r.readInbox(t, name, x)
	}
	r.equal("unadopted", append([]string(nil), r.Unadopted()...), slices.Sorted(maps.Keys(r.model.unadopted)))
	r.equal("id", r.ID(), r.id)
}

func (r *run) readInbox(t *rapid.T, name string, x *record) {
	size := rapid.IntRange(1, 4).Draw(t, "page")
	bytes := rapid.SampledFrom([]int{1, 500, 1 << 20}).Draw(t, "bytes")
	var got []journal.Entry
	for after := journal.Position(0); ; {
		page := r.page(name, x.record.Session, after, size, bytes)
		if len(page) == 0 {
			break
		}
		if len(page) > size {
			r.Fatalf("%d entries in a page of %d", len(page), size)
		}
		got = append(got, page...)
		after = page[len(page)-1].Position
	}
	x.trimExpired(r.Now())
	r.equal("entries of "+name, got, x.list())
	stats := r.stats(name)
	stats.Bytes = 0 // is the engine's
	r.equal("stats of "+name, stats, x.stats())
	state := r.state(name, x.record.Session)
	slices.SortFunc(state.Subscriptions, func(a, b journal.Subscription) int { return strings.Compare(a.Filter, b.Filter) })
	r.equal("state of "+name, state, x.state())
}

func (r *run) readRetained(t *rapid.T) {
	filter := rapid.SampledFrom([]string{"#", "+", "a/#", "+/+", "b/+/d", "$S", "b/c/d/#"}).Draw(t, "filter")
	r.equal("retained in "+filter, r.find(filter, rapid.IntRange(1, 3).Draw(t, "limit")), r.model.find(filter))
	r.equal("count", r.RetainedCount(), uint64(len(r.model.retained)))
}

func (r *run) advanceAny(t *rapid.T) {
	d := rapid.SampledFrom([]time.Duration{time.Second, time.Minute, 20 * time.Minute, 3 * time.Hour}).Draw(t, "time")
	r.settle()
	r.Advance(d)
	r.model.trimOld(r.Now())
}

func (r *run) reopenAny(t *rapid.T) {
	if r.Crash != nil && rapid.Bool().Draw(t, "crash") {
		// What is not answered may be lost, what was trimmed included, and the model does not know.
		for name, x := range r.model.records {
			c := make(chan error, 1)
			w := journal.Write{Client: name, Session: x.record.Session, Epoch: x.record.Epoch}
			r.Write(w, func([]journal.LeftOut, error) { c <- nil })
			expect(r, "barrier", c, nil)
		}
		r.settle()
		r.Crash()
		r.open()
		return
	}
	r.reopen()
}
