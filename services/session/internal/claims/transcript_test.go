package claims

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/beeline-mqtt/beeline/internal/journal"
)

var update = flag.Bool("update", false, "write the transcripts anew")

// Each transcript is a conversation: a line that begins with a time is told to the queue, the indented lines
// under it are what the queue wants done.
//
//	start <gateway>...            the instance becomes active
//	attach|detach|compared <gateway>
//	claim <client> by <gateway> <number> [clean] [expiry <seconds>] [will]
//	recorded <client> <epoch> [former <gateway>@<epoch>]
//	failed <client> dead|unavailable
//	evicted <client> by <gateway> <epoch>
//	stale <client> at <gateway> <held> <epoch>
//	view <revision> <gateway>...
//	tick
//
// and with the store:
//
//	stored <client> <gateway>@<epoch>    what it keeps from now on; no gateway: the client is away
//	opened <client> [fails|gone]         it names the new holder; gone: and keeps nothing of the client any more
//	leave <client> by <gateway> <number> <epoch> [without-will] [expiry <seconds>]
//	away <client> <epoch>|fails|gone     it holds the client; gone: it has ended the session
//	adopt <client>...
//	adopted <epoch> <client>...
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
			got := (&player{t: t, zero: time.Unix(0, 0)}).play(string(want))
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

type player struct {
	t    *testing.T
	zero time.Time
	q    *Queue
	// stored is what the queue sees of the store, opening who is about to be the holder.
	stored, opening map[string]Holder
}

func (p *player) start(now time.Time, gateways []string) {
	p.stored, p.opening = map[string]Holder{}, map[string]Holder{}
	c := config()
	c.Look = func(id string) (Holder, bool) { h, known := p.stored[id]; return h, known }
	p.q = New(now, c, gateways, 1)
}

func (p *player) play(script string) string {
	p.t.Helper()
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
			p.t.Fatalf("%q: %v", line, err)
		}
		now := p.zero.Add(after)
		var said string
		switch words[1] {
		case "start":
			p.start(now, words[2:])
		case "stored", "opened", "leave", "away", "adopt", "adopted":
			said = p.tellStored(now, words[1:])
		default:
			p.tell(now, words[1:])
		}
		if said != "" {
			fmt.Fprintf(&out, "    %s\n", said)
		}
		for _, e := range p.q.Effects() {
			fmt.Fprintf(&out, "    %s\n", show(e))
			if e.Kind == Open {
				p.opening[e.Client] = Holder{Gateway: e.Gateway, Epoch: e.Epoch}
			}
		}
		if c := p.q.Counters(); c.Delayed > 0 || c.EvictTimeouts > 0 {
			fmt.Fprintf(&out, "    (delayed %d, evictions timed out %d)\n", c.Delayed, c.EvictTimeouts)
		}
		if words[1] == "next?" {
			if at, due := p.q.Next(); due {
				fmt.Fprintf(&out, "    next tick at %v\n", at.Sub(p.zero))
			} else if p.q.Len() == 0 {
				fmt.Fprintf(&out, "    nothing is under way\n")
			}
		}
	}
	return out.String()
}

func (p *player) number(s string) uint64 {
	p.t.Helper()
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil {
		p.t.Fatal(err)
	}
	return n
}

func (p *player) holder(s string) Holder {
	gateway, epoch, _ := strings.Cut(s, "@")
	return Holder{Gateway: gateway, Epoch: p.number(epoch)}
}

// expiry finds "expiry <seconds>".
func (p *player) expiry(w []string) (seconds uint32, given bool) {
	at := slices.Index(w, "expiry")
	if at < 0 {
		return 0, false
	}
	return uint32(p.number(w[at+1])), true
}

