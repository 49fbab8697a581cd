package cluster_test

import (
	"fmt"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/beeline-mqtt/beeline/internal/cluster"
	"github.com/beeline-mqtt/beeline/internal/cluster/clustertest"
)

func cpu(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkRecorder keeps a number of claims waiting. The CPU is that of etcd too.
func BenchmarkRecorder(b *testing.B) {
	for _, waiting := range []int{1, 16, 256, 2048} {
		b.Run(fmt.Sprintf("waiting=%d", waiting), func(b *testing.B) {
			d := deps(clustertest.StartEtcd(b))
			g := join(b, d, cluster.IncarnationConfig{TTL: 5 * time.Second}, nil)
			_, r := active(b, d, cluster.RecorderConfig{})
			slots := make(chan struct{}, waiting)
			var wg sync.WaitGroup
			n, before := 0, cpu(b)
			for b.Loop() {
				slots <- struct{}{}
				wg.Add(1)
				n++
				r.Claim(fmt.Sprintf("client-%d", n%100_000), g.ID(), func(c cluster.Claimed) {
					if c.Err != nil {
						b.Error(c.Err)
					}
					<-slots
					wg.Done()
				})
			}
			wg.Wait()
			b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "claims/s")
			b.ReportMetric(float64((cpu(b)-before).Microseconds())/float64(n), "cpu-us/claim")
		})
	}
}

// BenchmarkRecorderAtRate claims at a steady rate, as clients do that connect.
func BenchmarkRecorderAtRate(b *testing.B) {
	for _, rate := range []int{500, 1000, 4000} {
		b.Run(fmt.Sprintf("rate=%d", rate), func(b *testing.B) {
			d := deps(clustertest.StartEtcd(b))
			g := join(b, d, cluster.IncarnationConfig{TTL: 5 * time.Second}, nil)
			_, r := active(b, d, cluster.RecorderConfig{})
			var wg sync.WaitGroup
			var mu sync.Mutex
			var took []time.Duration
			n, before, start := 0, cpu(b), time.Now()
			for b.Loop() {
				time.Sleep(time.Until(start.Add(time.Duration(n) * time.Second / time.Duration(rate))))
				n++
				wg.Add(1)
				at := time.Now()
				r.Claim(fmt.Sprintf("client-%d", n%100_000), g.ID(), func(cluster.Claimed) {
					mu.Lock()
					took = append(took, time.Since(at))
					mu.Unlock()
					wg.Done()
				})
			}
			wg.Wait()
			slices.Sort(took)
			b.ReportMetric(float64(took[len(took)/2].Microseconds()), "p50-us")
			b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "p99-us")
			b.ReportMetric(float64((cpu(b)-before).Microseconds())/float64(n), "cpu-us/claim")
		})
	}
}
