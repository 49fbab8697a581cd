package engine

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/beeline-mqtt/beeline/internal/message"
	"github.com/beeline-mqtt/beeline/internal/packet"
)

var update = flag.Bool("update", false, "rewrite the effects in testdata/*.txt")

// TestTranscripts plays each file of testdata. A line that begins with "> " is something that happens to the
// session; the indented lines below it are the effects. Everything else is commentary. See testdata/README.md.
func TestTranscripts(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("transcripts: %v, %v", files, err)
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
				return
			}
			if diff := cmp.Diff(string(want), got); diff != "" {
				t.Errorf("effects differ (-written +played):\n%s", diff)
			}
		})
	}
}

// play carries out the transcript and returns it with the effects that were seen.
func play(t *testing.T, transcript string) string {
	t.Helper()
	var out bytes.Buffer
	p := newPlayer()
	for line := range strings.Lines(transcript) {
		if strings.HasPrefix(line, "    ") {
			continue
		}
		out.WriteString(line)
		command, ok := strings.CutPrefix(line, "> ")
		if !ok {
			continue
		}
		p.effects = nil
		if err := p.do(strings.Fields(command)); err != nil {
			t.Fatalf("%s: %v", strings.TrimSpace(line), err)
		}
		for _, s := range p.session.Settled(nil) {
			p.say("ticket %s: %v", s.Ticket, s.Outcome)
		}
		for _, l := range p.session.Lost(nil) {
			p.say("lost %s: %v", l.Message.Topic, l.Why)
		}
		for _, e := range p.effects {
			fmt.Fprintf(&out, "    %s\n", e)
		}
	}
	return out.String()
}

// player is the scene of a transcript: a session, a clock that stands still unless told, and the effects of the
// current line.
type player struct {
	session *Session[string]
	start   time.Time
	now     time.Time
	effects []string
}

func newPlayer() *player {
	start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	return &player{session: New[string](Limits{QueueMessages: 100, QueueBytes: 1 << 20}), start: start, now: start}
}

func (p *player) say(format string, args ...any) {
	p.effects = append(p.effects, fmt.Sprintf(format, args...))
}

func (p *player) do(words []string) error {
	verb, args := words[0], words[1:]
	switch verb {
	case "session":
		return p.begin(args)
	case "offer":
		return p.offer(args)
	case "send":
		return p.send(args)
	case "wait":
		return p.wait(args)
	case "PUBACK", "PUBREC", "PUBCOMP":
		return p.acked(verb, args)
	case "PUBLISH", "PUBREL", "forwarded":
		return p.inbound(verb, args)
	case "acks":
		p.acks()
	case "state":
		p.state()
	case "counters":
		p.counters()
	case "end":
		p.session.End()
	default:
		return p.durable(verb, args)
	}
	return nil
}

// begin starts a new session: "session queue=2 bytes=1000 send=3 receive=4".
func (p *player) begin(args []string) error {
	l, err := limitsOf(args)
	p.session, p.now = New[string](l), p.start
	return err
}

func limitsOf(args []string) (Limits, error) {
	l := Limits{QueueMessages: 100, QueueBytes: 1 << 20}
	for _, arg := range args {
		key, value, _ := strings.Cut(arg, "=")
		n, err := strconv.Atoi(value)
		if err != nil {
			return l, fmt.Errorf("%s: %w", arg, err)
		}
		field, ok := map[string]*int{
			"queue": &l.QueueMessages, "bytes": &l.QueueBytes, "send": &l.SendMaximum, "receive": &l.ReceiveMaximum,
		}[key]
		if !ok {
			return l, fmt.Errorf("unknown limit %q", key)
		}
		*field = n
	}
	return l, nil
}

// offer offers a message: "offer hello qos1 ticket=t until=acked size=500 expires=5s retain ids=1,2".
func (p *player) offer(args []string) error {
	m := &message.Message{Topic: args[0]}
	d := Delivery[string]{Message: m}
	for _, arg := range args[1:] {
		key, value, _ := strings.Cut(arg, "=")
		switch key {
		case "qos0", "qos1", "qos2":
			d.QoS = arg[3] - '0'
		case "retain":
			d.Retain = true
		case "ticket":
			d.Ticket = value
		case "until":
			d.Until = map[string]Until{"queued": UntilQueued, "acked": UntilAcked, "safe": UntilSafe}[value]
		case "msg":
			m.ID = message.ID{Origin: value, Seq: 1}
		case "size":
			n, err := strconv.Atoi(value)
			if err != nil {
				return err
			}
			m.Payload = make([]byte, n-m.Size())
		case "expires":
			d, err := time.ParseDuration(value)
			if err != nil {
				return err
			}
			m.Expires = p.now.Add(d)
		case "ids":
			for _, id := range strings.Split(value, ",") {
				n, err := strconv.ParseUint(id, 10, 32)
				if err != nil {
					return err
				}
				d.IDs = append(d.IDs, uint32(n))
			}
		default:
			return fmt.Errorf("unknown attribute %q", arg)
		}
	}
	p.say("%v", p.session.Offer(d, p.now))
	return nil
}