func (p *player) tell(now time.Time, w []string) {
	p.t.Helper()
	q := p.q
	switch w[0] {
	case "attach":
		q.Attached(w[1])
	case "detach":
		q.Detached(now, w[1])
	case "compared":
		q.Compared(now, w[1])
	case "claim":
		r := Request{Gateway: w[3], ID: p.number(w[4])}
		r.CleanStart = slices.Contains(w, "clean")
		r.Expiry, _ = p.expiry(w)
		if slices.Contains(w, "will") {
			r.Will = &journal.Will{}
		}
		q.Claim(now, w[1], r)
	case "recorded":
		o := Outcome{Epoch: p.number(w[2])}
		if len(w) > 3 {
			h := p.holder(w[4])
			o.Former, o.FormerEpoch = h.Gateway, h.Epoch
		}
		q.Recorded(now, w[1], o)
	case "failed":
		q.Recorded(now, w[1], Outcome{Err: map[string]Kind{"dead": HolderDead, "unavailable": Unavailable}[w[2]]})
	case "evicted":
		q.Evicted(now, w[1], w[3], p.number(w[4]))
	case "stale":
		q.Stale(now, w[1], w[3], p.number(w[4]), p.number(w[5]))
	case "view":
		q.View(now, w[2:], int64(p.number(w[1])))
	case "tick":
		q.Tick(now)
	case "next?":
	default:
		p.t.Fatalf("unknown line %v", w)
	}
}

func (p *player) tellStored(now time.Time, w []string) (said string) {
	p.t.Helper()
	q := p.q
	switch w[0] {
	case "stored":
		p.stored[w[1]] = p.holder(w[2])
	case "opened":
		if slices.Contains(w, "fails") {
			q.Opened(now, w[1], nil, Unavailable)
			break
		}
		p.stored[w[1]] = p.opening[w[1]]
		session := &journal.State{ID: 1}
		if slices.Contains(w, "gone") {
			delete(p.stored, w[1])
			session = nil
		}
		q.Opened(now, w[1], session, 0)
	case "leave":
		e := Ending{WithoutWill: slices.Contains(w, "without-will")}
		e.Expiry, e.HasExpiry = p.expiry(w)
		q.Leave(now, w[1], Request{Gateway: w[3], Stream: 1, ID: p.number(w[4])}, p.number(w[5]), e)
	case "away":
		switch w[2] {
		case "fails":
			q.AwayDone(now, w[1], Unavailable)
			return ""
		case "gone":
			delete(p.stored, w[1])
		default:
			p.stored[w[1]] = Holder{Epoch: p.number(w[2])}
		}
		q.AwayDone(now, w[1], 0)
	case "adopt":
		if busy := q.Adopt(w[1:]...); len(busy) > 0 {
			return "not taken: " + strings.Join(busy, " ")
		}
	case "adopted":
		for _, id := range w[2:] {
			p.stored[id] = Holder{Epoch: p.number(w[1])}
		}
		q.Adopted(now, w[2:]...)
	}
	return ""
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
		if e.Session != nil {
			s += ", with a session"
		}
		return s
	case Superseded, HolderDead, Unavailable:
		why := map[Kind]string{Superseded: "superseded", HolderDead: "incarnation dead", Unavailable: "unavailable"}
		return fmt.Sprintf("refused %s by %s %d: %s", e.Client, e.Gateway, e.Request.ID, why[e.Kind])
	case Open:
		s := fmt.Sprintf("open %s for %s %d: epoch %d", e.Client, e.Gateway, e.Request.ID, e.Epoch)
		if e.Former != "" {
			s += ", former " + e.Former
		}
		if e.Request.CleanStart {
			s += ", clean"
		}
		return s + showEnding(e.Ending)
	case Away:
		return fmt.Sprintf("away %s from %s@%d", e.Client, e.Gateway, e.Epoch) + showEnding(e.Ending)
	case Left:
		return fmt.Sprintf("left %s by %s %d", e.Client, e.Gateway, e.Request.ID)
	case Release:
		return fmt.Sprintf("release %s by %s %d: epoch %d", e.Client, e.Gateway, e.Request.ID, e.Epoch)
	}
	return "?"
}

func showEnding(e *Ending) string {
	s := ""
	if e != nil {
		s = "; the connection has ended"
		if e.WithoutWill {
			s += " without will"
		}
		if e.HasExpiry {
			s += fmt.Sprintf(", expiry %d", e.Expiry)
		}
	}
	return s
}
