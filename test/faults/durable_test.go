//go:build linux

package faults

import (
	"os"
	"testing"
	"time"

	"github.com/beeline-mqtt/beeline/test/faults/ledger"
	"github.com/beeline-mqtt/beeline/test/faults/processes"
)

// In these tests regulars, most of them with durable sessions, come and go while something goes wrong. After each
// fault everything has to work again, and everything that was acknowledged has to be where it belongs.

// trial is something that goes wrong, and is mended.
type trial struct {
	name  string
	begin func(t *testing.T, c *processes.Cluster)
	// lasts is how long, in times to live. What is shorter than one is to be noticed by nobody but those it hits.
	lasts float64
	end   func(t *testing.T, c *processes.Cluster)
}

// endure has regulars go through trials, one after the other. ordered says whether the order of messages has to hold, but for
// one in a thousand, which has been seen once and not explained. It is given up when a gateway dies or cannot be reached, and a
// receiver is somewhere else before that is noticed. On a machine that stalls for seconds it is given up as well, and then the
// processes say so. What a publisher had to send again may be overtaken everywhere.
func endure(t *testing.T, ordered bool, trials ...trial) {
	t.Helper()
	c := start(t, processes.Config{Limits: "receipt_timeout: 5s", Gateway: "route_ack_timeout: 3s"})
	w := attend(t, 8, 6, seed(t), mqtt(c))
	within(t, "everything flows before anything goes wrong", w.settle(4*slack), 4*slack)
	givenUp := 0.0
	for _, x := range trials {
		givenUp = max(givenUp, orderGivenUp(t, c)) // before one is killed that knows of it
		t.Logf("%s: %s", time.Now().UTC().Format(clock), x.name)
		began := time.Now()
		x.begin(t, c)
		outlast(began, time.Duration(x.lasts*float64(c.TTL)))
		x.end(t, c)
		t.Logf("%s: mended", time.Now().UTC().Format(clock))
		c.WaitReady(t)
		limit := 2*c.TTL + 4*slack
		within(t, x.name+": everything has come", w.settle(limit), limit)
		if t.Failed() {
			break // what follows would say the same
		}
	}
	givenUp = max(givenUp, orderGivenUp(t, c))
	r := w.finish(patience, ledger.Overtaken, ledger.Reordered)
	owed := 0
	for _, row := range r.Rows {
		owed += row.Owed
	}
	switch n := r.Count[ledger.Reordered]; {
	case ordered && givenUp > 0:
		t.Logf("order was given up, %v times at least: what is out of order is only counted", givenUp)
	case ordered && n > owed/1000:
		t.Errorf("%d of %d messages have come out of order", n, owed)
	}
}

// orderGivenUp is how often the processes that run say that they have given order up.
func orderGivenUp(t *testing.T, c *processes.Cluster) (times float64) {
	t.Helper()
	for _, g := range c.Gateways {
		if g.Running() {
			times += g.Metric(t, "beeline_gateway_order_given_up_total") + g.Metric(t, "beeline_gateway_not_sent_on_total")
		}
	}
	for _, s := range c.Sessions {
		if s.Running() {
			times += s.Metric(t, "beeline_session_order_given_up_total")
		}
	}
	return times
}

func mend(_ *testing.T, c *processes.Cluster) { c.Mend() }

// killed are trials in which a process is killed and, after a while, started on its old data.
func killed(name string, lasts float64, which func(c *processes.Cluster) *processes.Process) trial {
	return trial{
		name + " is killed", func(t *testing.T, c *processes.Cluster) { which(c).Kill(t) }, lasts,
		func(t *testing.T, c *processes.Cluster) { which(c).Start(t) },
	}
}

// long is how long the longer pauses are, in times to live: 30 s for those who have the time (make faults).
func long() float64 {
	if os.Getenv("BEELINE_TEST_FAULTS") != "" {
		return 7.5
	}
	return 1.75
}

