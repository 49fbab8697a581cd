package book

import (
	"strconv"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/beeline-mqtt/beeline/internal/cluster/clustertest"
)

// BenchmarkNewClients is what the book does for a client that nobody knows: it asks etcd, and records.
func BenchmarkNewClients(b *testing.B) {
	e := clustertest.StartEtcd(b)
	for _, atOnce := range []int{1, 16, 256} {
		b.Run(strconv.Itoa(atOnce)+"atOnce", func(b *testing.B) {
			r := open(b, e, patient())
			var next atomic.Int64
			b.ReportAllocs()
			b.ResetTimer()
			var all sync.WaitGroup
			for range atOnce {
				all.Go(func() {
					for i := next.Add(1); i <= int64(b.N); i = next.Add(1) {
						key := strconv.Itoa(atOnce) + "-" + strconv.Itoa(b.N) + "-" + strconv.FormatInt(i, 10)
						if _, ok := r.Recorded(b.Context(), "own", key); ok {
							b.Error("a client that was never here is known")
						}
						r.Record("own", key, "node-1")
					}
				})
			}
			all.Wait()
		})
	}
}
