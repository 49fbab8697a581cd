// Package processors keeps GOMAXPROCS at what the load needs, between one and what Go chooses by itself.
//
// Go wakes a second thread whenever something becomes runnable while a processor is idle. In a broker that is every
// message, and at moderate load the second thread finds nothing to do: it costs more than the message. A process that
// uses half a processor does the same work for less with one.
//
// GOMAXPROCS belongs to the whole process, and so does this package: one Run in a process.
package processors

import (
	"context"
	"math"
	"os"
	"runtime"
	"runtime/metrics"
	"syscall"
	"time"

	"github.com/beeline-mqtt/beeline/internal/lifecycle"
)

const (
	// interval is how often the load is measured, and so how long a sudden load waits for more processors.
	interval = 100 * time.Millisecond
	// calm is how many intervals in a row have to need fewer processors before there are fewer.
	calm = 10
	// fill is how busy a processor may be, on average, before another one is added.
	fill = 0.8
	// crowd is how many goroutines may wait for each processor, on average, before another one is added. It matters on
	// a machine that is overloaded by others: a process that gets no processor is not busy.
	crowd = 2.0
)

// Part adapts the number of processors for as long as the process runs, and gives them all back at its end. It does
// nothing when the environment variable GOMAXPROCS is set: whoever sets it has chosen.
func Part() lifecycle.Part {
	return lifecycle.Simple("processors", func(ctx context.Context) error {
		if os.Getenv("GOMAXPROCS") != "" {
			<-ctx.Done()
			return nil
		}
		return run(ctx)
	})
}

func run(ctx context.Context) error {
	runtime.SetDefaultGOMAXPROCS()
	defer runtime.SetDefaultGOMAXPROCS()
	// What the default is, it is now. A limit of the container that changes later is not followed.
	most := runtime.GOMAXPROCS(0)
	g := governor{most: most, now: most}
	tick := time.NewTicker(interval)
	defer tick.Stop()
	var m meter
	m.read()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		before := g.now
		if g.measured(m.read()); g.now != before {
			runtime.GOMAXPROCS(g.now)
		}
	}
}

// load is what a process asked of the machine in an interval, both on average.
type load struct {
	busy    float64 // processors that were in use
	waiting float64 // goroutines that waited for one
}

// meter measures the load between two reads.
type meter struct {
	at     time.Time
	used   time.Duration
	waited float64 // seconds, of all goroutines together
	sample [1]metrics.Sample
}

func (m *meter) read() load {
	at, used, waited := time.Now(), cpuTime(), m.waitTime()
	seconds := at.Sub(m.at).Seconds()
	l := load{busy: (used - m.used).Seconds() / seconds, waiting: (waited - m.waited) / seconds}
	m.at, m.used, m.waited = at, used, waited
	return l
}

// waitTime is how long goroutines have been runnable and not run, in seconds. Go measures one wait of eight.
func (m *meter) waitTime() float64 {
	const sampled = 8
	m.sample[0].Name = "/sched/latencies:seconds"
	metrics.Read(m.sample[:])
	h := m.sample[0].Value.Float64Histogram()
	sum := 0.0
	for i, n := range h.Counts {
		if low := h.Buckets[i]; n > 0 && low > 0 {
			sum += float64(n) * low
		}
	}
	return sampled * sum
}

// cpuTime is what all threads of the process have used.
func cpuTime() time.Duration {
	var r syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &r) != nil {
		return 0
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}

// governor decides how many processors there are: more at once, fewer when the load has been lower for a while.
type governor struct {
	most int
	now  int

	quiet int     // intervals in a row that needed fewer
	busy  float64 // their sum
}

// measured tells the governor the load of the last interval.
func (g *governor) measured(l load) {
	n := needed(l.busy)
	if l.waiting > crowd*float64(g.now) {
		n = max(n, g.now+1)
	}
	if n >= g.now {
		g.now = min(n, g.most)
		g.quiet, g.busy = 0, 0
		return
	}
	g.quiet++
	g.busy += l.busy
	if g.quiet == calm {
		g.now = needed(g.busy / calm)
		g.quiet, g.busy = 0, 0
	}
}

// needed is how many processors do the work of so many busy ones.
func needed(busy float64) int { return max(1, int(math.Ceil(busy/fill))) }
