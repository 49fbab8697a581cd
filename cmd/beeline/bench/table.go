package bench

import (
	"fmt"
	"io"
	"text/tabwriter"
	"time"
)

// Table writes the result for people.
func (r *Result) Table(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	line := func(name, format string, args ...any) { fmt.Fprintf(t, "%s\t%s\n", name, fmt.Sprintf(format, args...)) }
	line("scenario", "%s, %.1f s", r.Scenario, r.Seconds)
	line("sent", "%d", r.Sent)
	line("delivered", "%d (%.0f/s)", r.Delivered, r.DeliveryRate)
	line("bad", "%d lost, %d doubled, %d out of order, %d corrupt", r.Lost, r.Doubled, r.OutOfOrder, r.Corrupt)
	for _, l := range []struct {
		name string
		l    *Latencies
	}{{"latency", r.Latency}, {"subscribed", r.Subscribed}, {"closed", r.Closed}, {"sent late", r.SentLate}} {
		if l.l != nil {
			line(l.name, "%s", l.l)
		}
	}
	line("CPU", "%.1f us (generator %.1f us)", r.CPU.Total, r.CPU.Generator)
	for _, p := range r.Processes {
		line("  "+p.Name, "%.1f us, memory %s, before %s", p.CPU, mebibytes(p.RSSAfter), mebibytes(p.RSSBefore))
	}
	if err := t.Flush(); err != nil {
		return fmt.Errorf("write result: %w", err)
	}
	return nil
}

// String writes the percentiles in milliseconds.
func (l *Latencies) String() string {
	return fmt.Sprintf("p50 %.3g ms, p90 %.3g ms, p99 %.3g ms, p99.9 %.3g ms, max %.3g ms",
		l.P50/1000, l.P90/1000, l.P99/1000, l.P999/1000, l.Max/1000)
}

func milliseconds(d time.Duration) string {
	return fmt.Sprintf("%.2f ms", float64(d)/float64(time.Millisecond))
}

func mebibytes(n int64) string { return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20)) }
