package session_test

import (
	"fmt"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/beeline-mqtt/beeline/internal/cluster/clustertest"
	"github.com/beeline-mqtt/beeline/services/session"
)

func cpu(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkAttach sends claims of new clients over one stream: a number of them is always under way. The CPU is
// that of gateway, session service and etcd together.
func BenchmarkAttach(b *testing.B) {
	for _, waiting := range []int{1, 16, 256, 2048} {
		b.Run(fmt.Sprintf("waiting=%d", waiting), func(b *testing.B) {
			etcd := clustertest.StartEtcd(b).Client()
			i := start(b, etcd, nil)
			i.waitActive(b)
			id, _ := alive(b, etcd)
			a := attach(b, i.conn, id).welcome()
			before := cpu(b)
			n, answers := 0, 0
			for b.Loop() {
				if n-answers == waiting {
					a.next()
					answers++
				}
				n++
				a.claim(fmt.Sprintf("client-%d", n))
			}
			for ; answers < n; answers++ {
				a.next()
			}
			b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "claims/s")
			b.ReportMetric(float64((cpu(b)-before).Microseconds())/float64(n), "cpu-us/claim")
		})
	}
}

// BenchmarkTakeover moves clients between two gateways, one at a time: claim, evict, evicted, claimed.
func BenchmarkTakeover(b *testing.B) {
	etcd := clustertest.StartEtcd(b).Client()
	i := start(b, etcd, func(c *session.Config) { c.FlapLimit = 1 << 30 })
	i.waitActive(b)
	idA, _ := alive(b, etcd)
	idB, _ := alive(b, etcd)
	here, there := attach(b, i.conn, idA).welcome(), attach(b, i.conn, idB).welcome()
	for n := range 100 {
		there.claim(fmt.Sprintf("client-%d", n))
		there.next()
	}
	var took []time.Duration
	n, before := 0, cpu(b)
	for b.Loop() {
		if n > 0 && n%100 == 0 {
			here, there = there, here
		}
		client := fmt.Sprintf("client-%d", n%100)
		n++
		at := time.Now()
		here.claim(client)
		if e := there.next().GetEvict(); e != nil {
			there.evicted(client, e.GetEpoch())
		}
		here.next()
		took = append(took, time.Since(at))
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Microseconds()), "p50-us")
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "p99-us")
	b.ReportMetric(float64((cpu(b)-before).Microseconds())/float64(n), "cpu-us/takeover")
}
