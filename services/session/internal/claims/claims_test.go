package claims

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

var update = flag.Bool("update", false, "write the transcripts anew")

func config() Config {
	return Config{
		EvictTimeout: time.Second, FlapLimit: 3, FlapWindow: 10 * time.Second, FlapDelay: time.Second,
		Tracked: 100, Owed: 100,
	}
}

// Each transcript is a conversation: a line that begins with a time is told to the queue, the indented lines
// under it are what the queue wants done.
//
//	start <gateway>...            the instance becomes active
//	attach|detach|compared <gateway>
//	claim <client> by <gateway> <number>
//	recorded <client> <epoch> [former <gateway>@<epoch>]
//	failed <client> dead|unavailable
//	evicted <client> by <gateway> <epoch>
//	stale <client> at <gateway> <held> <epoch>
//	view <revision> <gateway>...
//	tick
func TestTranscripts(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no transcripts: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			got := play(t, string(want))
			if *update {
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if diff := cmp.Diff(string(want), got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func play(t *testing.T, script string) string {
	t.Helper()
	zero := time.Unix(0, 0)
	var q *Queue
	var out strings.Builder
	for line := range strings.Lines(script) {
		line = strings.TrimSuffix(line, "\n")
		if line == "" || strings.HasPrefix(line, "#") {
			fmt.Fprintln(&out, line)
			continue
		}
		if strings.HasPrefix(line, " ") {
			continue
		}
		fmt.Fprintln(&out, line)
		words := strings.Fields(line)
		after, err := time.ParseDuration(words[0])
		if err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		if words[1] == "start" {
			q = New(zero.Add(after), config(), words[2:], 1)
		} else {
			tell(t, q, zero.Add(after), words[1:])
		}
		for _, e := range q.Effects() {
			fmt.Fprintf(&out, "    %s\n", show(e))
		}
		if c := q.Counters(); c.Delayed > 0 || c.EvictTimeouts > 0 {
			fmt.Fprintf(&out, "    (delayed %d, evictions timed out %d)\n", c.Delayed, c.EvictTimeouts)
		}
		if at, due := q.Next(); due && words[1] == "next?" {
			fmt.Fprintf(&out, "    next tick at %v\n", at.Sub(zero))
		}
	}
	return out.String()
}

func tell(t *testing.T, q *Queue, now time.Time, w []string) {
	t.Helper()
	number := func(s string) uint64 {
		n, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			t.Fatalf("%v: %v", w, err)
		}
		return n
	}
	switch w[0] {
	case "attach":
		q.Attached(w[1])
	case "detach":
		q.Detached(now, w[1])
	case "compared":
		q.Compared(now, w[1])
	case "claim":
		q.Claim(now, w[1], Request{Gateway: w[3], ID: number(w[4])})
	case "recorded":
		o := Outcome{Epoch: number(w[2])}
		if len(w) > 3 {
			holder, epoch, _ := strings.Cut(w[4], "@")
			o.Former, o.FormerEpoch = holder, number(epoch)
		}
		q.Recorded(now, w[1], o)
	case "failed":
		q.Recorded(now, w[1], Outcome{Err: map[string]Kind{"dead": HolderDead, "unavailable": Unavailable}[w[2]]})
	case "evicted":
		q.Evicted(now, w[1], w[3], number(w[4]))
	case "stale":
		q.Stale(now, w[1], w[3], number(w[4]), number(w[5]))
	case "view":
		q.View(now, w[2:], int64(number(w[1])))
	case "tick":
		q.Tick(now)
	case "next?":
	default:
		t.Fatalf("unknown line %v", w)
	}
}

func show(e Effect) string {
	switch e.Kind {
	case Record:
		return fmt.Sprintf("record %s for %s", e.Client, e.Gateway)
	case Evict:
		return fmt.Sprintf("evict %s from %s, epochs before %d", e.Client, e.Gateway, e.Epoch)
	case Claimed:
		s := fmt.Sprintf("claimed %s by %s %d: epoch %d", e.Client, e.Gateway, e.Request.ID, e.Epoch)
		if e.Former != "" {
			s += ", former " + e.Former
		}
		return s
	case Superseded, HolderDead, Unavailable:
		why := map[Kind]string{Superseded: "superseded", HolderDead: "incarnation dead", Unavailable: "unavailable"}
		return fmt.Sprintf("refused %s by %s %d: %s", e.Client, e.Gateway, e.Request.ID, why[e.Kind])
	}
	return "?"
}

// Whatever happens, in any order: at most one gateway at a time believes that it may serve a client, provided that
// all evictions are answered; every claim is answered once; and nothing is left when nothing is under way.
func TestAtMostOneHolderAndOneAnswer(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(t)
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			w.step(rapid.IntRange(0, 5).Draw(t, "step"))
		}
		w.finish()
	})
}

// world is one client x, etcd's record of it, and gateways that answer as they should.
type world struct {
	t        *rapid.T
	q        *Queue
	now      time.Time
	record   string
	epoch    uint64
	toRecord []string
	toEvict  []Effect
	next     uint64
	asked    map[Request]bool
	// serving has the epoch at which a gateway was told that it may serve.
	serving map[string]uint64
}

func newWorld(t *rapid.T) *world {
	w := &world{t: t, now: time.Unix(0, 0), asked: map[Request]bool{}, serving: map[string]uint64{}, epoch: 1}
	w.q = New(w.now, config(), nil, 1)
	w.q.View(w.now, []string{"A", "B", "C"}, 1)
	for _, g := range []string{"A", "B", "C"} {
		w.q.Attached(g)
	}
	return w
}

