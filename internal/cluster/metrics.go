package cluster

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"
)

// register returns the collector, or its twin when an earlier incarnation of this process has registered it.
func register[C prometheus.Collector](r prometheus.Registerer, c C) C {
	if r == nil {
		return c
	}
	err := r.Register(c)
	var twin prometheus.AlreadyRegisteredError
	if errors.As(err, &twin) {
		if existing, ok := twin.ExistingCollector.(C); ok {
			return existing
		}
	}
	return c
}

type incarnationMetrics struct {
	renewals  *prometheus.CounterVec
	witnesses *prometheus.CounterVec
}

func newIncarnationMetrics(r prometheus.Registerer) incarnationMetrics {
	return incarnationMetrics{
		renewals: register(r, prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "beeline_cluster_renewals_total",
			Help: "Attempts to renew the lease of this incarnation.",
		}, []string{"outcome"})),
		witnesses: register(r, prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "beeline_cluster_witness_rounds_total",
			Help: "Times the session instances were asked whether they reach etcd, because this process does not.",
		}, []string{"outcome"})),
	}
}

type recorderMetrics struct {
	batches   prometheus.Histogram
	unknown   prometheus.Counter
	sweeps    prometheus.Counter
	swept     prometheus.Counter
	durations prometheus.Histogram
}

func newRecorderMetrics(r prometheus.Registerer) recorderMetrics {
	return recorderMetrics{
		batches: register(r, prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "beeline_session_record_batch_clients",
			Help:    "Clients whose records were changed together in one etcd transaction.",
			Buckets: []float64{1, 2, 4, 8, 16, 32, 60},
		})),
		durations: register(r, prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "beeline_session_record_duration_seconds",
			Help:    "Time of one etcd transaction that changed clients' records.",
			Buckets: prometheus.ExponentialBuckets(0.00025, 2, 14),
		})),
		unknown: register(r, prometheus.NewCounter(prometheus.CounterOpts{
			Name: "beeline_session_record_unknown_total",
			Help: "Transactions whose outcome had to be read back.",
		})),
		sweeps: register(r, prometheus.NewCounter(prometheus.CounterOpts{
			Name: "beeline_session_sweeps_total",
			Help: "Completed sweeps for records of dead incarnations.",
		})),
		swept: register(r, prometheus.NewCounter(prometheus.CounterOpts{
			Name: "beeline_session_swept_records_total",
			Help: "Deleted records of dead incarnations.",
		})),
	}
}
