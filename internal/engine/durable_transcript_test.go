package engine

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/beeline-mqtt/beeline/internal/journal"
	"github.com/beeline-mqtt/beeline/internal/message"
)

// durable plays the lines that are about durable sessions.
func (p *player) durable(verb string, args []string) error {
	switch verb {
	case "resume":
		return p.resume(args)
	case "changes":
		return p.changes(args)
	case "written":
		n, err := strconv.Atoi(args[0])
		p.session.Written(n)
		return err
	case "leftout":
		n, err := strconv.Atoi(args[0])
		p.session.LeftOut(journal.LeftOut{Position: journal.Position(n), Duplicate: args[1] == "duplicate"})
		return err
	case "unsafe":
		if since, ok := p.session.Unsafe(); ok {
			p.say("for %v", p.now.Sub(since))
		} else {
			p.say("nothing")
		}
	case "wanted":
		if after, want := p.session.Wanted(); want {
			p.say("a page behind %d", after)
		} else {
			p.say("nothing")
		}
	case "page":
		return p.page(args)
	case "taken":
		id, _, _, err := numbers(args[:1])
		p.session.Taken(id, message.ID{Origin: args[1], Seq: 1})
		return err
	case "ready":
		p.say("%v", p.session.Ready(nil))
	case "suspend":
		p.sayChanges(p.session.Suspend(p.now, nil))
	case "abandon":
		p.session.Abandon()
	case "forget":
		p.session.ForgetSeen()
	default:
		return fmt.Errorf("unknown verb %q", verb)
	}
	return nil
}

// resume begins a durable session: "resume first=3 next=5 taken=7:m queue=2".
func (p *player) resume(args []string) error {
	var st journal.State
	var limits []string
	for _, arg := range args {
		key, value, _ := strings.Cut(arg, "=")
		switch key {
		case "first", "next":
			n, err := strconv.Atoi(value)
			if err != nil {
				return err
			}
			*map[string]*journal.Position{"first": &st.First, "next": &st.Next}[key] = journal.Position(n)
		case "taken":
			id, m, _ := strings.Cut(value, ":")
			n, err := strconv.ParseUint(id, 10, 16)
			if err != nil {
				return err
			}
			st.Taken = map[uint16]message.ID{uint16(n): {Origin: m, Seq: 1}}
		default:
			limits = append(limits, arg)
		}
	}
	l, err := limitsOf(limits)
	p.session = Resume[string](l, st)
	return err
}

// changes looks for what is to be written: "changes", or "changes 50ms" for what was offered as long ago too.
func (p *player) changes(args []string) error {
	before := p.start.Add(-time.Hour)
	if len(args) == 1 {
		d, err := time.ParseDuration(args[0])
		if err != nil {
			return err
		}
		before = p.now.Add(-d)
	}
	p.sayChanges(p.session.Changes(p.now, before, nil))
	return nil
}

func (p *player) sayChanges(changes []journal.Change) {
	for _, c := range changes {
		switch c.Kind {
		case journal.Append:
			line := fmt.Sprintf("append %d: %s qos%d", c.Entry.Position, c.Entry.Message.Topic, c.Entry.QoS)
			if c.Entry.PacketID != 0 {
				line += fmt.Sprintf(" id=%d", c.Entry.PacketID)
			}
			p.say("%s", line)
		case journal.Sent:
			p.say("sent %d id=%d", c.Position, c.PacketID)
		case journal.Released:
			p.say("released %d", c.Position)
		case journal.Done:
			p.say("done %d", c.Position)
		case journal.Taken:
			p.say("taken id=%d as %s", c.PacketID, c.Message.Origin)
		case journal.Completed:
			p.say("completed id=%d", c.PacketID)
		}
	}
	if len(changes) == 0 {
		p.say("nothing to write")
	}
}

// page gives the session a page: "page 3:a:qos1 4:b:qos2:id=7:released", "page", "page failed". An entry's message id
// is its topic, as in offers with msg.
func (p *player) page(args []string) error {
	if len(args) == 1 && args[0] == "failed" {
		p.session.PageFailed()
		return nil
	}
	var entries []journal.Entry
	for _, arg := range args {
		words := strings.Split(arg, ":")
		n, err := strconv.Atoi(words[0])
		if err != nil || len(words) < 3 {
			return fmt.Errorf("entry %q: %w", arg, err)
		}
		e := journal.Entry{
			Position: journal.Position(n), QoS: words[2][3] - '0',
			Message: &message.Message{Topic: words[1], ID: message.ID{Origin: words[1], Seq: 1}},
		}
		for _, word := range words[3:] {
			if word == "released" {
				e.Released, e.Message = true, nil
				continue
			}
			id, err := strconv.ParseUint(strings.TrimPrefix(word, "id="), 10, 16)
			if err != nil {
				return err
			}
			e.PacketID = uint16(id)
		}
		entries = append(entries, e)
	}
	p.session.Page(entries)
	return nil
}
