package mesh

import (
	"bufio"
	"errors"
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

	"github.com/beeline-mqtt/beeline/internal/routes"
	"github.com/beeline-mqtt/beeline/internal/turn"
)

var rewrite = flag.Bool("update", false, "write the transcripts anew, to be read before they are kept")

// The transcripts in testdata show the pure parts at work: lines that begin with "> " are what is done, the
// lines below are what comes of it.
func TestTranscripts(t *testing.T) {
	for prefix, start := range map[string]func() func([]string) []string{
		"sender": newSenderScript, "receiver": newReceiverScript, "announcer": newAnnouncerScript,
	} {
		paths, err := filepath.Glob("testdata/" + prefix + "_*.txt")
		if err != nil || len(paths) == 0 {
			t.Fatalf("no transcripts of the %s: %v", prefix, err)
		}
		for _, path := range paths {
			t.Run(strings.TrimSuffix(filepath.Base(path), ".txt"), func(t *testing.T) {
				play(t, path, start())
			})
		}
	}
}

func play(t *testing.T, path string, do func([]string) []string) {
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var want, got []string
	for lines := bufio.NewScanner(f); lines.Scan(); {
		line := lines.Text()
		want = append(want, line)
		command, ok := strings.CutPrefix(line, "> ")
		switch {
		case ok:
			got = append(got, line)
			for _, out := range do(strings.Fields(command)) {
				got = append(got, "  "+out)
			}
		case line == "" || strings.HasPrefix(line, "#"):
			got = append(got, line)
		}
	}
	if *rewrite {
		if err := os.WriteFile(path, []byte(strings.Join(got, "\n")+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		return
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s (-written +played):\n%s", path, diff)
	}
}

func number(s string) int {
	n, err := strconv.Atoi(s)
	if err != nil {
		panic(err)
	}
	return n
}

var outcomeNames = map[string]Outcome{
	"queued": Queued, "accepted": Accepted, "acked": Acked, "stored": Stored, "moved": Moved,
	"not_holder": NotHolder, "no_member": NoMember, "overloaded": Overloaded, "refused": Refused,
}

// receiptsOf parses "7=acked" and "8=moved,x,y".
func receiptsOf(args []string) (rs []numberedReceipt) {
	for _, a := range args {
		seq, text, _ := strings.Cut(a, "=")
		words := strings.Split(text, ",")
		r := Receipt{Outcome: outcomeNames[words[0]]}
		for _, client := range words[1:] {
			r.Moved = append(r.Moved, MovedClient{ClientID: client})
		}
		rs = append(rs, numberedReceipt{seq: uint64(number(seq)), receipt: r})
	}
	return rs
}

// show is how receiptsOf reads a receipt.
func show(r Receipt) string {
	words := []string{r.Outcome.String()}
	for _, m := range r.Moved {
		words = append(words, m.ClientID)
	}
	return strings.Join(words, ",")
}

// nobody is a Waiter whose settlements the script prints.
type nobody struct{}

func (nobody) Settled(*Link, Delivery, Receipt, *turn.Turn) {}

func newSenderScript() func([]string) []string {
	s, heir := &sender{limit: 1000}, &sender{limit: 1000}
	play := func(f *receiptsFrame) []string {
		var counts [outcomes]uint64
		settled, err := s.take(f, nil, &counts)
		if err != nil {
			return []string{"error: " + err.Error()}
		}
		return settlements(settled)
	}
	return func(c []string) (out []string) {
		switch c[0] {
		case "push": // push TOPIC [QOS], with a message charged at 300 bytes; QoS 1 unless it says otherwise
			d := publish(c[1], 1)
			if len(c) > 2 {
				d.Message.QoS = byte(number(c[2]))
			}
			d.Message.Payload = make([]byte, 300-d.Message.Size()+len(d.Message.Payload))
			if !s.push(d, nobody{}) {
				return []string{"bound reached"}
			}
			return []string{fmt.Sprintf("sequence %d", s.last)}
		case "send": // send all that waits
			for s.unsent() > 0 {
				out = append(out, fmt.Sprintf("%d %s", s.sent+1, s.next().Message.Topic))
				s.advance()
			}
			return out
		case "receipts": // receipts NUMBER THROUGH SEQ=OUTCOME...
			return play(&receiptsFrame{number: uint64(number(c[1])), through: uint64(number(c[2])), receipts: receiptsOf(c[3:])})
		case "resume": // resume RECEIVED_THROUGH
			again, err := s.resume(uint64(number(c[1])))
			if err != nil {
				return []string{"error: " + err.Error()}
			}
			return []string{fmt.Sprintf("%d again", again)}
		case "fail":
			var counts [outcomes]uint64
			return settlements(s.fail(nil, &counts))
		case "orphan": // orphan: what begins with "k" is kept
			var counts [outcomes]uint64
			out = settlements(s.orphan(func(d *Delivery) bool { return d.Message.Topic[0] == 'k' }, nil, &counts))
			for i := range s.window.len() {
				out = append(out, "kept "+s.window.at(i).delivery.Message.Topic)
			}
			return out
		case "bequeath": // bequeath INCARNATION, to a sender that has been given two before
			heir.push(publish("k-old", 1), nobody{})
			heir.push(publish("k-older", 1), nobody{})
			s.bequeath(c[1], heir)
			for i := range heir.window.len() {
				d := heir.window.at(i).delivery
				out = append(out, strings.TrimSpace(fmt.Sprintf("%d %s %s", i+1, d.Message.Topic, d.Target.Incarnation)))
			}
			return out
		case "heir": // heir: goes on with that one
			s = heir
			return nil
		case "books":
			return []string{fmt.Sprintf("taken %d, sent %d, last %d, %d bytes, %d accepted, receipts %d",
				s.taken, s.sent, s.last, s.bytes, len(s.accepted), s.receiptsThrough)}
		}
		panic("unknown command " + c[0])
	}
}

func settlements(settled []settlement) (out []string) {
	for _, s := range settled {
		out = append(out, s.delivery.Message.Topic+" "+show(s.receipt))
	}
	return out
}

func newReceiverScript() func([]string) []string {
	r := &receiver{}
	due := map[bool]string{true: "to be sent now", false: "can wait"}
	return func(c []string) []string {
		switch c[0] {
		case "took": // took THROUGH BYTES [urgent] SEQ=OUTCOME...
			urgent := len(c) > 3 && c[3] == "urgent"
			rest := c[3:]
			if urgent {
				rest = rest[1:]
			}
			return []string{due[r.took(uint64(number(c[1])), number(c[2]), receiptsOf(rest), urgent)]}
		case "took-many": // took-many THROUGH N: the last N of them Accepted
			var rs []numberedReceipt
			for i := number(c[1]) - number(c[2]) + 1; i <= number(c[1]); i++ {
				rs = append(rs, numberedReceipt{seq: uint64(i), receipt: Receipt{Outcome: Accepted}})
			}
			return []string{due[r.took(uint64(number(c[1])), 100, rs, true)]}
		case "settle": // settle SEQ=OUTCOME
			rs := receiptsOf(c[1:])
			return []string{due[r.settle(rs[0].seq, rs[0].receipt)]}
		case "flush":
			r.flush()
			return nil
		case "confirm":
			r.confirm(uint64(number(c[1])))
			return []string{fmt.Sprintf("%d kept", len(r.kept))}
		case "resume": // resume NEXT_SEQUENCE RECEIPTS_THROUGH
			if err := r.resume(uint64(number(c[1])), uint64(number(c[2]))); err != nil {
				return []string{"error: " + err.Error()}
			}
			return []string{fmt.Sprintf("received through %d", r.through)}
		case "next":
			b, ok := r.next()
			if !ok {
				return []string{"nothing"}
			}
			return []string{describe(b)}
		}
		panic("unknown command " + c[0])
	}
}

func describe(b []byte) string {
	_, body, err := only(b)
	if err != nil {
		panic(err)
	}
	var f receiptsFrame
	if err := decodeReceipts(body, &f); err != nil {
		panic(err)
	}
	s := fmt.Sprintf("receipts %d through %d", f.number, f.through)
	if len(f.receipts) > 10 {
		return fmt.Sprintf("%s and %d more, %d to %d", s, len(f.receipts), f.receipts[0].seq, f.receipts[len(f.receipts)-1].seq)
	}
	for _, r := range f.receipts {
		s += fmt.Sprintf(" %d=%s", r.seq, show(r.receipt))
	}
	return s
}

func newAnnouncerScript() func([]string) []string {
	a := newAnnouncer[string]()
	now := time.Unix(0, 0)
	var over []finished
	var names []string
	show := func() (out []string) {
		for _, f := range over {
			f.done(f.err)
		}
		over = nil
		out, names = names, nil
		return out
	}
	return func(c []string) []string {
		switch c[0] {
		case "announce": // announce NAME FILTER FILTER/GROUP*MEMBERS -FILTER ...
			over = a.announce(routesOf(c[2:]), now.Add(5*time.Second), func(err error) {
				switch {
				case err == nil:
					names = append(names, c[1]+" done")
				case errors.Is(err, ErrNotAcknowledged):
					names = append(names, c[1]+" not acknowledged")
				default:
					names = append(names, c[1]+" "+err.Error())
				}
			}, nil)
			return append([]string{fmt.Sprintf("version %d", a.version)}, show()...)
		case "snapshot-to":
			a.sent(c[1])
			return nil
		case "ack": // ack PEER VERSION
			over = a.ack(c[1], uint64(number(c[2])), nil)
			return show()
		case "dead":
			over = a.drop(c[1], nil)
			return show()
		case "later": // later SECONDS
			now = now.Add(time.Duration(number(c[1])) * time.Second)
			over = a.expire(now, nil)
			return show()
		case "since":
			return describeUpdate(a.since(uint64(number(c[1]))))
		case "churn": // churn N: so many versions
			for i := range number(c[1]) {
				a.announce([]routes.Route{{Filter: "churn", Members: uint32(i%2 + 1)}}, now, func(error) {}, nil)
			}
			return []string{fmt.Sprintf("version %d, a log of %d", a.version, len(a.log))}
		case "digest":
			count, hash := routes.DigestOf(a.all())
			return []string{fmt.Sprintf("%d routes, sum kept: %v", count, hash == a.hash)}
		}
		panic("unknown command " + c[0])
	}
}

// routesOf parses "filter", "filter@group*members" and "-filter", "-filter@group".
func routesOf(args []string) (rs []routes.Route) {
	for _, a := range args {
		r := routes.Route{Members: 1}
		a, r.Durable = strings.CutPrefix(a, "!")
		a, withdraw := strings.CutPrefix(a, "-")
		if rest, members, ok := strings.Cut(a, "*"); ok {
			a, r.Members = rest, uint32(number(members))
		}
		if withdraw {
			r.Members = 0
		}
		r.Filter, r.Group, _ = strings.Cut(a, "@")
		rs = append(rs, r)
	}
	return rs
}

func describeUpdate(u update) []string {
	kind := "delta"
	if u.snapshot {
		kind = "snapshot"
	}
	var out []string
	for _, r := range u.announced {
		out = append(out, fmt.Sprintf("+ %s %s %d", r.Filter, r.Group, r.Members))
	}
	for _, k := range u.withdrawn {
		out = append(out, fmt.Sprintf("- %s %s", k.filter, k.group))
	}
	slices.Sort(out)
	return append([]string{fmt.Sprintf("%s to %d", kind, u.version)}, out...)
}
