package engine

import (
	"time"

	"github.com/beeline-mqtt/beeline/internal/journal"
	"github.com/beeline-mqtt/beeline/internal/message"
)

func (d *durable[T]) suspend(now time.Time, dst []journal.Change) []journal.Change {
	if d.away {
		return dst
	}
	d.tidy(now)
	d.away = true
	d.nameAll()
	d.storeAll()
	marks := d.marks()
	for _, mark := range marks {
		if r := d.records.at(mark); r.shared() && r.qos != message.ExactlyOnce {
			d.counters.Ended++
			d.finished(mark, Ended)
		}
	}
	dst = d.giveOut(dst)
	for _, mark := range marks {
		d.records.drop(mark)
	}
	d.counters.Ended += uint64(d.unordered.n)
	d.letGo()
	return dst
}

// marks returns the records of what is in flight or queued, oldest first.
func (d *durable[T]) marks() []uint32 {
	marks := make([]uint32, 0, d.window.n+d.ordered.n)
	for _, f := range d.window.oldestFirst() {
		marks = append(marks, f.mark)
	}
	for i := range d.ordered.n {
		marks = append(marks, d.ordered.at(i).mark)
	}
	return marks
}

// letGo lets go of everything that has to do with a connection, but for settlements and counters.
func (d *durable[T]) letGo() {
	d.dropTail()
	d.outbound = outbound[T]{limits: d.limits, settled: d.settled, lost: d.lost, counters: d.counters}
	d.held, d.resends = 0, 0
	d.staged, d.releases = ring[uint16]{}, ring[uint16]{}
	d.spill = spill[T]{}
	d.forwardable, d.completions = ring[uint16]{}, ring[uint16]{}
	d.seen = seen{off: true}
}

// finish settles whatever waits, oldest first, and lets go of everything. o is the outcome of what is not for a shared
// subscription: Moved or Ended.
func (d *durable[T]) finish(o Outcome) {
	for _, mark := range d.marks() {
		r := d.records.at(mark)
		if r.release == unreleased && !r.over {
			d.counters.Ended++
		}
		d.endRecord(r, o)
	}
	for _, changes := range [...]*ring[change]{&d.given, &d.todo} {
		for i := range changes.n {
			if mark := changes.at(i).mark; mark != 0 {
				d.endRecord(d.records.at(mark), o)
			}
		}
	}
	d.counters.Ended += uint64(d.unordered.n)
	d.away = true
	d.letGo()
	d.records = records[T]{}
	d.todo, d.given = ring[change]{}, ring[change]{}
	d.ids = nil
}

func (d *durable[T]) endRecord(r *record[T], o Outcome) {
	switch {
	case o != Ended && !r.shared():
	case r.qos == message.ExactlyOnce && r.sent && r.release == unreleased:
		o = Interrupted
	default:
		o = Ended
	}
	d.settleRecord(r, o)
}
