package away

import (
	"time"

	"github.com/beeline-mqtt/beeline/internal/mesh"
)

// report collects what becomes of a reported message at each absent client. The lock of its arrival guards it.
type report struct {
	within  time.Duration
	clients []mesh.ClientReceipt
	// waiting has the clients in whose inboxes it is not yet, with the epochs under which they are held here.
	waiting map[string]uint64
	timer   *time.Timer
}

func newReport(d *mesh.Delivery) *report {
	if !d.Reported() {
		return nil
	}
	return &report{within: time.Duration(d.ReportWithinMs) * time.Millisecond, waiting: make(map[string]uint64)}
}

// note says what became of the message at a client; 0 that somebody else reports on it. The following do nothing where
// the message is not reported.
func (r *report) note(client string, epoch uint64, o mesh.ClientOutcome) {
	if r == nil {
		return
	}
	delete(r.waiting, client)
	if o != 0 {
		r.clients = append(r.clients, mesh.ClientReceipt{ClientID: client, Outcome: o, Epoch: epoch})
	}
}

// arm has f called when the time of the report is over.
func (r *report) arm(f func()) {
	if r != nil {
		r.timer = time.AfterFunc(r.within, f)
	}
}

// close returns what is known.
func (r *report) close() []mesh.ClientReceipt {
	if r == nil {
		return nil
	}
	if r.timer != nil {
		r.timer.Stop()
	}
	for client, epoch := range r.waiting {
		r.clients = append(r.clients, mesh.ClientReceipt{ClientID: client, Outcome: mesh.ClientTimedOut, Epoch: epoch})
	}
	clients := r.clients
	r.clients, r.waiting = nil, nil
	return clients
}