func paused(name string, lasts float64, which func(c *processes.Cluster) *processes.Process) trial {
	return trial{
		name + " is paused", func(t *testing.T, c *processes.Cluster) { which(c).Pause(t) }, lasts,
		func(t *testing.T, c *processes.Cluster) { which(c).Continue(t) },
	}
}

func theGateway(i int) func(c *processes.Cluster) *processes.Process {
	return func(c *processes.Cluster) *processes.Process { return c.Gateways[i].Process }
}

func theSession(c *processes.Cluster) *processes.Process { return c.Sessions[0].Process }

func theEtcd(c *processes.Cluster) *processes.Process { return c.Etcd }

func TestDurableSessionsSurviveTheirGateways(t *testing.T) {
	endure(t, false,
		killed("gateway 0", 0.1, theGateway(0)), // it is back before anybody has noticed
		killed("gateway 1", 1.5, theGateway(1)),
		paused("gateway 2", 0.5, theGateway(2)),
		paused("gateway 2", long(), theGateway(2)),
		trial{"gateways 0 and 1 are told to stop, one after the other", func(t *testing.T, c *processes.Cluster) {
			for _, g := range c.Gateways[:2] {
				if code, _ := g.Terminate(t, 20*time.Second); code != 0 {
					t.Errorf("%s: exit code %d", g.Name, code)
				}
				g.Start(t)
				g.WaitReady(t)
			}
		}, 0, mend})
}

func TestDurableSessionsSurviveTheSessionService(t *testing.T) {
	endure(t, true,
		killed("the session service", 0.1, theSession),
		killed("the session service", 1.5, theSession),
		paused("the session service", 0.5, theSession),
		paused("the session service", long(), theSession))
}

func TestDurableSessionsSurviveEtcd(t *testing.T) {
	endure(t, true,
		killed("etcd", 0.1, theEtcd),
		killed("etcd", 1.75, theEtcd),
		paused("etcd", 0.5, theEtcd),
		paused("etcd", long(), theEtcd)) // which ends all leases
}

func TestDurableSessionsSurvivePartitions(t *testing.T) {
	endure(t, false,
		trial{
			"gateways 0 and 1 cannot reach each other",
			func(_ *testing.T, c *processes.Cluster) { c.Cut(0, 1, processes.Stalled) }, 2, mend,
		},
		trial{
			"gateway 1 cannot reach the session service",
			func(_ *testing.T, c *processes.Cluster) { c.CutSession(1, 0, processes.Stalled) }, 1.75, mend,
		},
		trial{
			"the session service cannot reach etcd",
			func(_ *testing.T, c *processes.Cluster) { c.Sessions[0].Etcd.Set(processes.Stalled) }, 1.75, mend,
		},
		trial{
			"gateways 0 and 2 cannot reach etcd",
			func(_ *testing.T, c *processes.Cluster) {
				c.Gateways[0].Etcd.Set(processes.Stalled)
				c.Gateways[2].Etcd.Set(processes.Stalled)
			}, 1.75, mend,
		})
}

// The receivers' gateway and the session service die together: whoever is back first must not give anything up.
func TestDurableSessionsSurviveAllThatKnowThem(t *testing.T) {
	endure(t, false,
		trial{
			"gateway 0 and the session service are killed", func(t *testing.T, c *processes.Cluster) {
				c.Gateways[0].Kill(t)
				c.Sessions[0].Kill(t)
			}, 0.5,
			func(t *testing.T, c *processes.Cluster) {
				c.Sessions[0].Start(t)
				c.Gateways[0].Start(t)
			},
		},
		trial{
			"everything is killed", func(t *testing.T, c *processes.Cluster) {
				for _, p := range c.All() {
					p.Kill(t)
				}
			}, 0, func(t *testing.T, c *processes.Cluster) { c.Boot(t) },
		})
}

// Without any fault there is enough that can go wrong: clients that leave, and are taken over.
func TestDurableSessionsMoveWhileMessagesFlow(t *testing.T) {
	endure(t, true, trial{"nothing", func(*testing.T, *processes.Cluster) {}, 2, mend})
}
