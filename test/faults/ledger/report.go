package ledger

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
)

// Kind is a kind of wrong.
type Kind string

// What can be wrong.
const (
	// Lost was acknowledged with success, and has not come to a session that was subscribed before it was sent.
	Lost Kind = "lost"
	// Doubled came twice at QoS 2 where that is promised not to happen.
	Doubled Kind = "doubled"
	// Reordered came for the first time after a later message of the same connection of its publisher.
	Reordered Kind = "reordered"
	// Overtaken is the same of a message that its publisher had to send again: it came after one that was sent behind it.
	Overtaken Kind = "overtaken"
	// Invented was never sent, not there, not so, or not to be given to that session.
	Invented Kind = "invented"
	// Reused is a packet identifier that stood for something else at the time, or came again without DUP.
	Reused Kind = "reused"
	// Forgotten is a durable session that is not there any more.
	Forgotten Kind = "forgotten"
)

// Wrong is one thing that is not as it was promised.
type Wrong struct {
	Kind Kind
	// Client is the session concerned.
	Client string
	Text   string
}

func (w Wrong) String() string { return fmt.Sprintf("%s: %q: %s", w.Kind, w.Client, w.Text) }

// keep bounds the wrongs of one kind that are described. All are counted.
const keep = 10

// wrong needs mu.
func (l *Ledger) wrong(kind Kind, client, format string, args ...any) {
	l.count[kind]++
	if l.count[kind] <= keep {
		text := fmt.Sprintf(format, args...)
		l.wrongs = append(l.wrongs, Wrong{kind, client, fmt.Sprintf("%s (%s)", text, l.now().UTC().Format(clock))})
	}
}

// Row is what came between one sort of publishers and one sort of receivers.
type Row struct {
	Publishers, Receivers string // durable, transient
	QoS                   byte

	Owed      int // deliveries of acknowledged messages to sessions that live and were subscribed before
	Lost      int // of them
	Extra     int // of messages that were not acknowledged with success
	Repeated  int // deliveries that were not the first
	Doubled   int // of them, those that are promised not to happen
	Reordered int
}

// Report is what a Ledger has found.
type Report struct {
	// Sent and Acknowledged are messages; Refused those that were acknowledged with a failure, Again those sent on
	// more than one connection.
	Sent, Acknowledged, Refused, Again int
	Rows                               []Row
	// Count is how many there are of each kind, Wrongs the first of each.
	Count  map[Kind]int
	Wrongs []Wrong
}

// Report sums up. What has not come by now is lost.
func (l *Ledger) Report() Report {
	l.mu.Lock()
	defer l.mu.Unlock()
	r := Report{Count: maps.Clone(l.count), Wrongs: slices.Clone(l.wrongs)}
	for _, x := range l.streams {
		for n := range x.sent {
			m := &x.sent[n]
			r.Sent++
			switch {
			case m.success():
				r.Acknowledged++
			case m.acknowledged:
				r.Refused++
			}
			if m.again {
				r.Again++
			}
		}
	}
	rows := map[Row]*Row{}
	for _, name := range l.order {
		s := l.sessions[name]
		for _, x := range l.sorted() {
			id := Row{Publishers: sortOf(x.Durable), Receivers: sortOf(s.durable), QoS: x.QoS}
			if rows[id] == nil {
				rows[id] = &Row{Publishers: id.Publishers, Receivers: id.Receivers, QoS: id.QoS}
			}
			l.sum(&r, rows[id], s, x)
		}
	}
	for _, row := range rows {
		if *row != (Row{Publishers: row.Publishers, Receivers: row.Receivers, QoS: row.QoS}) {
			r.Rows = append(r.Rows, *row)
		}
	}
	slices.SortFunc(r.Rows, func(a, b Row) int {
		return cmp.Or(cmp.Compare(a.Receivers, b.Receivers), cmp.Compare(a.Publishers, b.Publishers), cmp.Compare(a.QoS, b.QoS))
	})
	return r
}

func sortOf(durable bool) string {
	if durable {
		return "durable"
	}
	return "transient"
}

// sorted are the streams in an order that does not change.
func (l *Ledger) sorted() []*stream {
	return slices.SortedFunc(maps.Values(l.streams), func(a, b *stream) int {
		return cmp.Or(cmp.Compare(a.Publisher, b.Publisher), cmp.Compare(a.Topic, b.Topic))
	})
}

// sum adds what a session got of a stream.
func (l *Ledger) sum(r *Report, row *Row, s *session, x *stream) {
	c := s.columns[x]
	if c == nil {
		c = &column{}
	}
	row.Repeated += c.repeated
	row.Doubled += c.doubled
	row.Reordered += c.reordered
	lost := 0
	since, ever := s.since(x.Topic)
	for n := range x.sent {
		came := n < len(c.came) && c.came[n] > 0
		switch {
		case ever && x.sent[n].owed(since, l.mark):
			row.Owed++
			if came {
				break
			}
			if lost++; r.Count[Lost]+lost <= keep {
				r.Wrongs = append(r.Wrongs, Wrong{Lost, s.name, fmt.Sprintf("%s on %q, sent %s",
					Message{x.Stream, n}.Payload(), x.Topic, x.sent[n].story())})
			}
		case came && !x.sent[n].success():
			row.Extra++
		}
	}
	row.Lost += lost
	if lost > 0 {
		r.Count[Lost] += lost
	}
}

// owed reports whether whoever subscribed at one moment must get the message, if that was sent before another.
func (m *sent) owed(since, before Mark) bool {
	return m.success() && m.mark > since && m.mark <= before
}

// Outstanding returns how many deliveries are owed and have not come, of messages that were sent before a moment,
// and the first of them.
func (l *Ledger) Outstanding(before Mark) (n int, first string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, name := range l.order {
		s := l.sessions[name]
		for _, x := range l.streams {
			since, ever := s.since(x.Topic)
			if !ever {
				continue
			}
			c := s.columns[x]
			for i := range x.sent {
				if c != nil && i < len(c.came) && c.came[i] > 0 || !x.sent[i].owed(since, before) {
					continue
				}
				if n++; n == 1 {
					first = fmt.Sprintf("%q has not got %s, sent %s", name, Message{x.Stream, i}.Payload(), x.sent[i].story())
				}
			}
		}
	}
	return n, first
}

// Clean reports whether nothing is wrong but what may be.
func (r Report) Clean(but ...Kind) bool {
	for kind := range r.Count {
		if !slices.Contains(but, kind) {
			return false
		}
	}
	return true
}

// String is the report as tables, with what is wrong behind them.
func (r Report) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d messages sent, %d acknowledged, %d refused, %d sent again\n", r.Sent, r.Acknowledged, r.Refused, r.Again)
	t := tabwriter.NewWriter(&b, 0, 0, 2, ' ', tabwriter.AlignRight)
	_, _ = fmt.Fprintln(t, "from\tto\tQoS\towed\tlost\textra\trepeated\tdoubled\treordered\t")
	for _, x := range r.Rows {
		_, _ = fmt.Fprintf(t, "%s\t%s\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t\n",
			x.Publishers, x.Receivers, x.QoS, x.Owed, x.Lost, x.Extra, x.Repeated, x.Doubled, x.Reordered)
	}
	_ = t.Flush() // into memory
	for _, kind := range []Kind{Lost, Doubled, Reordered, Overtaken, Invented, Reused, Forgotten} {
		if r.Count[kind] > 0 {
			fmt.Fprintf(&b, "%s: %d\n", kind, r.Count[kind])
		}
	}
	for _, w := range r.Wrongs {
		fmt.Fprintf(&b, "  %v\n", w)
	}
	return b.String()
}
