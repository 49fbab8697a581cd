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
	var each string
	switch r.Scenario {
	case "connect":
		each = r.connectLines(line)
	case "move":
		each = r.moveLines(line)
	case "away":
		each = r.awayLines(line)
	case "publish", "send", "command", "subscribe":
		each = r.serviceLines(line)
	case "resume", "storm":
		each = r.returnLines(line)
	default:
		each = r.messageLines(line)
	}
	line("CPU of "+each, "%.1f us; of the generator %.1f us", r.CPU.Total, r.CPU.Generator)
	for _, p := range r.Processes {
		line("  "+p.Name, "%.1f us; memory %s, before %s", p.CPU, mebibytes(p.RSSAfter), mebibytes(p.RSSBefore))
	}
	if r.MemoryPerConnection != nil && len(r.Processes) > 0 {
		line("memory of "+each, "%.1f KiB", *r.MemoryPerConnection/1024)
	}
	if r.MemoryPerConnectionHeld != nil && len(r.Processes) > 0 {
		line("  held", "%.1f KiB", *r.MemoryPerConnectionHeld/1024)
	}
	if err := t.Flush(); err != nil {
		return fmt.Errorf("write result: %w", err)
	}
	return nil
}

// messageLines are the lines of pairs and fanout; like the others it returns what the CPU time is divided by.
func (r *Result) messageLines(line func(name, format string, args ...any)) string {
	line("sent", "%d", r.Sent)
	line("  due, not sent", "%d", r.Unsent)
	line("  not acknowledged", "%d", r.Unacknowledged)
	line("delivered", "%d, %.0f/s", r.Delivered, r.DeliveryRate)
	line("lost", "%d", r.Lost)
	line("  while warming up", "%d", r.LostInWarmup)
	line("doubled", "%d", r.Doubled)
	line("out of order", "%d", r.OutOfOrder)
	line("corrupt", "%d", r.Corrupt)
	line("latency", "%s", r.Latency)
	if r.SentLate != nil {
		line("  sent late by", "%s", r.SentLate)
	}
	return "a delivery"
}

// serviceLines are the lines of what services ask of a router.
func (r *Result) serviceLines(line func(name, format string, args ...any)) string {
	line("asked", "%d", r.Sent)
	line("done", "%d, %.0f/s", r.Delivered, r.DeliveryRate)
	line("not done", "%d", r.Lost)
	line("latency", "%s", r.Latency)
	return "each"
}

func (r *Result) connectLines(line func(name, format string, args ...any)) string {
	line("connected", "%d, %.0f/s", r.Delivered, r.DeliveryRate)
	line("refused", "%d", r.Refused)
	if r.RefusedBecause != "" {
		line("  the first", "%s", r.RefusedBecause)
	}
	line("lost", "%d", r.Lost)
	line("CONNACK after", "%s", r.Latency)
	line("SUBACK after", "%s", r.Subscribed)
	return "a connection"
}

func (r *Result) moveLines(line func(name, format string, args ...any)) string {
	line("moved", "%d, %.0f/s", r.Delivered, r.DeliveryRate)
	line("lost", "%d", r.Lost)
	line("two owners", "%d", r.TwoOwners)
	line("not closed", "%d", r.Unclosed)
	line("CONNACK after", "%s", r.Latency)
	line("closed after", "%s", r.Closed)
	return "a move"
}

func (r *Result) awayLines(line func(name, format string, args ...any)) string {
	line("sent", "%d", r.Sent)
	line("  not sent", "%d", r.Unsent)
	line("  not acknowledged", "%d", r.Unacknowledged)
	line("accepted", "%d, %.0f/s", r.Delivered, r.DeliveryRate)
	line("accepted after", "%s", r.Latency)
	return "an accepted message"
}

// returnLines are the lines of resume and storm.
func (r *Result) returnLines(line func(name, format string, args ...any)) string {
	line("waited for them", "%d", r.Sent)
	line("received", "%d, %.0f/s", r.Delivered, r.DeliveryRate)
	line("lost", "%d", r.Lost)
	line("doubled", "%d", r.Doubled)
	line("out of order", "%d", r.OutOfOrder)
	line("corrupt", "%d", r.Corrupt)
	line("forgotten", "%d", r.Forgotten)
	line("clients served", "%d, the last after %.3f s", r.Clients, r.Seconds)
	line("CONNACK after", "%s", r.Latency)
	line("served after", "%s", r.Served)
	if r.Scenario == "storm" {
		return "a client"
	}
	return "a delivery"
}

// String writes the percentiles in milliseconds.
func (l *Latencies) String() string {
	return fmt.Sprintf("p50 %s, p90 %s, p99 %s, p99.9 %s, max %s ms",
		millis(l.P50), millis(l.P90), millis(l.P99), millis(l.P999), millis(l.Max))
}

// millis writes microseconds as milliseconds with three digits that count.
func millis(us float64) string {
	switch ms := us / 1000; {
	case ms < 1:
		return fmt.Sprintf("%.3f", ms)
	case ms < 100:
		return fmt.Sprintf("%.1f", ms)
	default:
		return fmt.Sprintf("%.0f", ms)
	}
}

func milliseconds(d time.Duration) string {
	return millis(float64(d)/float64(time.Microsecond)) + " ms"
}

func mebibytes(n int64) string { return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20)) }
