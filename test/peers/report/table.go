package report

import (
	"bytes"
	"fmt"
	"math"
	"strings"
	"unicode/utf8"
)

// reached is the part of the rate that was asked for from which on it counts as reached.
const reached = 0.97

// Table is what people read, as text or as Markdown.
type Table struct {
	Title string
	Head  []string
	Rows  [][]string
}

// Tables are one table for each group of loads, ratios first, in the order of the loads. The last is that of the
// targets.
func Tables(loads []Load, figures Figures) []Table {
	var tables []Table
	for _, l := range loads {
		last := len(tables) - 1
		if last < 0 || tables[last].Title != l.Group {
			t := Table{Title: l.Group, Head: []string{"load", "system"}}
			for _, c := range columns(l) {
				t.Head = append(t.Head, c.head)
			}
			tables = append(tables, t)
			last++
		}
		for _, system := range l.Systems {
			tables[last].Rows = append(tables[last].Rows, cells(l, system, figures))
		}
	}
	targets := Table{Title: "Targets", Head: []string{"", "what", "target", "figure", "of the target", ""}}
	for _, v := range Judge(loads, figures) {
		targets.Rows = append(targets.Rows, []string{v.ID, v.What, v.Want, v.Got, v.Ratio, v.Met})
	}
	return append(tables, targets)
}

func cells(l Load, system string, figures Figures) []string {
	row := []string{l.Title, system}
	f := figures[Key{l.Name, system}]
	for _, c := range columns(l) {
		switch {
		case f.Rounds == 0 && c.head == remarks:
			row = append(row, f.Failure)
		case f.Rounds == 0:
			row = append(row, "")
		default:
			row = append(row, c.cell(l, f, figures[Key{l.Name, l.One}]))
		}
	}
	return row
}

// column is one column of a table: its cell for a row, beside the row whose figures are 1.
type column struct {
	head string
	cell func(l Load, f, one Figure) string
}

// remarks is the head of the column that also says why a row is empty.
const remarks = "remarks"

func columns(l Load) []column {
	figure := func(head string, of func(Figure) float64) column {
		return column{head, func(_ Load, f, _ Figure) string { return number(of(f)) }}
	}
	ratio := func(head string, of func(Figure) float64) column {
		return column{head + " ratio", func(_ Load, f, one Figure) string { return ratioOf(of(f), of(one)) }}
	}
	cpu := func(f Figure) float64 { return f.CPU }
	p50 := func(f Figure) float64 { return f.P50 }
	p99 := func(f Figure) float64 { return f.P99 }
	generator := func(f Figure) float64 { return f.Generator }
	memory := func(f Figure) float64 { return f.Memory / 1024 }
	rate := column{"rate", func(l Load, f, _ Figure) string { return rateOf(l.Rate, f.Rate) }}
	proxy := func(f Figure) float64 { return f.ProxyCPU }
	front := func(f Figure) float64 { return f.Front / 1024 }
	switch {
	case l.Proxied && l.Scenario == "connect":
		return []column{
			ratio("proxy CPU", proxy), ratio("front memory", front), figure("proxy CPU, us each", proxy),
			figure("etcd CPU, us", func(f Figure) float64 { return f.StoreCPU }), figure("all CPU, us", cpu),
			figure("front memory, KiB each", front), figure("p50, ms", p50), figure("p99, ms", p99), rate,
			{remarks, remark},
		}
	case l.Proxied:
		return []column{
			ratio("proxy CPU", proxy), ratio("CPU", cpu), figure("proxy CPU, us", proxy), figure("all CPU, us", cpu),
			figure("p50, ms", p50), figure("p99, ms", p99), figure("generator, us", generator), rate,
			{remarks, remark},
		}
	case l.Scenario == "connect":
		return []column{
			ratio("CPU", cpu), ratio("memory", memory), figure("CPU, us each", cpu), figure("memory, KiB each", memory),
			figure("in gateways", front), figure("p50, ms", p50), figure("p99, ms", p99), rate,
			{remarks, remark},
		}
	case l.Scenario == "move":
		return []column{
			ratio("p50", p50), ratio("p99", p99), figure("p50, ms", p50), figure("p99, ms", p99),
			figure("old one closed p99, ms", func(f Figure) float64 { return f.ClosedP99 }), figure("CPU, us each", cpu),
			{remarks, remark},
		}
	default:
		return []column{
			ratio("CPU", cpu), ratio("p99", p99), figure("CPU, us", cpu), figure("p50, ms", p50), figure("p99, ms", p99),
			figure("generator, us", generator), rate,
			{remarks, remark},
		}
	}
}