func (w *world) step(what int) {
	w.now = w.now.Add(time.Millisecond)
	switch {
	case what <= 2:
		w.claim([]string{"A", "B", "C"}[what])
	case what == 3:
		w.recordOne()
	case what == 4:
		w.evictOne()
	case what == 5:
		if at, due := w.q.Next(); due && len(w.toEvict) == 0 {
			w.now = at
			w.q.Tick(w.now)
		}
	}
	w.effects()
}

func (w *world) claim(g string) {
	w.next++
	r := Request{Gateway: g, ID: w.next}
	// A gateway ends its own connection first.
	delete(w.serving, g)
	w.asked[r] = true
	w.q.Claim(w.now, "x", r)
}

func (w *world) recordOne() {
	if len(w.toRecord) == 0 {
		return
	}
	g := w.toRecord[0]
	w.toRecord = w.toRecord[1:]
	o := Outcome{Former: w.record, FormerEpoch: w.epoch}
	if w.record == "" {
		o.FormerEpoch = 0
	}
	w.epoch++
	w.record, o.Epoch = g, w.epoch
	w.q.Recorded(w.now, "x", o)
}

func (w *world) evictOne() {
	if len(w.toEvict) == 0 {
		return
	}
	e := w.toEvict[0]
	w.toEvict = w.toEvict[1:]
	if w.serving[e.Gateway] < e.Epoch {
		delete(w.serving, e.Gateway)
	}
	w.q.Evicted(w.now, "x", e.Gateway, e.Epoch)
}

func (w *world) effects() {
	for _, e := range w.q.Effects() {
		switch e.Kind {
		case Record:
			w.toRecord = append(w.toRecord, e.Gateway)
			if len(w.toRecord) > 1 {
				w.t.Fatal("two records of one client under way")
			}
		case Evict:
			w.toEvict = append(w.toEvict, e)
		case Claimed, Superseded:
			if !w.asked[e.Request] {
				w.t.Fatalf("answered twice or unasked: %+v", e)
			}
			delete(w.asked, e.Request)
			if e.Kind == Claimed {
				w.serving[e.Gateway] = e.Epoch
			}
		}
		if len(w.serving) > 1 {
			w.t.Fatalf("two holders: %v", w.serving)
		}
	}
}

func (w *world) finish() {
	for range 1000 {
		if w.q.Len() == 0 {
			break
		}
		w.step(3)
		w.step(4)
		w.step(5)
	}
	if w.q.Len() != 0 || len(w.asked) != 0 {
		w.t.Fatalf("%d clients left, unanswered: %v", w.q.Len(), w.asked)
	}
	if len(w.serving) == 1 && w.serving[w.record] != w.epoch {
		w.t.Fatalf("%v serve, recorded is %s at %d", w.serving, w.record, w.epoch)
	}
}

func TestOwedEvictionsAreBounded(t *testing.T) {
	c := config()
	c.Owed = 2
	q := New(time.Unix(0, 0), c, nil, 1)
	for i := range 5 {
		id := fmt.Sprintf("client-%d", i)
		q.Claim(time.Unix(0, 0), id, Request{Gateway: "B", ID: uint64(i)})
		q.Recorded(time.Unix(0, 0), id, Outcome{Epoch: 10, Former: "A", FormerEpoch: 9})
	}
	q.Effects()
	q.Attached("A")
	if got := len(q.Effects()); got != 2 {
		t.Errorf("repeats %d evictions, want the 2 that are kept", got)
	}
	q.Tick(time.Unix(1, 0))
	if got := q.Counters().EvictTimeouts; got != 5 {
		t.Errorf("%d claims went on after the time, want all 5", got)
	}
}

func TestOnlySoManyClientsAreWatchedForFlapping(t *testing.T) {
	f := flaps{limit: 1, window: 10 * time.Second, tracked: 2, of: map[string]*flap{}}
	now := time.Unix(100, 0)
	for range 3 {
		for _, id := range []string{"a", "b", "c"} {
			f.replaced(now, id)
		}
	}
	if !f.hot(now, "a") || !f.hot(now, "b") || f.hot(now, "c") {
		t.Error("want a and b watched, c not")
	}
	later := now.Add(25 * time.Second)
	f.replaced(later, "c")
	f.replaced(later, "c")
	if f.hot(later, "a") || !f.hot(later, "c") {
		t.Error("want a forgotten and c watched")
	}
}

func TestTheFlapWindowSlides(t *testing.T) {
	f := flaps{limit: 10, window: 10 * time.Second, tracked: 1, of: map[string]*flap{}}
	start := time.Unix(100, 0)
	for range 11 {
		f.replaced(start, "a")
	}
	for _, c := range []struct {
		after time.Duration
		hot   bool
	}{{0, true}, {9 * time.Second, true}, {12 * time.Second, false}, {30 * time.Second, false}} {
		if got := f.hot(start.Add(c.after), "a"); got != c.hot {
			t.Errorf("%v after eleven replacements: hot %v, want %v", c.after, got, c.hot)
		}
	}
}

func BenchmarkClaim(b *testing.B) {
	q := New(time.Unix(0, 0), Config{EvictTimeout: time.Second, FlapLimit: 100, FlapWindow: 10 * time.Second, FlapDelay: time.Second, Tracked: 1000, Owed: 1000}, nil, 1)
	now := time.Unix(0, 0)
	b.ReportAllocs()
	epoch := uint64(0)
	for b.Loop() {
		epoch++
		now = now.Add(time.Microsecond)
		q.Claim(now, "x", Request{Gateway: "A", ID: epoch})
		q.Recorded(now, "x", Outcome{Epoch: epoch})
		if n := len(q.Effects()); n != 2 {
			b.Fatalf("%d effects", n)
		}
	}
}
