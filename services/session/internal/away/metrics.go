package away

import (
	"fmt"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/beeline-mqtt/beeline/services/session/internal/store"
)

// Why a message is dropped.
const (
	dropQoS0      = "qos0"
	dropDuplicate = "duplicate"
	dropBacklog   = "backlog"
	dropInbox     = "inbox_full"
	dropRefused   = "refused"
	dropDeserted  = "deserted"
)

// Metrics of all Keepers of a process, one after the other.
type Metrics struct {
	sessions  *prometheus.GaugeVec
	appended  prometheus.Counter
	latency   prometheus.Histogram
	movedOn   prometheus.Counter
	heldBack  prometheus.Counter
	unordered prometheus.Counter
	drops     *prometheus.CounterVec
	adoptions prometheus.Counter
	adopted   prometheus.Counter
	wills     *prometheus.CounterVec
	expired   prometheus.Counter
}

// NewMetrics registers the metrics.
func NewMetrics(r prometheus.Registerer) (*Metrics, error) {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: "beeline_session_" + name, Help: help})
	}
	vec := func(name, help, label string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: "beeline_session_" + name, Help: help}, []string{label})
	}
	m := &Metrics{
		sessions: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "beeline_session_records", Help: "Records of clients: durable sessions that are away or connected, and wills of others.",
		}, []string{"state"}),
		appended: counter("appended_total", "Messages stored in inboxes of absent clients."),
		latency: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "beeline_session_store_duration_seconds", Help: "Time from a message for absent clients to its receipt.",
			Buckets: prometheus.ExponentialBuckets(0.00025, 2, 14),
		}),
		movedOn:   counter("moved_total", "Messages that were sent on because a session had gone to a gateway."),
		heldBack:  counter("held_back_total", "Messages that waited for older ones from a session's former holder."),
		unordered: counter("order_given_up_total", "Times that so much was held back, or for so long, that order was given up."),
		drops:     vec("dropped_total", "Messages for absent clients that were not stored.", "reason"),
		adoptions: counter("adoptions_total", "Dead holders, or groups of them, whose sessions were adopted."),
		adopted:   counter("adopted_sessions_total", "Sessions of dead holders that were adopted."),
		wills:     vec("wills_total", "Wills that were given to gateways.", "outcome"),
		expired:   counter("expired_total", "Sessions that have ended because their time had passed."),
	}
	for _, c := range []prometheus.Collector{
		m.sessions, m.appended, m.latency, m.movedOn, m.heldBack, m.unordered, m.drops, m.adoptions, m.adopted, m.wills, m.expired,
	} {
		if err := r.Register(c); err != nil {
			return nil, fmt.Errorf("register metrics of absent sessions: %w", err)
		}
	}
	return m, nil
}

// reset is for a new Keeper, which counts its records anew.
func (m *Metrics) reset() { m.sessions.Reset() }

// change counts a record that is there (1) or is there no longer (-1).
func (m *Metrics) change(r store.Record, stored bool, by float64) {
	if !stored {
		return
	}
	state := "away"
	switch {
	case r.Session == 0:
		state = "will"
	case r.Holder != "":
		state = "connected"
	}
	m.sessions.WithLabelValues(state).Add(by)
}

func (m *Metrics) dropped(reason string) { m.drops.WithLabelValues(reason).Inc() }