// remark says what is wrong with a row, and what went between gateways.
func remark(_ Load, f, _ Figure) string {
	var list []string
	for _, r := range []struct {
		n    int64
		what string
	}{
		{f.Lost, "lost"},
		{f.Doubled, "doubled"},
		{f.OutOfOrder, "out of order"},
		{f.Corrupt, "corrupt"},
		{f.Refused, "refused"},
		{f.TwoOwners, "with two owners"},
	} {
		if r.n > 0 {
			list = append(list, number(float64(r.n))+" "+r.what)
		}
	}
	if f.Mesh != nil && f.Mesh.PerMessage > 0 {
		list = append(list, fmt.Sprintf("mesh: %s for each message", number(f.Mesh.PerMessage)))
	}
	if f.Mesh != nil && f.Mesh.Bystanders > 0 {
		list = append(list, fmt.Sprintf("mesh at %d others: %s messages, %s B", f.Mesh.Bystanders, number(f.Mesh.Deliveries), number(f.Mesh.Bytes)))
	}
	if f.Failure != "" {
		list = append(list, "a round is missing: "+f.Failure)
	}
	return strings.Join(list, "; ")
}

// ratioOf is x in units of one, "-" when there is no one.
func ratioOf(x, one float64) string {
	if one == 0 {
		return "-"
	}
	return fmt.Sprintf("%.2f", x/one)
}

// rateOf says how many there were a second, and of how many, when that is not reached.
func rateOf(asked, got float64) string {
	if got >= reached*asked {
		return number(got)
	}
	return number(got) + " of " + number(asked)
}

// RateTitle is how a rate of messages is called, 0 being as fast as possible.
func RateTitle(rate int) string {
	if rate == 0 {
		return "pipelined"
	}
	return number(float64(rate)) + "/s"
}

// number writes three digits that count, large numbers whole and with commas.
func number(x float64) string {
	switch {
	case math.IsInf(x, 0) || math.IsNaN(x):
		return "unknown"
	case x == math.Trunc(x) || math.Abs(x) >= 99.95:
		digits := fmt.Sprintf("%.0f", math.Abs(x))
		for i := len(digits) - 3; i > 0; i -= 3 {
			digits = digits[:i] + "," + digits[i:]
		}
		if x < 0 {
			return "-" + digits
		}
		return digits
	case math.Abs(x) >= 9.995:
		return fmt.Sprintf("%.1f", x)
	default:
		return fmt.Sprintf("%.2f", x)
	}
}

// Text writes the table for a terminal.
func (t Table) Text() string {
	widths := make([]int, len(t.Head))
	lines := append([][]string{t.Head}, t.Rows...)
	for _, line := range lines {
		for i, cell := range line {
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n", t.Title)
	for _, line := range lines {
		var row strings.Builder
		for i, cell := range line {
			fmt.Fprintf(&row, "  %-*s", widths[i], cell)
		}
		b.WriteString(strings.TrimRight(row.String(), " ") + "\n")
	}
	return b.String()
}

// Markdown writes the table for a document.
func (t Table) Markdown() string {
	var b strings.Builder
	line := func(cells []string) {
		b.WriteString("|")
		for _, c := range cells {
			b.WriteString(" " + strings.NewReplacer("|", `\|`, "\n", " ").Replace(c) + " |")
		}
		b.WriteString("\n")
	}
	fmt.Fprintf(&b, "### %s\n\n", t.Title)
	line(t.Head)
	b.WriteString(strings.Repeat("| --- ", len(t.Head)) + "|\n")
	for _, row := range t.Rows {
		line(row)
	}
	return b.String()
}

// The lines of a document between which its generated part is.
const (
	begin = "<!-- make bench-peers writes from here -->\n"
	end   = "<!-- to here -->\n"
)

// Insert puts text between the marks of a document.
func Insert(document []byte, text string) ([]byte, error) {
	before, rest, ok1 := bytes.Cut(document, []byte(begin))
	_, after, ok2 := bytes.Cut(rest, []byte(end))
	if !ok1 || !ok2 {
		return nil, fmt.Errorf("the document does not have the lines %q and %q", strings.TrimSpace(begin), strings.TrimSpace(end))
	}
	return []byte(string(before) + begin + "\n" + text + "\n" + end + string(after)), nil
}