// send writes what may be written: "send", or "send 1" for one packet only.
func (p *player) send(args []string) error {
	most := 1 << 20
	if len(args) == 1 {
		var err error
		if most, err = strconv.Atoi(args[0]); err != nil {
			return err
		}
	}
	for range most {
		o, ok := p.session.Next(p.now)
		if !ok {
			break
		}
		if o.Type == packet.PUBREL {
			p.say("-> %s", describe(packet.Ack{Type: packet.PUBREL, PacketID: o.PacketID}))
			continue
		}
		line := fmt.Sprintf("-> PUBLISH %s qos%d", o.Message.Topic, o.QoS)
		if o.QoS > 0 {
			line += fmt.Sprintf(" id=%d", o.PacketID)
		}
		if o.Dup {
			line += " dup"
		}
		if o.Retain {
			line += " retain"
		}
		if len(o.IDs) > 0 {
			line += fmt.Sprintf(" subscriptions=%v", o.IDs)
		}
		p.say("%s", line)
	}
	if len(p.effects) == 0 {
		p.say("nothing to send")
	}
	return nil
}

func (p *player) wait(args []string) error {
	d, err := time.ParseDuration(args[0])
	p.now = p.now.Add(d)
	return err
}

// numbers reads "7", "7 0x80", with qos1 and qos2 anywhere.
func numbers(args []string) (id uint16, qos byte, code packet.Code, err error) {
	seen := false
	for _, arg := range args {
		if arg == "qos1" || arg == "qos2" || arg == "qos0" {
			qos = arg[3] - '0'
			continue
		}
		n, err := strconv.ParseUint(arg, 0, 16)
		if err != nil {
			return 0, 0, 0, err
		}
		if seen {
			code = packet.Code(n)
		} else {
			id, seen = uint16(n), true
		}
	}
	return id, qos, code, nil
}

func (p *player) acked(verb string, args []string) error {
	id, _, code, err := numbers(args)
	if err != nil {
		return err
	}
	kind := map[string]packet.Type{"PUBACK": packet.PUBACK, "PUBREC": packet.PUBREC, "PUBCOMP": packet.PUBCOMP}[verb]
	reply, send, err := p.session.Acked(packet.Ack{Type: kind, PacketID: id, Code: code})
	if send {
		p.say("-> %s", describe(reply))
	}
	if err != nil {
		p.say("protocol error: %v", err)
	}
	return nil
}

func (p *player) inbound(verb string, args []string) error {
	id, qos, code, err := numbers(args)
	if err != nil {
		return err
	}
	switch verb {
	case "PUBLISH":
		p.say("%v", p.session.Published(id, qos))
		if m, ok := p.session.TakenID(id); ok {
			p.say("taken as %s", m.Origin)
		}
	case "PUBREL":
		if reply, send := p.session.Release(id); send {
			p.say("-> %s", describe(reply))
		}
	case "forwarded":
		p.session.Forwarded(id, qos, code)
	}
	return nil
}

func (p *player) acks() {
	for {
		a, ok := p.session.NextAck()
		if !ok {
			break
		}
		p.say("-> %s", describe(a))
	}
	if len(p.effects) == 0 {
		p.say("no acknowledgement is due")
	}
}

func (p *player) state() {
	messages, size := p.session.QueueLen()
	p.say("queued: %d messages, %d bytes", messages, size)
	p.say("in flight: %d, unacknowledged: %d", p.session.InFlight(), p.session.Unacknowledged())
	if p.session.Spilled() {
		p.say("spilled")
	}
	if since := p.session.FullSince(); !since.IsZero() {
		p.say("full for %v", p.now.Sub(since))
	}
}

func (p *player) counters() {
	c := p.session.Counters()
	for _, n := range []struct {
		name  string
		value uint64
	}{
		{"sent", c.Sent},
		{"acknowledged", c.Acknowledged},
		{"refused", c.Refused},
		{"dropped", c.Dropped},
		{"shed", c.Shed},
		{"expired", c.Expired},
		{"ended", c.Ended},
		{"unmatched", c.Unmatched},
		{"received", c.Received},
		{"duplicates", c.Duplicates},
		{"spilled", c.Spilled},
		{"stored", c.Stored},
		{"repeated", c.Repeated},
	} {
		if n.value > 0 {
			p.say("%s: %d", n.name, n.value)
		}
	}
}

func describe(a packet.Ack) string {
	kind := map[packet.Type]string{
		packet.PUBACK: "PUBACK", packet.PUBREC: "PUBREC", packet.PUBREL: "PUBREL", packet.PUBCOMP: "PUBCOMP",
	}[a.Type]
	if a.Code == packet.Success {
		return fmt.Sprintf("%s %d", kind, a.PacketID)
	}
	return fmt.Sprintf("%s %d 0x%02x", kind, a.PacketID, byte(a.Code))
}
