package mesh

import (
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
)

// Stats are the counts of one mesh since New. Frames of both directions of its streams are counted together;
// deliveries and payload are those of the application.
type Stats struct {
	FramesOut, FramesIn uint64
	// BatchesOut and BatchesIn count those of the frames that carried deliveries.
	BatchesOut, BatchesIn           uint64
	DeliveriesOut, DeliveriesIn     uint64
	PayloadBytesOut, PayloadBytesIn uint64
	// Resent counts deliveries that were sent again after a break, Duplicates those received again.
	Resent, Duplicates uint64
	// Reconnects counts streams that were welcomed after an earlier one to the same peer.
	Reconnects uint64
	// Broken counts streams that were ended because of what was received.
	Broken uint64
	// Receipts counts deliveries by their final outcome, indexed by Outcome.
	Receipts [outcomes]uint64
	// UnacknowledgedBytes is what the links keep for resending now.
	UnacknowledgedBytes int
	// Peers is the number of living peers.
	Peers int
	// Orphaned is the number of dead peers whose durable sessions nobody has adopted yet, OrphanedBytes what is
	// kept for these now.
	Orphaned, OrphanedBytes int
}

// counters are written once for every frame, not for every delivery.
type counters struct {
	framesOut, framesIn         atomic.Uint64
	batchesOut, batchesIn       atomic.Uint64
	deliveriesOut, deliveriesIn atomic.Uint64
	payloadOut, payloadIn       atomic.Uint64
	resent, duplicates          atomic.Uint64
	reconnects, broken          atomic.Uint64
	receipts                    [outcomes]atomic.Uint64
}

func (c *counters) settled(counts *[outcomes]uint64) {
	for o, n := range counts {
		if n > 0 {
			c.receipts[o].Add(n)
		}
	}
}

// Stats returns the counts of now.
func (m *Mesh) Stats() Stats {
	c := &m.counters
	s := Stats{
		FramesOut: c.framesOut.Load(), FramesIn: c.framesIn.Load(),
		BatchesOut: c.batchesOut.Load(), BatchesIn: c.batchesIn.Load(),
		DeliveriesOut: c.deliveriesOut.Load(), DeliveriesIn: c.deliveriesIn.Load(),
		PayloadBytesOut: c.payloadOut.Load(), PayloadBytesIn: c.payloadIn.Load(),
		Resent: c.resent.Load(), Duplicates: c.duplicates.Load(),
		Reconnects: c.reconnects.Load(), Broken: c.broken.Load(),
	}
	for o := range s.Receipts {
		s.Receipts[o] = c.receipts[o].Load()
	}
	for _, l := range m.living() {
		s.Peers++
		s.UnacknowledgedBytes += l.unacknowledged()
	}
	s.Orphaned, s.OrphanedBytes = m.orphaned()
	return s
}

// collector shows Stats to Prometheus.
type collector struct {
	m           *Mesh
	frames      *prometheus.Desc
	batches     *prometheus.Desc
	deliveries  *prometheus.Desc
	payload     *prometheus.Desc
	resent      *prometheus.Desc
	duplicates  *prometheus.Desc
	reconnects  *prometheus.Desc
	broken      *prometheus.Desc
	receipts    *prometheus.Desc
	unconfirmed *prometheus.Desc
	peers       *prometheus.Desc
	orphaned    *prometheus.Desc
	orphanBytes *prometheus.Desc
}

var _ prometheus.Collector = (*collector)(nil)

func newCollector(m *Mesh) *collector {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("beeline_mesh_"+name, help, labels, nil)
	}
	return &collector{
		m:           m,
		frames:      desc("frames_total", "Frames on streams between peers.", "direction"),
		batches:     desc("batches_total", "Frames that carried messages.", "direction"),
		deliveries:  desc("deliveries_total", "Messages sent to and received from peers.", "direction"),
		payload:     desc("payload_bytes_total", "Application payload sent to and received from peers.", "direction"),
		resent:      desc("deliveries_resent_total", "Messages sent again after a stream broke."),
		duplicates:  desc("deliveries_duplicate_total", "Messages received again and not taken again."),
		reconnects:  desc("reconnects_total", "Streams opened again to a living peer."),
		broken:      desc("streams_broken_total", "Streams ended because of what was received."),
		receipts:    desc("receipts_total", "Messages sent to peers, by what became of them.", "outcome"),
		unconfirmed: desc("unacknowledged_bytes", "Bytes of messages that peers have not taken yet."),
		peers:       desc("peers", "Living peers."),
		orphaned:    desc("orphaned_links", "Dead peers whose durable sessions nobody has adopted yet."),
		orphanBytes: desc("orphaned_bytes", "Bytes of messages that wait for the adoption of a dead peer's sessions."),
	}
}

// Describe implements prometheus.Collector.
func (c *collector) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		c.frames, c.batches, c.deliveries, c.payload, c.resent, c.duplicates, c.reconnects, c.broken, c.receipts, c.unconfirmed, c.peers,
		c.orphaned, c.orphanBytes,
	} {
		out <- d
	}
}

// Collect implements prometheus.Collector.
func (c *collector) Collect(out chan<- prometheus.Metric) {
	s := c.m.Stats()
	count := func(d *prometheus.Desc, v uint64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), labels...)
	}
	count(c.frames, s.FramesOut, "out")
	count(c.frames, s.FramesIn, "in")
	count(c.batches, s.BatchesOut, "out")
	count(c.batches, s.BatchesIn, "in")
	count(c.deliveries, s.DeliveriesOut, "out")
	count(c.deliveries, s.DeliveriesIn, "in")
	count(c.payload, s.PayloadBytesOut, "out")
	count(c.payload, s.PayloadBytesIn, "in")
	count(c.resent, s.Resent)
	count(c.duplicates, s.Duplicates)
	count(c.reconnects, s.Reconnects)
	count(c.broken, s.Broken)
	for o := Queued; o < outcomes; o++ {
		if o != Accepted {
			count(c.receipts, s.Receipts[o], o.String())
		}
	}
	gauge := func(d *prometheus.Desc, v int) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, float64(v))
	}
	gauge(c.unconfirmed, s.UnacknowledgedBytes)
	gauge(c.peers, s.Peers)
	gauge(c.orphaned, s.Orphaned)
	gauge(c.orphanBytes, s.OrphanedBytes)
}
